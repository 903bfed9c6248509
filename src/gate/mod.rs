//! The gate: the HTTP front door of one model, the only thing that listens on the LAN.
//!
//! It listens whether or not the model runs, answers `/health` and `/v1/models` itself, lets through only what is safe
//! for `mlx_lm.server`, and never parses a response body beyond counting. How it treats a request at any moment follows
//! from [`Availability`], which the supervisor publishes. A [`Router`] is one more address, which hands each request to
//! the gate of the model that it names.

mod policy;
mod serve;
mod wire;

pub(crate) use policy::access::check_host;
pub use policy::contract::{Availability, GateConfig, Report, Upstream};
pub(crate) use policy::keys;
pub(crate) use serve::crowd::{Crowd, Place};
pub use serve::handle::Gate;
pub(crate) use serve::handle::LAST_WORDS;
pub(crate) use serve::histogram::Counted;
pub(crate) use serve::listen::TAKEN;
pub use serve::router::{Listening, Router, RouterConfig};
pub(crate) use serve::traffic::{Traffic, TrafficDetail};
