//! `mlxctl budget`

use serde::Serialize;

use crate::api::BudgetStatus;
use crate::backend::assess;
use crate::cli::Context;
use crate::cli::commands::estimate::{live_reading, unusable};
use crate::cli::error::{CliError, Exit};
use crate::cli::remote::unknown_model;
use crate::cli::render::{Look, fold, table};
use crate::memory;
use crate::memory::budget::{Case, PlannedModel};
use crate::memory::refusal::signed;
use crate::memory::{Budget, GpuLimit, Platform};
use crate::registry::{Registry, Start};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Plan for a machine of this size, for example 128GB, instead of this one
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,

    /// Plan for MLX on this platform instead of this machine's
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// On-demand models, and programs with a reserve, to count as running
    #[arg(long, value_name = "NAME", num_args = 1..)]
    running: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `budget --json` prints; its keys are stable.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    budget: &'a BudgetStatus,
    models: &'a [PlannedModel],
    cases: &'a [Case],
    /// How much memory the GPU may hold and where that figure is from; null: no limit, or it is unknown.
    gpu_limit: Option<GpuLimit>,
}

/// Prints the plan.
///
/// # Errors
/// Exit 2 for an invalid registry, 4 for an unknown name; when stdout cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
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
        return Err(CliError::new(Exit::Usage, "--memory must be more than 0 B"));
    }
    let platform = args.platform.unwrap_or_else(|| Platform::of(&live.reading));
    let mut planned = Vec::new();
    for model in &registry.models {
        planned.push(assess::planned(&registry, model, platform).unwrap_or_else(|problem| {
            context.output.error(&unusable(model, &problem));
            None
        }));
    }
    let here = platform == Platform::of(&live.reading) && args.memory.is_none();
    let gpu_limit = if here {
        GpuLimit::of(platform, &live.reading, live.noted)
    } else {
        GpuLimit::assumed(platform, total)
    };
    let budget = memory::budget(&registry, total, &args.running, &planned);
    if args.json {
        let document = Document {
            schema: 1,
            budget: &budget.now,
            models: &budget.models,
            cases: &budget.cases,
            gpu_limit,
        };
        return context.output.json(&document);
    }
    context.output.data(&show(&registry, &budget, gpu_limit, Look::of(&context.output).width))
}

/// The plan as two tables: what is taken now, and what is left in each case.
pub(crate) fn show(
    registry: &Registry,
    budget: &Budget,
    gpu_limit: Option<GpuLimit>,
    width: usize,
) -> String {
    let counting = "FREE: memory − reserves that always hold − models.  HEADROOM: memory − models, nothing kept for macOS.\n";
    let gpu = gpu_limit.map(|limit| on_the_gpu(budget, limit)).unwrap_or_default();
    let by = counted_by(&budget.models);
    let notes = fold(&format!("{counting}{by}{gpu}"), 2, width);
    format!("{}\n{}\n{notes}\n", taken(registry, budget, width), left(registry, budget, width))
}

fn taken(registry: &Registry, budget: &Budget, width: usize) -> String {
    let now = &budget.now;
    let mut plan = table::plain(&["", "SIZE", ""]);
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
        let by = match (model.bytes, model.declared) {
            (None, _) => "",
            (Some(_), true) => ", by its `size`",
            (Some(_), false) => ", by estimate",
        };
        plan.add_row([model.name.clone(), size, format!("{start}{by}")]);
    }
    plan.add_row(["= free".to_owned(), signed(i128::from(now.free_bytes)), String::new()]);
    table::lines(plan, 1..2, width)
}

fn left(registry: &Registry, budget: &Budget, width: usize) -> String {
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
    let mut cases = table::plain(&header);
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
    table::lines(cases, 1..5, width)
}

/// Whether models are counted by declared size or by estimate, and that a download changes the former to the latter.
fn counted_by(models: &[PlannedModel]) -> String {
    let names = |declared| {
        let of = models.iter().filter(|model| model.bytes.is_some() && model.declared == declared);
        of.map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (declared, estimated) = (names(true), names(false));
    let mut text = String::new();
    if !declared.is_empty() {
        text += &format!(
            "COUNTED by `size` in the registry: {declared}. Once downloaded, by estimate: weights, caches, prefill.\n"
        );
    }
    if !estimated.is_empty() {
        text += &format!("COUNTED by estimate (mlxctl estimate shows the terms): {estimated}.\n");
    }
    text
}

/// The fullest case compared with what the GPU may hold.
fn on_the_gpu(budget: &Budget, limit: GpuLimit) -> String {
    let left = |case: &Case| i128::from(limit.bytes.0) - i128::from(case.models_bytes.0);
    let last = budget.cases.last().map(|case| match left(case) {
        left if left < 0 => format!("; {} takes {} more than that", case.name, signed(-left)),
        left => format!("; {} leaves {} for a game", case.name, signed(left)),
    });
    format!("GPU: all models together may hold {limit}{}.\n", last.unwrap_or_default())
}

fn minus(counted: bool, bytes: Bytes) -> String {
    if counted { signed(-i128::from(bytes.0)) } else { format!("({bytes})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_fits_every_width() {
        let text = include_str!("../../../config/models.toml");
        let registry = Registry::parse(std::path::Path::new("/etc/m.toml"), text).unwrap();
        let total = Bytes::gb(128);
        let planned = |gb, declared| Some(memory::budget::Planned { bytes: Bytes::gb(gb), declared });
        let budget = memory::budget(&registry, total, &[], &[planned(33, false), planned(40, true)]);
        let limit = GpuLimit::assumed(Platform::Metal, total);
        let draw = |look: &Look| show(&registry, &budget, limit, look.width);
        insta::assert_snapshot!(crate::cli::render::sample::at_every_width(draw));
    }
}
