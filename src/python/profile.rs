//! Cache profiles: made by the environment's own mlx_lm in a child that can do nothing else, kept in the state folder.
//! Made by commands, never by the supervisor's loop, which only reads them.

use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::process;
use super::venv::{self, Environment, SetupRequest};
use crate::durable;
use crate::memory::profile::{Profile, Refused, RefusedKind};
use crate::registry::Registry;

/// Describes a model: `python -I -c SCRIPT <request in JSON>`.
pub const SCRIPT: &str = include_str!("profile.py");

/// How long the child may take; it takes 2 s on an idle machine, and 4 s for the families that loop over tokens.
const LIMIT: Duration = Duration::from_secs(60);
/// What it may take of memory, bytes; it takes 0.4 GB.
const MEMORY: u64 = 3_000_000_000;
/// A larger document is not one of ours, bytes.
const LARGEST: u64 = 4 << 20;

/// The profiles of one instance, under the versions of its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    folder: PathBuf,
    environment: Option<(PathBuf, String)>,
}

impl Profiles {
    /// Of a registry's state folder and environment.
    #[must_use]
    pub fn of(registry: &Registry) -> Self {
        let environment = venv::existing(&SetupRequest::to_look(registry)).ok();
        Self::new(&registry.paths.state, environment.as_ref())
    }

    /// Of a state folder and an environment; without one there are none.
    #[must_use]
    pub fn new(state: &Path, environment: Option<&Environment>) -> Self {
        let environment = environment.map(|Environment { python, versions, .. }| {
            let versions = format!(
                "mlx {} mlx-lm {} transformers {}",
                versions.mlx, versions.mlx_lm, versions.transformers
            );
            (python.clone(), versions)
        });
        Self { folder: state.join("profiles"), environment }
    }

    /// When a profile last came or went.
    #[must_use]
    pub fn changed(&self) -> Option<SystemTime> {
        fs_err::metadata(&self.folder).and_then(|found| found.modified()).ok()
    }

    /// The profile of a model's folder, if it was made with these versions. Reads two small files.
    #[must_use]
    pub fn stored(&self, model: &Path) -> Option<Result<Profile, Refused>> {
        let file = self.file(model)?;
        let known = fs_err::metadata(&file).is_ok_and(|found| found.len() <= LARGEST);
        let text = known.then(|| fs_err::read_to_string(&file).ok()).flatten()?;
        match Profile::parse(&text) {
            // Damaged: it can be made again.
            Err(Refused { kind: RefusedKind::Internal, .. }) => None,
            found => Some(found),
        }
    }

    /// The same, made if it is not there, which takes seconds. `None`: there is no environment to make it with.
    #[must_use]
    pub fn make(&self, model: &Path) -> Option<Result<Profile, Refused>> {
        if let Some(found) = self.stored(model) {
            return Some(found);
        }
        let (python, _) = self.environment.as_ref()?;
        let text = match describe(python, model) {
            Ok(text) => text,
            Err(refused) => return Some(Err(refused)),
        };
        let found = Profile::parse(&text);
        // What may be otherwise next time is not kept.
        let passing = matches!(&found, Err(Refused { kind: RefusedKind::Limit | RefusedKind::Internal, .. }));
        if let Some(file) = self.file(model).filter(|_| !passing) {
            // Without it, it is made again.
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
            let _ = durable::replace(&file, text.as_bytes());
        }
        Some(found)
    }

    /// Named after everything that a profile depends on: the configuration, what weights are there, the versions.
    fn file(&self, model: &Path) -> Option<PathBuf> {
        let (_, versions) = self.environment.as_ref()?;
        let mut digest = Sha256::new();
        digest.update(SCRIPT);
        digest.update(versions);
        for name in TEXTS {
            digest.update(name);
            match fs_err::metadata(model.join(name)).ok().filter(|found| found.len() <= LARGEST) {
                Some(_) => digest.update(fs_err::read(model.join(name)).ok()?),
                // Its size says enough of one that is larger than any, or not there.
                None => digest.update([0]),
            }
        }
        let mut weights: Vec<(String, u64)> = fs_err::read_dir(model)
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .filter(|(name, _)| name.starts_with("model") && name.ends_with(".safetensors"))
            .map(|(name, path)| (name, fs_err::metadata(path).map_or(0, |found| found.len())))
            .collect();
        weights.sort();
        for (name, bytes) in weights {
            digest.update(format!("{name} {bytes}\n"));
        }
        let name = digest.finalize().iter().take(16).fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
        Some(self.folder.join(format!("{name}.json")))
    }
}

/// The small files that a profile follows from.
const TEXTS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Runs the probe over a folder, which may hold no more than a `config.json`.
///
/// # Errors
/// [`RefusedKind::Limit`] where it does not end in time, [`RefusedKind::Internal`] where it says nothing.
pub fn describe(python: &Path, model: &Path) -> Result<String, Refused> {
    let request = serde_json::json!({
        "folder": model, "seconds": LIMIT.as_secs(), "memory_bytes": MEMORY,
    });
    let mut command = process::command(python);
    command.args(["-I", "-c", SCRIPT, &request.to_string()]).current_dir("/");
    // It ends itself at the limit; this is for one that cannot.
    process::output(command, LIMIT + Duration::from_secs(5)).map_err(|message| {
        let kind =
            if message.contains("did not answer") { RefusedKind::Limit } else { RefusedKind::Internal };
        Refused { kind, message: format!("describing this model failed: {message}") }
    })
}

/// Why this environment's mlx_lm cannot serve the model of a `config.json` at all: it lacks the family.
#[must_use]
pub fn lacking(python: &Path, model: &Path) -> Option<String> {
    let refused = Profile::parse(&describe(python, model).ok()?).err()?;
    (refused.kind == RefusedKind::Family).then_some(refused.message)
}
