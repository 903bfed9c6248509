//! One command for several models.

use super::Context;
use super::error::CliError;

/// Calls `act` for each of `names`. A failure is printed and the rest still follow, unless `stopped` returns `true`.
///
/// # Errors
/// With one name its own error; with several, how many failed, with the exit code of the first failure.
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
