//! `mlxctl restart <model>`

use super::stop::End;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::remote::Remote;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias
    model: String,
    #[command(flatten)]
    end: End,
}

/// Stops the model as `stop` does and starts it again, with the settings that are in force now.
///
/// # Errors
/// What kept it from being ready again, with the exit codes of the contract.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    let name = remote.name(&args.model);
    let mut live = Live::new(context, &name);
    let done = remote.client.restart(&name, &args.end.request(), |progress| live.show(progress));
    drop(live);
    let done = done.map_err(|error| remote.explain(error, &args.model))?;
    context.output.data(&done.text)
}
