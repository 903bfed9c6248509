//! Power source and idle sleep on macOS, through `pmset` and `caffeinate`. Pure except for [`ask`] and [`hold`], and
//! tested on every system against fake programs.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::host::seam::{Power, SleepHold};

/// `pmset -g batt` names the source in its first line; `pmset -g` has `lowpowermode 1`, or `powermode`, whose 1 is low
/// and 2 is high, on machines with three modes (pmset(1)).
pub(super) fn parse(battery: &str, settings: &str) -> Power {
    let source = battery.lines().next().unwrap_or_default();
    let setting = |name: &str| {
        settings.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| words.next()).flatten()
        })
    };
    Power {
        on_battery: match source {
            _ if source.contains("'Battery Power'") => Some(true),
            // A UPS is not the machine's own battery: the owner decided to run on it.
            _ if source.contains("'AC Power'") || source.contains("'UPS Power'") => Some(false),
            _ => None,
        },
        low_power: setting("lowpowermode").or_else(|| setting("powermode")).map(|mode| mode == "1"),
    }
}

/// Runs `pmset` twice, which takes some 20 ms.
pub(super) fn ask(pmset: &Path) -> io::Result<Power> {
    let output = |arguments: &[&str]| {
        let done = Command::new(pmset).args(arguments).stdin(Stdio::null()).output()?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        Err(io::Error::other(format!("pmset {} failed: {}", arguments.join(" "), done.status)))
    };
    Ok(parse(&output(&["-g", "batt"])?, &output(&["-g"])?))
}

/// `caffeinate -i` prevents idle sleep while it runs, which with `-w` is at most as long as this process
/// (caffeinate(8)). A closed lid, or the menu, still puts the machine to sleep. A child rather than our own assertion:
/// `pmset -g assertions` shows it, and a crash leaves nothing behind.
pub(super) fn hold(caffeinate: &Path) -> io::Result<SleepHold> {
    let child = Command::new(caffeinate)
        .args(["-i", "-w", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Box::new(Caffeinate(child)))
}

/// Kills the child when dropped.
struct Caffeinate(Child);

impl Drop for Caffeinate {
    fn drop(&mut self) {
        // It has nothing to tear down. If it is gone already, this only reaps it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn transcript(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/pmset");
        fs_err::read_to_string(folder.join(name)).unwrap()
    }

    fn read(battery: &str, settings: &str) -> (Option<bool>, Option<bool>) {
        let Power { on_battery, low_power } = parse(&transcript(battery), &transcript(settings));
        (on_battery, low_power)
    }

    #[test]
    fn source_and_mode_are_read_from_what_pmset_prints() {
        assert_eq!(read("batt-charging.txt", "g-two-modes-off.txt"), (Some(false), Some(false)));
        assert_eq!(read("batt-discharging.txt", "g-two-modes-low.txt"), (Some(true), Some(true)));
        assert_eq!(read("batt-desktop.txt", "g-three-modes-low.txt"), (Some(false), Some(true)));
        assert_eq!(read("batt-ups.txt", "g-three-modes-high.txt"), (Some(false), Some(false)));
    }

    #[test]
    fn what_pmset_does_not_say_is_not_known() {
        assert_eq!(parse("", ""), Power::default());
        assert_eq!(read("batt-none.txt", "g-no-mode.txt"), (None, None));
    }

    fn program(folder: &Path, text: &str) -> std::path::PathBuf {
        let path = folder.join("program");
        crate::program::write(&path, &format!("#!/bin/sh\n{text}\n"));
        path
    }

    #[test]
    fn pmset_is_asked_for_both() {
        let folder = tempfile::tempdir().unwrap();
        let transcripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/pmset");
        let script = format!(
            "case \"$*\" in '-g batt') cat '{0}/batt-discharging.txt' ;; -g) cat '{0}/g-two-modes-low.txt' ;; *) exit 64 ;; esac",
            transcripts.display()
        );
        let power = ask(&program(folder.path(), &script)).unwrap();
        assert_eq!(power, Power { on_battery: Some(true), low_power: Some(true) });
        assert!(ask(&program(folder.path(), "exit 1")).unwrap_err().to_string().contains("pmset -g batt"));
        assert!(ask(&folder.path().join("none")).is_err());
    }

    #[test]
    fn caffeinate_lives_as_long_as_the_hold_and_watches_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let script =
            format!("echo \"$$ $*\" > '{0}.new'; mv '{0}.new' '{0}'; exec sleep 600", said.display());
        let hold = hold(&program(folder.path(), &script)).unwrap();
        let began = Instant::now();
        let text = loop {
            match fs_err::read_to_string(&said) {
                Ok(text) => break text,
                Err(_) => assert!(began.elapsed() < Duration::from_secs(60)),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let (pid, arguments) = text.trim().split_once(' ').unwrap();
        assert_eq!(arguments, format!("-i -w {}", std::process::id()));
        let alive = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), None).is_ok();
        assert!(alive());
        drop(hold);
        assert!(!alive(), "ended and waited for");
    }
}
