//! From a model of the registry to the [`Spec`] of a run. Pure, except for the secret.

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

/// The bounds of a run, as flags and launcher limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bound of MLX's buffer cache; `None`: unbounded.
    pub cache: Option<Bytes>,
    /// Bound of the prompt cache; `None`: unbounded.
    pub prompt_cache: Option<Bytes>,
    /// The room that kept prompts and a prefill share; `None`: nothing is shared.
    pub room: Option<Room>,
    /// Longest prompt plus answer, tokens; `None`: unbounded.
    pub context: Option<u32>,
    /// Most bytes of kept prompts on disk; 0: none are stored.
    pub prompt_store: Bytes,
    /// Further server flags, from [`crate::memory::Bounds::arguments`].
    pub flags: Vec<String>,
    /// Variables that make freed memory go back to the system.
    pub environment: &'static [(&'static str, &'static str)],
}

/// Everything that a spec is made from.
pub(crate) struct Launch<'a> {
    pub model: &'a Model,
    /// The value of `--model`: the folder with its files, or the repository while they are missing.
    pub served: &'a str,
    /// The value of `--draft-model`, chosen likewise.
    pub draft: Option<String>,
    /// `environment` of `[agent]`: variables for the supervisor and for what it starts.
    pub environment: &'a [(String, String)],
    pub python: &'a Path,
    /// Our own binary, which conducts a model on several ranks.
    pub binary: &'a Path,
    pub generation: u64,
    pub reserved: Bytes,
    pub limits: &'a Limits,
    /// The folder of specs and records.
    pub run: &'a Path,
    /// The folder of files that outlive a boot.
    pub state: &'a Path,
    pub link: PathBuf,
    pub log: PathBuf,
    pub cwd: &'a Path,
    pub secret: String,
}

impl Launch<'_> {
    /// Makes the spec. `inherited` looks up a variable of our own environment.
    pub(crate) fn spec(self, inherited: impl Fn(&str) -> Option<String>) -> Spec {
        let served = match (&self.model.cluster, &self.model.source) {
            // Every host has its own cache, so each rank looks for the files itself.
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
        // Ranks hold parts of the same prompts and would have to read and write them in lockstep.
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

/// Variables of every backend, in addition to those of every Python. A backend never downloads anything; that is left
/// to `mlxctl pull`.
const FIXED: [(&str, &str); 2] = [("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false")];

/// The variables of a run that only the registry sets, so that a change in them is a change of settings.
fn of_registry(env: &[(String, String)]) -> impl Iterator<Item = &(String, String)> {
    let ours = |name: &str| {
        INHERITED.contains(&name)
            || FIXED.iter().chain(&GIVEN).chain(Platform::Cpu.environment()).any(|(known, _)| *known == name)
            || name == "PYTHONPATH" // set for runs started by an earlier version
            || name == SSH_AGENT
    };
    env.iter().filter(move |(name, _)| !ours(name))
}

/// Where ssh, which a conductor runs, finds its agent.
const SSH_AGENT: &str = "SSH_AUTH_SOCK";

/// All variables of a backend, each once; later ones win: inherited ones, those of the registry, those set by mlxctl.
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
/// The system's, if it has no randomness.
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
        // Bounds on memory, which are in `Limits::flags`.
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

/// All arguments of `mlx_lm.server`; `extra_args` come last.
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

/// How a run started as `started` differs from one that would be started as `wanted`, flag by flag, for people.
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
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| format!("{name} {before} → {after}"))
        .collect();
    // Only the order differs, or a flag is repeated.
    Some(if told.is_empty() { "its arguments".to_owned() } else { told.join(", ") })
}

/// Everything that goes into [`hashed`], by name, for people.
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

fn wired(wired: Wired) -> &'static str {
    match wired {
        Wired::Off => "off",
        Wired::Weights => "weights",
        Wired::Default => "default",
    }
}

/// Hash of everything that makes one run differ from another: 64 bits of SHA-256 in hexadecimal.
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
    fn the_difference_between_two_runs_is_listed_flag_by_flag() {
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
