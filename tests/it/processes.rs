//! A process is watched, measured and signalled by its identity: never a stranger with the same pid.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mlxctl::internals::host::{self, Exit, Host, Identity, Priority, Signal};
use mlxctl::internals::units::Bytes;

const LIMIT: Duration = Duration::from_secs(60);

/// A process of this test, which ends with it.
struct Own {
    host: Arc<dyn Host>,
    who: Identity,
    child: Child,
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.host.signal(self.who, Signal::Kill);
        let _ = self.child.wait();
    }
}

/// A shell that leads its own group and has run `script` up to the point where it prints "up". There it may `read`,
/// until [`Own::go_on`].
fn shell(script: &str) -> Own {
    let host = host::system();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdout(Stdio::piped()).stdin(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let who = host.identify(pid).unwrap().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.split_ascii_whitespace().next(), Some("up"));
    Own { host, who, child }
}

impl Own {
    fn go_on(&mut self) {
        self.child.stdin = None;
    }
}

async fn ended(host: &dyn Host, who: Identity) -> Exit {
    tokio::time::timeout(LIMIT, host.watch(who).unwrap()).await.unwrap()
}

async fn until(what: impl Fn() -> bool) {
    let poll = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, poll).await.unwrap();
}

fn stranger(who: Identity) -> Identity {
    Identity { started: who.started + 1, ..who }
}

#[tokio::test]
async fn a_child_says_how_it_ended() {
    let mut own = shell("echo up; read line; exit 5");
    let watch = own.host.watch(own.who).unwrap();
    own.go_on();
    assert_eq!(tokio::time::timeout(LIMIT, watch).await.unwrap(), Exit::Code(5));
    let own = shell("echo up; exec sleep 600");
    let watch = own.host.watch(own.who).unwrap();
    own.host.signal(own.who, Signal::Term).unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, watch).await.unwrap(), Exit::Signal(15));
    assert_eq!(own.host.identify(own.who.pid).unwrap(), None, "and is reaped");
}

#[tokio::test]
async fn a_process_that_is_not_a_child_is_watched_too() {
    let host = host::system();
    // The shell that started it ends at once, so it is not our child.
    let mut shell = Command::new("/bin/sh");
    let mut parent =
        shell.args(["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    parent.wait().unwrap();
    let who = host.identify(pid.trim().parse().unwrap()).unwrap().unwrap();
    let mut watch = host.watch(who).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), &mut watch).await;
    assert!(early.is_err(), "it lives, so the watch waits");
    // It is in this test's group, so the host must not signal the group here.
    host.signal(who, Signal::Kill).unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, watch).await.unwrap(), Exit::Unknown);
}

#[tokio::test]
async fn the_end_of_a_process_that_is_gone_is_known_at_once() {
    let mut own = shell("echo up; read line");
    own.go_on();
    own.child.wait().unwrap();
    assert_eq!(ended(&*own.host, own.who).await, Exit::Unknown);
    let living = shell("echo up; exec sleep 600");
    assert_eq!(ended(&*living.host, stranger(living.who)).await, Exit::Unknown);
    assert_eq!(own.host.footprint(own.who).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(!own.host.group_alive(own.who));
    own.host.signal(own.who, Signal::Kill).unwrap();
}

#[test]
fn a_stranger_with_the_same_pid_is_not_signalled() {
    let own = shell("echo up; exec sleep 600");
    let error = own.host.signal(stranger(own.who), Signal::Kill).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(own.host.identify(own.who.pid).unwrap(), Some(own.who), "it lives");
    assert!(own.host.cpu_time(stranger(own.who)).is_err());
    assert!(own.host.set_priority(stranger(own.who), Priority::Background).is_err());
}

#[tokio::test]
async fn a_signal_reaches_the_grandchildren() {
    let own = shell("sleep 600 & grandchild=$!; echo up; wait");
    own.host.signal(own.who, Signal::Term).unwrap();
    ended(&*own.host, own.who).await;
    until(|| !own.host.group_alive(own.who)).await;
}

#[tokio::test]
async fn what_outlives_its_leader_is_found_and_killed() {
    // Only the session leader is recorded; survivors are recognised by their session. macOS has no setsid(1).
    let leads = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])";
    let host = host::system();
    let mut child = Command::new("python3");
    let mut child =
        child.args(["-c", leads, "/bin/sh", "-c", "sleep 600 >/dev/null & sleep 0.2"]).spawn().unwrap();
    let who = host.identify(i32::try_from(child.id()).unwrap()).unwrap().unwrap();
    child.wait().unwrap();
    assert_eq!(host.identify(who.pid).unwrap(), None, "the leader is gone");
    assert!(host.group_alive(who));
    host.signal(who, Signal::Kill).unwrap();
    until(|| !host.group_alive(who)).await;
}

#[test]
fn a_footprint_grows_with_the_memory_of_a_process_and_its_children() {
    let small = shell("echo up; exec sleep 600");
    let holds = "x=$(head -c 8000000 /dev/zero | tr '\\0' x); ";
    let large = shell(&format!("{holds} echo up; read line"));
    let family = shell(&format!("({holds} echo up; sleep 600; true) & wait"));
    let bytes = |own: &Own| own.host.footprint(own.who).unwrap().bytes;
    for own in [&large, &family] {
        assert!(bytes(own) > bytes(&small) + Bytes::mb(8), "{} and {}", bytes(own), bytes(&small));
    }
    let footprint = large.host.footprint(large.who).unwrap();
    assert!(footprint.peak.unwrap() >= footprint.bytes);
}

#[tokio::test]
async fn cpu_time_and_bytes_read_go_up() {
    let own = shell("echo up; while :; do head -c 1000000 /dev/zero >/dev/null; x=$((x+1)); done");
    until(|| own.host.cpu_time(own.who).unwrap() > Duration::ZERO).await;
    let reader = shell("echo up; exec head -c 600000000000 /dev/zero >/dev/null");
    if reader.host.bytes_read(reader.who).is_some() {
        until(|| reader.host.bytes_read(reader.who) > Some(Bytes::mb(5))).await;
    }
    assert_eq!(own.host.bytes_read(stranger(own.who)), None);
}

#[test]
fn the_owner_of_a_port_is_distinguished_from_others() {
    let host = host::system();
    let own = host.identify(nix::unistd::getpid().as_raw()).unwrap().unwrap();
    let other = shell("echo up; exec sleep 600");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(host.owns_port(own, port), Some(true));
    assert_eq!(host.owns_port(other.who, port), Some(false));
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    assert_eq!(host.owns_port(own, everywhere.local_addr().unwrap().port()), Some(true));
    drop(listener);
    assert_eq!(host.owns_port(own, port), None);
}

#[test]
fn priorities_go_down_and_up_again() {
    let own = shell("echo up; exec sleep 600");
    match own.host.set_priority(own.who, Priority::Background) {
        Ok(()) => own.host.set_priority(own.who, Priority::Normal).unwrap(),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Unsupported),
    }
}

#[test]
fn processes_are_found_by_name_and_by_argument() {
    let marker = format!("/run/of/{}/32b.json", std::process::id());
    let own = shell(&format!(": {marker}; echo up; read line"));
    let found = own.host.find_by_argument(&marker);
    assert_eq!(found.iter().map(|marked| marked.who).collect::<Vec<_>>(), [own.who]);
    assert!(found[0].arguments.iter().any(|argument| argument.contains(&marker)), "{found:?}");
    assert_eq!(own.host.find_by_argument("/no/such/marker/at all"), []);
    let names = ["SLEEP", "no such program"].map(str::to_owned);
    let sleeper = shell("echo up; exec sleep 600");
    let found = sleeper.host.running(&names);
    assert_eq!(found, ["SLEEP"]);
}

#[test]
fn the_machine_reports_what_it_has() {
    let host = host::system();
    let facts = host.facts();
    assert!(facts.memory > Bytes::mb(256), "{facts:?}");
    assert!(facts.cores >= 1 && facts.os.contains(' ') && facts.boot_id.len() >= 8, "{facts:?}");
    assert_eq!(facts.boot_id, host::boot_id().unwrap());
    let reading = host.memory().unwrap();
    let available = reading.available.unwrap();
    assert!(available > Bytes::ZERO && available <= facts.memory, "{reading:?}");
    let before = host.now();
    std::thread::sleep(Duration::from_millis(2));
    let passed = host.now().since(before);
    assert!(passed >= Duration::from_millis(2), "{passed:?}");
}
