//! `repo`: where a model comes from.

use std::path::Path;

use super::{Scope, TINY, plain_word};
use crate::registry::Source;
use crate::registry::notes::At;
use crate::registry::problem::quote;

/// `org/name`, an absolute folder, or the built-in model.
pub(super) fn source(scope: &Scope<'_>, written: &At<String>) -> Source {
    let text = written.value.as_str();
    let hint = "\"org/name\" on the Hugging Face hub, an absolute folder, or \"builtin:tiny\"";
    if text == TINY {
        return Source::Tiny;
    }
    if text.starts_with(['/', '~', '$']) {
        return match scope.around.expand(text, Path::new("/")) {
            Ok(folder) => Source::Folder(folder),
            Err((problem, hint)) => {
                scope.notes.wrong(written, format!("`{}`: {problem}", quote(text)), hint);
                Source::Tiny
            }
        };
    }
    let part = |part: &str| plain_word(part, 96).is_ok() && !part.contains("..") && !part.contains("--");
    if text.split_once('/').is_some_and(|(org, name)| part(org) && part(name)) {
        return Source::Hub(text.to_owned());
    }
    let builtin = text.strip_prefix("builtin:").map(|_| "the one built-in model is \"builtin:tiny\"");
    let pasted =
        text.strip_prefix("https://huggingface.co/").map(|rest| format!("write \"{}\"", quote(rest)));
    let hint = pasted.unwrap_or_else(|| builtin.unwrap_or(hint).to_owned());
    scope.notes.wrong(written, format!("`{}` is not a repository", quote(text)), hint);
    Source::Tiny
}
