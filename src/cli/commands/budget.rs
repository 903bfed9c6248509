//! `mlxctl budget`

use serde::Serialize;

use crate::api::BudgetStatus;
use crate::backend::assess::assess;
use crate::cli::Context;
use crate::cli::commands::estimate::{live_reading, unusable};
use crate::cli::error::{CliError, Exit};
use crate::cli::remote::unknown_model;
use crate::memory;
use crate::memory::budget::{Case, Planned, PlannedModel};
use crate::memory::refusal::signed;
use crate::memory::{Budget, GpuLimit, Platform};
use crate::registry::{Model, Registry, Start};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Plan for a machine of this size, for example 128GB, instead of this one
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,

    /// Models, and programs that have a reserve, that run beside the always-on models
    #[arg(long, value_name = "NAME", num_args = 1..)]
    running: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `budget --json` prints; keys are promises.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    budget: &'a BudgetStatus,
    models: &'a [PlannedModel],
    cases: &'a [Case],
    /// What the GPU may hold and who says so; null: there is none, or nobody says.
    gpu_limit: Option<GpuLimit>,
}

/// Prints the plan.
///
/// # Errors
/// Exit 2 for the registry, 4 for a name that nothing goes by; when stdout cannot be written.
pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    for name in &args.running {
        let reserve = registry.reserves.iter().any(|reserve| {
            reserve.name.eq_ignore_ascii_case(name)
                || reserve.while_running.iter().any(|program| program.eq_ignore_ascii_case(name))
        });
        if !reserve {
            registry.model(name).map_err(|error| unknown_model(&registry, &error))?;
        }
    }
    let live = live_reading(&registry)?;
    let total = args.memory.unwrap_or(live.total);
    if total == Bytes::ZERO {
        return Err(CliError::new(Exit::Usage, "a machine of 0 B has no budget"));
    }
    let platform = Platform::of(&live.reading);
    let mut planned = Vec::new();
    for model in &registry.models {
        planned.push(plan(&registry, model, platform).unwrap_or_else(|error| {
            context.output.error(&error);
            None
        }));
    }
    // Another machine's GPU is not known.
    let gpu_limit =
        if args.memory.is_none() { GpuLimit::of(platform, &live.reading, live.noted) } else { None };
    let budget = memory::budget(&registry, total, &args.running, &planned);
    if args.json {
        let document = Document {
            schema: 1,
            budget: &budget.now,
            models: &budget.models,
            cases: &budget.cases,
            gpu_limit,
        };
        let json = serde_json::to_string_pretty(&document)
            .map_err(|error| CliError::failed("the budget cannot be written as JSON").why(error))?;
        return context.output.data(&json);
    }
    context.output.data(&show(&registry, &budget, gpu_limit))
}

fn plan(registry: &Registry, model: &Model, platform: Platform) -> Result<Option<Planned>, CliError> {
    let found = assess(registry, model, platform).map_err(|problem| unusable(model, &problem))?;
    Ok(found.estimate.map(|estimate| Planned { bytes: estimate.reserve(), declared: estimate.declared }))
}

/// The plan as two tables: what is taken now, and what is left in each case.
#[must_use]
pub fn show(registry: &Registry, budget: &Budget, gpu_limit: Option<GpuLimit>) -> String {
    let now = &budget.now;
    let mut plan = table(&["", "SIZE", ""]);
    plan.add_row(["memory".to_owned(), Bytes(now.total_bytes).to_string(), String::new()]);
    for (reserve, status) in registry.reserves.iter().zip(&now.reserves) {
        let note = match (status.active, reserve.while_running.is_empty()) {
            (_, true) => "reserve".to_owned(),
            (true, false) => "reserve, in force".to_owned(),
            (false, false) => {
                format!("reserve, only while {} runs: not counted", reserve.while_running.join(" or "))
            }
        };
        plan.add_row([status.name.clone(), minus(status.active, reserve.size), note]);
    }
    for model in &budget.models {
        let size = model.bytes.map_or_else(|| "unknown".to_owned(), |bytes| minus(model.running, bytes));
        let start = match (model.start, model.running) {
            (Start::Always, _) => "always-on",
            (Start::Manual, true) => "on-demand, running",
            (Start::Manual, false) => "on-demand: not counted",
        };
        let declared = if model.declared { ", size as declared" } else { "" };
        plan.add_row([model.name.clone(), size, format!("{start}{declared}")]);
    }
    plan.add_row(["= free".to_owned(), signed(i128::from(now.free_bytes)), String::new()]);

    let conditional: Vec<&str> = registry
        .reserves
        .iter()
        .filter(|reserve| !reserve.while_running.is_empty())
        .map(|reserve| reserve.name.as_str())
        .collect();
    let all = format!("FREE, {} RUNNING", conditional.join(" AND ").to_uppercase());
    let mut header = vec!["MODELS RUNNING", "TAKE", "FREE", "HEADROOM"];
    if !conditional.is_empty() {
        header.push(&all);
    }
    let mut cases = table(&header);
    for case in &budget.cases {
        let mut row = vec![
            case.name.clone(),
            case.models_bytes.to_string(),
            signed(i128::from(case.free_bytes)),
            signed(i128::from(case.headroom_bytes)),
        ];
        if !conditional.is_empty() {
            row.push(signed(i128::from(case.free_all_reserves_bytes)));
        }
        cases.add_row(row);
    }
    let counting = "FREE: memory − reserves that always hold − models.  HEADROOM: memory − models, nothing kept for macOS.\n";
    let gpu =
        gpu_limit.map(|limit| format!("GPU: all models together may hold {limit}.\n")).unwrap_or_default();
    format!("{}\n{}\n{counting}{gpu}", finish(&mut plan, 1..2), finish(&mut cases, 1..5))
}

fn minus(counted: bool, bytes: Bytes) -> String {
    if counted { signed(-i128::from(bytes.0)) } else { format!("({bytes})") }
}

fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header.iter().map(|name| (*name).to_owned()));
    }
    table
}

fn finish(table: &mut comfy_table::Table, right: std::ops::Range<usize>) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
