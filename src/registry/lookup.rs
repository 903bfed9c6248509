//! Finds a model by what it is called.

use super::notes::nearest;
use super::{Model, Registry, Source};

/// No model has that name, alias or repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no model is called `{asked}`")]
pub struct UnknownModel {
    pub asked: String,
    /// The closest name or alias, if one is close enough.
    pub nearest: Option<String>,
}

impl Registry {
    /// Finds a model by name, alias or repository, in that order.
    ///
    /// Case is ignored: names become file names, and a Mac does not distinguish `32B` from `32b` either. Names and
    /// aliases are unique in that sense; of several models with the same repository the first in the file is returned.
    ///
    /// # Errors
    /// If there is none; with the nearest name.
    pub fn model(&self, asked: &str) -> Result<&Model, UnknownModel> {
        let is = |name: &str| name.eq_ignore_ascii_case(asked);
        self.models
            .iter()
            .find(|model| is(&model.name) || model.aliases.iter().any(|alias| is(alias)))
            .or_else(|| self.models.iter().find(|model| is(&model.source.to_string())))
            .ok_or_else(|| UnknownModel { asked: asked.to_owned(), nearest: self.nearest(asked) })
    }

    fn nearest(&self, asked: &str) -> Option<String> {
        let names = self.models.iter().flat_map(|model| std::iter::once(&model.name).chain(&model.aliases));
        nearest(asked, names.map(String::as_str)).map(str::to_owned)
    }
}

/// As written in the registry: `org/name`, a folder, `builtin:tiny`.
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub(repo) => f.pad(repo),
            Self::Folder(folder) => f.pad(&folder.to_string_lossy()),
            Self::Tiny => f.pad(super::resolve::TINY),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_model_is_found_by_name_alias_or_repository_in_any_case() {
        let registry = crate::registry::load::seed();
        for asked in ["32b", "32B", "reasoning", "mlx-community/deepseek-r1-distill-qwen-32b-4bit"] {
            assert_eq!(registry.model(asked).unwrap().name, "32b", "{asked}");
        }
        assert_eq!(registry.model("72B").unwrap().name, "70b");
    }

    #[test]
    fn an_unknown_name_comes_with_the_nearest_one() {
        let registry = crate::registry::load::seed();
        let error = |asked| registry.model(asked).unwrap_err().nearest;
        assert_eq!(error("33b").as_deref(), Some("32b"));
        assert_eq!(error("reasonin").as_deref(), Some("reasoning"));
        assert_eq!(error("something else"), None);
    }
}
