//! `mlxctl agent uninstall`

use std::time::Duration;

use crate::cli::Context;
use crate::cli::error::CliError;
use crate::host;
use crate::registry::Registry;
use crate::supervisor::{LockError, Orphans};

/// Time between SIGTERM and SIGKILL for a backend whose model is no longer in the registry.
const TERM: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what would be called and removed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Stops the supervisor and with it every model, removes the agent's file, then stops backends that an earlier
/// supervisor left running when it died. Data stays.
///
/// # Errors
/// Why it cannot be removed, and what to do.
pub(super) fn run(context: &Context, stand_ins: &super::StandIns, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let agent = stand_ins.installed(context, &registry)?;
    let (found, seen) = (super::on_disk(agent.as_ref())?, agent.seen()?);
    if found.is_none() && !seen.loaded {
        // It may have been removed by hand, or by a tool that does not know about backends.
        end_leftovers(context, &registry)?;
        return context.output.data(&format!("{} is not installed", agent.name()));
    }
    if args.dry_run {
        let calls = agent.calls_to_remove().into_iter().map(|call| format!("would call   {call}"));
        let file = found.map(|_| format!("would remove {}", agent.file().display()));
        return context.output.data(&calls.chain(file).collect::<Vec<_>>().join("\n"));
    }
    agent.remove(&mut |step| context.output.say(step))?;
    end_leftovers(context, &registry)?;
    context.output.say(&format!(
        "kept: {} (logs, environment, state) and the downloaded models",
        registry.paths.root.display()
    ));
    context.output.data(&format!("{} is gone", agent.name()))
}

/// Stops backends without a supervisor: it had died before its agent was removed, and they outlived it.
fn end_leftovers(context: &Context, registry: &Registry) -> Result<(), CliError> {
    let host = host::system();
    let mut left = match Orphans::find(&registry.paths.run, host.as_ref()) {
        Ok(Some(left)) => left,
        Ok(None) => return Ok(()),
        Err(LockError::Held(holder)) => {
            context
                .output
                .say(&format!("a supervisor started by hand keeps running, with its models: {holder}"));
            return Ok(());
        }
        Err(LockError::Io(error)) => {
            return Err(CliError::failed(
                "the agent is removed, but it is not known whether models are still running",
            )
            .why(error)
            .hint("mlxctl doctor"));
        }
    };
    let mut problems = Vec::new();
    for (model, who) in left.backends.clone() {
        context
            .output
            .say(&format!("{model} is still running without a supervisor, pid {}; stopping it", who.pid));
        let term = registry.model(&model).map_or(TERM, |model| model.stop.term);
        if let Err(error) = left.end(host.as_ref(), &model, term) {
            problems.push((model, who.pid, error));
        }
    }
    let Some((model, pid, error)) = problems.first() else { return Ok(()) };
    let groups: Vec<String> = problems.iter().map(|(_, pid, _)| format!("-{pid}")).collect();
    Err(CliError::failed(format!("the agent is removed, but {model} is still running, pid {pid}"))
        .why(error)
        .hint(format!("kill -KILL {}", groups.join(" "))))
}
