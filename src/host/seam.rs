//! The interface to the operating system: [`Host`] and its values.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::clock::hours::LocalTime;
use crate::units::Bytes;

/// A process that listens on a TCP port of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortHolder {
    pub pid: i32,
    /// Name of its program, as the system keeps it.
    pub name: String,
}

/// Identifies a process for good: pids are reused, pairs of pid and start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id, which is also its process group: every backend leads its own.
    pub pid: i32,
    /// Start time in the kernel's own unit (Linux: clock ticks since boot, proc_pid_stat(5) field 22; macOS: µs since
    /// the epoch, `proc_bsdinfo`). Only ever compared.
    pub started: u64,
}

/// A process found by its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub who: Identity,
    /// pid of its parent; of init, or a subreaper, once the parent has ended.
    pub parent: i32,
    /// Its session: the pid of the process that created it. Every backend creates its own; what it forks has the same
    /// arguments until it execs, but not its own session.
    pub session: i32,
    /// Program name and arguments; invalid UTF-8 is replaced.
    pub arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It was not our child, and only its parent learns how it ended.
    Unknown,
}

/// Completes a sentence: "ended with code 1", "was ended by SIGKILL".
impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "was ended by {name}"),
                Err(_) => write!(f, "was ended by signal {signal}"),
            },
            Self::Unknown => write!(f, "ended"),
        }
    }
}

/// Resolves once the process is gone (and reaped, if it was a child). Dropping it stops the watch.
pub type ExitWatch = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// How short memory is, according to the system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    #[default]
    Normal,
    /// Release caches.
    Warning,
    /// Release everything that can be released.
    Critical,
}

/// Constants of the machine while it is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Name and version: "macOS 15.1", "Linux 6.18".
    pub os: String,
    /// The system's name for it: "Apple M4 Max".
    pub chip: Option<String>,
    /// Installed memory; on Linux at most what the cgroup allows.
    pub memory: Bytes,
    /// Physical cores, performance and efficiency cores together.
    pub cores: u32,
    /// Different for every boot.
    pub boot_id: String,
}

/// The machine's memory at one moment. `None` if this system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReading {
    /// What a new process could allocate without swapping.
    pub available: Option<Bytes>,
    pub swap_used: Option<Bytes>,
    pub pressure: Pressure,
    /// What the GPU may hold (macOS: the wired limit, if set; NVIDIA: the card's memory).
    pub gpu_limit: Option<Bytes>,
    /// Free memory of a GPU that has its own.
    pub gpu_free: Option<Bytes>,
}

/// What the OS charges to a process (macOS: `ri_phys_footprint`; Linux: anonymous, shared and swapped memory, which is
/// what the former counts too).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    pub bytes: Bytes,
    /// Highest so far, if the system keeps it.
    pub peak: Option<Bytes>,
    /// Memory held on a GPU that has its own.
    pub gpu: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Normal,
    Background,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// Power source and mode. `None` if the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Power {
    /// Whether the machine runs on its own battery.
    pub on_battery: Option<bool>,
    /// Whether it trades speed for power (macOS: low power mode; Linux: the platform profile `low-power`).
    pub low_power: Option<bool>,
}

/// Prevents idle sleep until it is dropped or this process ends.
pub type SleepHold = Box<dyn std::any::Any + Send>;

/// The operating system, as far as this program needs it. No method blocks for more than a few milliseconds, except
/// [`power`](Self::power).
pub trait Host: Send + Sync + 'static {
    /// The time on the clock that keeps running during sleep.
    fn now(&self) -> Moment;

    /// The time on the clock that stops while the machine sleeps. Its distance to [`Host::now`] grows only by the
    /// length of each sleep.
    fn awake(&self) -> Moment;

    /// The wall-clock time, in the current time zone of the machine or `TZ`; `None` if unknown.
    fn local_time(&self) -> Option<LocalTime>;

    fn facts(&self) -> &Facts;

    /// Reads the machine's memory.
    ///
    /// # Errors
    /// The system's own, if it does not answer.
    fn memory(&self) -> io::Result<MemoryReading>;

    /// Greatest age of an answer from [`Host::memory`].
    fn memory_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The folder of kernel panic reports; `None` if this system writes none.
    fn panic_reports(&self) -> Option<PathBuf> {
        None
    }

    /// The process that has this pid now; `None` if there is none, or only a zombie.
    ///
    /// # Errors
    /// The system's own, if it does not answer.
    fn identify(&self, pid: i32) -> io::Result<Option<Identity>>;

    /// When this process was forked, on the clock of [`Host::now`], to 10 ms. An exec does not change it.
    fn started(&self, who: Identity) -> Moment;

    /// Waits for a process to end, child or not (pidfd, kqueue). Event-driven: costs nothing until then.
    ///
    /// # Errors
    /// The system's own; for a process that is already gone it resolves at once.
    fn watch(&self, who: Identity) -> io::Result<ExitWatch>;

    /// What the OS charges to the process and its descendants in the same process group.
    ///
    /// # Errors
    /// `NotFound` if it is gone; the system's own otherwise.
    fn footprint(&self, who: Identity) -> io::Result<Footprint>;

    /// CPU time of the process so far, user and system.
    ///
    /// # Errors
    /// `NotFound` if it is gone; the system's own otherwise.
    fn cpu_time(&self, who: Identity) -> io::Result<Duration>;

    /// Bytes that the process has read so far; `None` if this system does not tell.
    fn bytes_read(&self, who: Identity) -> Option<Bytes>;

    /// Signals the process group led by `who`, after checking that the pid was not reused, or, if the leader is gone,
    /// that its group has survivors (a group id is not reused while it has members). An empty group is success.
    ///
    /// # Errors
    /// `PermissionDenied` if the pid was reused; the system's own otherwise.
    fn signal(&self, who: Identity, signal: Signal) -> io::Result<()>;

    /// Whether any process of the group is left, apart from zombies.
    fn group_alive(&self, who: Identity) -> bool;

    /// Who listens on this loopback TCP port: `Some(true)` for the process or its group, `Some(false)` for another,
    /// `None` if nothing does or this system does not tell.
    fn owns_port(&self, who: Identity, port: u16) -> Option<bool>;

    /// Changes the scheduling class of the process group.
    ///
    /// # Errors
    /// `Unsupported` if the system cannot; the system's own otherwise.
    fn set_priority(&self, who: Identity, priority: Priority) -> io::Result<()>;

    /// Reads the power source. Blocks for some 20 ms on macOS, which runs two programs: not for the event loop.
    ///
    /// # Errors
    /// The system's own, if it does not answer.
    fn power(&self) -> io::Result<Power>;

    /// Prevents idle sleep. A closed lid, or a person, still puts the machine to sleep.
    ///
    /// # Errors `Unsupported` if idle machines do not sleep or something else decides about it (Linux); the system's
    /// own otherwise.
    fn hold_sleep(&self) -> io::Result<SleepHold>;

    /// Returns memory that this process does not need while it waits: the allocator's reserve, and pages of its own
    /// program, which the system caches and maps again on demand. Takes less than a millisecond, and so does the
    /// mapping; worth it before at least seconds of idling.
    fn give_back(&self);

    /// The names among these of programs that are running, compared with process names, ignoring case.
    fn running(&self, names: &[String]) -> Vec<String>;

    /// Processes of this user with an argument that contains `marker` (this instance's run folder). That includes, say,
    /// an editor of a file there: the caller checks the arguments.
    fn find_by_argument(&self, marker: &str) -> Vec<Marked>;
}
