//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::commands;
use super::output::Color;
use crate::folders;

/// Keeps local language models served.
#[derive(Debug, Parser)]
#[command(name = "mlxctl", version, max_term_width = 100)]
pub struct Cli {
    /// The registry of models [default: the per-user config folder's mlxctl/models.toml]
    #[arg(long, global = true, value_name = "FILE", env = "MLXCTL_CONFIG")]
    pub config: Option<PathBuf>,

    /// When to use colour; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Say more (twice: still more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs, each with a file of its own in `commands/`.
#[derive(Debug, Subcommand)]
// The arguments of a verb are put together when it is the one that was typed.
#[command(defer = true)]
pub enum Command {
    /// Show the whole thing on a built-in tiny model, from nothing to a clean stop
    Demo(commands::demo::Args),
    /// Write a commented registry for this machine, with models that fit
    Init(commands::init::Args),
    /// Read the registry and name everything that is wrong with it
    Check(commands::check::Args),
    /// Create or repair the virtual environment and print its versions
    Setup(commands::setup::Args),
    /// Download models into the Hugging Face cache and verify them. Interrupted downloads resume
    Pull(commands::pull::Args),
    /// List the models of the registry
    Models(commands::models::Args),
    /// Every term of a model's memory, and whether it could start now
    Estimate(commands::estimate::Args),
    /// The planned memory budget of this machine, or of one of a given size
    Budget(commands::budget::Args),
    /// Run the supervisor in the foreground (what launchd runs)
    Serve(commands::serve::Args),
    /// Start a model and wait until it is ready
    Start(commands::start::Args),
    /// Stop models: drain, tear down, and prove that they are gone
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
    /// Print the last requests: who asked, how long it took, how it ended
    Requests(commands::requests::Args),
    /// Print what happened and why
    Events(commands::events::Args),
    /// Apply a changed registry
    Reload(commands::reload::Args),
    /// Have backends give back cached memory
    Trim(commands::trim::Args),
    /// Count the tokens of prompts and answers, by model and by key
    Usage(commands::usage::Args),
    /// Switch a model to one of its alternatives
    Use(commands::use_repo::Args),
    /// Print the property list that launchd runs the supervisor from, or compare a file with it
    Plist(commands::plist::Args),
    /// Run the supervisor at every login: launchd on a Mac, a systemd user unit on Linux
    Agent(commands::agent::Args),
    /// Look for what is wrong, and say what to do about it
    Doctor(commands::doctor::Args),
    /// Tell what the other machines of a cluster have to know of this one
    Host(commands::host::Args),
    /// Measure a model, beside what the memory bus allows
    Bench(commands::bench::Args),
    /// Print what an LLM gateway needs to reach the models
    Gateway(commands::gateway::Args),
    /// Send a notification to try out what the registry sets
    Notify(commands::notify::Args),
    /// Manage the bearer keys of the gates
    Key(commands::key::Args),
    /// Run what a key in authorized_keys may ask for: its forced command
    Ssh(commands::ssh::Args),
    /// Print a shell's completion script
    Completions(commands::completions::Args),
    /// Print the manual page
    Man(commands::man::Args),
}

impl Cli {
    /// The registry's file: what was named, else the per-user default
    /// (`~/Library/Application Support/mlxctl` on macOS, `$XDG_CONFIG_HOME/mlxctl` or `~/.config/mlxctl` elsewhere).
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
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
    fn each_verb_says_of_itself_what_the_overview_says_of_it() {
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
