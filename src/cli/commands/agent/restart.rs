//! `mlxctl agent restart`

use std::time::Duration;

use super::ready;
use crate::api::client::Client;
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::registry::Registry;
use crate::service::agent::{Agent, Handed};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// How long a supervisor waits after handing over, so that its job can be unloaded.
const HOLD: Duration = Duration::from_secs(30);

/// Replaces the running supervisor; the backends stay up and the new one adopts them.
///
/// # Errors
/// Exit 3 if no agent is installed; the new supervisor does not come up.
pub(super) fn run(context: &Context, stand_ins: &super::StandIns, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let agent = stand_ins.installed(context, &registry)?;
    let seen = agent.seen()?;
    if !seen.loaded {
        return Err(CliError::new(Exit::NotRunning, format!("{} is not installed", agent.name()))
            .hint("mlxctl agent install"));
    }
    if let Some(domain) = &seen.misplaced {
        return Err(CliError::failed(format!("{} is in {domain} of {}", agent.name(), agent.manager()))
            .why("it was loaded without a login at the screen and would run twice after the next login")
            .hint("run mlxctl agent install in Terminal at the Mac's own screen; it moves the job"));
    }
    if super::on_disk(agent.as_ref())?.as_deref() != Some(agent.wanted()) {
        let file = agent.file().display();
        context.output.say(&format!("{file} differs from the registry; mlxctl agent install updates it"));
    }
    let client = Client::new(&registry.paths.run);
    // A supervisor started by hand does not belong to the service manager.
    let answers = client.status().ok().and_then(|status| status.supervisor);
    let ours = answers.is_some_and(|supervisor| Some(supervisor.pid) == seen.pid);
    if args.dry_run {
        let way = if ours {
            "would ask the supervisor to hand over"
        } else {
            "would kill the supervisor, because it does not answer"
        };
        return context.output.data(&format!("{way}; {} starts another", agent.manager()));
    }
    let handed = if ours { hand_over(context, &client, &registry, agent.as_ref()) } else { Handed::No };
    let pid = agent.restart(seen.pid, handed, &mut |step| context.output.say(step))?;
    let status = ready::supervisor(&client, &registry.agent.log)?;
    let adopted: Vec<&str> =
        status.models.iter().filter(|model| model.adopted).map(|model| model.name.as_str()).collect();
    let models =
        if adopted.is_empty() { String::new() } else { format!("; still up: {}", adopted.join(", ")) };
    context.output.data(&format!("{} is running again, pid {pid}{models}", agent.name()))
}

/// Asks the supervisor to leave its backends to the next one. Answers in flight may take the whole drain time.
fn hand_over(context: &Context, client: &Client, registry: &Registry, agent: &dyn Agent) -> Handed {
    let drain = registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
    if !agent.unloads_to_restart() {
        return client.handover().map_or(Handed::No, |()| Handed::Leaves { drain });
    }
    context.output.say("waiting for requests in flight");
    match client.hand_over_and_hold(drain, HOLD) {
        Ok(true) => Handed::Holds,
        Ok(false) => Handed::Leaves { drain },
        Err(_) => Handed::No,
    }
}
