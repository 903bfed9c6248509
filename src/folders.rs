//! The per-user folders of this program: Apple's on a Mac, the XDG base directories elsewhere
//! (specifications.freedesktop.org/basedir-spec, which says to ignore a variable that is not an absolute path).

use std::path::PathBuf;

/// The registry's: `~/Library/Application Support/mlxctl`, else `$XDG_CONFIG_HOME/mlxctl` or `~/.config/mlxctl`.
pub(crate) fn config() -> PathBuf {
    place("Library/Application Support", "XDG_CONFIG_HOME", ".config")
}

/// Environments, logs, state: `~/Library/Application Support/mlxctl`, else `$XDG_DATA_HOME/mlxctl` or
/// `~/.local/share/mlxctl`.
pub(crate) fn data() -> PathBuf {
    place("Library/Application Support", "XDG_DATA_HOME", ".local/share")
}

/// For files that can be recreated: `~/Library/Caches/mlxctl`, else `$XDG_CACHE_HOME/mlxctl` or `~/.cache/mlxctl`.
pub(crate) fn cache() -> PathBuf {
    place("Library/Caches", "XDG_CACHE_HOME", ".cache")
}

fn place(apple: &str, variable: &str, fallback: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let folder = if cfg!(target_os = "macos") {
        home.join(apple)
    } else {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .unwrap_or_else(|| home.join(fallback))
    };
    folder.join("mlxctl")
}
