//! The supervisor's API: HTTP + JSON over a Unix socket in a 0700 folder; `curl --unix-socket` can speak it.

pub mod api;
pub mod client;
mod http;
pub mod paths;
pub mod plan;
pub mod server;
