//! One command, several models.

use super::Context;
use super::error::CliError;

/// Does `act` for each of `names`. A failure is printed and does not keep the others from their turn, unless `stopped`
/// says so.
///
/// # Errors
/// The only one's own; of several, how many failed, with the first one's exit code.
pub(super) fn each<'a>(
    context: &Context,
    names: &'a [String],
    stopped: impl Fn() -> bool,
    mut act: impl FnMut(&'a str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let (mut first, mut failed) = (None, 0);
    for name in names {
        match act(name) {
            Err(error) if names.len() == 1 || stopped() => return Err(error),
            Err(error) => {
                context.output.error(&error);
                first = first.or(Some(error.exit));
                failed += 1;
            }
            Ok(()) => {}
        }
    }
    let Some(exit) = first else { return Ok(()) };
    Err(CliError::new(exit, format!("{failed} of {} failed", names.len())))
}
