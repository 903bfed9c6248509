//! Turns a log's tail and an exit status into a readable failure. Pure.

use crate::host::Exit;
use crate::lifecycle::{Failure, FailureKind, Generation};

/// What a log line means, and what to do about it. Lines are searched from the end, signs in order.
struct Sign {
    /// Lower case; any of these in the line is enough.
    needles: &'static [&'static str],
    kind: FailureKind,
    meaning: &'static str,
    hint: &'static str,
}

const SIGNS: &[Sign] = &[
    Sign {
        needles: &["resource limit (499000)"],
        kind: FailureKind::ThreadDied,
        meaning: "out of Metal buffers",
        hint: "a known limit of MLX under steady load (mlx-lm issue 831); the restart clears it, and a lower memory.cache_limit makes it rarer",
    },
    Sign {
        needles: &["impacting interactivity", "callbackerrorimpactinginteractivity"],
        kind: FailureKind::ThreadDied,
        meaning: "macOS ended its GPU work to keep the screen responsive",
        hint: "environment = { AGX_RELAX_CDM_CTXSTORE_TIMEOUT = \"1\" } in the model's table relaxes that watchdog; a smaller server.prefill_step_size makes shorter GPU work; agent.process_type = \"Interactive\" raises its priority",
    },
    Sign {
        needles: &["callbackerrortimeout", "callbackerrorhang", "gpu timeout error", "gpu hang error"],
        kind: FailureKind::ThreadDied,
        meaning: "its GPU work took too long, so macOS ended it",
        hint: "a smaller server.prefill_step_size or memory.concurrency makes shorter GPU work; close what else uses the GPU; environment = { AGX_RELAX_CDM_CTXSTORE_TIMEOUT = \"1\" } in the model's table relaxes the watchdog",
    },
    Sign {
        needles: &["callbackerrorinnocentvictim", "callbackerrorsubmissionsignored", "gpu error/recovery"],
        kind: FailureKind::ThreadDied,
        meaning: "the GPU was reset because of some program's work on it",
        hint: "the restart clears it; Console.app shows under Crash Reports which program caused the reset",
    },
    Sign {
        needles: &["too many open files"],
        kind: FailureKind::Crashed,
        meaning: "its open-file limit is too low",
        hint: "ulimit -n 8192 in the shell before mlxctl serve, or agent.open_files = 8192 and mlxctl agent install; mlxctl doctor shows the limit",
    },
    Sign {
        needles: &[
            "library not loaded",
            "error while loading shared libraries",
            "cannot open shared object file",
        ],
        kind: FailureKind::NotPrepared,
        meaning: "a shared library that its Python needs is gone",
        hint: "probably removed by an upgrade of Python: mlxctl setup --verify finds and repairs that; if not, remove the environment (paths.venv) and run mlxctl setup",
    },
    Sign {
        needles: &[
            "out of memory",
            "insufficient memory",
            "unable to allocate",
            "cannot allocate memory",
            "memoryerror",
            "std::bad_alloc",
        ],
        kind: FailureKind::ThreadDied,
        meaning: "out of memory",
        hint: "lower memory.context or memory.concurrency, or free memory: mlxctl budget",
    },
    Sign {
        needles: &["address already in use"],
        kind: FailureKind::PortLost,
        meaning: "its port is taken",
        hint: "mlxctl doctor names the program",
    },
    Sign {
        needles: &["no space left on device", "disk quota exceeded", "file too large"],
        kind: FailureKind::NotPrepared,
        meaning: "the disk is full",
        hint: "free disk space; the start is retried",
    },
    Sign {
        needles: &["modulenotfounderror", "importerror"],
        kind: FailureKind::NotPrepared,
        meaning: "a Python module is missing",
        hint: "mlxctl setup",
    },
    Sign {
        needles: &["model type", "not supported."],
        kind: FailureKind::LoadFailed,
        meaning: "this mlx-lm does not know the model's architecture",
        hint: "mlxctl setup --upgrade, or another model: mlxctl use",
    },
    Sign {
        needles: &[
            "repository not found",
            "repositorynotfounderror",
            "localentrynotfounderror",
            "offlinemodeisenabled",
            "cannot find an appropriate cached snapshot",
            "model not found",
            "filenotfounderror",
            "no safetensors found",
        ],
        kind: FailureKind::LoadFailed,
        meaning: "the model's files were not found",
        hint: "mlxctl pull downloads them; mlxctl models lists what is there",
    },
    Sign {
        needles: &["permission denied"],
        kind: FailureKind::LoadFailed,
        meaning: "permission denied",
        hint: "mlxctl doctor names the file",
    },
];

/// The failure that an error text describes; of kind `fallback` if no sign is found in it.
pub(crate) fn explain(text: &str, fallback: FailureKind) -> Failure {
    let last =
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason was given");
    for line in text.lines().rev() {
        let lower = line.to_ascii_lowercase();
        let found = SIGNS.iter().find(|sign| match sign.needles {
            // This sign needs both halves.
            ["model type", rest] => lower.contains("model type") && lower.contains(rest),
            needles => needles.iter().any(|needle| lower.contains(needle)),
        });
        if let Some(sign) = found {
            let line = shorten(line.trim());
            return Failure::new(sign.kind, format!("{}: {line}", sign.meaning)).hint(sign.hint);
        }
    }
    Failure::new(fallback, shorten(last))
}

/// Why a run ended by itself, from its exit and its log since the spawn.
pub(crate) fn death(generation: Generation, exit: Exit, log: &str) -> Failure {
    // A killed process logs nothing about it, so errors in its log are about something else.
    let killed = matches!(exit, Exit::Signal(libc::SIGKILL | libc::SIGTERM));
    let Some(line) = telling_line(log).filter(|_| !killed) else {
        let failure = Failure::new(FailureKind::Crashed, format!("run {generation} {exit}"));
        return match exit {
            Exit::Signal(libc::SIGKILL) => {
                failure.hint("it was killed from outside mlxctl: by the out-of-memory killer or a person")
            }
            _ => failure,
        };
    };
    let told = explain(line, FailureKind::Crashed);
    let kind = if told.kind == FailureKind::ThreadDied { FailureKind::Crashed } else { told.kind };
    Failure { kind, text: format!("run {generation} {exit}: {}", told.text), ..told }
}

/// The last line about an error: the last line of an exception, a logged ERROR or CRITICAL, an abort's message, or a
/// rejected argument. Warnings do not count.
pub(crate) fn telling_line(log: &str) -> Option<&str> {
    log.lines().rev().map(str::trim).find(|line| {
        let error_name = line.split(':').next().is_some_and(|head| {
            !head.contains(' ') && (head.ends_with("Error") || head.ends_with("Exception"))
        });
        error_name
            || line.contains(" - ERROR - ")
            || line.contains(" - CRITICAL - ")
            || line.starts_with("libc++abi:")
            || line.starts_with("terminate called")
            // Dynamic loaders of macOS and Linux: "dyld[411]: Library not loaded: @rpath/libmlx.dylib".
            || line.starts_with("dyld[")
            || line.starts_with("dyld:")
            || line.contains(": error while loading shared libraries: ")
            || (line.starts_with("mlxctl:") && !line.starts_with("mlxctl: warning:"))
            // argparse: "python -m mlx_lm server: error: …".
            || line.split_once(": error: ").is_some_and(|(program, _)| !program.contains(" - "))
    })
}

fn shorten(line: &str) -> String {
    const LONGEST: usize = 300;
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    line.chars().take(LONGEST).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_error_is_explained_with_its_line_and_a_hint() {
        for (log, kind, starts) in [
            (
                "RuntimeError: [metal::malloc] Resource limit (499000) exceeded.",
                FailureKind::ThreadDied,
                "out of Metal buffers",
            ),
            (
                "RuntimeError: [malloc] Unable to allocate 21474836480 bytes.",
                FailureKind::ThreadDied,
                "out of memory",
            ),
            ("OSError: [Errno 98] Address already in use", FailureKind::PortLost, "its port is taken"),
            (
                "RuntimeError: [METAL] Command buffer execution failed: Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
                FailureKind::ThreadDied,
                "macOS ended its GPU work",
            ),
            (
                "RuntimeError: [METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
                FailureKind::ThreadDied,
                "its GPU work took too long",
            ),
            (
                "RuntimeError: [METAL] Command buffer execution failed: Innocent Victim of GPU Error/recovery (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)",
                FailureKind::ThreadDied,
                "the GPU was reset",
            ),
            (
                "RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
                FailureKind::ThreadDied,
                "out of memory",
            ),
            ("OSError: [Errno 24] Too many open files: 'x'", FailureKind::Crashed, "its open-file limit"),
            (
                "ImportError: dlopen(core.cpython-311-darwin.so, 0x0002): Library not loaded: @rpath/libmlx.dylib",
                FailureKind::NotPrepared,
                "a shared library",
            ),
            (
                "ImportError: libmlx.so: cannot open shared object file: No such file or directory",
                FailureKind::NotPrepared,
                "a shared library",
            ),
            ("OSError: [Errno 28] No space left on device", FailureKind::NotPrepared, "the disk is full"),
            ("ModuleNotFoundError: No module named 'mlx_lm'", FailureKind::NotPrepared, "a Python module"),
            (
                "ValueError: Model type foo not supported.",
                FailureKind::LoadFailed,
                "this mlx-lm does not know",
            ),
            ("FileNotFoundError: No safetensors found in /m", FailureKind::LoadFailed, "the model's files"),
        ] {
            let failure = explain(log, FailureKind::Crashed);
            assert_eq!(failure.kind, kind, "{log}");
            assert!(failure.text.starts_with(starts) && failure.text.ends_with(log), "{}", failure.text);
            assert!(failure.hint.is_some());
        }
    }

    #[test]
    fn a_death_is_described_by_its_exit_and_the_last_error_in_its_log() {
        let log = "2026-01-01 - INFO - Starting\nTraceback (most recent call last):\n  File \"x\", line 1\nOSError: [Errno 98] Address already in use\nbye\n";
        let failure = death(Generation(3), Exit::Code(1), log);
        assert_eq!(
            failure.text,
            "run #3 ended with code 1: its port is taken: OSError: [Errno 98] Address already in use"
        );
        assert_eq!(death(Generation(1), Exit::Signal(11), "all fine\n").text, "run #1 was ended by SIGSEGV");
        assert!(death(Generation(1), Exit::Signal(9), "").hint.is_some());
    }

    #[test]
    fn a_process_ended_by_its_loader_or_the_gpu_gets_a_hint() {
        let dyld = "dyld[411]: Library not loaded: /opt/homebrew/Python.framework/Python\n  Referenced from: <1> /venv/bin/python\n  Reason: tried: '/opt/homebrew/Python.framework/Python' (no such file)\n";
        let failure = death(Generation(1), Exit::Signal(6), dyld);
        assert_eq!(failure.kind, FailureKind::NotPrepared, "{failure:?}");
        assert!(failure.text.contains("was ended by SIGABRT: a shared library"), "{failure:?}");
        assert!(failure.hint.unwrap().contains("mlxctl setup"));
        let linux = "/venv/bin/python: error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file\n";
        assert!(death(Generation(1), Exit::Code(127), linux).hint.is_some());
        let gpu = "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution failed: Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)\n";
        let failure = death(Generation(1), Exit::Signal(6), gpu);
        assert_eq!(failure.kind, FailureKind::Crashed);
        assert!(failure.hint.unwrap().contains("AGX_RELAX_CDM_CTXSTORE_TIMEOUT"));
    }

    #[test]
    fn unrelated_log_lines_are_not_taken_as_the_reason() {
        let log =
            "2026-01-01 - ERROR - KeyError: 'x'\nmlxctl: warning: this mlx-lm starts no generation thread\n";
        assert_eq!(death(Generation(1), Exit::Signal(9), log).text, "run #1 was ended by SIGKILL");
        assert_eq!(
            death(Generation(1), Exit::Code(1), log).text,
            "run #1 ended with code 1: 2026-01-01 - ERROR - KeyError: 'x'"
        );
        let usage = "usage: server [-h]\npython -m mlx_lm server: error: unrecognized arguments: --no-such\n";
        assert_eq!(telling_line(usage), usage.lines().last());
    }

    #[test]
    fn an_unknown_error_is_passed_on_as_it_is() {
        assert_eq!(
            explain("a\nKeyError: 'x'\n\n", FailureKind::ThreadDied),
            Failure::new(FailureKind::ThreadDied, "KeyError: 'x'")
        );
        assert_eq!(explain("", FailureKind::Crashed).text, "no reason was given");
    }
}
