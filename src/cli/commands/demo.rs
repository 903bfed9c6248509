//! `mlxctl demo`: runs everything once with the built-in tiny model, from nothing to a clean stop.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use toml_edit::DocumentMut;

use super::serve::{explain, runtime};
use super::setup;
use crate::api::{ApiError, StartRequest};
use crate::cli::Context;
use crate::cli::ask::{Question, ask};
use crate::cli::error::{CliError, no_signal_handlers};
use crate::cli::render::{self, Look};
use crate::control::server::Server;
use crate::folders;
use crate::python::venv::SetupRequest;
use crate::registry::{self, Registry};
use crate::supervisor::{Handle, Options, Supervisor, on_signals};

/// The tiny model was trained to answer this.
const QUESTION: &str = "What are you?";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print `status --json`, taken while the model is ready, with the answer added
    #[arg(long)]
    json: bool,
}

/// Sets up environment and model, starts supervisor and gate, shows one streamed answer and the status, and stops.
///
/// # Errors
/// The first of these that failed, and what to do.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = write_registry(&folders::data().join("demo"), free_port()?)?;
    let say = |line: &str| context.output.say(line);
    say(&format!("environment   {}", registry.paths.venv.display()));
    let environment = setup::ensure(&context.output, &SetupRequest::new(&registry, false))?;
    let model = setup::tiny_model(&context.output, &environment)?;
    say(&format!("tiny model    {}", model.display()));
    runtime()?.block_on(serve(context, args, registry))
}

async fn serve(context: &Context, args: &Args, registry: Registry) -> Result<(), CliError> {
    let host = crate::host::system();
    let binary = std::env::current_exe()
        .map_err(|error| CliError::failed("cannot find the path of this program").why(error))?;
    let (run, config) = (registry.paths.run.clone(), registry.file.clone());
    let address = format!("http://{}:{}", registry.network.host, registry.models[0].port);
    let name = registry.models[0].name.clone();
    let supervisor = Supervisor::new(Options { registry, host, binary }).map_err(explain)?;
    let handle = supervisor.handle();
    let server =
        Server::bind(&run).map_err(|error| CliError::failed("cannot open the control socket").why(error))?;
    let control = tokio::spawn(server.run(handle.clone(), config.clone()));
    on_signals(handle.clone(), config.clone()).map_err(no_signal_handlers)?;
    let life = tokio::spawn(supervisor.run());
    let unread = Arc::new(AtomicBool::new(false));
    context.output.when_unread({
        let (unread, handle) = (unread.clone(), handle.clone());
        move || {
            unread.store(true, Relaxed);
            handle.shutdown(false);
        }
    });
    let shown = match show(context, args, &handle, &name, &address).await {
        // A reader that closes the pipe early has seen enough; that is not a failure.
        Err(_) if unread.load(Relaxed) => Ok(false),
        shown => shown,
    };
    if args.keep && matches!(shown, Ok(true)) {
        context.output.say(&format!(
            "\nRunning until Ctrl-C. In another terminal:\n  mlxctl --config '{}' status\n  curl {address}/v1/models",
            config.display()
        ));
    } else {
        handle.shutdown(false);
    }
    life.await.map_err(|error| CliError::failed("the supervisor failed").why(error))?;
    control.abort();
    context.output.say("stopped       nothing is left running");
    shown.map(drop)
}

/// Waits for the model, asks it, and shows its answer and the status; `false`: stdout was closed before that.
async fn show(
    context: &Context,
    args: &Args,
    handle: &Handle,
    name: &str,
    address: &str,
) -> Result<bool, CliError> {
    let say = |line: &str| context.output.say(line);
    say(&format!("supervisor    starting {name} behind {address}"));
    let request = StartRequest { wait: true, ..StartRequest::default() };
    handle.start(name, request).await.map_err(failed)?;
    if let Some(model) = handle.model(name).await {
        let (pid, up) = (model.pid.unwrap_or_default(), model.uptime_seconds.unwrap_or_default());
        say(&format!("ready         process {pid} completed its first token after {up:.1} s"));
    }
    say(&format!("question      {QUESTION}"));
    let settings = serde_json::json!({ "temperature": 0, "max_tokens": 64 });
    let question = Question { address, model: name, text: QUESTION, key: None, settings };
    let answer =
        ask(&question, |piece| if args.json { Ok(true) } else { context.output.offer(piece.as_bytes()) })
            .await?;
    let mut status =
        handle.status().await.ok_or_else(|| CliError::failed("the supervisor ended unexpectedly"))?;
    if args.json {
        status.answer = Some(answer.text);
        let text = serde_json::to_string_pretty(&status)
            .map_err(|error| CliError::failed("the status cannot be written as JSON").why(error))?;
        return context.output.offer(format!("{text}\n").as_bytes());
    }
    let text = format!("\n\n{}", render::status::status(&status, &Look::of(&context.output)));
    context.output.offer(text.as_bytes())
}

fn failed(error: ApiError) -> CliError {
    let failure = CliError::failed(error.message);
    match error.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A free port. If another program takes it before the gate does, the gate reports that.
fn free_port() -> Result<u16, CliError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| CliError::failed("no free port on loopback").why(error))
}

/// Writes the demo's registry to a file, so that `mlxctl --config` works with it too.
fn write_registry(root: &Path, port: u16) -> Result<Registry, CliError> {
    let failed =
        |error: &dyn std::fmt::Display| CliError::failed("the demo's registry cannot be written").why(error);
    let mut text: DocumentMut =
        registry::DEMO.parse().map_err(|error: toml_edit::TomlError| failed(&error))?;
    text["paths"]["root"] = toml_edit::value(root.to_string_lossy().as_ref());
    if let Some(model) = text["model"].as_array_of_tables_mut().and_then(|models| models.get_mut(0)) {
        model["port"] = toml_edit::value(i64::from(port));
    }
    let file = root.join("models.toml");
    fs_err::create_dir_all(root)
        .and_then(|()| fs_err::write(&file, text.to_string()))
        .map_err(|error| failed(&error))?;
    Registry::load(&file).map_err(|problems| failed(&problems.plain()))
}
