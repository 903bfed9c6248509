//! `mlxctl agent` against a launchd that keeps the documented rules.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mlxctl::internals::api::{Status, SupervisorStatus};
use mlxctl::internals::service::launchctl::print::Printed;

use crate::command_line::status;
use crate::control_fake::{Instance, json, serve};
use crate::fake_launchd::FakeLaunchd;
use crate::support::program;

/// A launchd, a registry whose agent is called `mlxctl`, and a program that stays up.
struct Stage {
    launchd: FakeLaunchd,
    instance: Instance,
}

/// The result of a call of mlxctl.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }
}

impl Stage {
    fn new() -> Self {
        let stage = Self { launchd: FakeLaunchd::start(), instance: Instance::new() };
        stage.write_program("sleep 600");
        stage
    }

    fn program(&self) -> PathBuf {
        self.instance.folder.path().join("bin/stays-up")
    }

    fn write_program(&self, script: &str) {
        std::fs::create_dir_all(self.program().parent().unwrap()).unwrap();
        program::write(&self.program(), &format!("#!/bin/sh\nexec {script}\n"));
    }

    fn plist(&self) -> PathBuf {
        self.instance.folder.path().join("Library/LaunchAgents/mlxctl.plist")
    }

    fn agent(&self, arguments: &[&str]) -> Done {
        let mut command = self.instance.command();
        command.arg("agent").arg("--launchctl").arg(self.launchd.program()).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn install(&self) -> Done {
        let program = self.program();
        self.agent(&["install", "--no-wait", "--program", program.to_str().unwrap()])
    }

    fn service(&self) -> String {
        format!("gui/{}/mlxctl", nix::unistd::geteuid())
    }

    fn printed(&self) -> Printed {
        Printed::parse(&self.launchd.launchctl(&["print", &self.service()]).1)
    }

    fn add_to_registry(&self, text: &str) {
        let file = self.instance.config();
        let old = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\n{old}")).unwrap();
    }

    /// A supervisor that answers as the job's process `pid`.
    fn answer_as(&self, pid: i32) -> crate::control_fake::Asked {
        let status = status();
        let supervisor = SupervisorStatus { pid, ..status.supervisor.clone().unwrap() };
        let status = Status { supervisor: Some(supervisor), ..status };
        serve(&self.instance, move |request, stream| match request {
            "POST /v1/handover" => json(stream, 500, "{}"),
            _ => json(stream, 200, &serde_json::to_string(&status).unwrap()),
        })
    }
}

#[test]
fn installing_writes_loads_and_names_the_process() {
    let stage = Stage::new();
    let done = stage.install().ok();
    let pid = stage.printed().pid.unwrap();
    assert_eq!(done.out, format!("mlxctl is installed and runs, pid {pid}\n"));
    let mode = std::fs::metadata(stage.plist()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(stage.launchd.verbs(), ["enable", "bootstrap"]);
}

#[test]
fn installing_again_changes_nothing() {
    let stage = Stage::new();
    stage.install().ok();
    let before = stage.printed();
    stage.install().ok();
    assert_eq!(stage.printed(), before);
    assert_eq!(stage.launchd.verbs(), ["enable", "bootstrap"], "the job was touched");
}

#[test]
fn a_changed_registry_replaces_the_job_and_keeps_the_old_file() {
    let stage = Stage::new();
    stage.install().ok();
    let before = (stage.printed().pid, std::fs::read_to_string(stage.plist()).unwrap());
    stage.add_to_registry("[agent]\nnice = 5");
    let done = stage.install().ok();
    assert!(done.err.contains("Nice: the backends would get a different share of the CPU"), "{}", done.err);
    assert_ne!(stage.printed().pid, before.0);
    let kept = stage.instance.folder.path().join("state/mlxctl.plist.replaced");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), before.1);
    assert!(std::fs::read_to_string(stage.plist()).unwrap().contains("<integer>5</integer>"));
}

/// The previous deployment: the server itself under our label, loaded with the legacy verb.
#[test]
fn a_plain_server_under_our_label_is_recognised_and_replaced() {
    let stage = Stage::new();
    let python = stage.instance.folder.path().join("python3");
    program::write(&python, "#!/bin/sh\nexec sleep 600\n");
    std::fs::create_dir_all(stage.plist().parent().unwrap()).unwrap();
    let text = format!(
        "<plist version=\"1.0\"><dict><key>Label</key><string>mlxctl</string><key>ProgramArguments</key><array>\
         <string>{}</string><string>-m</string><string>mlx_lm.server</string></array>\
         <key>RunAtLoad</key><true/></dict></plist>",
        python.display()
    );
    std::fs::write(stage.plist(), text).unwrap();
    assert_eq!(stage.launchd.launchctl(&["load", stage.plist().to_str().unwrap()]).0, 0);
    let status = stage.agent(&["status"]);
    assert!(status.out.contains("runs") && status.out.contains("python3"), "{}", status.out);

    let done = stage.install().ok();
    assert!(done.err.contains("python3; replacing it"), "{}", done.err);
    assert!(done.err.contains("mlx_lm.server itself"), "{}", done.err);
    assert_eq!(stage.printed().program.as_deref().map(Path::new), Some(stage.program().as_path()));
}

/// Loaded over SSH, for example, in a domain in which the agent's label is free.
#[test]
fn a_job_in_the_domain_without_a_screen_is_shown_moved_and_removed() {
    let stage = Stage::new();
    stage.install().ok();
    let user = format!("user/{}", nix::unistd::geteuid());
    let misplaced = format!("{user}/mlxctl");
    let misplace = || {
        let plist = stage.plist();
        assert_eq!(stage.launchd.launchctl(&["bootout", &stage.service()]).0, 0);
        assert_eq!(stage.launchd.launchctl(&["bootstrap", &user, plist.to_str().unwrap()]).0, 0);
    };
    misplace();
    let status = stage.agent(&["status", "--json"]);
    let view: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!((view["loaded"].as_bool(), view["misplaced"].as_str()), (Some(true), Some(user.as_str())));
    assert!(view["problems"][0].as_str().unwrap().contains("agent install moves it"), "{view}");
    let restart = stage.agent(&["restart"]);
    assert_eq!((restart.code, restart.err.contains("agent install")), (1, true), "{}", restart.err);
    let rehearsal =
        stage.agent(&["install", "--dry-run", "--program", stage.program().to_str().unwrap()]).ok();
    assert!(rehearsal.out.contains(&format!("launchctl bootout {misplaced}")), "{}", rehearsal.out);

    let moved = stage.install().ok();
    assert!(moved.err.contains(&format!("{user}; moving it")), "{}", moved.err);
    assert_eq!(stage.launchd.launchctl(&["print", &misplaced]).0, 113);
    assert!(stage.printed().pid.is_some());

    misplace();
    let rehearsal = stage.agent(&["uninstall", "--dry-run"]).ok();
    assert!(rehearsal.out.contains(&format!("launchctl bootout {misplaced}")), "{}", rehearsal.out);
    stage.agent(&["uninstall"]).ok();
    for service in [&misplaced, &stage.service()] {
        assert_eq!(stage.launchd.launchctl(&["print", service]).0, 113, "{service}");
    }
    assert!(!stage.plist().exists());
}

/// A Mac without a logged-in user has no GUI domain at all, and reports that with the same code as for sudo.
#[test]
fn without_a_gui_domain_the_installation_says_where_to_log_in() {
    let stage = Stage::new();
    stage.launchd.set("bootstrap-codes", "125");
    stage.launchd.set("managername", "Background\n");
    let done = stage.install();
    assert_eq!(done.code, 1);
    assert!(done.err.contains("code 125") && done.err.contains("SSH"), "{}", done.err);
}

#[test]
fn uninstalling_ends_the_job_removes_its_file_and_keeps_the_data() {
    let stage = Stage::new();
    stage.install().ok();
    let done = stage.agent(&["uninstall"]).ok();
    assert_eq!(done.out, "mlxctl is gone\n");
    assert_eq!(stage.launchd.launchctl(&["print", &stage.service()]).0, 113);
    assert!(!stage.plist().exists());
    assert!(stage.instance.folder.path().join("logs").is_dir(), "its data was removed too");
    assert_eq!(stage.agent(&["uninstall"]).ok().out, "mlxctl is not installed\n");
}

#[test]
fn a_dry_run_shows_every_call_and_makes_none() {
    let stage = Stage::new();
    let done = stage.agent(&["install", "--dry-run"]).ok();
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", done.out);
    assert!(lines[0].starts_with("would write  ") && lines[0].ends_with("LaunchAgents/mlxctl.plist"));
    for (line, verb) in lines[1..].iter().zip(["enable", "bootstrap", "print"]) {
        assert!(line.starts_with(&format!("would call   launchctl {verb} gui/")), "{line}");
    }
    assert!(!stage.plist().exists() && stage.launchd.verbs().is_empty());

    stage.install().ok();
    let calls = stage.launchd.verbs();
    let done = stage.agent(&["uninstall", "--dry-run"]).ok();
    assert!(done.out.contains("would call   launchctl bootout gui/"), "{}", done.out);
    assert!(done.out.contains("would remove "), "{}", done.out);
    assert_eq!(stage.launchd.verbs(), calls);
}

#[test]
fn a_disabled_job_is_enabled_and_installed() {
    let stage = Stage::new();
    stage.launchd.launchctl(&["disable", &stage.service()]);
    stage.install().ok();
    assert!(stage.printed().pid.is_some());
}

#[test]
fn over_ssh_without_a_session_the_installation_says_where_to_log_in() {
    let stage = Stage::new();
    stage.launchd.set("no-session", "");
    stage.launchd.set("managername", "Background\n");
    let done = stage.install();
    assert_eq!(done.code, 1);
    assert!(done.err.contains("no process") && done.err.contains("SSH"), "{}", done.err);
}

#[test]
fn a_missing_program_fails_the_installation() {
    let stage = Stage::new();
    std::fs::remove_file(stage.program()).unwrap();
    let done = stage.install();
    assert_eq!(done.code, 1);
    assert!(done.err.contains("exit 78 (EX_CONFIG)"), "{}", done.err);
}

#[test]
fn no_agent_is_installed_next_to_a_supervisor_started_by_hand() {
    let stage = Stage::new();
    stage.answer_as(4711);
    let done = stage.install();
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("another supervisor of this registry is already running, pid 4711"),
        "{}",
        done.err
    );
    assert!(stage.launchd.verbs().is_empty(), "launchd was touched");
}

#[test]
fn the_status_combines_both_views() {
    let stage = Stage::new();
    let done = stage.agent(&["status"]);
    assert_eq!(done.code, 3);
    assert!(done.err.contains("mlxctl is not installed"), "{}", done.err);

    stage.install().ok();
    let pid = stage.printed().pid.unwrap();
    let silent = stage.agent(&["status"]);
    assert_eq!(silent.code, 3);
    assert!(silent.out.contains(&format!("pid {pid} is running but does not answer")), "{}", silent.out);

    stage.answer_as(pid);
    let program = stage.program();
    let done = stage.agent(&["status", "--json"]).ok();
    let view: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(view["schema"], 1);
    assert_eq!((view["loaded"].as_bool(), view["pid"].as_i64()), (Some(true), Some(pid.into())));
    assert_eq!(view["supervisor"]["pid"], pid);
    assert_eq!(view["program"], program.to_str().unwrap());
    assert_eq!((&view["file_state"], &view["problems"]), (&"current".into(), &serde_json::json!([])));
    assert_eq!(view["models"][0]["name"], "32b");
}

#[test]
fn restarting_what_is_not_installed_says_so() {
    let stage = Stage::new();
    let done = stage.agent(&["restart"]);
    assert_eq!(done.code, 3);
    assert!(done.err.contains("mlxctl agent install"), "{}", done.err);
}

#[test]
fn a_supervisor_that_refuses_to_hand_over_is_replaced_by_force() {
    let stage = Stage::new();
    stage.install().ok();
    let before = stage.printed().pid.unwrap();
    let asked = stage.answer_as(before);
    let done = stage.agent(&["restart"]).ok();
    let after = stage.printed().pid.unwrap();
    assert_ne!(before, after);
    assert!(done.out.contains(&format!("pid {after}")), "{}", done.out);
    assert!(asked.lock().unwrap().iter().any(|(request, _)| request == "POST /v1/handover"));
    assert_eq!(stage.launchd.verbs().last().map(String::as_str), Some("kickstart"));
}

#[test]
fn each_difference_in_a_file_is_shown_with_its_consequence() {
    let stage = Stage::new();
    let plist = |arguments: &[&str]| {
        let output = stage.instance.command().arg("plist").args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = plist(&[]);
    assert_eq!(code, 0);
    let file = stage.instance.folder.path().join("mine.plist");
    std::fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(plist(&["--check", file]), (0, format!("{file} matches the registry\n")));

    std::fs::write(file, text.replace("<key>KeepAlive</key>", "<key>Disabled</key>")).unwrap();
    let (code, said) = plist(&["--check", file]);
    assert_eq!(code, 1);
    assert!(
        said.contains("KeepAlive\n  file      -\n  registry  true\n  so        a supervisor that ends"),
        "{said}"
    );
    assert!(said.contains("Disabled\n"), "{said}");

    std::fs::write(file, "no property list").unwrap();
    assert_eq!(plist(&["--check", file]).0, 1);
}
