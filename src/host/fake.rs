//! A fake machine for tests. Its clock is tokio's, which a test can pause.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::posix;
use crate::clock::Moment;
use crate::clock::hours::LocalTime;
use crate::host::seam::{
    Exit, ExitWatch, Facts, Footprint, Host, Identity, Marked, MemoryReading, Power, Priority, Signal,
    SleepHold,
};
use crate::units::Bytes;

/// A machine controlled by a test. Time starts one hour after boot.
///
/// A process that was [`spawned`](Self::spawn) obeys both signals unless set otherwise, and its end is an event like a
/// real one's. Nothing else happens without a call.
#[derive(Debug)]
pub struct Fake {
    facts: Facts,
    booted: tokio::time::Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    memory: MemoryReading,
    processes: HashMap<i32, Process>,
    spawned: u64,
    slept: Duration,
    /// Wall-clock time, seconds since midnight, and when it was set.
    wall: Option<(u32, Moment)>,
    ports: HashMap<u16, i32>,
    running: Vec<String>,
    signals: Vec<(Identity, Signal)>,
    power: Power,
    holds: u32,
    held: Arc<()>,
    memory_lag: Duration,
    panic_reports: Option<PathBuf>,
}

#[derive(Debug)]
struct Process {
    identity: Identity,
    arguments: String,
    parent: i32,
    session: i32,
    born: Moment,
    ignores_term: bool,
    ended: watch::Sender<Option<Exit>>,
}

impl Process {
    fn alive(&self) -> bool {
        self.ended.borrow().is_none()
    }
}

impl Fake {
    /// A machine whose `memory` is all available.
    pub fn new(memory: Bytes) -> Arc<Self> {
        let facts = Facts {
            os: "Fake 1.0".to_owned(),
            chip: Some("Apple M4 Max".to_owned()),
            memory,
            cores: 16,
            boot_id: "fake-boot".to_owned(),
        };
        let reading =
            MemoryReading { available: Some(memory), swap_used: Some(Bytes::ZERO), ..Default::default() };
        let state = State { memory: reading, ..State::default() };
        Arc::new(Self { facts, booted: tokio::time::Instant::now(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, who: Identity, act: impl FnOnce(&mut Process) -> T) -> io::Result<T> {
        let mut state = self.state();
        let process = state.processes.get_mut(&who.pid).filter(|p| p.identity == who && p.alive());
        process.map(act).ok_or_else(|| posix::gone(who.pid))
    }

    pub fn set_memory(&self, reading: MemoryReading) {
        self.state().memory = reading;
    }

    /// Puts the machine to sleep: [`Host::now`] advances by `length`, [`Host::awake`] does not.
    pub fn sleep(&self, length: Duration) {
        self.state().slept += length;
    }

    /// Spawns a process that leads its group. A reused pid gets another start time.
    pub fn spawn(&self, pid: i32, arguments: &str) -> Identity {
        let born = self.now();
        let mut state = self.state();
        state.spawned += 1;
        let identity = Identity { pid, started: state.spawned };
        let process = Process {
            identity,
            arguments: arguments.to_owned(),
            parent: 1,
            session: pid,
            born,
            ignores_term: false,
            ended: watch::Sender::new(None),
        };
        state.processes.insert(pid, process);
        identity
    }

    /// Ends a process and resolves its watches.
    pub fn exit(&self, who: Identity, exit: Exit) {
        // Ending a process twice changes nothing.
        let _ = self.with(who, |process| process.ended.send_replace(Some(exit)));
    }

    /// SIGTERM is still recorded, but has no effect.
    pub fn ignore_term(&self, who: Identity) {
        let _ = self.with(who, |process| process.ignores_term = true);
    }

    /// Sets which pid listens on the port, which need not be one of the machine's; `None` for nothing.
    pub fn set_listener(&self, port: u16, pid: Option<i32>) {
        let mut state = self.state();
        match pid {
            Some(pid) => state.ports.insert(port, pid),
            None => state.ports.remove(&port),
        };
    }

    pub fn set_running(&self, names: &[&str]) {
        self.state().running = names.iter().map(|&name| name.to_owned()).collect();
    }

    pub fn set_memory_lag(&self, lag: Duration) {
        self.state().memory_lag = lag;
    }

    pub fn set_panic_reports(&self, folder: &Path) {
        self.state().panic_reports = Some(folder.to_owned());
    }

    pub fn set_power(&self, power: Power) {
        self.state().power = power;
    }

    /// Whether idle sleep is prevented now, and how often that has begun so far.
    pub fn sleep_held(&self) -> (bool, u32) {
        let state = self.state();
        (Arc::strong_count(&state.held) > 1, state.holds)
    }

    /// All signals so far, in order.
    pub fn signals(&self) -> Vec<(Identity, Signal)> {
        self.state().signals.clone()
    }

    /// Sets the wall clock, which keeps running from there. Without a call, [`Host::local_time`] is `None`.
    pub fn set_local_time(&self, hour: u32, minute: u32) {
        let now = self.now();
        self.state().wall = Some((hour * 3600 + minute * 60, now));
    }
}

impl Host for Fake {
    fn now(&self) -> Moment {
        self.awake().after(self.state().slept)
    }

    fn awake(&self) -> Moment {
        Moment(Duration::from_secs(3600) + self.booted.elapsed())
    }

    fn local_time(&self) -> Option<LocalTime> {
        let (seconds, since) = self.state().wall?;
        Some(LocalTime::of(seconds + u32::try_from(self.now().since(since).as_secs() % 86_400).ok()?))
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn memory(&self) -> io::Result<MemoryReading> {
        Ok(self.state().memory)
    }

    fn memory_lag(&self) -> Duration {
        self.state().memory_lag
    }

    fn panic_reports(&self) -> Option<PathBuf> {
        self.state().panic_reports.clone()
    }

    fn identify(&self, pid: i32) -> io::Result<Option<Identity>> {
        Ok(self.state().processes.get(&pid).filter(|process| process.alive()).map(|process| process.identity))
    }

    fn started(&self, who: Identity) -> Moment {
        self.state().processes.get(&who.pid).map(|process| process.born).unwrap_or_default()
    }

    fn watch(&self, who: Identity) -> io::Result<ExitWatch> {
        let state = self.state();
        let Some(process) = state.processes.get(&who.pid).filter(|process| process.identity == who) else {
            return Ok(Box::pin(std::future::ready(Exit::Unknown)));
        };
        let mut ended = process.ended.subscribe();
        Ok(Box::pin(async move {
            // An error means that the pid was reused, so this process must have ended.
            ended.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Unknown)
        }))
    }

    fn footprint(&self, who: Identity) -> io::Result<Footprint> {
        self.with(who, |_| Footprint::default())
    }

    fn cpu_time(&self, who: Identity) -> io::Result<Duration> {
        self.with(who, |_| Duration::ZERO)
    }

    fn bytes_read(&self, _: Identity) -> Option<Bytes> {
        None
    }

    fn signal(&self, who: Identity, signal: Signal) -> io::Result<()> {
        let mut state = self.state();
        let Some(process) = state.processes.get_mut(&who.pid) else { return Ok(()) };
        if process.identity != who {
            return Err(posix::stranger(who.pid));
        }
        if process.alive() && !(signal == Signal::Term && process.ignores_term) {
            process.ended.send_replace(Some(Exit::Signal(signal.native() as i32)));
        }
        state.signals.push((who, signal));
        Ok(())
    }

    fn group_alive(&self, who: Identity) -> bool {
        let state = self.state();
        let process = state.processes.get(&who.pid).filter(|process| process.identity == who);
        process.is_some_and(Process::alive)
    }

    fn owns_port(&self, who: Identity, port: u16) -> Option<bool> {
        let state = self.state();
        let owner = state.ports.get(&port)?;
        let same =
            state.processes.get(owner).is_some_and(|process| process.identity == who && process.alive());
        Some(same)
    }

    fn set_priority(&self, who: Identity, _: Priority) -> io::Result<()> {
        self.with(who, |_| ())
    }

    fn power(&self) -> io::Result<Power> {
        Ok(self.state().power)
    }

    fn hold_sleep(&self) -> io::Result<SleepHold> {
        let mut state = self.state();
        state.holds += 1;
        Ok(Box::new(state.held.clone()))
    }

    fn give_back(&self) {}

    fn running(&self, names: &[String]) -> Vec<String> {
        let state = self.state();
        let runs = |name: &&String| state.running.iter().any(|running| running.eq_ignore_ascii_case(name));
        names.iter().filter(runs).cloned().collect()
    }

    fn find_by_argument(&self, marker: &str) -> Vec<Marked> {
        let state = self.state();
        let found = state.processes.values().filter(|p| p.alive() && p.arguments.contains(marker));
        let mut found: Vec<Marked> = found
            .map(|process| Marked {
                who: process.identity,
                parent: process.parent,
                session: process.session,
                arguments: process.arguments.split(' ').map(str::to_owned).collect(),
            })
            .collect();
        found.sort_by_key(|marked| marked.who.pid);
        found
    }
}

#[cfg(test)]
#[path = "fake_tests.rs"]
mod tests;
