//! `mlxctl serve`

use crate::api::paths;
use crate::cli::Context;
use crate::cli::error::{CliError, Exit, no_signal_handlers};
use crate::control::server::Server;
use crate::registry::Registry;
use crate::service::notify::Notifier;
use crate::supervisor::{Options, StartError, Supervisor, on_signals};
use std::time::{Duration, SystemTime};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// How long a supervisor waits at its end for writes that have begun.
const LAST_WRITES: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the supervisor in the foreground, until SIGTERM or SIGINT.
///
/// # Errors
/// The registry's problems; another supervisor; folders that cannot be created.
pub(crate) fn run(context: &Context, _: &Args) -> Result<(), CliError> {
    let host = crate::host::system();
    let registry = Registry::load_here(&context.config, host.facts().memory)
        .map_err(|problems| context.broken(&problems))?;
    log_to_stderr(context);
    if let Err(error) = crate::host::posix::serve_long() {
        tracing::warn!(%error, "resource limits are unchanged");
    }
    crate::host::keep_memory_small();
    let run = registry.paths.run.clone();
    let binary = std::env::current_exe()
        .map_err(|error| CliError::failed("cannot find the path of this program").why(error))?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let supervisor = Supervisor::new(Options { registry, host, binary }).map_err(explain)?;
        let handle = supervisor.handle();
        let server = Server::bind(&run).map_err(|error| {
            CliError::failed("cannot open the control socket").why(error).hint("mlxctl doctor")
        })?;
        if let Err(error) = paths::announce(&context.config, &run) {
            tracing::warn!(%error, "commands will not find this supervisor while the registry is invalid");
        }
        on_signals(handle.clone(), context.config.clone()).map_err(no_signal_handlers)?;
        let control = tokio::spawn(server.run(handle, context.config.clone()));
        let manager = tell_manager();
        supervisor.run().await;
        control.abort();
        manager.abort();
        Ok(())
    });
    // Without a limit, a write to a disk that hangs would be waited for forever.
    runtime.shutdown_timeout(LAST_WRITES);
    ended
}

/// A runtime of one thread: everything here waits far more than it works.
///
/// # Errors
/// The system has no descriptors left.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("cannot start the event loop").why(error))
}

/// The error for a supervisor that did not come up.
pub(crate) fn explain(error: StartError) -> CliError {
    match &error {
        StartError::Lock(_) => CliError::new(Exit::Refused, error.to_string())
            .hint("mlxctl status to see it; mlxctl agent status to see whether launchd runs it"),
        StartError::Io { source, .. } => {
            CliError::failed(error.to_string()).why(source).hint("mlxctl check names the paths")
        }
    }
}

/// Tells a service manager that asked for it that we are up, and keeps its watchdog fed.
fn tell_manager() -> tokio::task::AbortHandle {
    let task = async {
        let notifier = match Notifier::from_env() {
            Ok(Some(notifier)) => notifier,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "cannot notify the service manager"),
        };
        if let Err(error) = notifier.ready("serving") {
            tracing::warn!(%error, "could not tell the service manager that we are up");
        }
        while let Some(pause) = notifier.watchdog() {
            tokio::time::sleep(pause).await;
            if let Err(error) = notifier.alive() {
                tracing::debug!(%error, "could not send the service manager a sign of life");
            }
        }
    };
    tokio::spawn(task).abort_handle()
}

/// Local time, as Python writes it into the backends' logs.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        let now = SystemTime::now();
        let local = crate::host::posix::local_time(now);
        out.write_str(&local.unwrap_or_else(|| humantime::format_rfc3339_seconds(now).to_string()))
    }
}

fn log_to_stderr(context: &Context) {
    let level = match context.output.verbose {
        0 => tracing::Level::INFO,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // The crate's `ansi` feature is not compiled in; without this line every terminal would get an error.
        .with_ansi(false)
        .with_timer(LocalTime)
        .with_max_level(level)
        .with_target(false)
        // Reporting on stderr that stderr cannot be written (a full disk) would panic.
        .log_internal_errors(false)
        .init();
}
