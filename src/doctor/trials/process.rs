//! Trials of what the system reports about processes and does to them.

use std::hint::black_box;
use std::io;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::subject::Subject;
use super::{Not, Outcome, Trial, seen};
use crate::host::{Exit, Host, Identity, Priority, Signal};
use crate::units::Bytes;

/// How long an event may take. Generous: a machine may be busy.
const LIMIT: Duration = Duration::from_secs(10);

/// Time between two checks of a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Stays up until its input ends.
const UP: &str = "echo up; read line";

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        id: "start-time",
        without: "a backend cannot be told from a stranger with its pid",
        run: start_time,
    },
    Trial { id: "zombie", without: "a dead backend counts as alive", run: zombie },
    Trial { id: "arguments", without: "a backend whose record was lost is not found", run: arguments },
    Trial { id: "program-name", without: "reserves of programs never take effect", run: program_name },
    Trial {
        id: "exit-child",
        without: "the end of a backend is noticed late and without its reason",
        run: exit_child,
    },
    Trial { id: "exit-orphan", without: "the end of an adopted backend is noticed late", run: exit_orphan },
    Trial { id: "footprint-self", without: "memory is not measured", run: footprint_self },
    Trial {
        id: "footprint-group",
        without: "memory of a backend's children is not counted",
        run: footprint_group,
    },
    Trial { id: "cpu-time", without: "a busy load looks like a hang", run: cpu_time },
    Trial { id: "port-owner", without: "a stranger on a backend's port is not noticed", run: port_owner },
    Trial { id: "priority", without: "backends cannot be given a lower priority", run: priority },
    Trial { id: "stop-group", without: "a stop cannot be proven", run: stop_group },
];

/// The identity of this process, as the host reports it.
fn own(host: &dyn Host) -> Result<Identity, Not> {
    let pid = std::process::id().cast_signed();
    host.identify(pid)?.ok_or_else(|| Not::Promised(format!("pid {pid}, this process, was not found")))
}

/// Waits until `holds` returns `true`; `false` after [`LIMIT`].
fn until(mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() >= LIMIT {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

fn start_time(host: &dyn Host) -> Outcome {
    let script = "echo up; read line; exec /bin/sh -c 'echo up again; read line'";
    let (mut subject, _) = Subject::start(host, script, "sh")?;
    let before = subject.who;
    subject.go_on()?;
    let line = subject.line()?;
    let after = host.identify(before.pid)?;
    seen(
        line == "up again" && after == Some(before),
        format!("the same before and after exec: {}", before.started),
    )
    .map_err(|_| Not::Promised(format!("{before:?} before exec, {after:?} after")))
}

fn zombie(host: &dyn Host) -> Outcome {
    // It is not waited for until the subject is dropped.
    let (mut subject, _) = Subject::start(host, UP, "sh")?;
    subject.go_on()?;
    let who = subject.who;
    let unseen = until(|| matches!(host.identify(who.pid), Ok(None)));
    let child = crate::host::identify_child(who.pid)?;
    seen(unseen && child == who, format!("not alive, and as a child still known as {}", child.started))
}

fn arguments(host: &dyn Host) -> Outcome {
    let marker = format!("mlxctl-trial-{}", std::process::id());
    let (subject, _) = Subject::start(host, UP, &marker)?;
    let found = host.find_by_argument(&marker);
    let one = found.iter().find(|found| found.who == subject.who);
    let whole =
        one.is_some_and(|found| found.arguments.last() == Some(&marker) && found.arguments.len() == 4);
    seen(
        whole,
        one.map_or_else(|| "the child was not found".to_owned(), |found| format!("{:?}", found.arguments)),
    )
}

fn program_name(host: &dyn Host) -> Outcome {
    let (_subject, _) = Subject::start(host, "echo up; exec sleep 600", "sh")?;
    let names = ["Sleep".to_owned(), "mlxctl-no-such-program".to_owned()];
    let mut running = Vec::new();
    let found = until(|| {
        running = host.running(&names);
        running.contains(&names[0])
    });
    seen(found && running.len() == 1, format!("of {}: {}", names.join(", "), running.join(", ")))
}

/// How the process ends, according to the host's event. `after` is called once the process is being watched.
fn watched(
    host: &dyn Host,
    who: Identity,
    after: impl FnOnce() -> io::Result<()>,
) -> Result<(Exit, Duration), Not> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let watch = host.watch(who)?;
        after()?;
        let began = Instant::now();
        match tokio::time::timeout(LIMIT, watch).await {
            Ok(exit) => Ok((exit, began.elapsed())),
            Err(_) => Err(Not::Promised(format!("no event within {} s", LIMIT.as_secs()))),
        }
    })
}

fn exit_child(host: &dyn Host) -> Outcome {
    let (mut subject, _) = Subject::start(host, "echo up; read line; exit 7", "sh")?;
    let who = subject.who;
    let (exit, after) = watched(host, who, || subject.go_on())?;
    seen(exit == Exit::Code(7), format!("{exit}, reported after {} ms", after.as_millis()))
}

/// A process whose parent has ended, like a backend whose supervisor has.
fn exit_orphan(host: &dyn Host) -> Outcome {
    let script = "sleep 600 </dev/null >/dev/null 2>&1 & echo $!";
    let mut shell = Command::new("/bin/sh");
    let ended = shell.args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let pid = String::from_utf8_lossy(&ended.stdout).trim().parse().map_err(io::Error::other)?;
    let who =
        host.identify(pid)?.ok_or_else(|| Not::Promised(format!("the orphan, pid {pid}, was not found")))?;
    let outcome = watched(host, who, || host.signal(who, Signal::Kill));
    if outcome.is_err() {
        // It must not stay behind; it was signalled already, or the host could not.
        host.signal(who, Signal::Kill)?;
    }
    let (exit, after) = outcome?;
    seen(exit == Exit::Unknown, format!("{exit}, reported after {} ms", after.as_millis()))
}

fn footprint_self(host: &dyn Host) -> Outcome {
    const BLOCK: u64 = 64 << 20;
    let who = own(host)?;
    let before = host.footprint(who)?.bytes;
    // Every page is written and no two are alike, so they are neither shared nor compressed.
    let block: Vec<u64> = (0..BLOCK / 8).collect();
    let with = host.footprint(who)?.bytes;
    drop(black_box(block));
    let grown = with.saturating_sub(before);
    let close = grown >= Bytes(48 << 20) && grown <= Bytes(96 << 20);
    seen(close && before > Bytes::ZERO, format!("{before}, and {grown} more with {} more", Bytes(BLOCK)))
}

fn footprint_group(host: &dyn Host) -> Outcome {
    let (subject, _) = Subject::start(host, "sleep 600 & echo up; wait", "sh")?;
    let with = host.footprint(subject.who)?.bytes;
    let (alone, _) = Subject::start(host, UP, "sh")?;
    let without = host.footprint(alone.who)?.bytes;
    let gone = host.signal(subject.who, Signal::Kill);
    seen(without > Bytes::ZERO && with > without, format!("{without} for a shell, {with} with its child"))
        .and_then(|seen| gone.map(|()| seen).map_err(Not::from))
}

/// Computes for a while. Mach's unit is 125/3 ns on Apple Silicon; forgetting that would exceed the tolerance here.
fn cpu_time(host: &dyn Host) -> Outcome {
    const WORK: Duration = Duration::from_millis(200);
    let who = own(host)?;
    let (before, began, mut sum) = (host.cpu_time(who)?, Instant::now(), 0_u64);
    while host.cpu_time(who)?.saturating_sub(before) < WORK && began.elapsed() < LIMIT {
        for number in 0..100_000_u64 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
    let (used, wall) = (host.cpu_time(who)?.saturating_sub(before), began.elapsed());
    // This process has few other threads; a busy machine gives it less, never much more than the wall-clock time.
    let plausible = used >= WORK && used < wall * 4;
    seen(plausible, format!("{} ms of {} ms", used.as_millis(), wall.as_millis()))
}

fn port_owner(host: &dyn Host) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (subject, _) = Subject::start(host, UP, "sh")?;
    let (ours, theirs) = (host.owns_port(own(host)?, port), host.owns_port(subject.who, port));
    drop(listener);
    let free = host.owns_port(subject.who, port);
    let answers = (ours, theirs, free) == (Some(true), Some(false), None);
    seen(answers, format!("ours: {}, a child's: {}, closed: {}", word(ours), word(theirs), word(free)))
}

fn word(owned: Option<bool>) -> &'static str {
    match owned {
        Some(true) => "its own",
        Some(false) => "another process's",
        None => "no process's",
    }
}

fn priority(host: &dyn Host) -> Outcome {
    let (subject, _) = Subject::start(host, UP, "sh")?;
    host.set_priority(subject.who, Priority::Background)?;
    match host.set_priority(subject.who, Priority::Normal) {
        Ok(()) => Ok("to the background and back".to_owned()),
        Err(error) => Ok(format!("to the background; not back: {error}")),
    }
}

fn stop_group(host: &dyn Host) -> Outcome {
    let (subject, _) = Subject::start(host, "sleep 600 & echo up; wait", "sh")?;
    let before = host.group_alive(subject.who);
    host.signal(subject.who, Signal::Term)?;
    let gone = until(|| !host.group_alive(subject.who));
    seen(before && gone, "SIGTERM ended the whole group".to_owned())
        .map_err(|_| Not::Promised(format!("alive before: {before}; gone after SIGTERM: {gone}")))
}
