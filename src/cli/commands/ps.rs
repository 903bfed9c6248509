//! `mlxctl ps`

use serde::Serialize;

use crate::api::{ModelStatus, SCHEMA};
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::{self, Remote};
use crate::cli::render::{self, Look};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON: `{"schema":1,"backends":[…]}`, with each backend as in `status --json`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    backends: Vec<&'a ModelStatus>,
}

/// Prints one line per running backend.
///
/// # Errors
/// Exit 3 without a supervisor; why else it cannot be asked.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let status = match remote::status_at_once(context) {
        Some(answer) => answer?,
        None => Remote::find(context)?.client.status()?,
    };
    if args.json {
        let backends = status.models.iter().filter(|model| model.pid.is_some()).collect();
        return context.output.json(&Document { schema: SCHEMA, backends });
    }
    if status.models.iter().all(|model| model.pid.is_none()) {
        context.output.say("no backend is running");
        return Ok(());
    }
    context.output.data(&render::status::backends(&status, &Look::of(&context.output)))
}
