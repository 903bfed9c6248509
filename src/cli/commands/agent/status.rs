//! `mlxctl agent status`

use serde::Serialize;

use crate::api::client::Client;
use crate::api::{ModelStatus, SCHEMA, SupervisorStatus};
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::service::agent::{Agent, Seen};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
}

/// Show what the service manager and the supervisor report, side by side. Keys are promises.
#[derive(Debug, Serialize)]
struct View {
    schema: u32,
    manager: &'static str,
    name: String,
    file: String,
    /// `missing`, `current` or `differs`.
    file_state: &'static str,
    differences: Vec<String>,
    loaded: bool,
    /// A domain of launchd's that the job is in and does not belong into: `user/501`.
    misplaced: Option<String>,
    state: String,
    pid: Option<i32>,
    runs: Option<u64>,
    last_end: Option<String>,
    program: Option<String>,
    supervisor: Option<SupervisorStatus>,
    models: Vec<ModelStatus>,
    /// What does not fit together, in a sentence each.
    problems: Vec<String>,
}

/// Prints both views.
///
/// # Errors
/// Exit 3 if the agent has no process or its supervisor does not answer.
pub(super) fn run(context: &Context, stand_ins: &super::StandIns, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let agent = stand_ins.installed(context, &registry)?;
    let (found, seen) = (super::on_disk(agent.as_ref())?, agent.seen()?);
    let status = Client::new(&registry.paths.run).status().ok();
    let (supervisor, models) = status.map_or((None, Vec::new()), |status| (status.supervisor, status.models));
    let view = view(agent.as_ref(), found.as_deref(), seen, supervisor, models);
    if args.json {
        context.output.json(&view)?;
    } else {
        context.output.data(&text(&view))?;
    }
    if view.pid.is_some() && view.supervisor.is_some() {
        return Ok(());
    }
    let what = if view.loaded { "is installed but not running" } else { "is not installed" };
    let hint = if view.loaded { "mlxctl doctor" } else { "mlxctl agent install" };
    Err(CliError::new(Exit::NotRunning, format!("{} {what}", view.name)).hint(hint))
}

fn view(
    agent: &dyn Agent,
    found: Option<&str>,
    seen: Seen,
    supervisor: Option<SupervisorStatus>,
    models: Vec<ModelStatus>,
) -> View {
    let differences = found.filter(|found| *found != agent.wanted()).map(|found| agent.differs(found));
    let file_state = match (found, &differences) {
        (None, _) => "missing",
        (Some(_), None) => "current",
        (Some(_), Some(_)) => "differs",
    };
    View {
        schema: SCHEMA,
        manager: agent.manager(),
        name: agent.name().to_owned(),
        file: agent.file().display().to_string(),
        file_state,
        differences: differences.unwrap_or_default(),
        problems: problems(agent, found.is_some(), &seen, supervisor.as_ref()),
        loaded: seen.loaded,
        misplaced: seen.misplaced,
        state: seen.state,
        pid: seen.pid,
        runs: seen.runs,
        last_end: seen.last_end,
        program: seen.program,
        supervisor,
        models,
    }
}

fn problems(
    agent: &dyn Agent,
    file: bool,
    seen: &Seen,
    supervisor: Option<&SupervisorStatus>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let manager = agent.manager();
    if seen.loaded && !file {
        problems
            .push(format!("{manager} still has the job, but its file is gone; it ends with this session"));
    }
    if let Some(domain) = &seen.misplaced {
        problems.push(format!(
            "{manager} has the job in {domain}, where nothing starts at login; mlxctl agent install moves it"
        ));
    }
    if let Some(program) =
        seen.program.as_deref().filter(|path| std::path::Path::new(path) != agent.program())
    {
        problems.push(format!("{manager} runs {program} under this name; mlxctl agent install replaces it"));
    }
    match (seen.pid, supervisor.map(|supervisor| supervisor.pid)) {
        (Some(job), Some(answers)) if job != answers => {
            problems.push(format!(
                "the supervisor that answers (pid {answers}) is not the one {manager} started (pid {job})"
            ));
        }
        (None, Some(answers)) => {
            problems.push(format!("a supervisor started by hand answers, pid {answers}"));
        }
        (Some(job), None) => problems.push(format!("pid {job} is running but does not answer")),
        _ => {}
    }
    problems
}

fn text(view: &View) -> String {
    let mut rows = vec![
        ("agent", view.name.clone()),
        ("file", format!("{} ({})", view.file, file_words(view.file_state))),
        (view.manager, job_words(view)),
    ];
    if let Some(supervisor) = &view.supervisor {
        rows.push(("supervisor", format!("mlxctl {}, pid {}, answers", supervisor.version, supervisor.pid)));
    }
    if !view.models.is_empty() {
        let models =
            view.models.iter().map(|model| format!("{} {:?}", model.name, model.state).to_lowercase());
        rows.push(("models", models.collect::<Vec<_>>().join(", ")));
    }
    rows.extend(view.differences.iter().map(|difference| ("differs", difference.clone())));
    rows.extend(view.problems.iter().map(|problem| ("problem", problem.clone())));
    rows.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect()
}

fn file_words(state: &str) -> &'static str {
    match state {
        "missing" => "not there",
        "current" => "matches the registry",
        _ => "differs from the registry; mlxctl agent install updates it",
    }
}

fn job_words(view: &View) -> String {
    let pid = view.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let runs = view.runs.filter(|runs| *runs > 1).map(|runs| format!(", start {runs}")).unwrap_or_default();
    let end = view.last_end.as_ref().map(|end| format!(", last end: {end}")).unwrap_or_default();
    format!("{}{pid}{runs}{end}", view.state)
}
