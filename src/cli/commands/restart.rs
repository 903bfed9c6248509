//! `mlxctl restart <model>`

use std::time::Duration;

use crate::api::StopRequest;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::parse::duration;
use crate::cli::remote::Remote;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias
    model: String,
    /// Cut off requests in flight instead of letting them finish
    #[arg(long)]
    now: bool,
    /// How long requests in flight may take to finish (30s, 2m)
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "now")]
    timeout: Option<Duration>,
}

/// Stops the model as `stop` does and starts it again, with the settings that are in force now.
///
/// # Errors
/// What kept it from being ready again, with the exit codes of the contract.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    let name = remote.name(&args.model);
    let timeout_seconds = args.timeout.map(|timeout| timeout.as_secs_f64());
    let request = StopRequest { now: args.now, timeout_seconds };
    let mut live = Live::new(context, &name);
    let done = remote.client.restart(&name, &request, |progress| live.show(progress));
    drop(live);
    let done = done.map_err(|error| remote.explain(error, &args.model))?;
    context.output.data(&done.text)
}
