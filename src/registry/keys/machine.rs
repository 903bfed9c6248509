//! The keys that are about the machine: everything but `[[model]]`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::Maybe;
use super::table::{Key, Keys, Over, Place, Table, Words, either, keys, range, shares};
use super::written::Written;
use crate::registry::choices::{NotifyKind, PowerChoice, ProcessType, YieldAction};
use crate::registry::notes::At;
use crate::registry::reader::Section;
use crate::units::{Bytes, Percent};

keys! {
    RawPaths of "paths" {
        /// the folder that contains everything else: `~/Library/Application Support/mlxctl` on a Mac, `$XDG_DATA_HOME/mlxctl`
        /// or `~/.local/share/mlxctl` elsewhere
        root: path("/Users/Shared/mlxctl") => "the per-user data folder";
        /// the virtual environment
        venv: path("mlx_venv") = "mlx_venv".into();
        /// log files
        logs: path("logs") = "logs".into();
        /// sockets, locks, records of running backends
        run: path("run") = "run".into();
        /// what survives a restart of the machine: learned values, keys, events
        state: path("state") = "state".into();
    }
}

keys! {
    RawPython of "python" {
        /// the Python to create the virtual environment with, instead of the one found automatically
        interpreter: path("/opt/homebrew/bin/python3");
        /// packages of the virtual environment; the platform's mlx is added. mlx-lm must be pinned with `==` and be at least
        /// 0.32.0: in earlier versions a model's `model_file` runs code (CVE-2026-5843), and `/health` stays 200 when the
        /// generation thread is dead
        packages: list("mlx-lm==0.32.2") = vec!["mlx-lm==0.32.2".to_owned()];
    }
}

keys! {
    RawNetwork of "network" {
        /// the IP address the gates listen on
        host: address("127.0.0.1") = "127.0.0.1".to_owned();
        /// networks (`"192.168.132.0/24"`) or single addresses whose clients are served; empty: every client that
        /// reaches the address
        allow_from: list("192.168.1.0/24") => "`[]`";
        /// origins of web pages, desktop apps and browser extensions that get CORS headers, each exactly as it is
        /// sent: `"https://chat.example.org"`, `"app://obsidian.md"`, `"chrome-extension://ID"`; not `"*"` or `"null"`
        allow_origins: list("https://chat.example.org") => "`[]`";
        /// host names a request may use for this machine, in addition to the address
        allow_hosts: list("mac.local") => "`[]`";
        /// whether clients need a bearer key
        require_key: flag = false;
        /// allows `0.0.0.0` and `::` as host
        expose: flag = false;
    }
}

keys! {
    RawReserve of "memory.reserve" {
        /// shown in the budget
        name: text("macOS + apps") => "required";
        /// how much
        size: size => "required";
        /// counted only while a program with one of these names is running; if omitted, always
        while_running: list("Civilization V");
    }
}

keys! {
    RawReserves of "memory" {
        /// memory that models never get, and what it is for
        reserve: tables(RawReserve) => "`[]`";
    }
}

keys! {
    /// What the registry says about memory pressure and about programs that the models yield to.
    #[derive(Debug, Clone, PartialEq, Eq)]
    PressureSettings() from RawPressure of "memory" {
        /// names of programs the models yield to while they are running
        yield_to as "yield": list("Civilization V") = Vec::new();
        /// what to do then: `trim` releases cached memory, `lower_priority` runs backends behind everything
        /// else, `refuse_manual` starts no manual model without `--force`, `stop_manual` drains and stops those that
        /// run, `hold` queues new requests to all models, as while a model loads; requests in progress finish
        yield_actions: words(YieldAction, "is not a yield action")
            = [YieldAction::Trim, YieldAction::LowerPriority].into();
        /// also while such a program runs: the share of the time that the models work, `"50%"`. After a generation step that
        /// took t (a token, or a piece of a prompt), the GPU rests for t · (100 − share) / share: at `"50%"` as long as the
        /// step took, at `"25%"` three times as long
        pace: percent(5..=95);
        /// how long such a program must be gone before it counts as ended, for everything above (launchers restart games)
        yield_hold: time = Duration::from_secs(15);
        /// how long memory pressure must be critical before a manual model is stopped, the largest first; and
        /// again before the next one
        critical_hold: time = Duration::from_secs(30);
        /// how long pressure must be normal before it counts as over
        calm_hold: time = Duration::from_secs(120);
    }
}

impl Default for PressureSettings {
    fn default() -> Self {
        RawPressure::default().valid()
    }
}

keys! {
    /// What happens to manual models while power is short; always-on ones keep serving.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    Power() from RawPower of "power" {
        /// on battery power: `serve`: nothing changes; `refuse_manual`: manual models are not started;
        /// `stop_manual`: running ones are also drained and stopped
        on_battery: word(PowerChoice) = PowerChoice::Serve;
        /// the same in low power mode (macOS), or under the profile `low-power` (Linux)
        low_power: word(PowerChoice) = PowerChoice::Serve;
    }
}

keys! {
    RawAgent of "agent" {
        /// its name, and its file's; letters, digits, `.`, `_`, `-`
        label: text("org.example.mlxctl") = "mlxctl".to_owned();
        /// launchd's ProcessType. `Background` throttles the agent and every backend (macOS's `DARWIN_BG`) and cannot
        /// be lifted for a single one; it may cost most of the decode speed, which `mlxctl bench` measures
        process_type: word(ProcessType) = ProcessType::Standard;
        /// niceness; higher values yield more
        nice: number(i8, -20..=20) = 0;
        /// launchd's LowPriorityIO
        low_priority_io: flag = false;
        /// PATH of the agent
        path: text("/usr/bin:/bin") => "the venv's `bin`, then `/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin`";
        /// its working directory
        working_directory: path(".") => "`paths.root`";
        /// its stdout and stderr
        log: path("logs/mlxctl.log") => "`mlxctl.log` in `paths.logs`";
        /// how long launchd waits before it kills; longer than the slowest stop
        exit_timeout: time => "the slowest model's `drain` + `term` and 30 s more";
        /// launchd's ThrottleInterval: shortest time between two starts of the supervisor; whole seconds
        throttle_interval: time = Duration::from_secs(10);
        /// its soft limit on open files (launchd's default is 256); every client needs two
        open_files: number(u64, 256..=1 << 20) = 8192;
        /// variables in addition to PATH, `"NAME=value"` each, for the supervisor and every backend: launchd does not
        /// know a shell's `HF_HOME`. `PYTHON*`, `CONDA_*`, `MLXCTL*` and others that decide what Python imports are
        /// refused
        environment: list("HF_HOME=/Volumes/Models/huggingface") => "`[]`";
    }
}

keys! {
    /// How the owner is told of what matters.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Notify() from RawNotify of "notify" {
        /// a program and its arguments, run without a shell for each notification, with the PATH of `[agent]`: it gets JSON
        /// on stdin, and the same in `MLXCTL_NOTIFY_…` variables
        command: list("/usr/local/bin/tell-me") = Vec::new();
        /// a macOS notification through `osascript`
        desktop: flag = false;
        /// what to notify about: an always-on model that `failed` or is quarantined, a start that was `refused`, a kernel
        /// `panic`, a `disk` that cannot be written, a bearer key that was revoked
        kinds: words(NotifyKind, "is not a kind of notification")
            = NotifyKind::WORDS.iter().map(|(_, kind)| *kind).collect();
    }
}

keys! {
    RawMetrics of "metrics" {
        /// a separate listener for Prometheus, `"127.0.0.1:9464"`: answers `GET /metrics` and nothing else, without
        /// a key, to the clients that `allow_from` in `[network]` lets in. If omitted, only the control socket has them
        address: address("127.0.0.1:9464");
    }
}

keys! {
    RawPage of "page" {
        /// where the page is served, `"192.168.1.10:9480"`, to the clients that `allow_from` in `[network]` lets in.
        /// If omitted, there is none
        address: address("127.0.0.1:9480");
    }
}

keys! {
    RawRouter of "router" {
        /// its port on `host` of `[network]`; not used by anything else
        port: number(u16, 1..=65_535) => "required";
    }
}
