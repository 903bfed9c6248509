//! The arguments of the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::commands;
use super::output::Color;
use crate::folders;

/// Supervises local language models served by mlx_lm.server.
#[derive(Debug, Parser)]
#[command(name = "mlxctl", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Path of the registry [default: mlxctl/models.toml in the per-user configuration folder]
    #[arg(long, global = true, value_name = "FILE", env = "MLXCTL_CONFIG")]
    pub config: Option<PathBuf>,

    /// When to use colour; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Print more detail; repeat for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

/// The verbs, each with a file of its own in `commands/`.
#[derive(Debug, Subcommand)]
// Builds the arguments of only the verb that was typed.
#[command(defer = true)]
pub(crate) enum Command {
    /// Run everything once with a built-in tiny model, from an empty folder to a clean stop
    Demo(commands::demo::Args),
    /// Write a commented registry for this machine, with models that fit
    Init(commands::init::Args),
    /// Check the registry and report every problem in it
    Check(commands::check::Args),
    /// Create or repair the virtual environment and print its versions
    Setup(commands::setup::Args),
    /// Download models into the Hugging Face cache and verify them; interrupted downloads resume
    Pull(commands::pull::Args),
    /// List the models in the registry
    Models(commands::models::Args),
    /// Show what memory a model needs, term by term, and whether it could start now
    Estimate(commands::estimate::Args),
    /// Show the planned memory budget of this machine, or of a machine of a given size
    Budget(commands::budget::Args),
    /// Run the supervisor in the foreground (what launchd runs)
    Serve(commands::serve::Args),
    /// Start a model and wait until it is ready
    Start(commands::start::Args),
    /// Stop models: drain them, end them, and verify that they are gone
    Stop(commands::stop::Args),
    /// Stop a model and start it again
    Restart(commands::restart::Args),
    /// Show the models and the memory budget
    Status(commands::status::Args),
    /// List the running backends
    Ps(commands::ps::Args),
    /// Ask a model one question and print the answer as it comes
    Chat(commands::chat::Args),
    /// Print the end of a model's log, or of the supervisor's
    Logs(commands::logs::Args),
    /// Print recent requests: client, duration and outcome
    Requests(commands::requests::Args),
    /// Print the event history: what happened and why
    Events(commands::events::Args),
    /// Apply changes made to the registry
    Reload(commands::reload::Args),
    /// Release memory the models hold in caches; the models stay loaded
    Trim(commands::trim::Args),
    /// Show how many tokens were used, by model and by key
    Usage(commands::usage::Args),
    /// Switch a model to one of its alternatives
    Use(commands::use_repo::Args),
    /// Print the launchd property list, or compare a file with it
    Plist(commands::plist::Args),
    /// Run the supervisor at every login, with launchd on macOS or a systemd user unit on Linux
    Agent(commands::agent::Args),
    /// Find problems with this machine or deployment, and say how to fix them
    Doctor(commands::doctor::Args),
    /// Describe this machine to the other machines of a cluster
    Host(commands::host::Args),
    /// Benchmark a model and compare it with the memory-bandwidth limit
    Bench(commands::bench::Args),
    /// Print what an LLM gateway needs to reach the models
    Gateway(commands::gateway::Args),
    /// Send a test notification
    Notify(commands::notify::Args),
    /// Manage the bearer keys of the gates
    Key(commands::key::Args),
    /// Serve as the forced command of an ssh key that may start and stop some models
    Ssh(commands::ssh::Args),
    /// Print a shell's completion script
    Completions(commands::completions::Args),
    /// Print the manual page
    Man(commands::man::Args),
}

impl Cli {
    /// The registry's file: `--config`, else the per-user default
    /// (`~/Library/Application Support/mlxctl` on macOS, `$XDG_CONFIG_HOME/mlxctl` or `~/.config/mlxctl` elsewhere).
    pub(crate) fn config_file(&self) -> PathBuf {
        if let Some(file) = &self.config {
            return file.clone();
        }
        folders::config().join("models.toml")
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_overview_and_each_verbs_own_help_agree() {
        let overview = Cli::command();
        let mut whole = Cli::command();
        whole.build();
        for verb in overview.get_subcommands() {
            let about = verb.get_about().map(ToString::to_string);
            let built = whole.find_subcommand(verb.get_name());
            assert_eq!(built.and_then(|verb| verb.get_about()).map(ToString::to_string), about);
            assert!(about.is_some(), "{}", verb.get_name());
        }
    }
}
