//! The plan for a model's run, its bounds and what it takes, from its files as they are now.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::learned::Learned;
use crate::backend::assess::learning_key;
use crate::backend::launch::Limits;
use crate::backend::weights;
use crate::gate::template;
use crate::lifecycle::{Failure, FailureKind};
use crate::memory::Room;
use crate::memory::group::{HostEstimate, Outlook, outlook};
use crate::memory::{Bounds, Estimate, ModelFiles, Platform, Problem};
use crate::python::profile::Profiles;
use crate::registry::Model;
use crate::units::Bytes;

/// What a model's files say. Checking costs two `stat`s; they are read again when they have changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    /// The folder, and when it and the folder of profiles were last changed.
    seen: Option<(PathBuf, Option<SystemTime>, Option<SystemTime>)>,
    /// Files of the model and of its draft model; `None`: not read yet.
    read: Option<Result<(ModelFiles, Option<ModelFiles>), Problem>>,
    /// `vocab_size` by the profile or config.json.
    pub vocabulary: Option<u32>,
    /// The variables that the folder's chat templates read.
    pub variables: BTreeSet<String>,
}

impl Files {
    /// Reads the files, if they have changed.
    pub(crate) fn look(&mut self, model: &Model, profiles: &Profiles) {
        let folder = weights::folder(&model.source);
        let seen = folder.map(|folder| {
            let changed = fs_err::metadata(&folder).and_then(|found| found.modified()).ok();
            (folder, changed, profiles.changed())
        });
        if self.read.is_some() && seen.is_some() && seen == self.seen {
            return;
        }
        let folder = seen.as_ref().map(|(folder, ..)| folder.as_path());
        let profile = folder.and_then(|folder| profiles.stored(folder, weights::division(model))?.ok());
        self.vocabulary = match &profile {
            Some(profile) => u32::try_from(profile.vocabulary).ok(),
            None => folder.and_then(vocabulary),
        };
        // A template that could not be parsed is still searched for variables, word by word.
        self.variables = match profile.and_then(|profile| profile.template?.read()) {
            Some(variables) => variables,
            None => folder.map(variables).unwrap_or_default(),
        };
        self.seen = seen;
        self.read = Some(
            weights::of_model(model, profiles)
                .and_then(|files| Ok((files, weights::of_draft(model, profiles)?))),
        );
    }

    /// Bytes of the weights; `None`: the files are not downloaded or not usable.
    pub(crate) fn weights(&self) -> Option<Bytes> {
        match &self.read {
            Some(Ok((ModelFiles::Read(files), _))) => Some(files.weights.bytes),
            _ => None,
        }
    }

    /// Plans a run by these files.
    ///
    /// # Errors
    /// The files cannot be served, or the bounds cannot hold.
    pub(super) fn plan(
        &self,
        model: &Model,
        platform: Platform,
        versions: &str,
        learned: &Learned,
    ) -> Result<Plan, Failure> {
        let unusable = |problem: &Problem| {
            let failure = Failure::new(FailureKind::NotPrepared, problem.to_string());
            match problem.hint() {
                Some(hint) => failure.hint(hint.replace("NAME", &model.name)),
                None => failure,
            }
        };
        let (files, draft) = match &self.read {
            Some(Ok((files, draft))) => (files, draft.as_ref()),
            Some(Err(problem)) => return Err(unusable(problem)),
            None => (&ModelFiles::Unknown, None),
        };
        let footprints =
            |bounds: &Bounds| learned.footprints(&learning_key(model, versions, bounds)).cloned();
        let Outlook { bounds, room, estimate, hosts } =
            outlook(model, files, draft, platform, footprints).map_err(|problem| unusable(&problem))?;
        let key = learning_key(model, versions, &bounds);
        Ok(Plan { bounds, room, estimate, hosts, key, environment: platform.environment() })
    }
}

/// The bounds of a run and what it takes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub bounds: Bounds,
    /// What kept prompts and a prefill share; `None`: nothing, or the files are not downloaded.
    pub room: Option<Room>,
    /// What it takes on this machine; `None`: not known.
    pub estimate: Option<Estimate>,
    /// What it takes on every machine of its cluster; empty: no cluster, or not known.
    pub hosts: Vec<HostEstimate>,
    /// Key of its learned footprints.
    pub key: String,
    /// Variables that make freed memory go back to the system.
    pub environment: &'static [(&'static str, &'static str)],
}

impl Plan {
    /// The bounds as launcher limits and server flags.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            cache: Some(self.bounds.cache_limit),
            prompt_cache: Some(self.bounds.kv_limit),
            room: self.room.clone(),
            context: Some(self.bounds.context),
            prompt_store: Bytes::ZERO,
            flags: self.bounds.arguments(),
            environment: self.environment,
        }
    }
}

fn vocabulary(folder: &Path) -> Option<u32> {
    let config: serde_json::Value =
        serde_json::from_slice(&fs_err::read(folder.join("config.json")).ok()?).ok()?;
    let size = config.get("vocab_size").or_else(|| config.get("text_config")?.get("vocab_size"))?;
    u32::try_from(size.as_u64()?).ok()
}

/// Most bytes read of a template or tokenizer_config.json; usually 10 KB, or a few MB with many added tokens.
const LARGEST: u64 = 64 << 20;

/// The variables of every template that transformers would load. A file of its own takes precedence over the template
/// in tokenizer_config.json, and some models have a second one for tools.
fn variables(folder: &Path) -> BTreeSet<String> {
    let read = |file: PathBuf| {
        let mut text = String::new();
        fs_err::File::open(file).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let mut templates: Vec<String> = read(folder.join("chat_template.jinja")).into_iter().collect();
    let more = fs_err::read_dir(folder.join("additional_chat_templates")).into_iter().flatten().flatten();
    templates.extend(
        more.map(|entry| entry.path())
            .filter(|path| path.extension() == Some("jinja".as_ref()))
            .filter_map(read),
    );
    if templates.is_empty() {
        let settings = read(folder.join("tokenizer_config.json")).unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
        match settings.get("chat_template") {
            Some(serde_json::Value::String(template)) => templates.push(template.clone()),
            Some(serde_json::Value::Array(named)) => {
                let template = |one: &serde_json::Value| Some(one.get("template")?.as_str()?.to_owned());
                templates.extend(named.iter().filter_map(template));
            }
            _ => {}
        }
    }
    templates.iter().flat_map(|text| template::variables(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_a_folder_are_those_of_the_templates_transformers_loads() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        let found = || variables(folder.path()).into_iter().collect::<Vec<_>>();
        assert!(found().is_empty());
        write("tokenizer_config.json", r#"{"chat_template": "{{ documents }}"}"#);
        assert_eq!(found(), ["documents"]);
        write(
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "default", "template": "{{ a }}"}, {"name": "tool_use", "template": "{{ b }}"}]}"#,
        );
        assert_eq!(found(), ["a", "b"]);
        write("chat_template.jinja", "{{ truncate_history_thinking }}");
        assert_eq!(found(), ["truncate_history_thinking"]);
        fs_err::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        write("additional_chat_templates/tool_use.jinja", "{{ c }}");
        assert_eq!(found(), ["c", "truncate_history_thinking"]);
    }
}
