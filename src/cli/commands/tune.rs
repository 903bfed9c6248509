//! `mlxctl bench <model> --tune`: the same model with other settings, one after the other, each in a supervisor of
//! its own on loopback. The registry and the running supervisor are left alone.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, value};

use super::bench;
use crate::api::StartRequest;
use crate::api::client::Client;
use crate::bench::report::SCHEMA;
use crate::bench::run::{Measured, Plan};
use crate::bench::shape::Shape;
use crate::bench::tune::{Candidate, Tried, Value, candidates, winner};
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::remote::Remote;
use crate::cli::render::table::{Cell, Column, draw};
use crate::cli::render::{Look, Style};
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// For a supervisor to come up, and to end after its model did.
const SUPERVISOR: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    model: &'a str,
    process_type: crate::registry::ProcessType,
    tried: &'a [Tried],
    best_for_one_stream: Option<&'a Candidate>,
    best_for_many: Option<&'a Candidate>,
}

/// Tries the candidates and prints which won, with the registry's lines for it.
///
/// # Errors
/// The model is running (75): two of it would not fit, or disturb each other.
pub fn run(
    context: &Context,
    registry: &Registry,
    model: &Model,
    args: &bench::Args,
    plan: &Plan,
) -> Result<(), CliError> {
    let others = others(context, model)?;
    let all = candidates(&model.server, args.draft.as_deref());
    let mut tried = Vec::new();
    for (number, candidate) in all.iter().enumerate() {
        context.output.say(&format!("trying        {} of {}: {}", number + 1, all.len(), candidate.label));
        let (measured, peak_bytes, problem) = match one(context, registry, model, candidate, others, plan) {
            Ok((measured, peak)) => (measured, peak, None),
            Err(error) => (Measured::default(), None, Some(error.what)),
        };
        tried.push(Tried {
            candidate: candidate.clone(),
            one: measured.one_stream().map(|decode| decode.tokens_per_second.median),
            many: measured.most().map(|decode| decode.tokens_per_second.median),
            prefill: measured.prefill.last().map(|prefill| prefill.tokens_per_second.median),
            peak_bytes,
            problem,
        });
    }
    if args.json {
        let best = |value: fn(&Tried) -> Option<f64>| winner(&tried, value).map(|tried| &tried.candidate);
        let document = Document {
            schema: SCHEMA,
            model: &model.name,
            process_type: registry.agent.process_type,
            tried: &tried,
            best_for_one_stream: best(|tried| tried.one),
            best_for_many: best(|tried| tried.many),
        };
        let text = serde_json::to_string_pretty(&document)
            .map_err(|error| CliError::failed("the result cannot be written as JSON").why(error))?;
        return context.output.data(&text);
    }
    context.output.data(&text(registry, model, &tried, &Look::of(&context.output)))
}

/// Memory that the running supervisor granted to other models.
fn others(context: &Context, model: &Model) -> Result<Bytes, CliError> {
    let Ok(status) = Remote::find(context)?.client.status() else { return Ok(Bytes::ZERO) };
    if status.models.iter().any(|found| found.name == model.name && found.pid.is_some()) {
        return Err(CliError::new(Exit::Refused, format!("{} is running", model.name))
            .why("tuning starts it with other settings, and memory holds it only once")
            .hint(format!("mlxctl stop {}", model.name)));
    }
    Ok(Bytes(status.budget.models_bytes))
}

type Speed = fn(&Tried) -> Option<f64>;
type Outcome = Result<(Measured, Option<u64>), CliError>;

fn one(
    context: &Context,
    registry: &Registry,
    model: &Model,
    candidate: &Candidate,
    others: Bytes,
    plan: &Plan,
) -> Outcome {
    let failed =
        |what: &'static str| move |error: std::io::Error| CliError::failed(format!("{what}: {error}"));
    // Short, since Unix sockets lie below it.
    let folder =
        tempfile::Builder::new().prefix("mlxtune").tempdir().map_err(failed("no temporary folder"))?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(failed("no free port on loopback"))?
        .port();
    let file = folder.path().join("models.toml");
    fs_err::write(&file, document(registry, model, candidate, others, port, folder.path())?)
        .map_err(failed("the registry of the trial"))?;
    let trial = Registry::load(&file).map_err(|problems| CliError::failed(problems.plain()))?;
    let supervisor = Serving::start(&file).map_err(failed("no supervisor"))?;
    let client = Client::new(&trial.paths.run);
    let began = Instant::now();
    while client.status().is_err() {
        if began.elapsed() > SUPERVISOR {
            return Err(CliError::failed("the trial's supervisor does not start"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    client.start(&model.name, &StartRequest { wait: true, ..StartRequest::default() }, |_| {})?;
    let trial_model = trial.models.first().ok_or_else(|| CliError::failed("the trial has no model"))?;
    let shape = crate::backend::weights::folder(&model.source).map(|folder| Shape::read(&folder));
    let measured = bench::ask(context, &trial, trial_model, &shape.unwrap_or_default(), plan)?;
    let peak = client.status()?.models.first().and_then(|model| model.memory.peak_bytes);
    drop(supervisor);
    Ok((measured, peak))
}

/// The registry of one trial: this model alone, on loopback, in a folder of its own, beside what others hold.
fn document(
    registry: &Registry,
    model: &Model,
    candidate: &Candidate,
    others: Bytes,
    port: u16,
    root: &Path,
) -> Result<String, CliError> {
    let broken =
        |error: &dyn std::fmt::Display| CliError::failed(format!("the registry cannot be copied: {error}"));
    let text = fs_err::read_to_string(&registry.file).map_err(|error| broken(&error))?;
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| broken(&error))?;
    for table in ["network", "agent", "metrics", "page", "router", "paths"] {
        document.remove(table);
    }
    let mut paths = Table::new();
    paths.insert("root", value(root.to_string_lossy().as_ref()));
    paths.insert("venv", value(registry.paths.venv.to_string_lossy().as_ref()));
    document.insert("paths", Item::Table(paths));
    if others > Bytes::ZERO {
        let mut reserve = InlineTable::new();
        reserve.insert("name", "models that run".into());
        reserve.insert("size", format!("{} B", others.0).into());
        let memory = document.entry("memory").or_insert_with(|| Item::Table(Table::new()));
        let list = memory
            .as_table_like_mut()
            .map(|memory| memory.entry("reserve").or_insert_with(|| value(toml_edit::Array::new())));
        match list.and_then(Item::as_array_mut) {
            Some(list) => list.push(reserve),
            None => return Err(broken(&"memory.reserve is no list of inline tables")),
        }
    }
    let find = |table: &Table| table.get("name").and_then(Item::as_str) == Some(&model.name);
    let Some(mut entry) = document
        .get("model")
        .and_then(Item::as_array_of_tables)
        .and_then(|all| all.iter().find(|table| find(table)).cloned())
    else {
        return Err(broken(&"its model is no [[model]] table"));
    };
    entry.insert("port", value(i64::from(port)));
    entry.insert("start", value("manual"));
    let server = entry.entry("server").or_insert_with(|| value(InlineTable::new()));
    let Some(server) = server.as_table_like_mut() else { return Err(broken(&"its server is no table")) };
    for (key, new) in &candidate.change {
        match new {
            Some(Value::Number(number)) => drop(server.insert(key, value(i64::from(*number)))),
            Some(Value::Text(text)) => drop(server.insert(key, value(text.as_str()))),
            None => drop(server.remove(key)),
        }
    }
    if let Some(adapter) = &model.server.adapter_path {
        server.insert("adapter_path", value(adapter.to_string_lossy().as_ref()));
    }
    let mut models = ArrayOfTables::new();
    models.push(entry);
    document.insert("model", Item::ArrayOfTables(models));
    Ok(document.to_string())
}

/// A supervisor of our own; it ends, with its model, when it is dropped.
struct Serving(Child);

impl Serving {
    fn start(config: &Path) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--config").arg(config).arg("serve");
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.spawn().map(Self)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.0.id()) else { return };
        // It is our child and not waited for yet, so the number is still its own.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        // It drains, and stops its model properly: killing it would leave the model behind.
        let _ = self.0.wait();
    }
}

fn text(registry: &Registry, model: &Model, tried: &[Tried], look: &Look) -> String {
    let columns = [
        Column::left("SETTINGS", 0),
        Column::right("ONE STREAM", 0),
        Column::right("MANY", 0),
        Column::right("PREFILL", 1),
        Column::right("PEAK", 2),
        Column::left("", 3),
    ];
    let speed = |value: Option<f64>| value.map(|value| format!("{value:.1}")).unwrap_or_default();
    let row = |tried: &Tried| -> Vec<Cell> {
        vec![
            tried.candidate.label.clone().into(),
            speed(tried.one).into(),
            speed(tried.many).into(),
            speed(tried.prefill).into(),
            tried.peak_bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default().into(),
            Cell::new(tried.problem.clone().unwrap_or_default(), Style::Bad),
        ]
    };
    let wide = Look { width: usize::MAX, ..*look };
    let mut out = draw(&columns, &tried.iter().map(row).collect::<Vec<_>>(), &wide).unwrap_or_default();
    out.push('\n');
    let values: [(&str, Speed); 2] =
        [("for one stream", |tried| tried.one), ("for many", |tried| tried.many)];
    for (what, value) in values {
        match winner(tried, value) {
            None => out
                .push_str(&format!("{what}: nothing is at least 5 % better than the registry's settings\n")),
            Some(best) => {
                out.push_str(&format!(
                    "{what}: {}; in the registry, at `{}`:\n",
                    best.candidate.label, model.name
                ));
                for (key, value) in &best.candidate.change {
                    out.push_str(&match value {
                        Some(value) => format!("  server.{key} = {value}\n"),
                        None => format!("  (leave {key} out)\n"),
                    });
                }
            }
        }
    }
    out.push_str(&format!(
        "measured from this terminal; `mlxctl bench {1}` measures the agent, which has process_type {0:?}\n",
        registry.agent.process_type, model.name
    ));
    out
}
