//! mlxctl keeps local language models served: a supervisor around `mlx_lm.server`.
//!
//! One way through: a source (command, probe, exit, timer, pressure, lease) becomes an
//! [`lifecycle::Event`]; `lifecycle::Fleet::step` (pure) answers with [`lifecycle::Effect`]s;
//! `supervisor::driver` is the only place that acts on them, and what comes of it is an event again.
//!
//! The map, a line a module:
//!
//! - [`memory`]: what a model takes, what a machine has, and whether the one fits into the other. Pure.
//! - [`registry`]: the TOML file of models: what was written → what is valid, with every problem named.
//! - [`lifecycle`]: the states of a model and every way between them. Pure: no clock, no IO, no tokio.
//! - [`host`]: the one seam to the operating system.
//! - [`backend`]: the Python process that serves one model: spec, exec, launcher link, probes, diagnosis.
//! - [`cluster`]: one model on several machines: the conductor, its ranks, and the proof that they are gone.
//! - [`gate`]: the HTTP front door of one model, the only thing that listens on the LAN.
//! - [`supervisor`]: the one loop that owns all models, its driver, its journal, adoption.
//! - [`control`]: the supervisor's API on a Unix socket, its server and its client.
//! - [`metrics`]: everything that is counted, as Prometheus reads it.
//! - [`page`]: the page for a browser.
//! - [`logs`]: logs, as they are read.
//! - [`notify`]: which event the owner is told of, and how.
//! - [`python`]: interpreter, venv, packages, the built-in tiny model.
//! - [`service`]: the launchd agent and the systemd user unit.
//! - [`doctor`]: what is wrong with a machine or a deployment, and what to do about it.
//! - [`mod@bench`]: tokens per second against the memory bus's roofline.
//! - [`gateway`]: what an LLM gateway needs to reach the models.
//! - [`cli`]: one verb a file; stdout is data, stderr is talk.
//! - [`terminal`]: what comes from outside, fit to be shown.

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
