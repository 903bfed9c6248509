//! `mlxctl bench <model>`

use std::time::SystemTime;

use crate::api::{ModelStatus, StateName};
use crate::backend::weights;
use crate::bench::client::{AskError, Target};
use crate::bench::report::{Report, SCHEMA, settings};
use crate::bench::roofline::{Bandwidth, Roofline, judge};
use crate::bench::run::{Plan, measure};
use crate::bench::shape::Shape;
use crate::bench::{chips, copy};
use crate::cli::Context;
use crate::cli::ask;
use crate::cli::error::{CliError, Exit, root_cause};
use crate::cli::remote::Remote;
use crate::cli::render::{self, Look};
use crate::registry::{Model, Registry, Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias; it must be ready
    model: String,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Length of each answer, in tokens
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(2..=65_536))]
    tokens: u32,
    /// How often to repeat each measurement; very short prompts are repeated more often
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Prompt lengths, in tokens; those longer than the model's context are skipped
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "128,512,2048,8192")]
    prompts: Vec<u32>,
    /// Numbers of concurrent streams; those above limits.in_flight are skipped
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4,8")]
    streams: Vec<u32>,
    /// Measure another server of the same model instead, for comparison
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The chip the model runs on, if it is not detected ("NVIDIA H100 80GB HBM3")
    #[arg(long, value_name = "NAME")]
    chip: Option<String>,
}

/// Measures a model and compares the result with the memory-bandwidth limit.
///
/// # Errors
/// An unknown model (4), one that is not ready (3), or a request that was not answered.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let model = registry
        .model(&args.model)
        .map_err(|unknown| crate::cli::remote::unknown_model(&registry, &unknown))?;
    let host = crate::host::system();
    let facts = host.facts();
    let before = if args.url.is_none() { Some(ready(context, model)?) } else { None };
    let served = served(model, before.as_ref());
    let shape = weights::folder(&served.source).map(|folder| Shape::read(&folder)).unwrap_or_default();
    if let Some(how) = &served.outdated {
        context
            .output
            .say(&format!("{} is still running with its old settings ({how}); measuring those", model.name));
    }
    let target = target(&registry, model, &shape, args)?;
    let plan = plan(args).within(shortest(model.memory.context, shape.context), in_flight(model, args));
    let left_out: Vec<String> =
        args.streams.iter().filter(|streams| !plan.streams.contains(streams)).map(u32::to_string).collect();
    if !left_out.is_empty() {
        let (streams, limit) = (left_out.join(", "), model.limits.in_flight);
        context.output.say(&format!("skipping streams: {streams} (limits.in_flight is {limit})"));
    }
    let tell = |what: &str| context.output.say(&format!("measuring     {what}"));
    let measured = super::serve::runtime()?.block_on(measure(&target, &plan, tell)).map_err(unanswered)?;
    let chip = args.chip.clone().or_else(|| facts.chip.clone());
    let (roofline, roofline_unknown) = limit(chip.as_deref(), facts.cores, &shape);
    let speed = measured.one_stream().map(|decode| decode.tokens_per_second.median);
    let report = Report {
        schema: SCHEMA,
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.name.clone(),
        repo: served.source.to_string(),
        settings: served.settings,
        url: address(&registry, model, args),
        share: speed.zip(roofline.as_ref()).map(|(speed, limit)| speed / limit.tokens_per_second),
        target: model.target,
        target_verdict: model
            .target
            .zip(speed)
            .map(|(target, speed)| judge(target, speed, roofline.as_ref())),
        cores: facts.cores,
        chip,
        process_type: registry.agent.process_type,
        peak_bytes: before.as_ref().map(|before| peak(context, model, before)).transpose()?.flatten(),
        roofline,
        roofline_unknown,
        measured,
    };
    if args.json {
        return context.output.json(&report);
    }
    context.output.data(&render::bench::report(&report, &Look::of(&context.output)))
}

/// What is measured: the live run, whose settings may be older than the registry's.
struct Served {
    source: Source,
    settings: String,
    /// How it differs from the registry.
    outdated: Option<String>,
}

fn served(model: &Model, run: Option<&ModelStatus>) -> Served {
    let outdated = run.and_then(|run| run.outdated.clone());
    let source = run.and_then(|run| run.running_repo.as_deref()).map_or_else(
        || model.source.clone(),
        |repo| match repo {
            repo if repo == model.source.to_string() => model.source.clone(),
            repo if repo.starts_with('/') => Source::Folder(repo.into()),
            repo if repo == Source::Tiny.to_string() => Source::Tiny,
            repo => Source::Hub(repo.to_owned()),
        },
    );
    // Only how the old settings differ is known, not each of their values.
    let settings = match &outdated {
        Some(how) => format!("{} (before: {how})", settings(model)),
        None => settings(model),
    };
    Served { source, settings, outdated }
}

/// Checks that the model is ready, so that the gate does not hold back the first request.
fn ready(context: &Context, model: &Model) -> Result<ModelStatus, CliError> {
    let found = look(context, model)?.filter(|found| found.state == StateName::Ready);
    found.ok_or_else(|| not_ready(model))
}

fn not_ready(model: &Model) -> CliError {
    CliError::new(Exit::NotRunning, format!("{} is not ready", model.name))
        .hint(format!("mlxctl start {}", model.name))
}

fn look(context: &Context, model: &Model) -> Result<Option<ModelStatus>, CliError> {
    let status = Remote::find(context)?.client.status()?;
    Ok(status.models.into_iter().find(|found| found.name == model.name))
}

/// The highest footprint seen in the live run, bytes.
///
/// # Errors
/// Another program answered on the gate's port.
fn peak(context: &Context, model: &Model, before: &ModelStatus) -> Result<Option<u64>, CliError> {
    let Some(after) = look(context, model)? else { return Ok(None) };
    if after.traffic.counts.requests == before.traffic.counts.requests {
        return Err(CliError::failed(format!("another program answers at {}", after.address))
            .why("this supervisor's gate received none of the requests")
            .hint("mlxctl status      shows what the gate is waiting for"));
    }
    Ok(after.memory.peak_bytes)
}

fn target(registry: &Registry, model: &Model, shape: &Shape, args: &Args) -> Result<Target, CliError> {
    let key = ask::key(registry.network.require_key && args.url.is_none(), "bench")?;
    let name = args.url.is_none().then(|| model.name.clone());
    Target::new(address(registry, model, args), name, key, shape.ends.clone()).map_err(unanswered)
}

fn address(registry: &Registry, model: &Model, args: &Args) -> String {
    let gate = || ask::address(registry, model);
    args.url.as_ref().map_or_else(gate, |url| url.trim_end_matches('/').to_owned())
}

fn plan(args: &Args) -> Plan {
    let sorted = |list: &[u32]| {
        let mut list: Vec<u32> = list.iter().copied().filter(|number| *number > 0).collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    Plan {
        prompts: sorted(&args.prompts),
        tokens: args.tokens,
        repeats: args.repeats,
        streams: sorted(&args.streams),
    }
}

fn shortest(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.into_iter().chain(b).min()
}

fn in_flight(model: &Model, args: &Args) -> u32 {
    if args.url.is_some() { u32::MAX } else { model.limits.in_flight }
}

/// The memory-bandwidth limit, or why it is unknown.
fn limit(chip: Option<&str>, cores: u32, shape: &Shape) -> (Option<Roofline>, Option<String>) {
    let unknown = |why: &str| (None, Some(why.to_owned()));
    if shape.sparse {
        return unknown("a mixture of experts reads only part of its weights per token");
    }
    if shape.weights.is_none() {
        return unknown("the model's files are not on this machine");
    }
    let bandwidth = match (chip, chip.and_then(|name| chips::find(name, cores))) {
        (_, Some(known)) => Bandwidth::of(known),
        (Some(name), None) if name.starts_with("NVIDIA") => {
            return unknown(
                "no bandwidth figure is known for this card, and a CPU copy would not measure it",
            );
        }
        (name, None) => Bandwidth::measured(copy::bytes_per_second(cores), name.unwrap_or("this chip")),
    };
    (Roofline::new(bandwidth, shape), None)
}

fn unanswered(error: AskError) -> CliError {
    let busy = matches!(error, AskError::Refused { status: 429 | 503, .. });
    let what = format!("a request was not answered: {error}");
    let failure = CliError::new(if busy { Exit::Refused } else { Exit::Failed }, what);
    match root_cause(&error) {
        Some(why) => failure.why(why),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::render::sample;

    #[test]
    fn a_report_describes_the_live_run_and_not_the_registrys_newer_settings() {
        let text = include_str!("../../../config/models.toml");
        let registry = Registry::parse(Path::new("/m.toml"), text).unwrap();
        let model = &registry.models[0];
        let mut run = sample::status().models.remove(0);
        assert_eq!(served(model, Some(&run)).source, model.source, "a run of an earlier version");
        run.running_repo = Some("org/before".to_owned());
        run.outdated = Some("--model a → b".to_owned());
        let found = served(model, Some(&run));
        assert_eq!(found.source, Source::Hub("org/before".to_owned()));
        assert_ne!(found.settings, settings(model));
        run.running_repo = Some("builtin:tiny".to_owned());
        assert_eq!(served(model, Some(&run)).source, Source::Tiny);
        assert_eq!(served(model, None).settings, settings(model));
    }
}
