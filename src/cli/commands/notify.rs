//! `mlxctl notify --test`

use std::time::SystemTime;

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::notify::{Message, send, ways};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Send one notification in every configured way, and report the results
    #[arg(long, required = true)]
    test: bool,
}

/// Sends a test from this process, as a supervisor would; none needs to be running.
///
/// # Errors
/// Exit 2 if the registry configures no notifications, 1 if one failed.
pub(crate) fn run(context: &Context, _: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let ways = ways(&registry.notify);
    if ways.is_empty() {
        return Err(CliError::new(Exit::Usage, "the registry configures no notifications")
            .hint("set command = [\"program\", \"argument\"] in [notify], or desktop = true on a Mac"));
    }
    let message = Message::test(SystemTime::now());
    let mut failed = 0;
    for way in &ways {
        match send(way, &message, &registry.agent.path) {
            Ok(()) => context.output.data(&format!("{}: sent", way.name()))?,
            Err(why) => {
                failed += 1;
                context.output.data(&format!("{}: failed, {why}", way.name()))?;
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(CliError::failed(format!("{failed} of {} notifications failed", ways.len()))),
    }
}
