//! `sudo mlxctl`: root has another home, so the default registry is not the caller's.

use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};

use crate::folders;

/// Advice if root's own registry is missing and the command was run through sudo. The caller's registry is never used
/// by default: root would create files in that user's folders that the user could not change.
pub(super) fn advice(config: &Path) -> Option<String> {
    if !geteuid().is_root() || config.exists() || config != folders::config().join("models.toml") {
        return None;
    }
    let uid: u32 = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
    Some(text(&user.name, &registry(&user.dir)))
}

/// The default registry below a home; sudo does not pass on the caller's `XDG_CONFIG_HOME`.
fn registry(home: &Path) -> PathBuf {
    let folder = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" };
    home.join(folder).join("mlxctl/models.toml")
}

fn text(user: &str, registry: &Path) -> String {
    format!(
        "sudo looks for root's registry. Run the same command without sudo, as {user};\n\
         to ask {user}'s supervisor as root: sudo mlxctl --config '{}' status",
        registry.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_registry_is_named_and_only_where_roots_is_missing() {
        assert!(text("ada", &registry(Path::new("/home/ada"))).contains("/home/ada/"));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(advice(&folder.path().join("models.toml")), None, "--config named a file");
    }
}
