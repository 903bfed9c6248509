//! One file per promise; `support` is the harness.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the whole crate is tests; clippy's own exception ends at the bodies of #[test] functions"
)]

mod accept;
mod adoption;
mod agent;
mod agent_real;
mod card;
#[cfg(target_os = "linux")]
mod chaos;
mod cluster_admission;
#[cfg(target_os = "linux")]
mod cluster_hosts;
mod cluster_real;
mod command_line;
mod control_fake;
mod deaths;
mod doctor;
mod environments;
mod everyday;
mod exec_step;
mod fake_launchd;
#[cfg(target_os = "linux")]
mod full_disk;
mod fuzz;
mod gate_access;
mod gate_crash;
mod gate_door;
mod gate_http;
mod gate_lease;
mod gate_listen;
mod gate_others;
mod gate_real;
mod gate_stream;
mod gate_truth;
mod gateway;
mod handover;
mod hours;
mod hub;
mod launchctl;
mod launchd_rules;
mod launcher_contract;
mod layers;
mod lifecycle_real;
mod linear;
mod memory_cli;
mod memory_live;
mod metrics;
mod nothing_lost;
mod notify;
mod on_a_mac;
mod pace;
mod page;
mod places;
mod plist;
mod portable;
mod power;
#[cfg(target_os = "linux")]
mod process_environment;
mod processes;
mod profile;
mod profile_made;
mod prompt_store;
mod pull;
mod real;
mod registry;
mod registry_cli;
#[cfg(target_os = "linux")]
mod restart;
mod router;
mod router_live;
mod screens;
mod security;
mod setup;
#[cfg(target_os = "linux")]
mod soak;
mod split;
mod ssh;
mod support;
mod systemd;
mod tiny_model;
mod upgrade;
mod user_systemd;
mod workflows;
