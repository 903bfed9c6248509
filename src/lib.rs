//! mlxctl keeps local language models served: a supervisor around `mlx_lm.server`.
//!
//! The event loop: a source (command, probe, exit, timer, pressure, lease) becomes an
//! [`lifecycle::Event`]; `lifecycle::Fleet::step` (pure) answers with [`lifecycle::Effect`]s;
//! `supervisor::driver` is the only place that acts on them, and the results are events again.
//!
//! The modules:
//!
//! - [`memory`]: what a model needs, what a machine has, and whether it fits. Pure.
//! - [`registry`]: the TOML file of models: what was written → what is valid, with every problem named.
//! - [`lifecycle`]: the states of a model and every way between them. Pure: no clock, no IO, no tokio.
//! - [`host`]: the one seam to the operating system.
//! - [`backend`]: the Python process that serves one model: spec, exec, launcher link, probes, diagnosis.
//! - [`cluster`]: one model on several machines: the conductor, its ranks, and the proof that they are gone.
//! - [`gate`]: the HTTP front door of one model, the only thing that listens on the LAN.
//! - [`supervisor`]: the one loop that owns all models, its driver, its journal, adoption.
//! - [`control`]: the supervisor's API on a Unix socket, its server and its client.
//! - [`metrics`]: all counters, in Prometheus's format.
//! - [`page`]: the page for a browser.
//! - [`logs`]: reads logs.
//! - [`notify`]: notifications to the owner.
//! - [`python`]: interpreter, venv, packages, the built-in tiny model.
//! - [`service`]: the launchd agent and the systemd user unit.
//! - [`doctor`]: finds problems of a machine or a deployment, and says how to fix them.
//! - [`mod@bench`]: tokens per second against the memory bus's roofline.
//! - [`gateway`]: what an LLM gateway needs to reach the models.
//! - [`cli`]: one file per command; stdout is data, stderr is messages.
//! - [`terminal`]: makes text from outside safe for a terminal.

pub mod api;
pub mod backend;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod control;
pub mod doctor;
mod durable;
pub mod environment;
mod fault;
pub mod folders;
pub mod gate;
pub mod gateway;
pub mod host;
pub mod lifecycle;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod page;
#[cfg(test)]
#[path = "../tests/it/support/program.rs"]
mod program;
pub mod python;
pub mod registry;
pub mod service;
mod speed;
pub mod supervisor;
pub mod terminal;
pub mod units;
mod web;
