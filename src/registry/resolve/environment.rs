//! `environment`: variables for the supervisor and its backends, and for the backend of one model.

use super::Scope;
use crate::environment::{refused, refused_for_model};
use crate::registry::keys::RawAgent;
use crate::registry::notes::At;
use crate::registry::problem::quote;

/// `NAME=value` each; names are unique, and not among those that mlxctl sets itself.
pub(super) fn agent(scope: &Scope<'_>, raw: &RawAgent) -> Vec<(String, String)> {
    let variable = |text: &str| {
        let problem = match text.split_once('=') {
            Some((name, value)) if is_variable(name) && is_value(value) => match refused(name) {
                Some(why) => why,
                None => return Ok(()),
            },
            _ => "not NAME=value",
        };
        Err((problem.to_owned(), "for example \"HF_HOME=/Volumes/Models/huggingface\"".to_owned()))
    };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for text in scope.texts("environment", raw.environment.as_ref(), variable) {
        let Some((name, value)) = text.split_once('=') else { continue };
        if pairs.iter().any(|(other, _)| other == name) {
            if let Some(list) = &raw.environment {
                scope.notes.wrong(list, format!("`environment` sets {name} twice"), "leave one");
            }
        } else {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    pairs
}

/// A model's own variables, then those that all models share; its own take precedence.
pub(super) fn model(
    scope: &Scope<'_>,
    own: &[(At<String>, String)],
    shared: &[(At<String>, String)],
) -> Vec<(String, String)> {
    for (name, value) in own.iter().chain(shared) {
        let problem = match refused_for_model(&name.value) {
            Some(why) => why,
            None if !is_variable(&name.value) => "not a variable's name: letters, digits and `_`",
            None if !is_value(value) => "its value contains a control character",
            None => continue,
        };
        let message = format!("`{}` in `environment`: {problem}", quote(&name.value));
        scope.notes.wrong(name, message, "for example { AGX_RELAX_CDM_CTXSTORE_TIMEOUT = \"1\" }");
    }
    let shared = shared.iter().filter(|(name, _)| own.iter().all(|(other, _)| other.value != name.value));
    shared.chain(own).map(|(name, value)| (name.value.clone(), value.clone())).collect()
}

/// Whether a shell would accept the name, too (POSIX, Base Definitions 8.1).
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether the value can be passed on and shown.
pub(super) fn is_value(value: &str) -> bool {
    !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::registry::Registry;

    fn parse(more: &str) -> Result<Registry, String> {
        let text = format!("[[model]]\nname = \"a\"\nrepo = \"builtin:tiny\"\nport = 1\n{more}\n");
        Registry::parse(Path::new("/etc/x.toml"), &text).map_err(|problems| problems.plain())
    }

    #[test]
    fn a_models_own_variables_override_shared_ones() {
        let shared = "[defaults.environment]\nX = \"all\"\nY = \"all\"";
        let registry = parse(&format!("environment = {{ X = \"own\" }}\n{shared}")).unwrap();
        let pairs = [("Y", "all"), ("X", "own")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(registry.models[0].environment, pairs);
    }

    #[test]
    fn a_variable_that_would_break_a_backend_is_refused_with_the_reason() {
        for (written, reason) in [
            ("environment = { PYTHONPATH = \"/x\" }", "decides what Python imports"),
            ("environment = { MLXCTL_CONFIG = \"/x\" }", "mlxctl's own"),
            ("environment = { HF_HOME = \"/x\" }", "one cache"),
            ("environment = { \"A-B\" = \"1\" }", "not a variable's name"),
            ("environment = { A = 1 }", "write it in quotes"),
            ("environment = [\"A=1\"]", "a table of strings"),
            ("[agent]\nenvironment = [\"PYTHONHOME=/x\"]", "decides what Python imports"),
            ("[defaults.environment]\nMLX_RANK = \"1\"", "who it is"),
        ] {
            let problem = parse(written).unwrap_err();
            assert!(problem.contains(reason), "{written}: {problem}");
        }
    }
}
