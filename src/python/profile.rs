//! Cache profiles: made by the environment's own mlx_lm in a restricted child process, stored in the state folder.
//! Commands make them; the supervisor's loop only reads them.

use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::process;
use super::script::Script;
use super::venv::{self, Environment, SetupRequest};
use super::whole::is_shard;
use crate::durable;
use crate::memory::profile::{Profile, Refused, RefusedKind};
use crate::registry::{ClusterMode, Registry};

/// Describes a model; its request is JSON.
pub(super) const SCRIPT: Script = Script {
    main: include_str!("profile.py"),
    modules: &[
        ("profile_texts", include_str!("profile_texts.py")),
        ("profile_caches", include_str!("profile_caches.py")),
    ],
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Usual: 2 s on an idle machine, 4 s for families that loop over tokens.
    pub time: Duration,
    /// Bytes. Usual: 0.4 GB.
    pub memory: u64,
}

pub const LIMITS: Limits = Limits { time: Duration::from_secs(60), memory: 3_000_000_000 };

/// How many processes a model is spread over, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    pub mode: ClusterMode,
    pub ranks: usize,
}

/// How many profiles are kept, the newest.
const MOST: usize = 256;
/// Larger texts count by size and time instead of content, bytes: finding a profile must take milliseconds.
const READ: u64 = 256 << 10;
/// Longest profile that is read, bytes.
const LARGEST: u64 = 4 << 20;

/// The profiles of one instance, under the versions of its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profiles {
    folder: PathBuf,
    environment: Option<(PathBuf, String)>,
}

impl Profiles {
    /// Those of a registry's state folder and environment.
    pub(crate) fn of(registry: &Registry) -> Self {
        let environment = venv::existing(&SetupRequest::to_look(registry)).ok();
        Self::new(&registry.paths.state, environment.as_ref())
    }

    /// Those of a state folder and an environment; without an environment there are none.
    pub(crate) fn new(state: &Path, environment: Option<&Environment>) -> Self {
        let environment = environment.map(|Environment { python, versions, .. }| {
            let versions = format!(
                "mlx {} mlx-lm {} transformers {}",
                versions.mlx, versions.mlx_lm, versions.transformers
            );
            (python.clone(), versions)
        });
        Self { folder: state.join("profiles"), environment }
    }

    /// When a profile was last added or removed.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        fs_err::metadata(&self.folder).and_then(|found| found.modified()).ok()
    }

    /// The stored profile of a model's folder, if it was made with these versions. Reads only small files.
    pub(crate) fn stored(
        &self,
        model: &Path,
        division: Option<Division>,
    ) -> Option<Result<Profile, Refused>> {
        let file = self.file(model, division)?;
        let known = fs_err::metadata(&file).is_ok_and(|found| found.len() <= LARGEST);
        let text = known.then(|| fs_err::read_to_string(&file).ok()).flatten()?;
        match Profile::parse(&text) {
            // Damaged: will be made again.
            Err(Refused { kind: RefusedKind::Internal, .. }) => None,
            found => Some(found),
        }
    }

    /// Like [`stored`](Self::stored), but makes a missing profile, which takes seconds. `None` without a Python
    /// environment.
    pub(crate) fn make(&self, model: &Path, division: Option<Division>) -> Option<Result<Profile, Refused>> {
        if let Some(found) = self.stored(model, division) {
            return Some(found);
        }
        let (python, _) = self.environment.as_ref()?;
        let text = match describe(python, model, division, LIMITS) {
            Ok(text) => text,
            Err(refused) => return Some(Err(refused)),
        };
        let found = Profile::parse(&text);
        // Results that may differ next time are not stored.
        let passing = matches!(&found, Err(Refused { kind: RefusedKind::Limit | RefusedKind::Internal, .. }));
        if let Some(file) = self.file(model, division).filter(|_| !passing) {
            // Best effort: otherwise it is made again.
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
            let _ = durable::replace(&file, text.as_bytes());
            self.forget_the_oldest();
        }
        Some(found)
    }

    fn forget_the_oldest(&self) {
        let entries = fs_err::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                Some((entry.metadata().and_then(|found| found.modified()).ok()?, entry.path()))
            })
            .collect();
        files.sort();
        for (_, path) in files.iter().rev().skip(MOST) {
            let _ = fs_err::remove_file(path);
        }
    }

    /// Path of a profile, named after everything it depends on: the configuration, the weights' sizes, the versions.
    fn file(&self, model: &Path, division: Option<Division>) -> Option<PathBuf> {
        let (_, versions) = self.environment.as_ref()?;
        let mut digest = Sha256::new();
        digest.update(SCRIPT.text());
        digest.update(versions);
        if let Some(Division { mode, ranks }) = division {
            digest.update(format!("{} {ranks}\n", mode.name()));
        }
        for name in TEXTS {
            digest.update(name);
            match fs_err::metadata(model.join(name)) {
                Ok(found) if found.len() <= READ => digest.update(fs_err::read(model.join(name)).ok()?),
                Ok(found) => digest.update(format!("{} {:?}", found.len(), found.modified().ok())),
                Err(_) => digest.update([0]),
            }
        }
        let more = fs_err::read_dir(model.join("additional_chat_templates")).into_iter().flatten();
        let mut sizes: Vec<(String, u64)> = fs_err::read_dir(model)
            .ok()?
            .chain(more)
            .filter_map(Result::ok)
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .filter(|(name, _)| is_shard(name) || name.ends_with(TEMPLATES))
            .map(|(name, path)| (name, fs_err::metadata(path).map_or(0, |found| found.len())))
            .collect();
        sizes.sort();
        for (name, bytes) in sizes {
            digest.update(format!("{name} {bytes}\n"));
        }
        let name = digest.finalize().iter().take(16).fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
        Some(self.folder.join(format!("{name}.json")))
    }
}

/// Extension of additional chat templates.
const TEMPLATES: &str = ".jinja";

/// The small files that a profile depends on; weights count by their sizes.
const TEXTS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Runs the script on a folder, for which a `config.json` is enough.
///
/// # Errors
/// [`RefusedKind::Limit`] if it does not end in time, [`RefusedKind::Internal`] if it fails without an answer.
pub fn describe(
    python: &Path,
    model: &Path,
    division: Option<Division>,
    limits: Limits,
) -> Result<String, Refused> {
    let request = serde_json::json!({
        "folder": model, "seconds": limits.time.as_secs_f64(), "memory_bytes": limits.memory,
        "ranks": division.map_or(0, |division| division.ranks),
        "mode": division.map_or("tensor", |division| division.mode.name()),
    });
    let mut command = process::command(python);
    command.arg("-I").args(SCRIPT.arguments(&request.to_string())).current_dir("/");
    // It ends itself at the limit; this is in case it cannot.
    process::output(command, limits.time + Duration::from_secs(5)).map_err(|message| {
        let kind =
            if message.contains("did not answer") { RefusedKind::Limit } else { RefusedKind::Internal };
        Refused { kind, message: format!("describing this model failed: {message}") }
    })
}

/// Why this environment's mlx_lm cannot serve the model of a `config.json`, regardless of its weights: it lacks the
/// family, or the configuration does not describe a model.
pub(crate) fn hopeless(python: &Path, model: &Path) -> Option<String> {
    let refused = Profile::parse(&describe(python, model, None, LIMITS).ok()?).err()?;
    let certain = matches!(refused.kind, RefusedKind::Family | RefusedKind::Config | RefusedKind::Code);
    certain.then_some(refused.message)
}
