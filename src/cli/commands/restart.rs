//! `mlxctl restart <model>`

use super::stop::Drain;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::remote::Remote;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias
    model: String,
    #[command(flatten)]
    drain: Drain,
}

/// Stops the model as `stop` does and starts it again with the current settings.
///
/// # Errors
/// What kept it from being ready again, with its exit code.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    let name = remote.name(&args.model);
    let mut live = Live::new(context, &name);
    let done = remote.client.restart(&name, &args.drain.request(), |progress| live.show(progress));
    drop(live);
    let done = done.map_err(|error| remote.explain(error, &args.model))?;
    context.output.data(&done.text)
}
