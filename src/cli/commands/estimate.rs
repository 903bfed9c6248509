//! `mlxctl estimate <model>`

use std::collections::BTreeMap;

use serde::Serialize;

use crate::backend::assess::{Assessment, assess};
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::unknown_model;
use crate::host::{self, MemoryReading};
use crate::memory::estimate::{Figure, Term};
use crate::memory::group::HostEstimate;
use crate::memory::{Bounds, Estimate, GpuLimit, Ledger, Live, Platform, Problem, Refusal, judge};
use crate::python::venv::{self, SetupRequest};
use crate::registry::{Model, Registry};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, by name or alias
    model: String,

    /// Estimate for MLX on this platform instead of this machine's
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

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
    /// The flags of `mlx_lm.server` that follow.
    arguments: Vec<String>,
    /// What the backend's environment needs beside.
    environment: BTreeMap<&'static str, &'static str>,
    /// KV bytes that one more token takes; null: the files are not there.
    kv_bytes_per_token: Option<Bytes>,
    /// Under what the footprints of such a run are kept in `learned.json`.
    learning_key: String,
    /// On this machine. Null: nobody knows.
    estimate: Option<Estimate>,
    /// On every machine of its cluster, this one first; empty without one.
    hosts: Vec<HostEstimate>,
    /// What admission would reserve.
    reserve_bytes: Option<Bytes>,
    /// What the GPU may hold and who says so; null: there is none, or nobody says.
    gpu_limit: Option<GpuLimit>,
    /// Whether a start would be granted now.
    granted: bool,
    /// Why not; null where it would be.
    refusal: Option<Refusal>,
}

/// The machine as a command sees it that asks no supervisor.
pub struct LiveReading {
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
pub fn live_reading(registry: &Registry) -> Result<LiveReading, CliError> {
    let host = host::system();
    let reading = host
        .memory()
        .map_err(|error| CliError::failed("this system does not say what memory it has").why(error))?;
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

/// The failure for files or bounds that cannot work.
#[must_use]
pub fn unusable(model: &Model, problem: &Problem) -> CliError {
    let error = CliError::failed(format!("cannot say what {} takes", model.name)).why(problem);
    match problem.hint() {
        Some(hint) => error.hint(hint.replace("NAME", &model.name)),
        None => error,
    }
}

/// Prints every term and the decision; a start that would be refused is an answer, not a failure.
///
/// # Errors
/// Exit 2 or 4 for the registry and the name; files that are no model; when stdout cannot be written.
pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let model = registry.model(&args.model).map_err(|error| unknown_model(&registry, &error))?;
    let live = live_reading(&registry)?;
    let platform = args.platform.unwrap_or_else(|| Platform::of(&live.reading));
    let document = examine(&registry, model, platform, &live).map_err(|problem| unusable(model, &problem))?;
    if args.json {
        let json = serde_json::to_string_pretty(&document)
            .map_err(|error| CliError::failed("the estimate cannot be written as JSON").why(error))?;
        return context.output.data(&json);
    }
    context.output.data(&show(&document, model))
}

fn examine(
    registry: &Registry,
    model: &Model,
    platform: Platform,
    live: &LiveReading,
) -> Result<Document, Problem> {
    let Assessment { bounds, estimate, hosts, kv_per_token, key, .. } = assess(registry, model, platform)?;
    let ledger = Ledger::new(live.total, registry.reserves.clone());
    let footprints = BTreeMap::new();
    let gpu_limit = GpuLimit::of(platform, &live.reading, live.noted);
    let programs = &live.programs;
    let now = Live { reading: &live.reading, footprints: &footprints, programs, platform, gpu_limit };
    let refusal = judge(&ledger, now, &model.name, estimate.as_ref()).err().map(|refusal| *refusal);
    Ok(Document {
        schema: 1,
        model: model.name.clone(),
        repo: model.source.to_string(),
        platform,
        bounds,
        arguments: bounds.arguments(),
        environment: platform.environment().iter().copied().collect(),
        kv_bytes_per_token: kv_per_token,
        learning_key: key,
        reserve_bytes: estimate.as_ref().map(Estimate::reserve),
        estimate,
        hosts,
        gpu_limit,
        granted: refusal.is_none(),
        refusal,
    })
}

fn show(document: &Document, model: &Model) -> String {
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
        text.push_str("nothing is known: it is not downloaded, and the registry declares no size\n");
        return text;
    };
    match document.hosts.as_slice() {
        [] => text.push_str(&table(estimate)),
        hosts => {
            for host in hosts {
                let here = if host.local { " (this machine)" } else { "" };
                let ranks: Vec<String> = host.ranks.iter().map(usize::to_string).collect();
                text.push_str(&format!("{}{here}, rank {}\n", host.host, ranks.join(", ")));
                text.push_str(&table(&host.estimate));
                text.push_str(&format!("reserved there: {}\n\n", host.estimate.reserve()));
            }
        }
    }
    text.push_str(&format!("\nreserved by a start: {}", estimate.reserve()));
    if let Some(ceiling) = estimate.ceiling.filter(|ceiling| *ceiling < estimate.peak) {
        text.push_str(&format!(" (the ceiling of {ceiling})"));
    }
    if let Some(limit) = document.gpu_limit {
        text.push_str(&format!("; the GPU may hold {limit}"));
    }
    match &document.refusal {
        None => text.push_str("; it would be granted now\n"),
        Some(refusal) => {
            text.push_str(&format!("; it would be refused now: {}\n\n{refusal}\n", refusal.sentence()));
            for line in refusal.hint().lines() {
                text.push_str(&format!("try: {line}\n"));
            }
        }
    }
    text
}

fn table(estimate: &Estimate) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(["TERM", "IDLE", "RESIDENT", "PEAK", "FROM", "OF"]);
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
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (1..=3).contains(&index) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}
