//! `mlxctl chat <model> [QUESTION]`

use std::io::{IsTerminal, Read};

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use super::serve::runtime;
use crate::api::{ModelStatus, StateName};
use crate::cli::Context;
use crate::cli::ask::{Answer, Question, address, ask, key};
use crate::cli::error::{CliError, Exit, no_signal_handlers};
use crate::cli::remote::{Remote, unknown_model};
use crate::cli::render::status::state_word;
use crate::registry::{Model, Start};
use crate::terminal::Shown;

/// Longest question, bytes; catches files piped in by mistake.
const LONGEST: u64 = 8 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias; a preset's alias applies its sampling values
    model: String,
    /// The question; if omitted or `-`, it is read from standard input
    question: Option<String>,
    /// Longest answer, in tokens [default: the model's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
}

/// Asks a model one question through its gate and prints the answer as it comes. The key comes from `$MLX_API_KEY`.
///
/// # Errors
/// Exit 3 for a model that is not ready, 4 for an unknown one, 2 without a question, 75 if the gate is busy.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    let registry = remote
        .registry
        .as_ref()
        .ok_or_else(|| CliError::new(Exit::Usage, "the registry has problems").hint("mlxctl check"))?;
    let model = registry.model(&args.model).map_err(|unknown| unknown_model(registry, &unknown))?;
    let status = remote.client.status()?;
    let found = status.models.iter().find(|found| found.name == model.name);
    if let Some(wait) = judge(model, found)? {
        context.output.say(&wait);
    }
    let key = key(registry.network.require_key, "chat")?;
    let text = question(args)?;
    let settings = args
        .max_tokens
        .map_or_else(|| serde_json::json!({}), |most| serde_json::json!({ "max_tokens": most }));
    let address = address(registry, model);
    let question = Question {
        address: &address,
        model: called(model, &args.model),
        text: &text,
        key: key.as_deref(),
        settings,
    };
    let answer = runtime()?.block_on(stream(context, &question))?;
    if answer.finish.as_deref() == Some("length") {
        context.output.say("the answer reached its token limit; raise it with --max-tokens N");
    }
    Ok(())
}

/// Keeps an alias as typed, because it may name a preset. A repository becomes the model's name, because the gate would
/// not know it in another case.
fn called<'a>(model: &'a Model, typed: &'a str) -> &'a str {
    if model.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(typed)) { typed } else { &model.name }
}

/// Checks that the gate would answer. `Some`: the gate holds requests until the model is ready, so say what for.
fn judge(model: &Model, found: Option<&ModelStatus>) -> Result<Option<String>, CliError> {
    let name = &model.name;
    let Some(found) = found else {
        return Err(CliError::new(Exit::UnknownModel, format!("the supervisor does not know `{name}` yet"))
            .hint("mlxctl reload"));
    };
    let coming = matches!(found.state, StateName::Spawning | StateName::Loading | StateName::Backoff);
    match found.state {
        StateName::Ready => Ok(None),
        _ if coming && model.start == Start::Always => {
            Ok(Some(format!("{name} is {}; waiting until it is ready", state_word(found.state))))
        }
        state => {
            let error =
                CliError::new(Exit::NotRunning, format!("{name} is not ready: it is {}", state_word(state)));
            let error = match &found.reason {
                Some(reason) => error.why(reason),
                None => error,
            };
            let hint =
                if coming { "mlxctl status --watch".to_owned() } else { format!("mlxctl start {name}") };
            Err(error.hint(found.hint.clone().unwrap_or(hint)))
        }
    }
}

fn question(args: &Args) -> Result<String, CliError> {
    let text = match args.question.as_deref() {
        Some(text) if text != "-" => text.to_owned(),
        None if std::io::stdin().is_terminal() => String::new(),
        _ => {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text);
            read.map_err(|error| CliError::new(Exit::Usage, "cannot read the question").why(error))?;
            if text.len() as u64 > LONGEST {
                return Err(CliError::new(Exit::Usage, "the question is longer than 8 MiB"));
            }
            text
        }
    };
    if text.trim().is_empty() {
        let hint =
            format!("mlxctl chat {0} \"Why is the sky blue?\"\ngit diff | mlxctl chat {0}", args.model);
        return Err(CliError::new(Exit::Usage, "there is no question").hint(hint));
    }
    Ok(text)
}

/// Prints the answer; a signal ends the line and the command.
async fn stream(context: &Context, question: &Question<'_>) -> Result<Answer, CliError> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(no_signal_handlers)?;
    // A model may write escape sequences, which a terminal would obey; a file gets the exact text.
    let mut shown = std::io::stdout().is_terminal().then(Shown::default);
    let mut started = false;
    let asked = ask(question, |piece| {
        started |= !piece.is_empty();
        match &mut shown {
            Some(shown) => context.output.offer(shown.block(piece.as_bytes()).as_bytes()),
            None => context.output.offer(piece.as_bytes()),
        }
    });
    let ended = tokio::select! {
        answer = asked => answer,
        _ = signals.next() => Err(CliError::failed("interrupted before the answer was complete")),
    };
    if started {
        context.output.offer(b"\n")?;
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::sample;
    use crate::registry::Registry;

    #[test]
    fn only_a_ready_model_is_asked_and_only_an_always_on_one_is_waited_for() {
        let registry =
            Registry::parse(std::path::Path::new("/m.toml"), include_str!("../../../config/models.toml"))
                .unwrap();
        let [always, manual] = registry.models.as_slice() else { panic!("two models") };
        let status =
            |state| ModelStatus { state, reason: None, hint: None, ..sample::status().models.remove(0) };
        assert_eq!(judge(always, Some(&status(StateName::Ready))), Ok(None));
        assert!(
            judge(always, Some(&status(StateName::Loading)))
                .unwrap()
                .is_some_and(|wait| wait.contains("waiting"))
        );
        for state in [StateName::Loading, StateName::Stopped, StateName::Failed, StateName::Draining] {
            assert_eq!(judge(manual, Some(&status(state))).unwrap_err().exit, Exit::NotRunning);
        }
        let stopped = judge(manual, Some(&status(StateName::Stopped))).unwrap_err();
        assert_eq!(stopped.hint.as_deref(), Some("mlxctl start 70b"));
        assert_eq!(judge(manual, None).unwrap_err().exit, Exit::UnknownModel);
    }

    #[test]
    fn an_alias_is_asked_for_as_it_was_typed() {
        let registry =
            Registry::parse(std::path::Path::new("/m.toml"), include_str!("../../../config/models.toml"))
                .unwrap();
        assert_eq!(called(&registry.models[0], "Reasoning"), "Reasoning");
        assert_eq!(called(&registry.models[0], "mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit"), "32b");
    }
}
