//! `mlxctl logs <model>`

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::Context;
use crate::cli::error::{CliError, unreadable};
use crate::cli::remote::unknown_model;
use crate::logs::Tail;
use crate::registry::Registry;
use crate::terminal::Shown;

/// How often `--follow` looks for new text.
const BETWEEN: Duration = Duration::from_millis(200);

/// What the supervisor's own log is called, unless a model has that name.
const SUPERVISOR: &str = "supervisor";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model's name or alias, or `supervisor`
    model: String,
    /// Keep printing what is added, across rotation and restarts, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Number of lines to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
}

/// A log, and what creates it.
struct Log {
    name: String,
    path: PathBuf,
    made: &'static str,
    hint: String,
}

/// Prints the end of a backend's log, or of the supervisor's. Needs no supervisor.
///
/// # Errors
/// Exit 4 for an unknown model; exit 1 if there is no log yet, or it cannot be read.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let log = find(&registry, &args.model)?;
    let mut tail = Tail::new(log.path);
    match tail.open_at_last(args.lines) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && args.follow => {
            context.output.say(&format!("{} has no log yet; waiting for {}", log.name, tail.path.display()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::failed(format!("{} has no log yet", log.name))
                .why(format!("{} does not exist; {}", tail.path.display(), log.made))
                .hint(log.hint));
        }
        opened => opened.map_err(unreadable)?,
    }
    // It contains the output of a model and what clients sent: neither may control the terminal.
    let mut shown = Shown::default();
    let mut copy = |tail: &mut Tail| -> Result<(), CliError> {
        while let Some(block) = tail.block().map_err(unreadable)? {
            context.output.bytes(shown.block(&block).as_bytes())?;
        }
        Ok(())
    };
    copy(&mut tail)?;
    if !args.follow {
        return Ok(());
    }
    context.output.quit_when_unread();
    loop {
        std::thread::sleep(BETWEEN);
        tail.catch_up().map_err(unreadable)?;
        copy(&mut tail)?;
    }
}

fn find(registry: &Registry, asked: &str) -> Result<Log, CliError> {
    match registry.model(asked) {
        Ok(model) => Ok(Log {
            name: model.name.clone(),
            path: registry.paths.logs.join(format!("{}.log", model.name)),
            made: "it is created at the first start",
            hint: format!("mlxctl start {}", model.name),
        }),
        Err(_) if asked.eq_ignore_ascii_case(SUPERVISOR) => Ok(Log {
            name: "the supervisor".to_owned(),
            path: registry.agent.log.clone(),
            made: "only the agent writes it; `mlxctl serve` in a terminal prints there",
            hint: "mlxctl agent install".to_owned(),
        }),
        Err(unknown) => Err(unknown_model(registry, &unknown)),
    }
}
