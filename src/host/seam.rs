//! What this program asks of an operating system, and the values that it answers with.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::clock::hours::LocalTime;
use crate::units::Bytes;

/// Who listens on a TCP port of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortHolder {
    pub pid: i32,
    /// Its program, as the system keeps the name.
    pub name: String,
}

/// A process that cannot be mistaken for another: pids are used again, start times are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id, which is also its process group: every backend leads its own.
    pub pid: i32,
    /// The kernel's start time of it in its own unit (Linux: clock ticks since boot, proc_pid_stat(5) field 22;
    /// macOS: µs since the epoch, `proc_bsdinfo`). Compared, never computed with.
    pub started: u64,
}

/// A process that was found by its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub who: Identity,
    /// Its parent's process id; that of init, or of a subreaper, once its own has ended.
    pub parent: i32,
    /// Its session: the process id of whoever began it. A backend begins its own; what it forks has its arguments, until
    /// it becomes something else, but not a session of its own.
    pub session: i32,
    /// Its arguments, the program's name first; invalid UTF-8 is replaced.
    pub arguments: Vec<String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    Signal(i32),
    /// It is gone, and it was no child of ours: only its parent learns how.
    Unknown,
}

/// As the rest of a sentence: "ended with code 1", "was ended by SIGKILL".
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

/// Resolves once, when the process is gone (and reaped, where it was a child). Dropping it stops the watch.
pub type ExitWatch = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// The system's own word for how short memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// Nothing to do.
    #[default]
    Normal,
    /// Give back what can be given back.
    Warning,
    /// Give up what can be given up.
    Critical,
}

/// What does not change while the machine is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// "macOS 15.1", "Linux 6.18".
    pub os: String,
    /// "Apple M4 Max", as the system names it.
    pub chip: Option<String>,
    /// Installed memory; on Linux no more than the cgroup allows.
    pub memory: Bytes,
    /// Performance and efficiency cores together.
    pub cores: u32,
    /// Tells one boot from the next.
    pub boot_id: String,
}

/// The machine's memory at one moment. `None`: this system does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReading {
    /// What a new process could take without pushing another out.
    pub available: Option<Bytes>,
    /// Swap in use.
    pub swap_used: Option<Bytes>,
    /// The system's own word.
    pub pressure: Pressure,
    /// What the GPU may hold (macOS: the wired limit; NVIDIA: the card's total).
    pub gpu_limit: Option<Bytes>,
    /// What the GPU has free, where it has memory of its own.
    pub gpu_free: Option<Bytes>,
}

/// What the OS charges a process (macOS: `ri_phys_footprint`; Linux: anonymous, shared and swapped memory, which is
/// what the former counts too).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Now.
    pub bytes: Bytes,
    /// The most so far, where the system keeps it.
    pub peak: Option<Bytes>,
    /// On a GPU with memory of its own.
    pub gpu: Option<Bytes>,
}

/// The scheduling rungs that a backend can be put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// As it was spawned.
    Normal,
    /// Behind everything else that wants to run.
    Background,
}

/// What to tell a process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Tear down and end.
    Term,
    /// End now.
    Kill,
}

/// Where the power comes from. What the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Power {
    /// Whether the machine runs on its own battery.
    pub on_battery: Option<bool>,
    /// Whether it saves power at the cost of speed (macOS: low power mode; Linux: the platform's profile).
    pub low_power: Option<bool>,
}

/// Holds idle sleep off until it is dropped, or this process ends.
pub type SleepHold = Box<dyn std::any::Any + Send>;

/// The operating system, as far as this program needs it. No method blocks for more than a few milliseconds.
pub trait Host: Send + Sync + 'static {
    /// The time on the clock that keeps running during sleep.
    fn now(&self) -> Moment;

    /// The time on the clock that stands still while the machine sleeps. The distance between it and
    /// [`Host::now`] grows by the length of each sleep, and by nothing else.
    fn awake(&self) -> Moment;

    /// What a clock on the wall shows, in the time zone that the machine, or `TZ`, has now; `None`: nobody says.
    fn local_time(&self) -> Option<LocalTime>;

    /// What does not change while the machine is up.
    fn facts(&self) -> &Facts;

    /// The machine's memory now.
    ///
    /// # Errors
    /// The system's own, if it does not answer.
    fn memory(&self) -> io::Result<MemoryReading>;

    /// How old an answer of [`Host::memory`] may be.
    fn memory_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The folder of the kernel's panic reports; `None`: this system writes none.
    fn panic_reports(&self) -> Option<PathBuf> {
        None
    }

    /// Who has this pid now; `None`: nobody, or only a zombie.
    ///
    /// # Errors
    /// The system's own, if it does not answer.
    fn identify(&self, pid: i32) -> io::Result<Option<Identity>>;

    /// When this process was started, on the clock of [`Host::now`], to 10 ms. What it was before an exec counts.
    fn started(&self, who: Identity) -> Moment;

    /// Watches a process for its end, child or not (pidfd, kqueue). Event-driven: costs nothing while it lives.
    ///
    /// # Errors
    /// The system's own; for a process that is already gone it resolves at once.
    fn watch(&self, who: Identity) -> io::Result<ExitWatch>;

    /// What the OS charges the process and its descendants in the same process group.
    ///
    /// # Errors
    /// `NotFound` if it is gone; the system's own otherwise.
    fn footprint(&self, who: Identity) -> io::Result<Footprint>;

    /// CPU time that the process has used so far, user and system.
    ///
    /// # Errors
    /// `NotFound` if it is gone; the system's own otherwise.
    fn cpu_time(&self, who: Identity) -> io::Result<Duration>;

    /// Bytes that the process has read so far, from wherever; `None`: this system does not say.
    fn bytes_read(&self, who: Identity) -> Option<Bytes>;

    /// Signals the process group that `who` leads, after checking that `who` is still who it was, or, when the
    /// leader is gone, that survivors of its group are left (a group id is not used again while it has members).
    /// Nobody left is success.
    ///
    /// # Errors
    /// `PermissionDenied` when the pid belongs to a stranger now; the system's own otherwise.
    fn signal(&self, who: Identity, signal: Signal) -> io::Result<()>;

    /// Whether any process of the group is left (zombies do not count).
    fn group_alive(&self, who: Identity) -> bool;

    /// Who listens on this loopback TCP port: `Some(true)` the process or its group, `Some(false)` someone else,
    /// `None` nobody, or this system does not say.
    fn owns_port(&self, who: Identity, port: u16) -> Option<bool>;

    /// Puts the process group on another scheduling rung.
    ///
    /// # Errors
    /// `Unsupported` where the system cannot; the system's own otherwise.
    fn set_priority(&self, who: Identity, priority: Priority) -> io::Result<()>;

    /// Where the power comes from. The one method that may block longer, some 20 ms on macOS, where two programs
    /// are run: not for the loop.
    ///
    /// # Errors
    /// The system's own, if it does not answer.
    fn power(&self) -> io::Result<Power>;

    /// Holds off idle sleep. A closed lid, or a person, still puts the machine to sleep.
    ///
    /// # Errors
    /// `Unsupported` where idle machines do not sleep by themselves, or somebody else decides about it (Linux);
    /// the system's own otherwise.
    fn hold_sleep(&self) -> io::Result<SleepHold>;

    /// Gives back memory of this process that it does not need while it waits: what the allocator keeps in reserve,
    /// and pages of its own program, which the system has in its cache and maps again when they are needed. Takes
    /// less than a millisecond, and so does the mapping; worth it where work is over for seconds at least.
    fn give_back(&self);

    /// Which of these program names run now, compared without case against the process's name.
    fn running(&self, names: &[String]) -> Vec<String>;

    /// Processes of this user of which an argument contains `marker` (this instance's run folder). A reader of a
    /// file there is found too: the caller looks at the arguments.
    fn find_by_argument(&self, marker: &str) -> Vec<Marked>;
}
