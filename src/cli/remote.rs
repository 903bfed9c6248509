//! How a command reaches the supervisor, and what its refusals mean for the exit code.

use std::path::PathBuf;

use super::Context;
use super::error::{CliError, Exit};
use crate::api::client::{Client, ClientError};
use crate::api::paths;
use crate::api::{ApiError, ErrorCode, Status};
use crate::registry::{Registry, UnknownModel};

/// A registry and a client of its supervisor.
pub(crate) struct Remote {
    pub client: Client,
    /// The file on disk; `None` if it is invalid and a supervisor may still use an older version.
    pub registry: Option<Registry>,
}

impl Remote {
    /// Finds the supervisor. An invalid registry does not get in the way of a supervisor that loaded it while it was
    /// valid.
    ///
    /// # Errors
    /// The registry's problems, if no supervisor of it is known.
    pub(crate) fn find(context: &Context) -> Result<Self, CliError> {
        match context.registry() {
            Ok(registry) => {
                let run = &registry.paths.run;
                let client = Client::new(run);
                // `paths.run` may have changed while the supervisor still has its socket in the previous folder.
                let moved =
                    if client.socket().exists() { None } else { live_run(context).filter(|old| old != run) };
                let client = moved.map_or(client, |old| {
                    context.output.say(&format!(
                        "the supervisor still uses {}; paths.run takes effect when it is restarted",
                        old.display()
                    ));
                    Client::new(&old)
                });
                Ok(Self { client, registry: Some(registry) })
            }
            Err(problem) => match live_run(context) {
                Some(run) => {
                    context.output.say(&format!(
                        "{} has problems (mlxctl check); the supervisor keeps using the previous version",
                        context.config.display()
                    ));
                    Ok(Self { client: Client::new(&run), registry: None })
                }
                None => Err(problem),
            },
        }
    }

    /// Resolves an alias to the name of its model; anything else stays as typed.
    pub(crate) fn name(&self, typed: &str) -> String {
        let found = self.registry.as_ref().and_then(|registry| registry.model(typed).ok());
        found.map_or_else(|| typed.to_owned(), |model| model.name.clone())
    }

    /// Explains a failed request about the model that was `typed`. The file on disk decides whether a name exists:
    /// the supervisor may have read it before the model was added, or may not be running.
    pub(crate) fn explain(&self, error: ClientError, typed: &str) -> CliError {
        let known = self.registry.as_ref().map(|registry| registry.model(typed).is_ok());
        match (&error, known) {
            (ClientError::NotRunning { .. }, Some(false)) => self.unknown(typed),
            (ClientError::Api(ApiError { code: ErrorCode::UnknownModel, .. }), Some(true)) => {
                CliError::new(Exit::UnknownModel, format!("the supervisor does not know `{typed}` yet"))
                    .why("the registry was changed after the supervisor read it")
                    .hint("mlxctl reload")
            }
            (ClientError::Api(ApiError { code: ErrorCode::UnknownModel, hint: None, .. }), Some(false)) => {
                self.unknown(typed)
            }
            _ => error.into(),
        }
    }

    fn unknown(&self, typed: &str) -> CliError {
        let found = self.registry.as_ref().map(|registry| (registry, registry.model(typed)));
        match found {
            Some((registry, Err(unknown))) => unknown_model(registry, &unknown),
            _ => CliError::new(Exit::UnknownModel, format!("no model is called `{typed}`")),
        }
    }
}

/// Exit 4, with the names in the registry and the nearest one.
pub(crate) fn unknown_model(registry: &Registry, unknown: &UnknownModel) -> CliError {
    let error = CliError::new(Exit::UnknownModel, format!("no model is called `{}`", unknown.asked));
    let all: Vec<&str> = registry.models.iter().map(|model| model.name.as_str()).collect();
    let error = match all.as_slice() {
        [] => error.why(format!("{} has no models", registry.file.display())),
        all => error.why(format!("the registry has {}", all.join(", "))),
    };
    match &unknown.nearest {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error.hint("mlxctl models"),
    }
}

/// The status, requested from the socket that the supervisor announced: reading and checking the registry first
/// would take several times as long as the request. `None` if the caller has to go through [`Remote::find`]: nothing
/// answers there, it is the supervisor of another registry, or it does not use the file as it is on disk.
pub(crate) fn status_at_once(context: &Context) -> Option<Result<Status, ClientError>> {
    let run = paths::announced(&context.config)?;
    match Client::new(&run).status() {
        Ok(status) => {
            let own = status.supervisor.as_ref().is_some_and(|supervisor| {
                supervisor.config_problem.is_none()
                    && std::path::absolute(&context.config).is_ok_and(|own| *own == *supervisor.config)
            });
            own.then_some(Ok(status))
        }
        // It would not answer a second request either.
        Err(ClientError::Silent) => Some(Err(ClientError::Silent)),
        Err(_) => None,
    }
}

/// The announced folder, if a supervisor answers there.
fn live_run(context: &Context) -> Option<PathBuf> {
    let run = paths::announced(&context.config)?;
    let answer = Client::new(&run).status();
    (!matches!(answer, Err(ClientError::NotRunning { .. }))).then_some(run)
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let what = error.to_string();
        match error {
            ClientError::NotRunning { socket } => Self::new(Exit::NotRunning, what)
                .why(format!("nothing listens on {}", socket.display()))
                .hint(
                    "mlxctl serve              in the foreground\nmlxctl agent install      at every login",
                ),
            ClientError::Denied { .. } => Self::failed(what)
                .why("the supervisor answers the user who runs it, and root")
                .hint("run mlxctl as that user"),
            ClientError::Silent => Self::failed(what)
                .why("its process exists, but is stopped or hangs")
                .hint("mlxctl agent restart      if it runs as an agent; the models stay up"),
            ClientError::Schema { .. } => Self::failed(what)
                .why("they are from different releases")
                .hint("mlxctl agent restart      takes the installed version; the models stay up"),
            ClientError::Cut => Self::failed(what)
                .hint("mlxctl status")
                .why("it was stopped or killed; it is not known whether it finished the command"),
            ClientError::Io(_) => Self::failed(what),
            ClientError::Api(refusal) => Self {
                exit: match refusal.code {
                    ErrorCode::UnknownModel => Exit::UnknownModel,
                    ErrorCode::Refused => Exit::Refused,
                    ErrorCode::Failed | ErrorCode::Timeout => Exit::Failed,
                    ErrorCode::BadRequest => Exit::Usage,
                    ErrorCode::NotRunning => Exit::NotRunning,
                },
                ..paragraphs(&refusal)
            },
        }
    }
}

/// Splits the message: its first line is `what`, the rest is `why`.
fn paragraphs(refusal: &ApiError) -> CliError {
    let (what, why) = refusal.message.split_once('\n').unwrap_or((&refusal.message, ""));
    CliError {
        exit: Exit::Failed,
        what: what.to_owned(),
        why: (!why.is_empty()).then(|| why.to_owned()),
        hint: refusal.hint.clone(),
    }
}
