//! Sends one message: runs a child process with a time limit. Blocks.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Message;
use crate::registry::Notify;
use crate::terminal::shown;

/// How long a command may take to end.
const LIMIT: Duration = Duration::from_secs(30);
/// How often to check whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How many of the last bytes of its stderr are kept.
const KEPT: usize = 4096;

/// The script gets the texts as arguments, so they are never part of its source.
const SCRIPT: [&str; 3] =
    ["on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run"];

/// A way to notify the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    Command(Vec<String>),
    Desktop,
}

impl Way {
    /// The key in `[notify]` that configures it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Desktop => "desktop",
        }
    }
}

/// The ways that the registry names.
pub(crate) fn ways(notify: &Notify) -> Vec<Way> {
    let command = (!notify.command.is_empty()).then(|| Way::Command(notify.command.clone()));
    command.into_iter().chain(notify.desktop.then_some(Way::Desktop)).collect()
}

/// Sends a message one way and waits for that; `path`: the PATH in which a bare program name is looked up.
///
/// # Errors
/// What went wrong, in one sentence.
pub(crate) fn send(way: &Way, message: &Message, path: &str) -> Result<(), String> {
    match way {
        Way::Command(argv) => run(argv, message, path, LIMIT),
        Way::Desktop if cfg!(target_os = "macos") => run(&desktop(message), message, path, LIMIT),
        Way::Desktop => Err("only macOS has these notifications; set a `command` instead".into()),
    }
}

/// The program that shows it on a Mac.
fn desktop(message: &Message) -> Vec<String> {
    let script = SCRIPT.into_iter().flat_map(|line| ["-e", line]);
    let program = ["/usr/bin/osascript"].into_iter().chain(script).map(str::to_owned);
    program.chain([message.title().to_owned(), message.body()]).collect()
}

fn run(argv: &[String], message: &Message, path: &str, limit: Duration) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no program is set".into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .envs(message.variables())
        .current_dir(Path::new("/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // So that its children can be killed with it when the time is up.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", shown(program)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // The command may not read it.
        let _ = stdin.write_all(message.json().as_bytes());
    }
    let mut said = Vec::new();
    let ended = watch(&mut child, limit, &mut said);
    let text = String::from_utf8_lossy(&said);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let last = last.map_or_else(String::new, |line| format!(": {}", shown(line)));
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("{} failed ({status}){last}", shown(program))),
        Ok(None) => Err(format!(
            "{} took more than {} and was ended{last}",
            shown(program),
            humantime::format_duration(limit)
        )),
        Err(error) => Err(format!("{} could not be waited for: {error}", shown(program))),
    }
}

/// Waits for the child to end; `None`: the time was up, and its group was killed.
fn watch(child: &mut Child, limit: Duration, said: &mut Vec<u8>) -> io::Result<Option<ExitStatus>> {
    let mut stderr = child.stderr.take();
    if let Some(pipe) = &stderr {
        // A process it leaves behind may hold the pipe open.
        fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let until = Instant::now() + limit;
    loop {
        let ended = child.try_wait()?;
        if let Some(pipe) = &mut stderr {
            take(pipe, said);
        }
        if ended.is_some() {
            return Ok(ended);
        }
        if Instant::now() >= until {
            // It may have ended just now.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Reads what is there, up to a pipe's capacity, and keeps the end of it.
fn take(pipe: &mut impl Read, said: &mut Vec<u8>) {
    let mut buffer = [0; KEPT];
    for _ in 0..64 {
        match pipe.read(&mut buffer) {
            Ok(length) if length > 0 => said.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    said.drain(..said.len().saturating_sub(KEPT));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/usr/bin:/bin";

    fn message() -> Message {
        Message::test(std::time::SystemTime::UNIX_EPOCH)
    }

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_command_gets_the_document_and_the_variables_and_no_shell_reads_its_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        let mut argv = shell("cat > \"$1\"; printf '%s|%s' \"$MLXCTL_NOTIFY_KIND\" \"$2\" >> \"$1\"");
        argv.extend(["sh".into(), file.display().to_string(), "$(id) `id`; id".into()]);
        run(&argv, &message(), PATH, LIMIT).unwrap();
        let told = fs_err::read_to_string(&file).unwrap();
        assert_eq!(told, format!("{}test|$(id) `id`; id", message().json()));
    }

    #[test]
    fn a_failure_quotes_the_commands_last_line() {
        let why = run(&shell("echo first >&2; echo 'no token' >&2; exit 3"), &message(), PATH, LIMIT);
        let why = why.unwrap_err();
        assert!(why.contains("exit status: 3") && why.ends_with(": no token"), "{why}");
        let why = run(&["no-such-program".to_owned()], &message(), PATH, LIMIT).unwrap_err();
        assert!(why.starts_with("cannot run no-such-program"), "{why}");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let short = Duration::from_millis(1500);
        let why = run(&shell(&script), &message(), PATH, short).unwrap_err();
        assert!(why.contains("took more than 1s 500ms"), "{why}");
        let pid: i32 = fs_err::read_to_string(&file).unwrap().trim().parse().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        // It is a zombie until init has reaped it.
        while nix::sys::signal::kill(Pid::from_raw(pid), None).is_ok() && !zombie(pid) {
            assert!(Instant::now() < until, "{pid} lives");
            std::thread::sleep(LOOK);
        }
    }

    fn zombie(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn a_command_that_leaves_a_child_behind_or_floods_its_stderr_is_not_waited_for() {
        let began = Instant::now();
        run(&shell("sleep 20 & exit 0"), &message(), PATH, LIMIT).unwrap();
        let flood = shell(
            "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; echo end >&2; exit 1",
        );
        assert!(run(&flood, &message(), PATH, LIMIT).unwrap_err().ends_with(": end"));
        assert!(began.elapsed() < Duration::from_secs(20), "the child that stayed was waited for");
    }

    #[test]
    fn a_macs_notification_has_its_texts_as_arguments() {
        let argv = desktop(&message());
        assert_eq!(argv[0], "/usr/bin/osascript");
        assert_eq!(argv[1..7], ["-e", SCRIPT[0], "-e", SCRIPT[1], "-e", SCRIPT[2]]);
        assert_eq!(argv[7..], ["mlxctl: test", "this is a test of [notify]. Try: no action needed"]);
    }

    #[test]
    fn the_ways_are_those_that_the_registry_names() {
        let of = |text: &str| {
            let text = format!("[notify]\n{text}\n[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 1\n");
            let registry = crate::registry::Registry::parse(Path::new("/etc/m.toml"), &text).unwrap();
            ways(&registry.notify)
        };
        assert_eq!(of(""), []);
        assert_eq!(of("desktop = true"), [Way::Desktop]);
        let both = of("desktop = true\ncommand = [\"./tell\", \"a b\"]");
        assert_eq!(both, [Way::Command(vec!["/etc/tell".into(), "a b".into()]), Way::Desktop]);
    }
}
