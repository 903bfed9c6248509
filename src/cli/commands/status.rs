//! `mlxctl status`

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::api::client::ClientError;
use crate::api::{HealthStatus, Status};
use crate::backend::assess::planned;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::machine;
use crate::cli::remote::{self, Remote, unknown_model};
use crate::cli::render::{self, Look};
use crate::control::unsupervised;
use crate::memory::Platform;
use crate::supervisor;
use crate::supervisor::planned_status;

/// How often `--watch` asks for the status.
const BETWEEN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only these models, by name or alias
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
    /// Refresh every second until Ctrl-C; in a pipe, print one document per change
    #[arg(short, long)]
    watch: bool,
}

/// Prints the models and the memory budget; without a supervisor, the plan.
///
/// # Errors
/// Exit 3 without a supervisor, after the plan was printed; why else it cannot be asked.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    if args.watch {
        return watch(context, &Remote::find(context)?, args);
    }
    let (mut status, problem) = match remote::status_at_once(context) {
        Some(answer) => (answer?, None),
        None => look(&Remote::find(context)?)?,
    };
    unsupervised::name_holders(&mut status);
    select(context, &mut status, &args.models)?;
    context.output.data(&text(context, &status, args.json, true)?)?;
    problem.map_or(Ok(()), |problem| Err(problem.into()))
}

/// What the supervisor reports; without one, the plan and the error that says so.
fn look(remote: &Remote) -> Result<(Status, Option<ClientError>), CliError> {
    match (remote.client.status(), &remote.registry) {
        (Ok(status), _) => Ok((status, None)),
        (Err(problem @ ClientError::NotRunning { .. }), Some(registry)) => {
            let host = crate::host::system();
            let running = machine::running(host.as_ref(), registry);
            let platform = Platform::of(&host.memory().unwrap_or_default());
            // `mlxctl budget` and `check` report what is wrong with a model's files.
            let planned: Vec<_> = registry
                .models
                .iter()
                .map(|model| planned(registry, model, platform).ok().flatten())
                .collect();
            let mut status =
                planned_status(registry, machine::host_status(host.as_ref()), &running, &planned);
            let live = supervisor::running(&registry.paths.run, host.as_ref());
            unsupervised::show(&mut status, &live, host.as_ref());
            Ok((status, Some(problem)))
        }
        (Err(problem), _) => Err(problem.into()),
    }
}

fn text(context: &Context, status: &Status, json: bool, pretty: bool) -> Result<String, CliError> {
    if !json {
        return Ok(render::status::status(status, &Look::of(&context.output)));
    }
    let text = if pretty { serde_json::to_string_pretty(status) } else { serde_json::to_string(status) };
    text.map_err(|error| CliError::failed("cannot write the status as JSON").why(error))
}

/// Keeps only the named models; aliases are looked up in the registry.
fn select(context: &Context, status: &mut Status, names: &[String]) -> Result<(), CliError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::with_capacity(names.len());
    for typed in names {
        match status.models.iter().find(|model| model.name.eq_ignore_ascii_case(typed)) {
            Some(model) => wanted.push(model.name.clone()),
            None => {
                let registry = context.registry()?;
                let model = registry.model(typed).map_err(|unknown| unknown_model(&registry, &unknown))?;
                wanted.push(model.name.clone());
            }
        }
    }
    status.models.retain(|model| wanted.contains(&model.name));
    Ok(())
}

fn watch(context: &Context, remote: &Remote, args: &Args) -> Result<(), CliError> {
    let terminal = std::io::stdout().is_terminal() && !args.json;
    if !terminal {
        context.output.quit_when_unread();
    }
    let mut last = None;
    loop {
        let seen = look(remote);
        if terminal {
            let page = match seen {
                Ok((mut status, _)) => {
                    unsupervised::name_holders(&mut status);
                    select(context, &mut status, &args.models)?;
                    text(context, &status, false, true)?
                }
                Err(error) => format!("{}\n{}\n", error.what, error.why.unwrap_or_default()),
            };
            redraw(context, &page)?;
        } else {
            let (mut status, _) = seen?;
            select(context, &mut status, &args.models)?;
            let now = Some(settled(status.clone()));
            if now != last {
                last = now;
                context.output.data(&text(context, &status, args.json, false)?)?;
            }
        }
        std::thread::sleep(BETWEEN);
    }
}

/// Redraws without flicker: cursor home, clear each line behind its text, then the rest of the screen (ECMA-48 CUP, EL,
/// ED). Lines that do not fit are left out, because they would scroll the first ones away.
fn redraw(context: &Context, page: &str) -> Result<(), CliError> {
    let rows = terminal_size::terminal_size().map_or(usize::MAX, |(_, height)| usize::from(height.0));
    let mut frame = b"\x1b[H".to_vec();
    for line in page.lines().take(rows.saturating_sub(1)) {
        // Writing to memory does not fail.
        let _ = write!(frame, "{line}\x1b[K\r\n");
    }
    frame.extend_from_slice(b"\x1b[J");
    context.output.bytes(&frame)
}

/// The document without what always changes, such as uptime; what is left differs only if something happened.
fn settled(mut status: Status) -> Status {
    if let Some(supervisor) = &mut status.supervisor {
        supervisor.uptime_seconds = 0.0;
        supervisor.footprint_bytes = None;
    }
    status.host.available_bytes = None;
    status.host.swap_used_bytes = None;
    for model in &mut status.models {
        model.uptime_seconds = None;
        model.next_start_seconds = None;
        model.idle_seconds = None;
        model.stops_in_seconds = None;
        model.memory.footprint_bytes = None;
        model.memory.peak_bytes = None;
        model.health = HealthStatus { last_probe_seconds: None, ..model.health.clone() };
        model.traffic = Default::default();
    }
    status
}
