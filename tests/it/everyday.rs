//! The first registry, and everyday commands: names, requests, one question.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Entry, Instance, PATIENCE, http, signal, skipped};

const BUILT_IN: &str = "I am a tiny test model";

fn mlxctl(home: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxctl"));
    command.env_clear().env("HOME", home).env("HF_HUB_CACHE", home.join("hub")).args(args);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_first_registry_is_valid_names_the_next_steps_and_is_never_replaced() {
    let home = tempfile::tempdir().unwrap();
    let (code, out, err) = mlxctl(home.path(), &["init", "--memory", "128GB"]);
    assert_eq!(code, 0, "{err}");
    let file = Path::new(out.trim_end());
    assert!(file.starts_with(home.path()) && file.ends_with("mlxctl/models.toml"), "{out}");
    for part in ["32b", "18.4 GB to download", "70b", "mlxctl setup", "mlxctl pull", "mlxctl agent install"] {
        assert!(err.contains(part), "{part} is missing: {err}");
    }
    let (code, out, err) = mlxctl(home.path(), &["check", "--memory", "128GB"]);
    assert_eq!(code, 0, "{out}{err}");

    fs_err::write(file, "mine").unwrap();
    let (code, _, err) = mlxctl(home.path(), &["init"]);
    assert_eq!(code, 1);
    assert!(err.contains("already exists") && err.contains("--stdout"), "{err}");
    assert_eq!(fs_err::read_to_string(file).unwrap(), "mine");
    let left = fs_err::read_dir(file.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "no partial file is left");
}

#[test]
fn the_first_registry_can_be_printed_or_put_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let (code, printed, _) = mlxctl(home.path(), &["init", "--stdout", "--all", "--memory", "16 GB"]);
    assert_eq!(code, 0);
    assert!(printed.contains("[[model]]") && printed.contains("# [agent]"), "{printed}");
    assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 0, "nothing is written");
    let elsewhere = home.path().join("my registries/a.toml");
    let (code, _, err) =
        mlxctl(home.path(), &["init", "-o", elsewhere.to_str().unwrap(), "--memory", "16GB"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains(&format!("--config '{}' pull", elsewhere.display())), "{err}");
    assert!(elsewhere.exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_reported_and_nothing_is_left() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs_err::write(&file, "").unwrap();
    // Below a file no one can create a folder, not even root.
    let (code, _, err) = mlxctl(home.path(), &["init", "-o", file.join("models.toml").to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("cannot write") && err.contains("--stdout"), "{err}");
    if !nix::unistd::geteuid().is_root() {
        let folder = home.path().join("closed");
        fs_err::create_dir(&folder).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o555);
        fs_err::set_permissions(&folder, mode).unwrap();
        let (code, _, err) =
            mlxctl(home.path(), &["init", "-o", folder.join("models.toml").to_str().unwrap()]);
        assert!(code == 1 && err.contains("cannot write"), "{err}");
        assert_eq!(fs_err::read_dir(&folder).unwrap().count(), 0);
    }
}

#[test]
fn completion_scripts_get_names_and_no_errors() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(mlxctl(home.path(), &["__models"]), (0, String::new(), String::new()));
    mlxctl(home.path(), &["init", "--memory", "128GB"]);
    assert_eq!(mlxctl(home.path(), &["__models"]).1, "32b\nreasoning\n70b\n72b\nlarge\n");
    assert!(!mlxctl(home.path(), &["--help"]).1.contains("__models"));
}

#[test]
fn bash_completes_the_names_of_models() {
    let home = tempfile::tempdir().unwrap();
    mlxctl(home.path(), &["init", "--memory", "128GB"]);
    let binary = Path::new(env!("CARGO_BIN_EXE_mlxctl"));
    let script = format!(
        "PATH={}:$PATH; source <(mlxctl completions bash)\n\
         COMP_WORDS=(mlxctl stop 7); COMP_CWORD=2; _mlxctl_models mlxctl 7 stop; echo \"${{COMPREPLY[@]}}\"\n\
         COMP_WORDS=(mlxctl stop --n); COMP_CWORD=2; _mlxctl_models mlxctl --n stop; echo \"${{COMPREPLY[@]}}\"\n",
        binary.parent().unwrap().display()
    );
    let output = Command::new("bash").args(["-c", &script]).env("HOME", home.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines[0].split(' ').any(|word| word == "70b") && lines[0].contains("72b"), "{text}");
    assert_eq!(lines[1], "--now");
}

#[test]
fn one_question_is_answered_and_the_requests_are_listed() {
    let preset = "aliases = [\"plain\", { name = \"short\", set = { temperature = 0.0, max_tokens = 3 } }]";
    let models = vec![Entry::new("a", "always").with(preset), Entry::new("b", "manual")];
    let instance = Instance::real(models).serve();
    instance.wait_state("a", "ready");

    assert!(instance.expect(0, &["chat", "a", "What are you?"]).starts_with(BUILT_IN));
    // The question is what is piped in.
    let mut child =
        instance.mlxctl(&["chat", "plain"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"What are\nyou?\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).starts_with(BUILT_IN));
    let empty = instance.run(&["chat", "a"]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("there is no question"));

    // The preset limits only answers to requests that name no length.
    let short = instance.run(&["chat", "short", "What are you?"]);
    assert!(String::from_utf8_lossy(&short.stderr).contains("--max-tokens"), "{short:?}");
    let (status, list) = http(instance.gate("a"), "GET", "/v1/models", "");
    let list: Value = serde_json::from_str(&list).unwrap();
    let preset = list["data"].as_array().unwrap().iter().find(|entry| entry["id"] == "short").unwrap();
    assert_eq!(
        (status, &preset["preset"]),
        (200, &serde_json::json!({ "max_tokens": 3, "temperature": 0.0 }))
    );
    assert!(instance.expect(0, &["models"]).contains("preset short of a: max_tokens = 3, temperature = 0.0"));

    // A model that is not ready is not asked.
    let offline = instance.run(&["chat", "b", "Hi"]);
    assert_eq!(offline.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&offline.stderr).contains("mlxctl start b"));
    assert_eq!(instance.run(&["chat", "c", "Hi"]).status.code(), Some(4));

    // Lines of the log are written some time after their requests.
    let until = std::time::Instant::now() + PATIENCE;
    let requests = loop {
        let text = instance.expect(0, &["requests", "--json"]);
        let list: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let posts: Vec<Value> = list.into_iter().filter(|request| request["method"] == "POST").collect();
        if posts.len() == 3 {
            break posts;
        }
        assert!(std::time::Instant::now() < until, "{posts:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let tokens: Vec<_> = requests.iter().map(|request| request["tokens"].as_u64().unwrap()).collect();
    assert!(tokens[0] > 3 && tokens[1] > 3 && tokens[2] == 3, "{requests:?}");
    assert!(requests.iter().all(|request| request["model"] == "a" && request["outcome"] == "ok"));
    assert_eq!(instance.expect(0, &["requests", "-n", "2"]).lines().count(), 3, "a head and two rows");
    assert!(String::from_utf8_lossy(&instance.run(&["requests", "b"]).stderr).contains("no requests yet"));
}

#[test]
fn several_models_are_stopped_at_once_and_one_can_be_looked_at() {
    let instance = Instance::real(vec![Entry::new("a", "always"), Entry::new("b", "always")]).serve();
    instance.wait_state("a", "ready");
    instance.wait_state("b", "ready");
    let one: Value = serde_json::from_str(&instance.expect(0, &["status", "B", "--json"])).unwrap();
    assert_eq!(one["models"].as_array().unwrap().len(), 1);
    assert_eq!(one["models"][0]["name"], "b");
    assert_eq!(instance.run(&["status", "nobody"]).status.code(), Some(4));
    // A typo in one name does not keep the others from being stopped, and is still reported.
    let output = instance.run(&["stop", "a", "nobody", "b"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 3 failed"), "{output:?}");
    instance.wait_state("a", "stopped");
    instance.wait_state("b", "stopped");
    assert!(instance.expect(0, &["pull"]).matches("verified").count() == 2, "without a name, all of them");
}

#[test]
fn ctrl_c_ends_an_answer_and_the_backend_is_free_again() {
    let entry =
        Entry::new("a", "always").faults(&["token=0.1", "tokens=100"]).with("limits = { max_tokens = 100 }");
    let instance = Instance::fake(vec![entry]).serve();
    instance.wait_state("a", "ready");
    let mut child = instance
        .mlxctl(&["chat", "a", "Hi", "--max-tokens", "100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = vec![0; 1];
    out.read_exact(&mut text).unwrap();
    signal(i32::try_from(child.id()).unwrap(), Signal::SIGINT);
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.ends_with(b"\n"), "the shell's prompt is on a line of its own");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("interrupted") && !said.contains("panicked"), "{said}");
    instance.wait_for("a", |model| model["traffic"]["in_flight"] == 0);
}

#[test]
fn the_supervisors_own_log_is_read_by_its_name() {
    let instance = Instance::fake(vec![Entry::new("a", "manual")]);
    let missing = instance.run(&["logs", "supervisor"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("mlxctl serve"), "{missing:?}");
    fs_err::create_dir_all(instance.root().join("logs")).unwrap();
    fs_err::write(instance.root().join("logs/mlxctl.log"), "one\ntwo\n").unwrap();
    assert_eq!(instance.expect(0, &["logs", "supervisor", "-n", "1"]), "two\n");
}

#[test]
fn a_command_through_sudo_names_the_callers_registry() {
    let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else {
        return skipped("sudo's advice", "there is no user nobody");
    };
    if !nix::unistd::geteuid().is_root() {
        return skipped("sudo's advice", "needs root");
    }
    let home = tempfile::tempdir().unwrap();
    let run = |uid: Option<u32>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxctl"));
        command.env_clear().env("HOME", home.path()).arg("status");
        if let Some(uid) = uid {
            command.env("SUDO_UID", uid.to_string());
        }
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let said = run(Some(nobody.uid.as_raw()));
    assert!(
        said.contains("without sudo, as nobody") && said.contains("mlxctl/models.toml' status"),
        "{said}"
    );
    assert!(!run(None).contains("sudo"));
}
