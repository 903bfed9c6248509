//! The command line: one file per command in `commands/`; stdout is data, stderr is messages.

pub(crate) mod args;
mod ask;
mod commands;
pub(crate) mod error;
mod live;
mod machine;
pub(crate) mod output;
mod parse;
pub(crate) mod remote;
pub(crate) mod render;
mod several;
mod starter;
mod sudo;
mod transfer;
mod wrap;

use std::path::PathBuf;

use clap::Parser;

use args::{Cli, Command};
use error::{CliError, Exit};
use output::Output;

use crate::registry::{Problems, Registry};

/// The global options, as every command gets them.
pub(crate) struct Context {
    /// `--config`, or `$MLXCTL_CONFIG`, or the per-user default.
    pub config: PathBuf,
    pub output: Output,
}

impl Context {
    /// Reads and checks the registry; only `check` and `serve` also check that it fits this machine.
    ///
    /// # Errors
    /// Exit 2, with every problem.
    pub(crate) fn registry(&self) -> Result<Registry, CliError> {
        Registry::load(&self.config).map_err(|problems| self.broken(&problems))
    }

    /// The error that lists the problems of the registry.
    pub(crate) fn broken(&self, problems: &Problems) -> CliError {
        let what = match problems.len() {
            1 => "the registry has a problem".to_owned(),
            many => format!("the registry has {many} problems"),
        };
        // Not through `why`: the renderer has escaped the file's text and may have added colours.
        let error = CliError {
            why: Some(problems.render(self.output.color_err)),
            ..CliError::new(Exit::Usage, what)
        };
        match sudo::advice(&self.config) {
            Some(advice) => error.hint(advice),
            None => error,
        }
    }
}

/// Runs the command line and returns the exit code; errors are printed.
pub fn main() -> Exit {
    // Hidden from clap, so that completion scripts do not offer it.
    let names = std::env::args_os().nth(1).is_some_and(|first| first == commands::completions::MODELS);
    let parsed = if names { Cli::try_parse_from(["mlxctl", "models"]) } else { Cli::try_parse() };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // A closed pipe is the reader's choice.
            let _ = error.print();
            return exit;
        }
    };
    let context = Context { config: cli.config_file(), output: Output::new(cli.color, cli.verbose) };
    let done = match cli.command {
        _ if names => commands::completions::names(&context),
        command => dispatch(&context, command),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => {
            context.output.error(&error);
            error.exit
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Start(args) => commands::start::run(context, &args),
        Command::Stop(args) => commands::stop::run(context, &args),
        Command::Restart(args) => commands::restart::run(context, &args),
        Command::Status(args) => commands::status::run(context, &args),
        Command::Ps(args) => commands::ps::run(context, &args),
        Command::Logs(args) => commands::logs::run(context, &args),
        Command::Events(args) => commands::events::run(context, &args),
        Command::Reload(args) => commands::reload::run(context, &args),
        Command::Trim(args) => commands::trim::run(context, &args),
        Command::Usage(args) => commands::usage::run(context, &args),
        Command::Init(args) => commands::init::run(context, &args),
        Command::Chat(args) => commands::chat::run(context, &args),
        Command::Requests(args) => commands::requests::run(context, &args),
        Command::Demo(args) => commands::demo::run(context, &args),
        Command::Setup(args) => commands::setup::run(context, &args),
        Command::Pull(args) => commands::pull::run(context, &args),
        Command::Serve(args) => commands::serve::run(context, &args),
        Command::Man(args) => commands::man::run(context, &args),
        Command::Plist(args) => commands::plist::run(context, &args),
        Command::Agent(args) => commands::agent::run(context, &args),
        Command::Check(args) => commands::check::run(context, &args),
        Command::Models(args) => commands::models::run(context, &args),
        Command::Estimate(args) => commands::estimate::run(context, &args),
        Command::Budget(args) => commands::budget::run(context, &args),
        Command::Use(args) => commands::use_repo::run(context, &args),
        Command::Doctor(args) => commands::doctor::run(context, &args),
        Command::Host(args) => commands::host::run(context, &args),
        Command::Bench(args) => commands::bench::run(context, &args),
        Command::Gateway(args) => commands::gateway::run(context, &args),
        Command::Notify(args) => commands::notify::run(context, &args),
        Command::Key(args) => commands::key::run(context, &args),
        Command::Ssh(args) => commands::ssh::run(context, &args),
        Command::Completions(args) => commands::completions::run(context, &args),
    }
}
