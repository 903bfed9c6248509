//! From a model of the registry to the [`Spec`] of a run. Pure, but for the secret.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::spec::{PromptStore, SCHEMA, Spec};
use super::{launcher, record};
use crate::backend::group::Group;
use crate::environment::{GIVEN, INHERITED};
use crate::memory::{Platform, Room};
use crate::registry::{ClusterMode, LogLevel, Model, ServerOptions, Source, Wired};
use crate::units::Bytes;

/// The bounds that make the memory promise hold, as flags and launcher limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bound of MLX's buffer cache.
    pub cache: Option<Bytes>,
    /// Bound of the prompt cache.
    pub prompt_cache: Option<Bytes>,
    /// The room that kept prompts and a prefill share.
    pub room: Option<Room>,
    /// Longest prompt plus answer, tokens.
    pub context: Option<u32>,
    /// Bytes of kept prompts on disk; zero: none.
    pub prompt_store: Bytes,
    /// Further server flags that the registry does not name itself.
    pub flags: Vec<String>,
    /// Variables that the promise needs.
    pub environment: &'static [(&'static str, &'static str)],
}

/// Everything that a spec is made from.
pub(crate) struct Launch<'a> {
    pub model: &'a Model,
    /// What `--model` names: the folder with its files, or the repository while they are not there.
    pub served: &'a str,
    /// The same for `--draft-model`.
    pub draft: Option<String>,
    /// `environment` of `[agent]`: variables for the supervisor and for what it starts.
    pub environment: &'a [(String, String)],
    pub python: &'a Path,
    /// Our own binary: what conducts a model that runs on several ranks.
    pub binary: &'a Path,
    pub generation: u64,
    pub reserved: Bytes,
    /// What follows from the memory promise.
    pub limits: &'a Limits,
    /// Folder of specs and records.
    pub run: &'a Path,
    /// Folder of what outlives a boot.
    pub state: &'a Path,
    pub link: PathBuf,
    pub log: PathBuf,
    /// Working directory.
    pub cwd: &'a Path,
    pub secret: String,
}

impl Launch<'_> {
    /// The spec. `inherited` looks a variable of our own environment up.
    pub(crate) fn spec(self, inherited: impl Fn(&str) -> Option<String>) -> Spec {
        let served = match (&self.model.cluster, &self.model.source) {
            // Every host has a cache of its own: each rank looks for the files itself.
            (Some(_), Source::Hub(repo)) => repo,
            _ => self.served,
        };
        let server = server_arguments(self.model, served, self.draft, self.limits);
        let mut env = environment(self.model, self.environment, self.limits, &inherited);
        let group = self.model.cluster.as_ref().map(|cluster| {
            let group = Group::of(cluster, self.python, self.binary, &env);
            env.extend(inherited(SSH_AGENT).map(|value| (SSH_AGENT.to_owned(), value)));
            group
        });
        let settings =
            hashed(self.python, &server, self.limits, self.model.memory.wired, group.as_ref(), &env);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let program_file = self.run.join("launcher.py");
        let (program, first) = match &group {
            Some(_) => (text(self.binary), super::CONDUCT.to_owned()),
            None => (text(self.python), text(&program_file)),
        };
        let mut argv = vec![program, first, text(&record::spec_file(self.run, &self.model.name))];
        argv.extend(server);
        // Ranks hold parts of the same prompts, and would have to read and write them in step.
        let alone = group.is_none();
        let prompt_store = (alone && self.limits.prompt_store > Bytes::ZERO).then(|| PromptStore {
            path: launcher::prompts(self.state, &self.model.name),
            bytes: self.limits.prompt_store.0,
            recent: self.model.memory.forget_after.as_secs(),
        });
        Spec {
            schema: SCHEMA,
            model: self.model.name.clone(),
            repo: self.model.source.to_string(),
            generation: self.generation,
            argv,
            env,
            cwd: self.cwd.to_owned(),
            log: self.log,
            link: self.link,
            secret: self.secret,
            cache_limit: self.limits.cache.map(|bytes| bytes.0),
            prompt_cache_bytes: self.limits.prompt_cache.map(|bytes| bytes.0),
            room: self.limits.room.clone(),
            wired: self.model.memory.wired,
            context: self.limits.context.filter(|_| alone),
            prompt_store,
            settings,
            reserved: self.reserved.0,
            nice: 0,
            group,
        }
    }
}

/// Variables that every backend is given beside those of every Python. Nothing is downloaded behind the owner's back:
/// `mlxctl pull` does that.
const FIXED: [(&str, &str); 2] = [("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false")];

/// Those of a run's variables that only the registry sets: a change of one is a change of how the model is run.
fn of_registry(env: &[(String, String)]) -> impl Iterator<Item = &(String, String)> {
    let ours = |name: &str| {
        INHERITED.contains(&name)
            || FIXED.iter().chain(&GIVEN).chain(Platform::Cpu.environment()).any(|(known, _)| *known == name)
            || name == "PYTHONPATH" // of runs that an earlier version started
            || name == SSH_AGENT
    };
    env.iter().filter(move |(name, _)| !ours(name))
}

/// How ssh, which a conductor runs, finds its agent.
const SSH_AGENT: &str = "SSH_AUTH_SOCK";

/// All variables of a backend, each once: those of ours that it is given, those of the registry, and last what mlxctl
/// decides itself.
fn environment(
    model: &Model,
    agent: &[(String, String)],
    limits: &Limits,
    inherited: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let ours = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), inherited(name)?)));
    let fixed = FIXED.iter().chain(&GIVEN).chain(limits.environment);
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, value) in ours
        .chain(agent.iter().cloned())
        .chain(model.environment.iter().cloned())
        .chain(fixed.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    {
        env.retain(|(other, _)| *other != name);
        env.push((name, value));
    }
    env
}

/// A fresh secret: 256 random bits in hexadecimal.
///
/// # Errors
/// The system's, if it has no randomness to give.
pub(crate) fn secret() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(hex(&bytes))
}

/// The typed options as `mlx_lm.server` flags.
fn arguments(options: &ServerOptions, draft: Option<String>) -> Vec<String> {
    let ServerOptions {
        draft_model: _,
        num_draft_tokens,
        adapter_path,
        kv_bits,
        kv_group_size,
        quantized_kv_start,
        max_tokens,
        temperature,
        top_p,
        top_k,
        min_p,
        // Part of the memory promise: `Limits::flags` has them.
        decode_concurrency: _,
        prompt_concurrency: _,
        prefill_step_size: _,
        prompt_cache: _,
        chat_template,
        chat_template_args,
        log_level,
        extra_args: _,
    } = options;
    let text = |value: &Option<String>| value.clone();
    let path = adapter_path.as_deref().map(Path::as_os_str).map(OsStr::to_string_lossy).map(String::from);
    [
        ("--draft-model", draft),
        ("--num-draft-tokens", shown(*num_draft_tokens)),
        ("--adapter-path", path),
        ("--kv-bits", shown(*kv_bits)),
        ("--kv-group-size", shown(*kv_group_size)),
        ("--quantized-kv-start", shown(*quantized_kv_start)),
        ("--max-tokens", shown(*max_tokens)),
        ("--temp", shown(*temperature)),
        ("--top-p", shown(*top_p)),
        ("--top-k", shown(*top_k)),
        ("--min-p", shown(*min_p)),
        ("--chat-template", text(chat_template)),
        ("--chat-template-args", text(chat_template_args)),
        ("--log-level", log_level.map(LogLevel::name).map(str::to_owned)),
    ]
    .into_iter()
    .filter_map(|(flag, value)| Some([flag.to_owned(), value?]))
    .flatten()
    .collect()
}

fn shown<T: ToString>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// The arguments of `mlx_lm.server`.
fn server_arguments(model: &Model, served: &str, draft: Option<String>, limits: &Limits) -> Vec<String> {
    let mut server = vec!["--model".to_owned(), served.to_owned()];
    server.extend(["--host", "127.0.0.1", "--port", "0"].map(str::to_owned));
    server.extend(arguments(&model.server, draft));
    server.extend(limits.flags.iter().cloned());
    if model.cluster.as_ref().is_some_and(|cluster| cluster.mode == ClusterMode::Pipeline) {
        server.push("--pipeline".to_owned());
    }
    server.extend(model.server.extra_args.iter().cloned());
    server
}

/// How the run that was started as `started` differs from one that were started as `wanted`: a flag each, for people.
/// `None`: not at all.
pub(crate) fn difference(started: &Spec, wanted: &Spec) -> Option<String> {
    if started.settings == wanted.settings {
        return None;
    }
    let (before, after) = (settings_of(started), settings_of(wanted));
    let value = |of: &[(String, String)], name: &str| {
        of.iter().find(|(known, _)| known == name).map_or("unset".to_owned(), |(_, value)| value.clone())
    };
    let mut names: Vec<&str> = before.iter().chain(&after).map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let told: Vec<_> = names
        .into_iter()
        .map(|name| (name, value(&before, name), value(&after, name)))
        .filter(|(_, was, shall)| was != shall)
        .map(|(name, was, shall)| format!("{name} {was} → {shall}"))
        .collect();
    // Only the order differs, or a flag is given twice.
    Some(if told.is_empty() { "its arguments".to_owned() } else { told.join(", ") })
}

/// Everything that `settings` hashes, by name.
fn settings_of(spec: &Spec) -> Vec<(String, String)> {
    let bytes = |bytes: Option<u64>| bytes.map_or("unset".to_owned(), |bytes| Bytes(bytes).to_string());
    let mut all = vec![
        (
            "python".to_owned(),
            match &spec.group {
                Some(group) => group.python.to_string_lossy().into_owned(),
                None => spec.argv.first().cloned().unwrap_or_default(),
            },
        ),
        ("cluster".to_owned(), spec.group.as_ref().map_or("unset".to_owned(), Group::words)),
        ("cache limit".to_owned(), bytes(spec.cache_limit)),
        ("prompt cache".to_owned(), bytes(spec.prompt_cache_bytes)),
        ("memory.wired".to_owned(), wired(spec.wired).to_owned()),
        ("context".to_owned(), shown(spec.context).unwrap_or("unset".to_owned())),
        ("prompt store".to_owned(), bytes(spec.prompt_store.as_ref().map(|store| store.bytes))),
    ];
    all.extend(of_registry(&spec.env).cloned());
    let mut arguments = spec.argv.iter().skip(3).peekable();
    while let Some(flag) = arguments.next() {
        let value = arguments.next_if(|next| !next.starts_with("--"));
        all.push((flag.clone(), value.map_or("set".to_owned(), Clone::clone)));
    }
    all
}

/// As the registry spells it.
fn wired(wired: Wired) -> &'static str {
    match wired {
        Wired::Off => "off",
        Wired::Weights => "weights",
        Wired::Default => "default",
    }
}

/// Tells one way of running a model from another: 64 bits of SHA-256 in hexadecimal.
fn hashed(
    python: &Path,
    server: &[String],
    limits: &Limits,
    pinned: Wired,
    group: Option<&Group>,
    env: &[(String, String)],
) -> String {
    let mut hash = Sha256::new();
    let cache = shown(limits.cache.map(|bytes| bytes.0)).unwrap_or_default();
    let prompt_cache = shown(limits.prompt_cache.map(|bytes| bytes.0)).unwrap_or_default();
    let interpreter = python.to_string_lossy();
    let alone = group.is_none();
    let context = shown(limits.context.filter(|_| alone)).unwrap_or_default();
    let store = if alone { limits.prompt_store.0.to_string() } else { String::new() };
    let rest = [interpreter.as_ref(), &cache, &prompt_cache, wired(pinned), &context, &store];
    let group = group.map(Group::words);
    for part in server.iter().map(String::as_str).chain(rest).chain(group.as_deref()) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for (name, value) in of_registry(env) {
        hash.update(name.as_bytes());
        hash.update([1]);
        hash.update(value.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize()[..8])
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(server: &[&str], cache_limit: Option<u64>) -> Spec {
        let argv = ["python", "launcher.py", "m.json"].iter().chain(server).map(|part| (*part).to_owned());
        let limits = Limits { cache: cache_limit.map(Bytes), ..Limits::default() };
        let server: Vec<String> = server.iter().map(|part| (*part).to_owned()).collect();
        Spec {
            schema: SCHEMA,
            model: "m".into(),
            repo: String::new(),
            generation: 1,
            argv: argv.collect(),
            env: Vec::new(),
            cwd: PathBuf::new(),
            log: PathBuf::new(),
            link: PathBuf::new(),
            secret: String::new(),
            cache_limit,
            prompt_cache_bytes: None,
            room: None,
            wired: Wired::Off,
            context: None,
            prompt_store: None,
            settings: hashed(Path::new("python"), &server, &limits, Wired::Off, None, &[]),
            reserved: 0,
            nice: 0,
            group: None,
        }
    }

    #[test]
    fn what_tells_two_runs_apart_is_said_flag_by_flag() {
        let old = spec(&["--model", "x", "--kv-bits", "8", "--trust-remote-code"], None);
        assert_eq!(difference(&old, &old), None);
        let new = spec(&["--model", "x", "--kv-bits", "4", "--top-k", "-1"], Some(1_000_000_000));
        assert_eq!(
            difference(&old, &new).unwrap(),
            "--kv-bits 8 → 4, --top-k unset → -1, --trust-remote-code set → unset, cache limit unset → 1.00 GB"
        );
        let swapped = spec(&["--kv-bits", "8", "--model", "x", "--trust-remote-code"], None);
        assert_eq!(difference(&old, &swapped).as_deref(), Some("its arguments"));
    }
}
