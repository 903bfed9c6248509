//! The environment of every Python process that mlxctl starts: setup, pull, probes, backends, ranks. Whatever a shell,
//! a `launchctl setenv` or another tool set for its own Python must not decide what ours imports or where pip installs.
//!
//! Backends get a fixed list of variables and nothing else; the others inherit everything that is not removed here,
//! because downloads need a person's proxy and certificates. `LD_PRELOAD` is one of those: some proxies work through
//! it, and it does not reach a backend.

use std::ffi::OsStr;
use std::process::Command;

/// Variables of the supervisor's environment that a backend inherits.
pub(crate) const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "XDG_CACHE_HOME",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
];

/// Set for every Python process. Without the first two, the working directory or the user's own packages would come
/// before those of the environment.
pub(crate) const GIVEN: [(&str, &str); 4] = [
    ("PYTHONSAFEPATH", "1"),
    ("PYTHONNOUSERSITE", "1"),
    ("PYTHONUNBUFFERED", "1"),
    ("PYTHONIOENCODING", "utf-8"),
];

/// Options of pip and uv that say where packages come from. All others say what is installed or where, which the
/// registry decides.
const SOURCES: &[&str] = &[
    "PIP_CONFIG_FILE",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_PROXY",
    "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
    "PIP_CACHE_DIR",
    "PIP_NO_CACHE_DIR",
    "PIP_KEYRING_PROVIDER",
    "UV_CONFIG_FILE",
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_STRATEGY",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_OFFLINE",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_KEYRING_PROVIDER",
    "UV_CACHE_DIR",
    "UV_NO_CACHE",
    "UV_LINK_MODE",
    "UV_PYTHON_DOWNLOADS",
    "UV_PYTHON_INSTALL_DIR",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_PYTHON_PREFERENCE",
];

/// Whether an inherited variable could change what our Python imports or where it installs.
pub(crate) fn misleads(name: &str) -> bool {
    // Framework Pythons on macOS set the first, which leads the children of one environment into another.
    matches!(name, "__PYVENV_LAUNCHER__" | "VIRTUAL_ENV" | "VIRTUAL_ENV_PROMPT")
        || name.starts_with("PYTHON")
        || name.starts_with("CONDA_")
        || (name.starts_with("PIP_") || name.starts_with("UV_"))
            && !SOURCES.contains(&name)
            && !is_index_credential(name)
}

/// Matches uv's `UV_INDEX_<NAME>_USERNAME` and `UV_INDEX_<NAME>_PASSWORD`.
fn is_index_credential(name: &str) -> bool {
    name.starts_with("UV_INDEX_") && (name.ends_with("_USERNAME") || name.ends_with("_PASSWORD"))
}

/// The settings in the output of `pip config list` that say where packages come from, as variables. Lines are
/// `section.key='value'`, with the value as Python's repr. Later sections override earlier ones: global, install,
/// `:env:`.
pub(crate) fn pip_sources(listed: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for section in ["global", "install", ":env:"] {
        for line in listed.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            let Some((of, key)) = name.trim().split_once('.') else { continue };
            let variable = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            if of != section || variable == "PIP_CONFIG_FILE" || !SOURCES.contains(&variable.as_str()) {
                continue;
            }
            let value = value.trim().trim_matches(['\'', '"']);
            // Lists are separated by newlines in a file and by blanks in a variable.
            let value = value.replace("\\n", " ").replace("\\'", "'").replace("\\\\", "\\");
            found.retain(|(other, _)| *other != variable);
            found.push((variable, value.trim().to_owned()));
        }
    }
    found
}

/// Removes misleading variables from the environment that `command` inherits, and adds [`GIVEN`].
pub(crate) fn cleaned(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    remove(command, names);
    command.envs(GIVEN);
}

fn remove(command: &mut Command, names: impl Iterator<Item = impl AsRef<OsStr>>) {
    for name in names {
        if name.as_ref().to_str().is_some_and(misleads) {
            command.env_remove(name);
        }
    }
}

/// Why the registry may not set a variable for the supervisor and its backends; `None` if it may.
pub(crate) fn refused(name: &str) -> Option<&'static str> {
    match name {
        "PATH" => Some("PATH has a key of its own, `path` in [agent]"),
        "LD_PRELOAD" | "DYLD_INSERT_LIBRARIES" => Some("it puts other code into every program"),
        "HF_HUB_OFFLINE" => Some("mlxctl sets it: only `mlxctl pull` downloads"),
        _ if name.starts_with("MLXCTL") => Some("these are mlxctl's own"),
        _ if is_of_ranks(name) => Some("these tell a rank who it is: use [model.cluster]"),
        _ if name.starts_with("PYTHON")
            || misleads(name) && !name.starts_with("PIP_") && !name.starts_with("UV_") =>
        {
            Some("it decides what Python imports, which is what `venv` in [paths] is for")
        }
        _ => None,
    }
}

/// Like [`refused`], but for the environment of a single model's backend.
pub(crate) fn refused_for_model(name: &str) -> Option<&'static str> {
    match name {
        "HF_HOME" | "HF_HUB_CACHE" | "HUGGINGFACE_HUB_CACHE" | "XDG_CACHE_HOME" | "HOME" => Some(
            "all models have one cache: set it in `environment` of [agent], and in your shell for `mlxctl pull`",
        ),
        "TOKENIZERS_PARALLELISM" => Some("mlxctl sets it"),
        _ if name.starts_with("PIP_") || name.starts_with("UV_") => Some("a backend installs nothing"),
        _ => refused(name),
    }
}

fn is_of_ranks(name: &str) -> bool {
    matches!(name, "MLX_RANK" | "MLX_HOSTFILE" | "MLX_IBV_DEVICES" | "MLX_JACCL_COORDINATOR")
        || ["OMPI_", "PMI_", "PMIX_"].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_shells_python_reaches_one_of_ours() {
        let misleading = [
            "PYTHONPATH",
            "PYTHONHOME",
            "PYTHONSTARTUP",
            "PYTHONUSERBASE",
            "PYTHONWARNINGS",
            "PIP_USER",
            "PIP_TARGET",
            "PIP_PREFIX",
            "PIP_REQUIRE_VIRTUALENV",
            "PIP_REQUIRE_HASHES",
            "PIP_CONSTRAINT",
            "UV_SYSTEM_PYTHON",
            "UV_PYTHON",
            "UV_PROJECT_ENVIRONMENT",
            "UV_CONSTRAINT",
            "VIRTUAL_ENV",
            "CONDA_PREFIX",
            "__PYVENV_LAUNCHER__",
        ];
        let needed = [
            "PIP_INDEX_URL",
            "PIP_CERT",
            "UV_DEFAULT_INDEX",
            "UV_INDEX_OURS_PASSWORD",
            "HTTPS_PROXY",
            "HF_TOKEN",
        ];
        let mut command = Command::new("python");
        remove(&mut command, misleading.iter().chain(&needed));
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        let mut expected = misleading.to_vec();
        expected.sort_unstable();
        assert_eq!(removed, expected);
        // What a backend inherits is of the same kind.
        assert!(INHERITED.iter().all(|name| !misleads(name)));
    }

    #[test]
    fn of_pips_settings_only_where_packages_come_from_is_kept() {
        let listed = "global.index-url='https://mirror.example/simple'\nglobal.user='true'\n\
            install.find-links='\\nhttps://a.example\\nhttps://b.example'\ninstall.target='/elsewhere'\n\
            :env:.no-index='1'\n:env:.index-url='https://env.example/simple'\nglobal.require-hashes='yes'\n";
        let pairs = [
            ("PIP_FIND_LINKS", "https://a.example https://b.example"),
            ("PIP_NO_INDEX", "1"),
            ("PIP_INDEX_URL", "https://env.example/simple"),
        ];
        assert_eq!(pip_sources(listed), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(pip_sources(""), []);
    }

    #[test]
    fn the_registry_sets_what_a_backend_needs_and_nothing_that_breaks_it() {
        for fine in
            ["AGX_RELAX_CDM_CTXSTORE_TIMEOUT", "MLX_METAL_FAST_SYNCH", "CUDA_VISIBLE_DEVICES", "HF_TOKEN"]
        {
            assert_eq!((refused(fine), refused_for_model(fine)), (None, None), "{fine}");
        }
        for wrong in [
            "PATH",
            "PYTHONPATH",
            "PYTHONHOME",
            "MLXCTL_CONFIG",
            "VIRTUAL_ENV",
            "CONDA_PREFIX",
            "MLX_RANK",
            "LD_PRELOAD",
        ] {
            assert!(refused(wrong).is_some() && refused_for_model(wrong).is_some(), "{wrong}");
        }
        for only_agent in ["HF_HOME", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"] {
            assert!(refused(only_agent).is_none() && refused_for_model(only_agent).is_some(), "{only_agent}");
        }
    }
}
