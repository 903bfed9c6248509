//! `mlxctl agent install`

use std::path::PathBuf;
use std::time::Duration;

use super::ready;
use crate::api::client::Client;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::parse::duration;
use crate::registry::Registry;
use crate::service::agent::{Agent, Install, Seen, keep, plan, write};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what would be written and called, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Return as soon as the supervisor has a process
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the always-on models to be ready
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m")]
    timeout: Duration,
    /// Path of the mlxctl binary to run [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Installs the agent, unless it is already installed and running.
///
/// # Errors
/// Why it does not come up, and what to do.
pub(super) fn run(context: &Context, stand_ins: &super::StandIns, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let agent = stand_ins.manager(context, &registry, args.program.as_deref())?;
    let agent = agent.as_ref();
    let (found, seen) = (super::on_disk(agent)?, agent.seen()?);
    let client = Client::new(&registry.paths.run);
    let install = plan(found.as_deref(), agent.wanted(), agent.program(), &seen);
    if args.dry_run {
        return context.output.data(&rehearsal(agent, found.as_deref(), install));
    }
    if let (Install::Nothing, Some(pid)) = (install, seen.pid) {
        return context.output.data(&format!("{} is installed and runs, pid {pid}", agent.name()));
    }
    no_other_supervisor(&client, &seen)?;
    announce_replacement(context, agent, found.as_deref(), &seen);
    prepare(context, &registry, agent, found.as_deref())?;
    let pid = agent.install(install, &mut |step| context.output.say(step))?;
    context.output.say(&format!("supervisor runs, pid {pid}"));
    if !args.no_wait {
        ready::supervisor(&client, &registry.agent.log)?;
        ready::models(context, &client, args.timeout)?;
    }
    context.output.data(&format!("{} is installed and runs, pid {pid}", agent.name()))
}

/// A registry has one supervisor at a time: a second one, started by launchd, would exit at once, again and again.
fn no_other_supervisor(client: &Client, seen: &Seen) -> Result<(), CliError> {
    let Some(other) = client.status().ok().and_then(|status| status.supervisor) else { return Ok(()) };
    if seen.pid == Some(other.pid) {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "another supervisor of this registry is already running, pid {}",
        other.pid
    ))
    .why("it was started by hand, and only one can run")
    .hint(format!("stop it (Ctrl-C in its terminal, or kill {}), then run this command again", other.pid)))
}

fn announce_replacement(context: &Context, agent: &dyn Agent, found: Option<&str>, seen: &Seen) {
    if let Some(domain) = &seen.misplaced {
        context.output.say(&format!("{} has the job in {domain}; moving it", agent.manager()));
    }
    if let Some(program) =
        seen.program.as_deref().filter(|path| std::path::Path::new(path) != agent.program())
    {
        context
            .output
            .say(&format!("{} has a job of this name that runs {program}; replacing it", agent.manager()));
    }
    if let Some(found) = found.filter(|found| *found != agent.wanted()) {
        context.output.say(&format!("replacing {}:", agent.file().display()));
        for difference in agent.differs(found) {
            context.output.say(&format!("  {difference}"));
        }
    }
}

/// Creates folders, keeps the old file and writes the new one.
fn prepare(
    context: &Context,
    registry: &Registry,
    agent: &dyn Agent,
    found: Option<&str>,
) -> Result<(), CliError> {
    let cannot = |error: std::io::Error| {
        CliError::failed("the agent cannot be prepared").why(error).hint("mlxctl doctor")
    };
    for folder in registry.agent.log.parent().into_iter().chain([registry.agent.working_directory.as_path()])
    {
        fs_err::create_dir_all(folder).map_err(cannot)?;
    }
    if found.is_some_and(|found| found != agent.wanted())
        && let Some(kept) = keep(agent.file(), &registry.paths.state).map_err(cannot)?
    {
        context.output.say(&format!("kept the previous one as {}", kept.display()));
    }
    write(agent.file(), agent.wanted()).map_err(cannot)
}

fn rehearsal(agent: &dyn Agent, found: Option<&str>, install: Install) -> String {
    let mut lines = Vec::new();
    match found {
        None => lines.push(format!("would write  {}", agent.file().display())),
        Some(found) if found != agent.wanted() => {
            lines.push(format!("would write  {}, which differs:", agent.file().display()));
            lines.extend(
                agent.differs(found).into_iter().map(|difference| format!("               {difference}")),
            );
        }
        Some(_) => {}
    }
    lines.extend(agent.calls(install).into_iter().map(|call| format!("would call   {call}")));
    if lines.is_empty() {
        lines.push("nothing to do: it is installed and runs".to_owned());
    }
    lines.join("\n")
}
