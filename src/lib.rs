//! mlxctl keeps local language models running: a supervisor around `mlx_lm.server`.
//!
//! The event loop: a source (command, probe, exit, timer, pressure, lease) becomes an
//! [`lifecycle::Event`]; `lifecycle::Fleet::step` (pure) answers with [`lifecycle::Effect`]s;
//! `supervisor::driver` is the only place that acts on them, and the results are events again.
//!
//! The modules:
//!
//! - [`memory`]: what a model needs, what a machine has, and whether it fits. Pure.
//! - [`registry`]: the TOML file of models, from what was written to what is valid, with every problem named.
//! - [`lifecycle`]: the states of a model and all transitions. Pure: no clock, no IO, no tokio.
//! - [`host`]: the only interface to the operating system.
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
//! - [`mod@bench`]: tokens per second, compared with the memory-bandwidth limit.
//! - [`gateway`]: what an LLM gateway needs to reach the models.
//! - [`cli`]: one file per command; stdout is data, stderr is messages.
//! - [`terminal`]: makes text from outside safe for a terminal.

#![warn(unreachable_pub)]
#![allow(rustdoc::private_intra_doc_links, reason = "the documentation is for those who change this code")]

mod api;
mod backend;
mod bench;
mod cli;
mod clock;
mod cluster;
mod control;
mod doctor;
mod durable;
mod environment;
mod fault;
mod folders;
mod gate;
mod gateway;
mod host;
mod lifecycle;
mod logs;
mod memory;
mod metrics;
mod notify;
mod page;
#[cfg(test)]
#[path = "../tests/it/support/program.rs"]
mod program;
mod python;
mod registry;
mod service;
mod speed;
mod supervisor;
mod terminal;
mod units;
mod web;

/// For the program, its tests and its examples only: it changes without notice.
pub mod internals {
    pub mod api {
        pub use crate::api::{
            ApiError, BudgetStatus, Change, ChangeKind, CommandDone, ErrorCode, EventRecord, Events,
            HealthStatus, HostStatus, Line, ModelMemoryStatus, ModelStatus, Progress, Reloaded, SCHEMA,
            StartRequest, StateName, Status, StopRequest, StoreFacts, SupervisorStatus,
        };
        pub mod client {
            pub use crate::api::client::Client;
        }
        pub mod paths {
            pub use crate::api::paths::socket_path;
        }
    }
    pub mod backend {
        pub mod exec {
            pub use crate::backend::exec::{requested, run, spawn};
        }
        pub mod launcher {
            pub use crate::backend::launcher::write;
        }
        pub mod link {
            pub use crate::backend::link::Link;
        }
        pub mod record {
            pub use crate::backend::record::{read_record, read_spec, write_spec};
        }
        pub mod spec {
            pub use crate::backend::spec::{Record, SCHEMA, Spec};
        }
        pub mod trial {
            pub use crate::backend::trial::one_token;
        }
    }
    pub mod cli {
        pub use crate::cli::main;
    }
    pub mod clock {
        pub use crate::clock::Moment;
        pub mod hours {
            pub use crate::clock::hours::LocalTime;
        }
    }
    pub mod cluster {
        pub use crate::cluster::hidden;
    }
    pub mod gate {
        pub use crate::gate::{
            Availability, Gate, GateConfig, Listening, Report, Router, RouterConfig, Upstream,
        };
        pub mod keys {
            pub use crate::gate::keys::{May, add, revoke};
        }
    }
    pub mod host {
        pub use crate::host::{
            Exit, ExitWatch, Facts, Footprint, Host, Identity, Marked, MemoryReading, Power, Pressure,
            Priority, Signal, SleepHold, boot_id, identify, now, system,
        };
        pub mod fake {
            pub use crate::host::fake::Fake;
        }
    }
    pub mod memory {
        pub use crate::memory::Profile;
        pub mod files {
            pub use crate::memory::files::{read_folder, read_profiled};
        }
        pub mod profile {
            pub use crate::memory::profile::RefusedKind;
        }
        pub mod split {
            pub use crate::memory::split::split;
        }
    }
    pub mod python {
        pub mod profile {
            pub use crate::python::profile::{Division, LIMITS, Limits, describe};
        }
        pub mod tiny {
            pub use crate::python::tiny::{location, make};
        }
        pub mod venv {
            pub use crate::python::venv::{
                Environment, SetupError, SetupRequest, Step, Trial, Upgraded, existing, python, rollback,
                setup, upgrade,
            };
        }
    }
    pub mod registry {
        pub use crate::registry::{
            Agent, ClusterMode, Limits, Network, Problems, ProcessType, Registry, Source, Start, Wired,
        };
    }
    pub mod service {
        pub mod launchctl {
            pub use crate::service::launchctl::{Error, Launchctl};
            pub mod print {
                pub use crate::service::launchctl::print::{LastExit, Printed, State};
            }
            pub mod procedure {
                pub use crate::service::launchctl::procedure::{
                    Action, Failure, Goal, Patience, Reply, Step, next, nominal,
                };
            }
        }
        pub mod launchd {
            pub use crate::service::launchd::render;
        }
        pub mod systemd {
            pub use crate::service::systemd::{render, unit_name};
        }
    }
    pub mod supervisor {
        pub use crate::supervisor::{Handle, Journal, Options, Supervisor};
    }
    pub mod units {
        pub use crate::units::Bytes;
    }
}
