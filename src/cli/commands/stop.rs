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
    drain: Drain,
}

// Not a doc comment, because clap would print it as the help of the command. Shared with `restart`.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// Cut off requests in flight instead of letting them finish
    #[arg(long)]
    now: bool,
    /// How long requests in flight may take to finish (30s, 2m)
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "now")]
    timeout: Option<Duration>,
}

impl Drain {
    pub(super) fn request(&self) -> StopRequest {
        StopRequest { now: self.now, timeout_seconds: self.timeout.map(|timeout| timeout.as_secs_f64()) }
    }
}

/// Stops each model: drains, tears down, and returns when its process group is gone and its port is free.
/// A stopped model is left alone.
///
/// # Errors
/// What kept it from being stopped, with its exit code.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    each(context, &args.models, || false, |typed| stop(context, args, &remote, typed))
}

fn stop(context: &Context, args: &Args, remote: &Remote, typed: &str) -> Result<(), CliError> {
    let name = remote.name(typed);
    let mut live = Live::new(context, &name);
    let done = remote.client.stop(&name, &args.drain.request(), |progress| live.show(progress));
    drop(live);
    let done = done.map_err(|error| remote.explain(error, typed))?;
    context.output.data(&done.text)
}
