//! `mlxctl trim [<model>] [--forget]`

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::api::CommandDone;
use crate::api::client::ClientError;
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::remote::Remote;
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias [default: all running models]
    model: Option<String>,
    /// Delete kept prompts, in memory and on disk, instead of writing them to disk; works for stopped models too
    #[arg(long)]
    forget: bool,
}

/// How often progress is printed; a trim that takes less prints none.
const LOOK: Duration = Duration::from_secs(1);

fn ask(context: &Context, remote: &Remote, forget: bool, name: &str) -> Result<CommandDone, ClientError> {
    if forget {
        return remote.client.forget(name);
    }
    let written = || {
        let status = remote.client.status().ok()?;
        let model = status.models.into_iter().find(|model| model.name == name)?;
        Some(model.memory.prompt_store?.written_bytes)
    };
    let (done, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut before = None;
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let now = written();
                match now.zip(before).map(|(now, before): (u64, u64)| now.saturating_sub(before)) {
                    None if now.is_some() => {
                        context.output.say(&format!("{name} writes its kept prompts to disk"));
                    }
                    Some(more) if more > 0 => context.output.say(&format!("another {}", Bytes(more))),
                    _ => {}
                }
                before = now.or(before);
            }
        });
        let answer = remote.client.trim(name);
        drop(done);
        answer
    })
}

/// Has the backends release memory that they only cache.
///
/// # Errors
/// Exit 3 if nothing is running; the first model's refusal, after all were asked.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    if let Some(typed) = &args.model {
        let name = remote.name(typed);
        let done = ask(context, &remote, args.forget, &name).map_err(|error| remote.explain(error, typed))?;
        return context.output.data(&done.text);
    }
    let status = remote.client.status()?;
    let running: Vec<&str> = status
        .models
        .iter()
        .filter(|model| args.forget || model.pid.is_some())
        .map(|model| model.name.as_str())
        .collect();
    if running.is_empty() {
        return Err(CliError::new(Exit::NotRunning, "no backend is running").hint("mlxctl status"));
    }
    let mut first = None;
    for name in running {
        match ask(context, &remote, args.forget, name) {
            Ok(done) => context.output.data(&done.text)?,
            Err(error) => {
                first.get_or_insert(remote.explain(error, name));
            }
        }
    }
    first.map_or(Ok(()), Err)
}
