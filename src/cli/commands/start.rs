//! `mlxctl start <model>`

use std::time::Duration;

use super::estimate::describe;
use crate::api::StartRequest;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::parse::{duration, some_duration};
use crate::cli::remote::Remote;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias
    pub(super) model: String,
    /// Start it even if it does not fit into memory
    #[arg(long)]
    pub(super) force: bool,
    /// Return as soon as the start is granted
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until it is ready (90s, 5m); the start continues after that
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "no_wait")]
    timeout: Option<Duration>,
    /// Stop it this long after it is ready (90m, 3h); for a running model, from now. Requests in flight finish first
    #[arg(long = "for", value_name = "DURATION", value_parser = some_duration)]
    lent: Option<Duration>,
}

/// Starts the model and waits until it has completed a token. A ready model is left alone.
///
/// # Errors
/// What kept it from being ready, with its exit code.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    // Here and not in the supervisor, whose loop must not wait for it.
    if let Ok(registry) = context.registry()
        && let Ok(model) = registry.model(&args.model)
    {
        describe(context, &registry, model);
    }
    let name = remote.name(&args.model);
    let request = StartRequest {
        force: args.force,
        wait: !args.no_wait,
        timeout_seconds: args.timeout.map(|timeout| timeout.as_secs_f64()),
        for_seconds: args.lent.map(|time| time.as_secs_f64()),
    };
    let mut live = Live::new(context, &name);
    let done = remote.client.start(&name, &request, |progress| live.show(progress));
    drop(live);
    let done = done.map_err(|error| remote.explain(error, &args.model))?;
    context.output.data(&done.text)
}
