//! The states of a model and every way between them. Pure: no clock, no IO, no tokio; `now` is an argument.
//!
//! ```text
//!            start                spawned            answered
//!  Stopped ────────▶ Spawning ──────────▶ Loading ────────────▶ Ready
//!     ▲                 │ failed             │ unhealthy, timeout  │ stop        │ unhealthy
//!     │                 ▼                    ▼                     ▼             │
//!     │              Backoff ◀── crash ── Stopping ◀────────── Draining          │
//!     │              / Failed                │ ▲                                 │
//!     └──────────────────────── gone ────────┘ └─────────────────────────────────┘
//! ```
//!
//! A start in which other machines have a say is `Asking` before it is `Spawning`: its bytes are reserved, and there is
//! no process yet.
//!
//! | promise | where it holds |
//! |---|---|
//! | at most one live run a model | [`State`] has room for one |
//! | a stale generation changes nothing | `Fleet::step`, the one place that compares them |
//! | every waiter is answered exactly once | `waiters` |
//! | a manual model starts by command only | `Fleet::boot` and `Fleet::fall` |
//! | an always-on model sleeps outside its hours, unless a person has started it | `hours` |
//! | a model that goes by itself was announced, and no request is cut for it | `idle` |
//! | an always-on model that is down has a reason and a next time | `Fleet::fall` |
//! | reserved bytes = the sum over live runs | [`Fleet::reserved`] derives them, nobody stores them |

mod commands;
mod effect;
mod event;
mod fleet;
mod hours;
mod idle;
mod restart;
mod runs;
mod state;
mod step;
mod waiters;

#[cfg(test)]
mod properties;

pub(crate) use effect::{Effect, Outcome, WaiterId};
pub(crate) use event::{Event, Signed};
pub(crate) use fleet::{Admission, Fleet, Managed, Policy, Verdict};
pub(crate) use idle::{Decision, Idle, Lent, Limits, Usage};
pub(crate) use state::{Failure, FailureKind, Generation, Name, Next, Run, State, StopReason};
