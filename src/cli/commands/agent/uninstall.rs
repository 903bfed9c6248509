//! `mlxctl agent uninstall`

use crate::cli::Context;
use crate::cli::error::CliError;

/// Arguments of `agent uninstall`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be called and removed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Ends the supervisor, and with it every model, and removes its file. Data stays.
///
/// # Errors
/// It does not go, with why and what to do.
pub fn run(context: &Context, stand_ins: &super::StandIns, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let agent = stand_ins.installed(context, &registry)?;
    let (found, seen) = (super::on_disk(agent.as_ref())?, agent.seen()?);
    if found.is_none() && !seen.loaded {
        return context.output.data(&format!("{} is not installed", agent.name()));
    }
    if args.dry_run {
        let calls = agent.calls_to_remove().into_iter().map(|call| format!("would call   {call}"));
        let file = found.map(|_| format!("would remove {}", agent.file().display()));
        return context.output.data(&calls.chain(file).collect::<Vec<_>>().join("\n"));
    }
    agent.remove(&mut |step| context.output.say(step))?;
    context.output.say(&format!(
        "kept: {} (logs, environment, state) and the downloaded models",
        registry.paths.root.display()
    ));
    context.output.data(&format!("{} is gone", agent.name()))
}
