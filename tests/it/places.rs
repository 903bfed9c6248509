//! Folders that are missing, that others may write, or whose names mean something else: reported before anything is
//! created.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// A home with a registry whose `[paths]` are these.
struct Home(tempfile::TempDir);

impl Home {
    fn with(paths: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let paths = paths.replace("HERE", home.path().to_str().unwrap());
        let model = "[[model]]\nname = \"m\"\nrepo = \"builtin:tiny\"\nport = 28711\nsize = \"500MB\"\n";
        fs_err::write(home.path().join("models.toml"), format!("[paths]\n{paths}\n{model}")).unwrap();
        Self(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, verb: &str) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxctl"));
        command
            .env_clear()
            .env("HOME", self.0.path())
            .arg("--config")
            .arg(self.path("models.toml"))
            .arg(verb);
        let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// Each of these verbs fails as with an invalid registry, and says `words`.
    fn refuses(&self, verbs: &[&str], words: &[&str]) {
        for verb in verbs {
            let (code, text) = self.run(verb);
            assert_eq!(code, Some(2), "{verb}: {text}");
            for word in words {
                assert!(text.contains(word), "{verb} does not say {word}: {text}");
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let found = fs_err::read_dir(self.0.path()).unwrap();
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_root_on_a_missing_disk_is_named_with_its_target_and_nothing_is_created() {
    let home = Home::with("root = \"HERE/root\"");
    fs_err::os::unix::fs::symlink(home.path("Away/mlx"), home.path("root")).unwrap();
    home.refuses(&["check", "serve"], &["paths.root", "Away/mlx, which does not exist", "mounted"]);
    assert!(!home.path("Away").exists());
    let mac = Home::with("root = \"/Volumes/Not Here/mlx\"");
    mac.refuses(&["check", "serve"], &["the disk /Volumes/Not Here is not mounted"]);
}

#[test]
fn home_in_a_path_is_expanded_and_no_folder_is_named_after_a_variable() {
    let home = Home::with("root = \"$HOME/mlx\"");
    let (code, plist) = home.run("plist");
    assert_eq!(code, Some(0), "{plist}");
    assert!(plist.contains(home.path("mlx").to_str().unwrap()) && !plist.contains('$'), "{plist}");
    let other = Home::with("root = \"HERE/$NOBODY/mlx\"");
    other.refuses(&["check", "serve", "setup", "plist"], &["variables are not expanded"]);
    assert_eq!(other.names(), ["models.toml"]);
}

#[test]
fn a_colon_in_the_path_of_the_environment_is_refused_by_the_key_that_put_it_there() {
    Home::with("root = \"HERE/a:b\"").refuses(&["check", "setup"], &["`root`", "contains `:`"]);
    Home::with("root = \"HERE/a\"\nvenv = \"HERE/b:c\"")
        .refuses(&["check", "setup"], &["`venv`", "contains `:`"]);
    let elsewhere = Home::with("root = \"HERE/a:b\"\nvenv = \"HERE/venv\"");
    let (code, text) = elsewhere.run("check");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_folder_that_others_may_write_is_refused_by_all_that_would_put_code_or_secrets_there() {
    for (path, key) in [("root", "paths.root"), ("root/state", "paths.state"), ("root/logs", "paths.logs")] {
        let home = Home::with("root = \"HERE/root\"");
        fs_err::create_dir_all(home.path(path)).unwrap();
        mode(&home.path(path), 0o777);
        home.refuses(&["check", "serve", "setup"], &[key, "other users can change", "chmod go-w"]);
        assert!(!home.path("root/mlx_venv").exists() && !home.path("root/run").exists());
    }
}

#[test]
fn keys_and_their_lock_are_private_to_this_user() {
    let home = Home::with("root = \"HERE/root\"");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxctl"));
    command.env_clear().env("HOME", home.path("")).arg("--config").arg(home.path("models.toml"));
    command.args(["key", "add", "somebody"]).assert().success();
    let found = fs_err::read_dir(home.path("root/state")).unwrap();
    let modes: Vec<_> = found
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o777)
        })
        .collect();
    assert!(modes.iter().any(|(name, _)| name.contains("keys.lock")), "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
}
