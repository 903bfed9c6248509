//! `mlxctl stop <model>…`

use std::time::Duration;

use crate::api::StopRequest;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::parse::duration;
use crate::cli::remote::Remote;
use crate::cli::several::each;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The models, by name or alias
    #[arg(required = true, value_name = "MODEL")]
    pub(super) models: Vec<String>,
    #[command(flatten)]
    end: End,
}

// A documentation comment would be the command's own in its help.
#[derive(Debug, clap::Args)]
pub(super) struct End {
    /// Cut off requests in flight instead of letting them finish
    #[arg(long)]
    now: bool,
    /// How long requests in flight may take to finish (30s, 2m)
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "now")]
    timeout: Option<Duration>,
}

impl End {
    pub(super) fn request(&self) -> StopRequest {
        let timeout_seconds = self.timeout.map(|timeout| timeout.as_secs_f64());
        StopRequest { now: self.now, timeout_seconds }
    }
}

/// Stops each model: drains, tears down, and returns when its process group is gone and its port is free.
/// One that is stopped stays as it is.
///
/// # Errors
/// What kept it from being stopped, with the exit codes of the contract.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    each(context, &args.models, || false, |typed| stop(context, args, &remote, typed))
}

fn stop(context: &Context, args: &Args, remote: &Remote, typed: &str) -> Result<(), CliError> {
    let name = remote.name(typed);
    let mut live = Live::new(context, &name);
    let done = remote.client.stop(&name, &args.end.request(), |progress| live.show(progress));
    drop(live);
    let done = done.map_err(|error| remote.explain(error, typed))?;
    context.output.data(&done.text)
}
