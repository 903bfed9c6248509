//! The states of a model and every transition between them. Pure: no clock, no IO, no tokio; `now` is an argument.
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
//! A start that other machines have to agree to is `Asking` before it is `Spawning`: its bytes are reserved, but there
//! is no process yet.
//!
//! | promise | where it holds |
//! |---|---|
//! | at most one live run per model | [`State`] has room for one |
//! | an event of a stale generation changes nothing | `Fleet::step`, the one place that compares generations |
//! | every waiter is answered exactly once | `waiters` |
//! | a manual model starts by command only | `Fleet::boot` and `Fleet::fall` |
//! | an always-on model sleeps outside its hours, unless a person started it | `hours` |
//! | a model that stops by itself was announced, and no request is cut for it | `idle` |
//! | an always-on model that is down has a reason and a time of its next start | `Fleet::fall` |
//! | reserved bytes = the sum over live runs | [`Fleet::reserved`] derives them; they are not stored |

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
