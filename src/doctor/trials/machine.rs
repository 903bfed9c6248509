//! Trials of what the machine reports about itself.

use std::time::{Duration, Instant};

use super::{Not, Outcome, Trial, seen};
use crate::host::{self, Host};
use crate::units::Bytes;

pub(super) const TRIALS: &[Trial] = &[
    Trial { id: "facts", without: "budget and bench have no facts about the machine", run: facts },
    Trial { id: "boot-id", without: "a pid from an earlier boot could be taken for a backend", run: boot_id },
    Trial { id: "clocks", without: "deadlines are wrong after sleep", run: clocks },
    Trial { id: "memory", without: "starts cannot be judged by free memory", run: memory },
    Trial { id: "pressure", without: "memory pressure goes unnoticed", run: pressure },
    Trial { id: "swap", without: "the doctor does not see that models are swapped out", run: swap },
    Trial { id: "gpu-limit", without: "only MLX's own word limits the GPU", run: gpu_limit },
    Trial { id: "power-source", without: "[power] of the registry has no effect", run: power },
    Trial { id: "sleep-hold", without: "an idle machine sleeps in the middle of an answer", run: sleep_hold },
];

fn facts(host: &dyn Host) -> Outcome {
    let facts = host.facts();
    let chip = facts.chip.as_deref().unwrap_or("an unknown chip");
    let known = facts.memory > Bytes::ZERO && facts.cores > 0 && facts.os.contains(' ');
    seen(known, format!("{} on {chip}, {} cores, {}", facts.os, facts.cores, facts.memory))
}

fn boot_id(_: &dyn Host) -> Outcome {
    let (first, second) = (host::boot_id()?, host::boot_id()?);
    seen(!first.is_empty() && first == second, first)
}

/// Both clocks must advance alike while the machine is awake: any difference between them counts as sleep.
fn clocks(host: &dyn Host) -> Outcome {
    const WAIT: Duration = Duration::from_millis(100);
    /// A larger gap means that the thread waited for a processor between two readings; the trial is repeated.
    const APART: Duration = Duration::from_millis(20);
    const TRIES: u32 = 20;
    let mut said = String::new();
    for _ in 0..TRIES {
        let (now, awake, instant) = (host.now(), host.awake(), Instant::now());
        std::thread::sleep(WAIT);
        let (now, awake, instant) = (host.now().since(now), host.awake().since(awake), instant.elapsed());
        let ms = |duration: Duration| duration.as_millis();
        said = format!("{} ms, {} ms of it awake, {} ms by Instant", ms(now), ms(awake), ms(instant));
        if now >= WAIT && now.abs_diff(awake) < APART && awake.abs_diff(instant) < APART {
            return Ok(said);
        }
    }
    Err(Not::Promised(said))
}

fn memory(host: &dyn Host) -> Outcome {
    let (total, reading) = (host.facts().memory, host.memory()?);
    let available = reading.available.ok_or_else(|| Not::Promised("available memory is unknown".into()))?;
    seen(available > Bytes::ZERO && available <= total, format!("{available} of {total} available"))
}

fn pressure(host: &dyn Host) -> Outcome {
    // Any of the three is fine; a system that reports nothing is an error or counts as normal.
    Ok(format!("{:?}", host.memory()?.pressure).to_lowercase())
}

fn swap(host: &dyn Host) -> Outcome {
    let used = host.memory()?.swap_used;
    used.map(|used| format!("{used} in use")).ok_or_else(|| Not::Promised("the system does not say".into()))
}

fn gpu_limit(host: &dyn Host) -> Outcome {
    match host.memory()?.gpu_limit {
        Some(limit) => seen(limit > Bytes::ZERO, limit.to_string()),
        None if cfg!(target_os = "macos") => {
            Err(Not::Supported("iogpu.wired_limit_mb is 0: macOS decides, and mlxctl setup asks MLX".into()))
        }
        None => Err(Not::Supported("there is no GPU with memory of its own".into())),
    }
}

fn power(host: &dyn Host) -> Outcome {
    let power = host.power()?;
    let source = match power.on_battery {
        Some(true) => "on battery",
        Some(false) => "power adapter",
        None if cfg!(target_os = "macos") => return Err(Not::Promised("pmset names no source".into())),
        None => return Err(Not::Supported("the system does not report its power source".into())),
    };
    let mode = match power.low_power {
        Some(true) => "low power mode",
        Some(false) => "full speed",
        None => "no power modes",
    };
    Ok(format!("{source}, {mode}"))
}

fn sleep_hold(host: &dyn Host) -> Outcome {
    let hold = host.hold_sleep()?;
    drop(hold);
    Ok("held for a moment".to_owned())
}
