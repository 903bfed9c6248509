//! `mlxctl estimate <model>`

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::HeldBack;
use crate::backend::assess::{Assessment, assess};
use crate::backend::weights;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::{Remote, unknown_model};
use crate::cli::render::{Look, fold, table};
use crate::host::{self, Footprint, MemoryReading};
use crate::memory::group::HostEstimate;
use crate::memory::{Bounds, Estimate, GpuLimit, Ledger, Live, Platform, Problem, Refusal, judge};
use crate::memory::{Figure, Term};
use crate::memory::{Grant, Room};
use crate::python::profile::Profiles;
use crate::python::venv::{self, SetupRequest};
use crate::registry::{Model, Registry};
use crate::supervisor::missing;
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias
    model: String,

    /// Estimate for MLX on this platform instead of this machine's
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// Estimate for an idle machine of this size, for example 128GB
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `estimate --json` prints; keys are promises.
#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    model: String,
    repo: String,
    platform: Platform,
    /// What the backend is held to.
    bounds: Bounds,
    /// The room that kept prompts and a prefill share, as the launcher is given it; null: nothing is shared.
    room: Option<Room>,
    /// The flags of `mlx_lm.server` that follow.
    arguments: Vec<String>,
    /// What the backend's environment needs beside.
    environment: BTreeMap<&'static str, &'static str>,
    /// Why it stands on rules of thumb and not on what mlx_lm says of the model; null: it does not.
    rules_of_thumb: Option<String>,
    /// KV bytes that one more token takes; null: the files are not there.
    kv_bytes_per_token: Option<Bytes>,
    /// Under what the footprints of such a run are kept in `learned.json`.
    learning_key: String,
    /// On this machine; null if unknown.
    estimate: Option<Estimate>,
    /// On every machine of its cluster, this one first; empty without one.
    hosts: Vec<HostEstimate>,
    /// What admission would reserve.
    reserve_bytes: Option<Bytes>,
    /// What the GPU may hold and who says so; null: there is none, or it is unknown.
    gpu_limit: Option<GpuLimit>,
    /// What the decision counts beside this model.
    counted: Counted,
    /// Whether a start would be granted now.
    granted: bool,
    /// Why not, where memory is short.
    refusal: Option<Refusal>,
    /// Why not, where the supervisor holds starts back whatever memory there is.
    held_back: Option<HeldBack>,
    /// What a start would not find, granted or not: environment or files.
    missing: Option<HeldBack>,
}

/// What else is on the machine, as far as the decision counts it.
#[derive(Debug, Clone, Default, Serialize)]
struct Counted {
    /// Whether a supervisor was asked; without one no other model counts.
    supervisor: bool,
    /// Its running models, and what they were granted.
    models: BTreeMap<String, Grant>,
    /// What this model itself was granted, if it runs; the decision is that on restarting it.
    running: Option<Grant>,
    /// The decision is on a machine of this size, on which nothing runs.
    memory_bytes: Option<Bytes>,
    /// What keeps the supervisor from starting this model, apart from memory.
    #[serde(skip)]
    held_back: Option<HeldBack>,
    /// What the OS charges the running models.
    #[serde(skip)]
    footprints: BTreeMap<String, Footprint>,
}

impl Counted {
    /// What the supervisor, if one runs, has granted.
    fn ask(context: &Context, model: &Model) -> Self {
        let status = Remote::find(context).ok().and_then(|remote| remote.client.status().ok());
        let Some(status) = status else { return Self::default() };
        let host = host::system();
        let mut counted = Self { supervisor: true, ..Self::default() };
        let own = status.models.iter().find(|own| own.name == model.name);
        counted.held_back = own.and_then(|own| own.held_back.clone());
        for other in status.models.iter().filter(|other| other.state.holds_memory()) {
            let bytes = Bytes(other.memory.estimate_bytes.unwrap_or_default());
            let grant = Grant { bytes, forced: other.memory.forced };
            let found = other.pid.and_then(|pid| host.identify(pid).ok().flatten());
            let footprint = found.and_then(|identity| host.footprint(identity).ok()).unwrap_or_default();
            counted.footprints.insert(other.name.clone(), footprint);
            if other.name == model.name {
                counted.running = Some(grant);
            } else {
                counted.models.insert(other.name.clone(), grant);
            }
        }
        counted
    }

    /// In a sentence.
    fn words(&self) -> String {
        let names = |grants: &BTreeMap<String, Grant>| {
            let each = grants.iter().map(|(name, grant)| {
                format!("{name} ({}{})", grant.bytes, if grant.forced { ", by force" } else { "" })
            });
            each.collect::<Vec<_>>().join(", ")
        };
        match (self.memory_bytes, self.supervisor) {
            (Some(memory), _) => format!("counted: a machine of {memory} on which no other model runs"),
            (None, false) => "counted: no other model, because no supervisor is running".to_owned(),
            (None, true) if self.models.is_empty() => "counted: no other model is running".to_owned(),
            (None, true) => format!("counted: {} running", names(&self.models)),
        }
    }
}

/// The machine as a command sees it that asks no supervisor.
pub(crate) struct LiveReading {
    /// Its memory now.
    pub reading: MemoryReading,
    /// Programs of the reserves that run.
    pub programs: Vec<String>,
    /// Installed memory.
    pub total: Bytes,
    /// What `mlxctl setup` was told that the GPU may hold.
    pub noted: Option<Bytes>,
}

/// Looks at this machine.
///
/// # Errors
/// When the system does not say what memory it has.
pub(crate) fn live_reading(registry: &Registry) -> Result<LiveReading, CliError> {
    let host = host::system();
    let reading = host
        .memory()
        .map_err(|error| CliError::failed("cannot read this system's memory size").why(error))?;
    let names: Vec<String> =
        registry.reserves.iter().flat_map(|reserve| reserve.while_running.iter().cloned()).collect();
    let environment = venv::existing(&SetupRequest::to_look(registry)).ok();
    Ok(LiveReading {
        reading,
        programs: host.running(&names),
        total: host.facts().memory,
        noted: environment.and_then(|environment| environment.gpu_limit),
    })
}

/// Another machine: nothing is known of what it has available.
fn elsewhere(total: Bytes) -> LiveReading {
    LiveReading { reading: MemoryReading::default(), programs: Vec::new(), total, noted: None }
}

/// The failure for files or bounds that cannot work.
pub(crate) fn unusable(model: &Model, problem: &Problem) -> CliError {
    let error = CliError::failed(format!("cannot estimate the memory of {}", model.name)).why(problem);
    match problem.hint() {
        Some(hint) => error.hint(hint.replace("NAME", &model.name)),
        None => error,
    }
}

/// Prints every term and the decision; a start that would be refused is an answer, not a failure.
///
/// # Errors
/// Exit 2 or 4 for the registry and the name; files that are no model; when stdout cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let model = registry.model(&args.model).map_err(|error| unknown_model(&registry, &error))?;
    describe(context, &registry, model);
    let live = live_reading(&registry)?;
    let platform = args.platform.unwrap_or_else(|| Platform::of(&live.reading));
    let (live, counted) = match args.memory {
        Some(total) => (elsewhere(total), Counted { memory_bytes: Some(total), ..Counted::default() }),
        None => (live, Counted::ask(context, model)),
    };
    let document =
        examine(&registry, model, platform, &live, counted).map_err(|problem| unusable(model, &problem))?;
    if args.json {
        return context.output.json(&document);
    }
    let width = Look::of(&context.output).width;
    context.output.data(&fold(&show(&document, model, width), 2, width))
}

/// Has mlx_lm say what the model and its draft model take, if their files are there and it was not done before. A model
/// that it cannot describe is estimated all the same.
pub(crate) fn describe(context: &Context, registry: &Registry, model: &Model) {
    let profiles = Profiles::of(registry);
    let own = weights::folder(&model.source).map(|folder| (folder, weights::division(model)));
    let draft = weights::draft_folder(model).map(|folder| (folder, None));
    for (folder, division) in own.into_iter().chain(draft) {
        if profiles.stored(&folder, division).is_none()
            && let Some(Err(refused)) = profiles.make(&folder, division)
        {
            context.output.say(&format!("note: mlx-lm does not describe {}: {refused}", model.name));
        }
    }
}

fn examine(
    registry: &Registry,
    model: &Model,
    platform: Platform,
    live: &LiveReading,
    mut counted: Counted,
) -> Result<Document, Problem> {
    let Assessment { bounds, room, estimate, hosts, kv_per_token, key, thumb, .. } =
        assess(registry, model, platform)?;
    let mut ledger = Ledger::new(live.total, registry.reserves.clone());
    for (other, grant) in &counted.models {
        // Names are unique, so that every grant is entered.
        let _ = ledger.enter(other, *grant);
    }
    let gpu_limit = match counted.memory_bytes {
        Some(total) => GpuLimit::assumed(platform, total),
        None => GpuLimit::of(platform, &live.reading, live.noted),
    };
    let (footprints, programs) = (&counted.footprints, &live.programs);
    let now = Live { reading: &live.reading, footprints, programs, platform, gpu_limit };
    let refusal = judge(&ledger, now, &model.name, estimate.as_ref()).err().map(|refusal| *refusal);
    let held_back = counted.held_back.take();
    Ok(Document {
        schema: 1,
        model: model.name.clone(),
        repo: model.source.to_string(),
        platform,
        bounds,
        room,
        arguments: bounds.arguments(),
        environment: platform.environment().iter().copied().collect(),
        rules_of_thumb: thumb,
        kv_bytes_per_token: kv_per_token,
        learning_key: key,
        reserve_bytes: estimate.as_ref().map(Estimate::reserve),
        estimate,
        hosts,
        gpu_limit,
        counted,
        granted: refusal.is_none() && held_back.is_none(),
        refusal,
        held_back,
        missing: missing(registry, model),
    })
}

fn show(document: &Document, model: &Model, width: usize) -> String {
    let bounds = &document.bounds;
    let mut text = format!(
        "{}  {}  on {}, {} at once, context {} tokens\n\n",
        document.model,
        model.source,
        document.platform.name(),
        bounds.concurrency,
        bounds.context
    );
    let Some(estimate) = &document.estimate else {
        text.push_str("no estimate: the model is not downloaded, and the registry declares no size\n");
        return text;
    };
    match document.hosts.as_slice() {
        [] => text.push_str(&terms(estimate, width)),
        hosts => {
            for host in hosts {
                let here = if host.local { " (this machine)" } else { "" };
                let ranks: Vec<String> = host.ranks.iter().map(usize::to_string).collect();
                text.push_str(&format!("{}{here}, rank {}\n", host.host, ranks.join(", ")));
                text.push_str(&terms(&host.estimate, width));
                text.push_str(&format!("reserved there: {}\n\n", host.estimate.reserve()));
            }
        }
    }
    if let Some(why) = &document.rules_of_thumb {
        text.push_str(&format!("\nestimated by rules of thumb: {why}\n"));
    }
    text.push_str(&format!("\nreserved by a start: {}", estimate.reserve()));
    if let Some(ceiling) = estimate.ceiling.filter(|ceiling| *ceiling < estimate.peak) {
        text.push_str(&format!(" (the ceiling of {ceiling})"));
    }
    if let Some(limit) = document.gpu_limit {
        text.push_str(&format!("; the GPU may hold {limit}"));
    }
    text.push_str(&format!("\n{}", document.counted.words()));
    if let Some(grant) = document.counted.running {
        text.push_str(&format!("; {} itself is running with {}", document.model, grant.bytes));
    }
    let again = if document.counted.running.is_some() { "a restart" } else { "a start" };
    // As admission asks: what holds starts back comes before memory.
    match (&document.held_back, &document.refusal) {
        (None, None) => text.push_str(&format!("; {again} would be granted now\n")),
        (Some(held), _) => {
            text.push_str(&format!("; {again} would be refused now: {}\ntry: {}\n", held.reason, held.hint));
        }
        (None, Some(refusal)) => {
            text.push_str(&format!("; {again} would be refused now: {}\n\n{refusal}\n", refusal.sentence()));
            for line in refusal.hint().lines() {
                text.push_str(&format!("try: {line}\n"));
            }
        }
    }
    if let Some(missing) = document.missing.as_ref().filter(|_| document.counted.memory_bytes.is_none()) {
        text.push_str(&format!(
            "before that: {}
try: {}
",
            missing.reason, missing.hint
        ));
    }
    text
}

fn terms(estimate: &Estimate, width: usize) -> String {
    let mut table = table::plain(&["TERM", "IDLE", "RESIDENT", "PEAK", "FROM", "OF"]);
    let cell = |term: &Term, figure| {
        if term.figures.contains(&figure) { term.bytes.to_string() } else { "-".to_owned() }
    };
    for term in &estimate.terms {
        let before = term.before.map_or_else(String::new, |before| format!("estimated {before}; "));
        table.add_row([
            term.name.clone(),
            cell(term, Figure::Idle),
            cell(term, Figure::Resident),
            cell(term, Figure::Peak),
            term.origin.name().to_owned(),
            format!("{before}{}", term.detail),
        ]);
    }
    table.add_row([
        "sum".to_owned(),
        estimate.idle.to_string(),
        estimate.resident.to_string(),
        estimate.peak.to_string(),
    ]);
    table::lines(table, 1..4, width)
}
