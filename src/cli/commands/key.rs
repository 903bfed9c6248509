//! `mlxctl key add|list|revoke`

use std::time::{Duration, SystemTime};

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::gate::keys::{self, KeyError, May};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a key and print it; it is not shown again
    Add {
        /// Name of the key's owner, shown in the access log
        name: String,
        /// What the key permits; every key may also read the page
        #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
        may: May,
    },
    /// List the names of the keys
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key; takes effect without a restart
    Revoke {
        /// Name the key was created with
        name: String,
    },
}

/// Manages the keys of the gates and of the page.
///
/// # Errors
/// Exit 2 for an invalid name, 1 for one that is taken or unknown, or if the file cannot be changed.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let file = registry.paths.state.join("keys.json");
    match &args.action {
        Action::Add { name, may } => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let key = keys::add(&file, name, *may, now.as_secs())
                .map_err(|error| explain(error, "cannot add the key"))?;
            context
                .output
                .say(&format!("the key of {name}; it cannot be shown again (only its hash is stored)"));
            if *may == May::Control && registry.page.address.is_none() {
                context
                    .output
                    .say("there is no page yet: add [page] to the registry, then run `mlxctl reload`");
            }
            if *may == May::Ask && !registry.network.require_key {
                context.output.say(
                    "keys are not required yet: set require_key = true in [network], then run `mlxctl reload`",
                );
            }
            context.output.data(&key)
        }
        Action::List { json } => {
            let keys = keys::list(&file).map_err(|error| explain(error, "cannot list the keys"))?;
            if *json {
                let keys: Vec<_> = keys
                    .iter()
                    .map(
                        |key| serde_json::json!({ "name": key.name, "created": key.created, "may": key.may }),
                    )
                    .collect();
                return context.output.data(&serde_json::json!({ "schema": 1, "keys": keys }).to_string());
            }
            let width = keys.iter().map(|key| key.name.len()).max().unwrap_or(0);
            let lines: String = keys
                .iter()
                .map(|key| {
                    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(key.created);
                    let (may, created) = (key.may.name(), humantime::format_rfc3339_seconds(made));
                    format!("{:width$}  may {may:7}  created {created}\n", key.name)
                })
                .collect();
            if lines.is_empty() {
                context.output.say("no keys");
                return Ok(());
            }
            context.output.data(&lines)
        }
        Action::Revoke { name } => {
            keys::revoke(&file, name).map_err(|error| explain(error, "cannot revoke the key"))?;
            context.output.data(&format!("revoked {name}; requests with this key are refused from now on"))
        }
    }
}

fn explain(error: KeyError, what: &str) -> CliError {
    match error {
        KeyError::Name(_) => CliError::new(Exit::Usage, what).why(error),
        KeyError::Taken(ref name) => {
            let hint = format!("mlxctl key revoke {name}");
            CliError::failed(what).why(error).hint(hint)
        }
        KeyError::Unknown(_) => CliError::failed(what).why(error).hint("mlxctl key list"),
        KeyError::Corrupt(..) | KeyError::Io(_) => CliError::failed(what).why(error),
    }
}
