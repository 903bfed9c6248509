//! Switches a model to one of its alternatives in the file, keeping comments and layout.

use std::io;
use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::{Problems, Registry, UnknownModel};
use crate::durable;

/// What [`use_repo`] changed in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub model: String,
    pub from: String,
    /// What it serves from its next start on; equal to `from` if nothing had to change.
    pub to: String,
    /// Whether a size is declared, which was meant for `from`.
    pub size_declared: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    #[error("the registry is not valid")]
    Invalid(#[source] Problems),
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    #[error("`{repo}` is not among the alternatives of `{model}`")]
    NotOffered {
        model: String,
        repo: String,
        /// The alternatives of the model, in the file's order.
        offered: Vec<String>,
    },
    /// The key is written in a form that this edit does not support.
    #[error("`{0}` is not where it is expected in the registry")]
    Shape(String),
    /// The file could not be written and is unchanged.
    #[error("the registry could not be written")]
    Write(#[source] io::Error),
}

/// Makes the model with the name or alias `model` serve `repo`, one of its alternatives, and puts the old repository in
/// its place among them, so that there is a way back. The file is replaced atomically.
///
/// # Errors
/// If the registry, the model or the repository is not valid, or the file cannot be written. Then nothing has changed.
pub(crate) fn use_repo(file: &Path, model: &str, repo: &str) -> Result<Change, EditError> {
    // A symlink is kept, and its target replaced.
    let target = fs_err::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let registry = Registry::load(&target).map_err(EditError::Invalid)?;
    let found = registry.model(model)?;
    let from = found.source.to_string();
    let size_declared = found.size.is_some();
    let name = found.name.clone();
    let change = |to: String| Change { model: name.clone(), from: from.clone(), to, size_declared };
    if from.eq_ignore_ascii_case(repo) {
        return Ok(change(from.clone()));
    }
    let Some(to) = found.alternatives.iter().find(|offered| offered.eq_ignore_ascii_case(repo)) else {
        let offered = found.alternatives.clone();
        return Err(EditError::NotOffered { model: name.clone(), repo: repo.to_owned(), offered });
    };
    let index = registry.models.iter().position(|other| other.name == name).unwrap_or_default();
    let text = swapped(&registry.written.text, index, to)?;
    Registry::parse(&target, &text).map_err(EditError::Invalid)?;
    durable::rewrite(&target, text.as_bytes()).map_err(EditError::Write)?;
    Ok(change(to.clone()))
}

/// The text with the model's `repo` and `to`, one of its alternatives, swapped.
fn swapped(text: &str, index: usize, to: &str) -> Result<String, EditError> {
    let shape = |key: &str| EditError::Shape(key.to_owned());
    let mut document: DocumentMut = text.parse().map_err(|_| shape("the document"))?;
    let models = document.get_mut("model").ok_or_else(|| shape("model"))?;
    let model: &mut dyn TableLike = match models {
        Item::ArrayOfTables(tables) => tables.get_mut(index).map(|table| table as &mut dyn TableLike),
        Item::Value(Value::Array(array)) => {
            array.get_mut(index).and_then(Value::as_inline_table_mut).map(|table| table as &mut dyn TableLike)
        }
        _ => None,
    }
    .ok_or_else(|| shape("model"))?;
    let repo = model.get_mut("repo").and_then(Item::as_value_mut).ok_or_else(|| shape("repo"))?;
    let from = repo.as_str().ok_or_else(|| shape("repo"))?.to_owned();
    set(repo, to);
    let list: &mut Array =
        model.get_mut("alternatives").and_then(Item::as_array_mut).ok_or_else(|| shape("alternatives"))?;
    let place =
        list.iter().position(|item| item.as_str() == Some(to)).ok_or_else(|| shape("alternatives"))?;
    if list.iter().any(|item| item.as_str() == Some(from.as_str())) {
        list.remove(place);
    } else if let Some(item) = list.get_mut(place) {
        set(item, &from);
    }
    Ok(document.to_string())
}

/// Changes a value and keeps the white space and comments around it.
fn set(value: &mut Value, text: &str) {
    let decor = value.decor().clone();
    *value = Value::from(text);
    *value.decor_mut() = decor;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    const SEED: &str = include_str!("../../config/models.toml");
    const OLD: &str = "mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit";
    const NEW: &str = "mlx-community/Qwen3-32B-4bit";

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("models.toml");
        fs_err::write(&file, text).unwrap();
        (folder, file)
    }

    #[test]
    fn two_lines_change_and_nothing_else() {
        let (_folder, file) = written(SEED);
        let change = use_repo(&file, "reasoning", "MLX-community/qwen3-32b-4BIT").unwrap();
        assert_eq!((change.model.as_str(), change.from.as_str(), change.to.as_str()), ("32b", OLD, NEW));
        let after = fs_err::read_to_string(&file).unwrap();
        let swap = SEED.replace(OLD, "OLD").replace(NEW, OLD).replace("OLD", NEW);
        assert_eq!(after, swap);
    }

    #[test]
    fn switching_back_restores_the_exact_text() {
        let (_folder, file) = written(SEED);
        use_repo(&file, "32b", NEW).unwrap();
        use_repo(&file, "32b", OLD).unwrap();
        assert_eq!(fs_err::read_to_string(&file).unwrap(), SEED);
    }

    #[test]
    fn the_mode_and_a_link_are_kept_and_no_other_file_is_left() {
        let (folder, file) = written(SEED);
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.toml");
        fs_err::os::unix::fs::symlink(&file, &link).unwrap();
        use_repo(&link, "32b", NEW).unwrap();
        assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs_err::read_to_string(&file).unwrap().contains(&format!("repo = \"{NEW}\"")));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_unknown_model_or_repository_changes_nothing() {
        let (_folder, file) = written(SEED);
        let error = use_repo(&file, "32b", "someone/else").unwrap_err();
        assert!(matches!(&error, EditError::NotOffered { offered, .. } if offered.len() == 2), "{error:?}");
        assert!(matches!(use_repo(&file, "nobody", NEW), Err(EditError::Unknown(_))));
        assert_eq!(fs_err::read_to_string(&file).unwrap(), SEED);
        let (_folder, broken) = written("[[model]]\nname = 3\n");
        assert!(matches!(use_repo(&broken, "32b", NEW), Err(EditError::Invalid(_))));
    }

    #[test]
    fn models_in_one_line_are_edited_too() {
        let text = "model = [{ name = \"a\", repo = \"x/y\", port = 1, alternatives = [\"x/z\"] }] # kept\n";
        let (_folder, file) = written(text);
        use_repo(&file, "a", "x/z").unwrap();
        let after = fs_err::read_to_string(&file).unwrap();
        assert_eq!(after, text.replace("x/y", "w").replace("x/z", "x/y").replace('w', "x/z"));
    }

    #[test]
    fn a_repository_that_is_served_already_changes_nothing() {
        let (_folder, file) = written(SEED);
        let change = use_repo(&file, "32b", OLD).unwrap();
        assert_eq!(change.from, change.to);
        assert_eq!(fs_err::read_to_string(&file).unwrap(), SEED);
    }
}
