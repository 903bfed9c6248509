//! The systemd user unit, the counterpart of the launchd job. systemd.service(5), systemd.exec(5), systemd.kill(5).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::registry::Agent;

/// systemd restarts a supervisor whose event loop has not run for this long; its backends live on.
const WATCHDOG_SECONDS: u32 = 60;

/// The unit's name: the label with the suffix `.service`.
pub fn unit_name(agent: &Agent) -> String {
    format!("{}.service", agent.label)
}

/// The path of the unit, in `$XDG_CONFIG_HOME/systemd/user`, else `~/.config/systemd/user` (systemd.unit(5)).
pub(crate) fn unit_file(agent: &Agent, config_home: Option<&Path>, home: &Path) -> PathBuf {
    let base =
        config_home.filter(|path| path.is_absolute()).map_or_else(|| home.join(".config"), Path::to_owned);
    base.join("systemd/user").join(unit_name(agent))
}

/// The unit that runs `program serve --config config`; the same registry gives the same text.
///
/// `KillMode=process`: a backend outlives a supervisor that crashed or was replaced, and the next one adopts it;
/// the supervisor itself ends every backend when it is told to stop. `StartLimitIntervalSec=0`: like launchd,
/// systemd never gives up, because the supervisor itself waits for temporary problems to pass.
pub fn render(agent: &Agent, program: &Path, config: &Path) -> String {
    let seconds = agent.exit_timeout.as_secs() + u64::from(agent.exit_timeout.subsec_nanos() > 0);
    let io =
        if agent.low_priority_io { "IOSchedulingClass=best-effort\nIOSchedulingPriority=7\n" } else { "" };
    format!(
        "[Unit]
Description=mlxctl: local language models, kept served
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} serve --config {config}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
{environment}StandardOutput=append:{log}
StandardError=append:{log}
Restart=always
RestartSec=1
WatchdogSec={WATCHDOG_SECONDS}
KillMode=process
TimeoutStopSec={seconds}
LimitNOFILE={files}
Nice={nice}
{io}
[Install]
WantedBy=default.target
",
        program = word(&program.to_string_lossy(), true),
        config = word(&config.to_string_lossy(), true),
        folder = percent(&agent.working_directory.to_string_lossy()),
        environment = environment(agent),
        log = percent(&agent.log.to_string_lossy()),
        nice = agent.nice,
        files = agent.open_files,
    )
}

/// One line per variable, PATH first.
fn environment(agent: &Agent) -> String {
    let path = [("PATH".to_owned(), agent.path.clone())];
    let pairs = path.iter().chain(&agent.environment);
    pairs.map(|(name, value)| format!("Environment={}\n", word(&format!("{name}={value}"), false))).collect()
}

/// Escapes `%`, which begins a specifier everywhere in a unit.
fn percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// One quoted word of a list; in a command line, `$` has to be escaped as well.
fn word(text: &str, command: bool) -> String {
    let text = percent(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", if command { text.replace('$', "$$") } else { text })
}

/// The program in a line that [`render`] wrote: `ExecStart="/usr/bin/mlxctl" serve …`.
pub(crate) fn program_in(line: &str) -> Option<String> {
    let (quoted, _) = line.strip_prefix("ExecStart=\"")?.split_once("\" serve ")?;
    Some(quoted.replace("$$", "$").replace("%%", "%").replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// What systemd reports about the unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    /// Whether systemd has read a file of this name.
    pub loaded: bool,
    /// `active (running)`, `activating (auto-restart)`, `failed (failed)`.
    pub state: String,
    pub pid: Option<i32>,
    /// Automatic restarts since it was last started by hand.
    pub restarts: Option<u32>,
    /// How the last run ended: `success`, `exit-code`, `watchdog`.
    pub result: Option<String>,
}

/// The properties that [`Shown`] is read from.
pub(crate) const PROPERTIES: &str = "LoadState,ActiveState,SubState,MainPID,NRestarts,Result";

impl Shown {
    /// Reads `systemctl show --property=…`: `Name=value` lines, stable by systemctl(1).
    pub(crate) fn parse(output: &str) -> Self {
        let get = |name: &str| {
            output
                .lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|pair| pair.1)
        };
        let sub = get("SubState").unwrap_or_default();
        Self {
            loaded: get("LoadState") == Some("loaded"),
            state: format!("{} ({sub})", get("ActiveState").unwrap_or("unknown")),
            pid: get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0),
            restarts: get("NRestarts").and_then(|count| count.parse().ok()),
            result: get("Result").filter(|result| !result.is_empty()).map(str::to_owned),
        }
    }
}

/// systemctl and the unit to call it for.
#[derive(Debug, Clone)]
pub(crate) struct Systemctl {
    /// The program: `systemctl`, or a stand-in.
    pub program: PathBuf,
    pub unit: String,
}

/// Why systemctl did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It could not be called at all.
    #[error("cannot run {}: {source}", .program.display())]
    Call { program: PathBuf, source: std::io::Error },
    /// There is no user manager to talk to.
    #[error("no systemd user session answers: {0}")]
    NoSession(String),
    #[error("`systemctl --user {verb}` failed: {error}")]
    Refused { verb: String, error: String },
}

impl Error {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Call { .. } => "without systemd, run `mlxctl serve` under your own service manager",
            Self::NoSession(_) => "log in as that user (not with su or sudo), or `loginctl enable-linger`",
            Self::Refused { .. } => "see `journalctl --user -e`",
        }
    }
}

impl Systemctl {
    /// Calls `systemctl --user ARGUMENTS…` and returns its stdout.
    ///
    /// # Errors
    /// It is missing, has no manager to talk to, or refuses.
    pub(crate) fn call(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.program)
            .arg("--user")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Call { program: self.program.clone(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(if error.contains("connect to bus") {
            Error::NoSession(error)
        } else {
            Error::Refused { verb: arguments.join(" "), error }
        })
    }

    /// The unit as systemd reports it.
    ///
    /// # Errors
    /// As [`Self::call`]; a missing unit is not an error.
    pub(crate) fn show(&self) -> Result<Shown, Error> {
        let properties = format!("--property={PROPERTIES}");
        self.call(&["show", &self.unit, &properties]).map(|output| Shown::parse(&output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::launchd::tests::agent;

    #[test]
    fn names_with_spaces_and_special_characters_stay_one_word() {
        let mut agent = agent();
        agent.working_directory = "/100% mine".into();
        let unit = render(&agent, Path::new("/a b/$mlx\"ctl"), Path::new("/50%/models.toml"));
        assert!(unit.contains(r#"ExecStart="/a b/$$mlx\"ctl" serve --config "/50%%/models.toml""#), "{unit}");
        assert!(unit.contains("WorkingDirectory=/100%% mine\n"), "{unit}");
    }

    #[test]
    fn the_program_of_a_unit_is_found_again() {
        for program in ["/usr/bin/mlxctl", "/a b/100% $mlx\"ctl", "/back\\slash"] {
            let unit = render(&agent(), Path::new(program), Path::new("/c"));
            assert_eq!(unit.lines().find_map(program_in).as_deref(), Some(program));
        }
        assert_eq!(program_in("ExecStart=/usr/bin/python3 -m mlx_lm server"), None);
    }

    #[test]
    fn the_owners_choices_are_in_the_unit() {
        let (program, config) = (Path::new("/m"), Path::new("/c"));
        let unit = render(&agent(), program, config);
        assert!(
            unit.contains("Nice=10\nIOSchedulingClass=best-effort\nIOSchedulingPriority=7\n\n[Install]"),
            "{unit}"
        );
        assert!(unit.contains("TimeoutStopSec=300\n"), "{unit}");
        let mut agent = agent();
        agent.low_priority_io = false;
        assert!(!render(&agent, program, config).contains("IOScheduling"));
    }

    #[test]
    fn a_unit_is_found_where_systemd_looks_for_it() {
        let file = |xdg: Option<&str>| unit_file(&agent(), xdg.map(Path::new), Path::new("/home/me"));
        let name = "systemd/user/com.cherokee.mlx-server.service";
        assert_eq!(file(None), Path::new("/home/me/.config").join(name));
        assert_eq!(file(Some("/x")), Path::new("/x").join(name));
        assert_eq!(file(Some("relative")), Path::new("/home/me/.config").join(name));
    }

    #[test]
    fn systemds_view_is_read() {
        let text = "Result=success\nNRestarts=2\nMainPID=4711\nLoadState=loaded\nActiveState=active\n\
                    SubState=running\n";
        let shown = Shown::parse(text);
        assert_eq!(
            (shown.pid, shown.restarts, shown.state.as_str()),
            (Some(4711), Some(2), "active (running)")
        );
        assert!(shown.loaded);
        let missing = Shown::parse("MainPID=0\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n");
        assert!(!missing.loaded);
        assert_eq!(missing.pid, None);
    }
}
