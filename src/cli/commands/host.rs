//! `mlxctl host`

use std::path::{Path, PathBuf};

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cluster::host::{Question, Report, report};
use crate::host;
use crate::registry::{Registry, Source};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Environment whose package versions to report [default: the registry's, if there is one]
    #[arg(long, value_name = "FOLDER")]
    venv: Option<PathBuf>,

    /// Also report this model's files: org/name, or an absolute path
    #[arg(long, value_name = "REPO")]
    model: Option<String>,

    /// Also report whether these programs are running [default: those of the registry's reserves]
    #[arg(long, value_name = "NAME")]
    running: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the other machines of a cluster need to know about this one. Changes nothing and needs no registry.
///
/// # Errors
/// A model that is neither a repository nor a folder; when stdout cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = Registry::load(&context.config).ok();
    let venv = args.venv.clone().or_else(|| registry.as_ref().map(|registry| registry.paths.venv.clone()));
    let mut programs = args.running.clone();
    if programs.is_empty() {
        let reserves = registry.iter().flat_map(|registry| &registry.reserves);
        programs.extend(reserves.flat_map(|reserve| reserve.while_running.iter().cloned()));
    }
    let model = args.model.as_deref().map(source).transpose()?;
    let report = report(host::system().as_ref(), &Question { venv, model, programs });
    if args.json {
        return context.output.json(&report);
    }
    context.output.data(&show(&report))
}

fn source(text: &str) -> Result<Source, CliError> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    match text.split_once('/') {
        _ if text == "builtin:tiny" => Ok(Source::Tiny),
        _ if Path::new(text).is_absolute() => Ok(Source::Folder(PathBuf::from(text))),
        Some((org, name)) if plain(org) && plain(name) => Ok(Source::Hub(text.to_owned())),
        _ => Err(CliError::new(Exit::Usage, format!("`{text}` is not a model"))
            .hint("org/name on the Hugging Face hub, an absolute folder, or builtin:tiny")),
    }
}

fn show(report: &Report) -> String {
    let bytes =
        |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |bytes| Bytes(bytes).to_string());
    let list = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let mut rows = vec![
        ("system", report.os.clone()),
        ("chip", report.chip.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("memory", bytes(Some(report.memory_bytes))),
        ("available", bytes(report.available_bytes)),
        ("GPU limit", bytes(report.gpu_limit_bytes)),
        ("mlxctl", report.version.clone()),
    ];
    if let Some(venv) = &report.venv {
        let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "?".to_owned());
        rows.push(match &venv.problem {
            Some(problem) => ("environment", problem.clone()),
            None => {
                let (python, mlx, mlx_lm) = (text(&venv.python), text(&venv.mlx), text(&venv.mlx_lm));
                ("environment", format!("python {python}, mlx {mlx}, mlx-lm {mlx_lm}"))
            }
        });
    }
    if let Some(model) = &report.model {
        rows.push(("model", format!("{}, index {}", model.folder.display(), model.index_sha256)));
    }
    rows.push(("RDMA devices", list(&report.rdma)));
    rows.push(("running", list(&report.running)));
    rows.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_repository_a_folder_or_the_built_in_one() {
        assert_eq!(source("org/name").unwrap(), Source::Hub("org/name".into()));
        assert_eq!(source("/models/a").unwrap(), Source::Folder("/models/a".into()));
        assert_eq!(source("builtin:tiny").unwrap(), Source::Tiny);
        for wrong in ["", "name", "../x", "a/../b", "a/b c"] {
            assert_eq!(source(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }
}
