//! Checks that the files of a model are on this disk, before a start and before a working run is ended for a new one.

use std::io;
use std::path::Path;

use crate::backend::weights;
use crate::lifecycle::{Failure, FailureKind};
use crate::python::hub;
use crate::registry::{Model, Source};

/// Checks that the files of the model, its draft model and its adapter are on this disk.
pub(crate) fn present(model: &Model) -> Result<(), Failure> {
    source_there(model, &model.source, "`repo`")?;
    if let Some(draft) = &model.server.draft_model {
        let source = match Path::new(draft) {
            folder if folder.is_absolute() || folder.is_dir() => Source::Folder(folder.to_owned()),
            _ => Source::Hub(draft.clone()),
        };
        source_there(model, &source, "`server.draft_model`")?;
    }
    match &model.server.adapter_path {
        Some(folder) => has(folder, "adapter_config.json", "no adapter", "`server.adapter_path`"),
        None => Ok(()),
    }
}

fn source_there(model: &Model, source: &Source, key: &str) -> Result<(), Failure> {
    match source {
        Source::Folder(folder) => {
            has(folder, "config.json", "no model", key)?;
            let whole = hub::inspect(folder).is_some_and(|found| found.complete);
            let text = || {
                format!(
                    "{} is incomplete: its tokenizer or some of its .safetensors files are missing",
                    folder.display()
                )
            };
            if whole {
                Ok(())
            } else {
                Err(files_missing(text(), format!("complete the folder, or correct {key}")))
            }
        }
        Source::Tiny if weights::folder(source).is_none() => {
            Err(files_missing("the built-in model has not been made yet".to_owned(), "mlxctl setup"))
        }
        Source::Hub(repo) if weights::folder(source).is_none() => {
            let how = if hub::cached(repo).is_some() { "only in part" } else { "not" };
            let text = format!("{repo} is {how} downloaded");
            Err(files_missing(text, format!("mlxctl pull {}", model.name)))
        }
        Source::Tiny | Source::Hub(_) => Ok(()),
    }
}

/// Checks that a folder has a file that it must have; the failure gives the system's reason.
fn has(folder: &Path, file: &str, what: &str, key: &str) -> Result<(), Failure> {
    match fs_err::metadata(folder.join(file)) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => {
            let text = format!("{what} at {}: its {file} is not a file", folder.display());
            Err(files_missing(text, format!("correct {key} in the registry")))
        }
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::NotFound if folder.is_dir() => format!("it has no {file}"),
                io::ErrorKind::NotFound => "there is no such folder".to_owned(),
                _ => error.to_string(),
            };
            let text = format!("{what} at {}: {why}", folder.display());
            Err(files_missing(text, format!("correct {key} in the registry, or mount its disk")))
        }
    }
}

fn files_missing(text: String, hint: impl Into<String>) -> Failure {
    Failure::new(FailureKind::FilesMissing, text).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    /// A model whose source is `repo`, with more lines of TOML.
    fn model(repo: &str, more: &str) -> Model {
        let text = format!(
            "[paths]\nroot = \"/r\"\n[network]\nhost = \"127.0.0.1\"\n[[model]]\nname = \"m\"\nrepo = {repo:?}\nport = 1\nsize = \"1GB\"\n{more}\n"
        );
        Registry::parse(Path::new("/m.toml"), &text).unwrap().models.remove(0)
    }

    fn failure(model: &Model) -> Failure {
        present(model).unwrap_err()
    }

    #[test]
    fn a_missing_download_is_reported_with_the_command_for_it() {
        let missing = failure(&model("no-such-org/no-such-model", ""));
        assert_eq!(missing.kind, FailureKind::FilesMissing);
        assert_eq!(missing.text, "no-such-org/no-such-model is not downloaded");
        assert_eq!(missing.hint.as_deref(), Some("mlxctl pull m"));
    }

    #[test]
    fn an_incomplete_folder_is_reported_with_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("model");
        let entry = model(&place.display().to_string(), "");
        assert!(failure(&entry).text.ends_with("there is no such folder"), "{:?}", failure(&entry));
        fs_err::create_dir(&place).unwrap();
        assert!(failure(&entry).text.ends_with("it has no config.json"), "{:?}", failure(&entry));
        fs_err::write(place.join("config.json"), "{}").unwrap();
        assert!(failure(&entry).text.contains("some of its .safetensors"), "{:?}", failure(&entry));
        fs_err::write(place.join("model.safetensors"), "1").unwrap();
        assert!(failure(&entry).text.contains("its tokenizer"), "{:?}", failure(&entry));
        fs_err::write(place.join("tokenizer.json"), "{}").unwrap();
        assert_eq!(present(&entry), Ok(()));
    }

    #[test]
    fn a_draft_model_and_an_adapter_are_checked_as_well() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("config.json"), "{}").unwrap();
        fs_err::write(folder.path().join("model.safetensors"), "1").unwrap();
        fs_err::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let repo = folder.path().display().to_string();
        let draft = failure(&model(&repo, "server = { draft_model = \"no-such-org/draft\" }"));
        assert_eq!(draft.text, "no-such-org/draft is not downloaded");
        let adapter = failure(&model(&repo, "server = { adapter_path = \"/no/such/adapter\" }"));
        assert!(adapter.text.starts_with("no adapter at /no/such/adapter"), "{adapter:?}");
    }
}
