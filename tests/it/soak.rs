//! Load and faults for half an hour: the supervisor uses no more at the end than at the beginning. `scripts/soak`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::dice::{Dice, number};
use crate::support::{Entry, Instance, signal, try_control, try_http};

/// What a process uses: resident KiB, descriptors, threads.
#[derive(Debug, Clone, Copy)]
struct Taken {
    kib: u64,
    descriptors: usize,
    threads: usize,
}

fn taken(pid: i32) -> Taken {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    Taken { kib: kib.unwrap(), descriptors: count("fd"), threads: count("task") }
}

#[test]
#[ignore = "takes as long as requested: scripts/soak"]
fn the_supervisor_uses_no_more_after_a_long_time_under_load_and_faults() {
    let minutes = number("MLXCTL_SOAK_MINUTES", 30);
    let quick = "restart = { stable_after = \"100ms\", backoff_min = \"100ms\", backoff_max = \"200ms\", max_crashes = 10000, window = \"1s\" }";
    let models = vec![
        Entry::new("a", "always").with(quick),
        Entry::new("b", "always").with(quick).faults(&["token=0.005"]),
    ];
    let instance = Instance::fake(models).serve();
    for name in ["a", "b"] {
        instance.wait_state(name, "ready");
    }
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let gates = [instance.gate("a"), instance.gate("b")];
    let socket = instance.root().join("run/mlxctl.sock");
    let samples = std::thread::scope(|scope| {
        for client in 0..8_usize {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || {
                let stream = client.is_multiple_of(2);
                let body = format!(
                    r#"{{"messages":[{{"role":"user","content":"x"}}],"max_tokens":16,"stream":{stream}}}"#
                );
                while !stop.load(Ordering::Relaxed) {
                    if try_http(gates[client % 2], "POST", "/v1/chat/completions", &body).is_some() {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let mut dice = Dice(number("MLXCTL_CHAOS_SEED", 1));
        let began = Instant::now();
        let mut samples: Vec<Taken> = Vec::new();
        let mut faults = 0_u64;
        while began.elapsed() < Duration::from_secs(60 * minutes) {
            std::thread::sleep(Duration::from_secs(2));
            faults += 1;
            match dice.roll(5) {
                0 => signal(instance.supervisor_pid(), Signal::SIGHUP),
                1 => drop(try_control(&socket, "GET", "/v1/status", "")),
                2 => drop(try_control(&socket, "POST", "/v1/models/a/restart", "{}")),
                3 => drop(std::net::TcpStream::connect(gates[0])),
                _ => {
                    if let Some(pid) = instance.model(["a", "b"][dice.roll(2)])["pid"].as_i64() {
                        signal(i32::try_from(pid).unwrap(), Signal::SIGKILL);
                    }
                }
            }
            if began.elapsed() >= Duration::from_secs(60 * (samples.len() as u64 + 1)) {
                let now = taken(instance.supervisor_pid());
                println!(
                    "{:3} min: {:6} KiB, {:3} descriptors, {} threads; {} answers, {faults} faults",
                    samples.len() + 1,
                    now.kib,
                    now.descriptors,
                    now.threads,
                    answered.load(Ordering::Relaxed)
                );
                samples.push(now);
            }
        }
        stop.store(true, Ordering::Relaxed);
        samples
    });
    // The first minutes fill caches and connections; from then on nothing may grow.
    let settled = &samples[samples.len() / 3..];
    let (Some(first), Some(last)) = (settled.first(), settled.last()) else { return };
    assert!(last.kib <= first.kib + 2048, "memory grew: {first:?}, then {last:?}");
    assert!(last.descriptors <= first.descriptors + 16, "descriptors leaked: {first:?}, then {last:?}");
    assert!(last.threads <= first.threads + 2, "threads leaked: {first:?}, then {last:?}");
}
