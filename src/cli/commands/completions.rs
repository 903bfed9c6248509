//! `mlxctl completions <shell>`

use std::fmt::Write as _;

use clap::{Arg, CommandFactory};
use clap_complete::Shell;

use crate::cli::Context;
use crate::cli::args::Cli;
use crate::cli::error::CliError;

/// Hidden first argument with which the scripts ask for model names.
pub(crate) const MODELS: &str = "__models";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    context.output.data(&script(args.shell))
}

/// Prints the names and aliases of the models for the scripts, one per line. Nothing if the registry is missing or
/// invalid: completion must not print errors.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn names(context: &Context) -> Result<(), CliError> {
    let registry = context.registry();
    let models = registry.iter().flat_map(|registry| &registry.models);
    let names: Vec<&str> = models
        .flat_map(|model| std::iter::once(&model.name).chain(&model.aliases))
        .map(String::as_str)
        .collect();
    if names.is_empty() { Ok(()) } else { context.output.data(&names.join("\n")) }
}

/// clap's script, extended to complete model names.
fn script(shell: Shell) -> String {
    let mut program = Cli::command();
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut program, "mlxctl", &mut bytes);
    let script = String::from_utf8_lossy(&bytes).into_owned();
    let verbs = verbs(&program);
    match shell {
        Shell::Bash => script + &bash(&verbs),
        Shell::Zsh => zsh(&script),
        Shell::Fish => script + &fish(&verbs),
        _ => script,
    }
}

/// The commands whose first argument is a model.
fn verbs(program: &clap::Command) -> Vec<String> {
    let takes = |verb: &&clap::Command| verb.get_positionals().next().is_some_and(is_model);
    program.get_subcommands().filter(takes).map(|verb| verb.get_name().to_owned()).collect()
}

fn is_model(argument: &Arg) -> bool {
    matches!(argument.get_id().as_str(), "model" | "models")
}

/// Wraps the generated function and adds the names of models.
fn bash(verbs: &[String]) -> String {
    format!(
        r#"
_mlxctl_models() {{
    _mlxctl "$@"
    local word="${{COMP_WORDS[COMP_CWORD]}}" before
    [[ "$word" == -* ]] && return
    for before in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$before" in
            {}) COMPREPLY+=($(compgen -W "$(mlxctl __models 2>/dev/null)" -- "$word")); return ;;
        esac
    done
}}
complete -F _mlxctl_models -o bashdefault -o default mlxctl
"#,
        verbs.join("|")
    )
}

/// Replaces `_default` in `':model -- About:_default'` and `'*::models -- About:_default'` by our own function.
fn zsh(script: &str) -> String {
    const FUNCTION: &str = "_mlxctl_models() {\n    local -a models\n    models=(${(f)\"$(mlxctl __models 2>/dev/null)\"})\n    \
                            compadd -a models\n}\n\n";
    let mut out = String::with_capacity(script.len());
    for line in script.split_inclusive('\n') {
        let argument = line.trim_start().trim_start_matches(['\'', '*', ':']);
        let is_model = ["model -- ", "models -- "].iter().any(|name| argument.starts_with(name));
        if line.starts_with("_mlxctl() {") {
            out.push_str(FUNCTION);
        }
        match line.rfind(":_default'").filter(|_| is_model) {
            Some(at) => {
                let _ = write!(out, "{}:_mlxctl_models'{}", &line[..at], &line[at + ":_default'".len()..]);
            }
            None => out.push_str(line),
        }
    }
    out
}

fn fish(verbs: &[String]) -> String {
    format!(
        "complete -c mlxctl -n \"__fish_seen_subcommand_from {}\" -f -a \"(mlxctl __models 2>/dev/null)\"\n",
        verbs.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_asks_for_names_where_a_model_belongs() {
        let mut program = Cli::command();
        program.build();
        let verbs = verbs(&program);
        for verb in ["start", "stop", "logs", "chat", "pull", "status", "estimate", "use"] {
            assert!(verbs.iter().any(|known| known == verb), "{verb} in {verbs:?}");
        }
        assert!(!verbs.iter().any(|verb| verb == "man" || verb == "completions"), "{verbs:?}");
        let zsh = script(Shell::Zsh);
        assert!(zsh.matches(":_mlxctl_models'").count() >= verbs.len(), "{zsh}");
        assert!(script(Shell::Bash).contains("|stop|") && script(Shell::Fish).contains("from "));
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            assert!(script(shell).contains("mlxctl __models"), "{shell}");
        }
    }
}
