//! `mlxctl ssh`: what a key in `authorized_keys` may run.

use clap::{Parser, Subcommand};

use super::{start, status, stop};
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::registry::Registry;

/// sshd puts the command that the client asked for here (sshd(8), `command="…"`).
const ASKED: &str = "SSH_ORIGINAL_COMMAND";

#[derive(Debug, clap::Args)]
#[command(after_help = "In ~/.ssh/authorized_keys, as one line:
  restrict,command=\"/usr/local/bin/mlxctl ssh --model 70b\" ssh-ed25519 AAAA… gateway

The owner of that key can then run, and nothing else:
  ssh mac mlxctl start 70b
  ssh mac mlxctl stop 70b
  ssh mac mlxctl status --json

The command is never passed to a shell. `start --force` is refused.")]
pub(crate) struct Args {
    /// A model that the key may start and stop, by name or alias; repeat it for more
    #[arg(long = "model", value_name = "MODEL", required = true)]
    models: Vec<String>,
}

/// The commands that a key may run. Global options are missing on purpose: `--config` would name another registry.
#[derive(Debug, Parser)]
#[command(name = "mlxctl", disable_help_flag = true, disable_help_subcommand = true)]
struct Asked {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Start(start::Args),
    Stop(stop::Args),
    Status(status::Args),
}

/// Runs the command that the ssh client sent, if the key may run it.
///
/// # Errors
/// A command that the key may not run (2); the error of the command itself.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let asked = std::env::var_os(ASKED).unwrap_or_default();
    let registry = context.registry().ok();
    match judge(&asked.to_string_lossy(), &args.models, registry.as_ref())? {
        Verb::Start(args) => start::run(context, &args),
        Verb::Stop(args) => stop::run(context, &args),
        Verb::Status(args) => status::run(context, &args),
    }
}

/// Words are separated by spaces and taken literally: no quotes, variables or patterns.
fn judge(asked: &str, allowed: &[String], registry: Option<&Registry>) -> Result<Verb, CliError> {
    let models = allowed.join(", ");
    let may = format!("it may run: start, stop (of {models}), status");
    if asked.trim().is_empty() {
        return Err(CliError::new(Exit::Usage, "this key cannot open a shell")
            .why(may)
            .hint("add a command: ssh HOST mlxctl status"));
    }
    let refused = || CliError::new(Exit::Usage, format!("this key may not run `{asked}`"));
    let words = asked.split_whitespace().skip_while({
        let mut first = true;
        move |word| std::mem::take(&mut first) && (*word == "mlxctl" || word.ends_with("/mlxctl"))
    });
    let verb = Asked::try_parse_from(std::iter::once("mlxctl").chain(words))
        .map_err(|_| refused().why(may.clone()))?
        .verb;
    let name = |typed: &str| {
        let found = registry.and_then(|registry| registry.model(typed).ok());
        found.map_or_else(|| typed.to_owned(), |model| model.name.clone())
    };
    let permitted = |typed: &str| allowed.iter().any(|one| name(one) == name(typed));
    let wrong = match &verb {
        Verb::Start(args) if args.force => Some("--force is not available over this key".to_owned()),
        Verb::Start(args) if !permitted(&args.model) => Some(may),
        Verb::Stop(args) if !args.models.iter().all(|model| permitted(model)) => Some(may),
        _ => None,
    };
    wrong.map_or(Ok(verb), |why| Err(refused().why(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(asked: &str) -> bool {
        let text = include_str!("../../../config/models.toml");
        let registry = Registry::parse(std::path::Path::new("/etc/mlxctl/models.toml"), text).unwrap();
        let with = judge(asked, &["70b".to_owned()], Some(&registry)).is_ok();
        // Without a readable registry aliases are unknown, which must not allow more than with one.
        assert!(with || judge(asked, &["70b".to_owned()], None).is_err(), "{asked}");
        with
    }

    #[test]
    fn a_key_may_run_the_commands_of_its_model() {
        for asked in [
            "mlxctl start 70b",
            "start 70b",
            "/opt/homebrew/bin/mlxctl  start  70b --no-wait",
            "mlxctl start large --for 2h",
            "mlxctl stop 70b",
            "mlxctl stop 72b --now",
            "mlxctl status",
            "mlxctl status --json",
            "status 32b",
        ] {
            assert!(allows(asked), "{asked}");
        }
    }

    #[test]
    fn a_key_may_run_nothing_else() {
        for asked in [
            "mlxctl",
            "mlxctl mlxctl status",
            "mlxctl start 32b",
            "mlxctl stop 70b 32b",
            "mlxctl start 70b --force",
            "mlxctl --config /tmp/other.toml start 70b",
            "mlxctl start 70b --config /tmp/other.toml",
            "mlxctl start 70b; reboot",
            "mlxctl start 70b && reboot",
            "mlxctl start $(reboot)",
            "mlxctl start '70b'",
            "mlxctl serve",
            "mlxctl key add gateway",
            "mlxctl ssh --model 32b",
            "mlxctl --help",
            "mlxctl start --help",
            "mlxctl stop",
            "sh -c mlxctl",
            "/usr/lib/sftp-server",
            "scp -t /tmp",
        ] {
            assert!(!allows(asked), "{asked}");
        }
        let shell = judge("", &["70b".to_owned()], None).unwrap_err();
        assert!(shell.what.contains("cannot open a shell") && shell.hint.is_some(), "{shell:?}");
        let other = judge("reboot\u{1b}[2J", &["70b".to_owned()], None).unwrap_err();
        assert_eq!(other.exit, Exit::Usage);
        assert!(!other.what.contains('\u{1b}'), "{other:?}");
    }
}
