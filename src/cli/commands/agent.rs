//! `mlxctl agent`

mod install;
mod ready;
mod restart;
mod status;
mod uninstall;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Context;
use crate::cli::error::CliError;
use crate::registry::Registry;
use crate::service::agent::{Agent, AgentError, LaunchdAgent, SystemdAgent};

/// How long a stand-in for launchctl may take to start a job; unlike launchd it does not throttle for minutes.
const STAND_IN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    stand_ins: StandIns,
}

// Not a doc comment, because clap would print it as the command's help: programs to call instead of the system's, for
// tests and for systems that keep theirs elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct StandIns {
    /// Call this launchctl, and treat this system as one that has launchd
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    launchctl: Option<PathBuf>,
    /// Call this systemctl, and treat this system as one that has systemd
    #[arg(long, global = true, hide = true, value_name = "FILE", conflicts_with = "launchctl")]
    systemctl: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write the agent's file, load it, and wait until the always-on models are ready
    Install(install::Args),
    /// Stop the agent and its models, and remove its file; logs, model files and the environment stay
    Uninstall(uninstall::Args),
    /// Show what the service manager and the supervisor report
    Status(status::Args),
    /// Replace the running supervisor; the models stay up
    Restart(restart::Args),
}

/// Runs one of the `agent` verbs.
///
/// # Errors
/// The error of the verb, with its exit code.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    match &args.verb {
        Verb::Install(verb) => install::run(context, &args.stand_ins, verb),
        Verb::Uninstall(verb) => uninstall::run(context, &args.stand_ins, verb),
        Verb::Status(verb) => status::run(context, &args.stand_ins, verb),
        Verb::Restart(verb) => restart::run(context, &args.stand_ins, verb),
    }
}

impl StandIns {
    /// This system's service manager with our job as it is installed, that is with the mlxctl that its file names,
    /// which need not be this one.
    ///
    /// # Errors
    /// This user cannot have an agent, or its file cannot be read.
    pub(crate) fn installed(
        &self,
        context: &Context,
        registry: &Registry,
    ) -> Result<Box<dyn Agent>, CliError> {
        let agent = self.manager(context, registry, None)?;
        match on_disk(agent.as_ref())?.and_then(|found| agent.program_of(&found)) {
            Some(program) => self.manager(context, registry, Some(&program)),
            None => Ok(agent),
        }
    }

    /// This system's service manager with our job as it should be.
    fn manager(
        &self,
        context: &Context,
        registry: &Registry,
        program_named: Option<&Path>,
    ) -> Result<Box<dyn Agent>, CliError> {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let home = home.ok_or_else(|| CliError::failed("HOME is not set to a folder").hint("set HOME"))?;
        let (program, config) = (program(program_named)?, absolute(&context.config)?);
        let launchd = self.launchctl.is_some() || cfg!(target_os = "macos") && self.systemctl.is_none();
        if !launchd {
            let config_home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
            let agent = SystemdAgent::new(&registry.agent, &program, &config, &home, config_home.as_deref());
            return Ok(match &self.systemctl {
                Some(systemctl) => Box::new(agent.with_systemctl(systemctl.clone())),
                None => Box::new(agent),
            });
        }
        let uid = nix::unistd::geteuid();
        if uid.is_root() && self.launchctl.is_none() {
            return Err(CliError::failed(
                "an agent belongs to the user who logs in; it cannot be installed as root",
            )
            .why("root has no GUI session (launchctl exits with 125)")
            .hint("run the same command without sudo"));
        }
        let agent = LaunchdAgent::new(&registry.agent, &program, &config, &home, uid.as_raw())?;
        Ok(match &self.launchctl {
            Some(launchctl) => Box::new(agent.with_launchctl(launchctl.clone(), STAND_IN)),
            None => Box::new(agent),
        })
    }
}

/// The program that a job should run: the named one, else this one.
///
/// # Errors
/// The path of this program is unknown.
pub(super) fn program(named: Option<&Path>) -> Result<PathBuf, CliError> {
    match named {
        Some(path) => absolute(path),
        None => std::env::current_exe().map_err(|error| {
            CliError::failed("cannot find the path of this mlxctl").why(error).hint("--program FILE")
        }),
    }
}

/// An absolute path: launchd and systemd have no current folder.
///
/// # Errors
/// There is no current folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| {
        CliError::failed(format!("cannot make {} an absolute path", path.display())).why(error)
    })
}

/// The content of the job's file, if there is one.
fn on_disk(agent: &dyn Agent) -> Result<Option<String>, CliError> {
    match fs_err::read(agent.file()) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::failed("cannot read the agent's file").why(error)),
    }
}

impl From<AgentError> for CliError {
    fn from(error: AgentError) -> Self {
        Self::failed(error.what).hint(error.hint)
    }
}
