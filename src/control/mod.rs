//! The supervisor's end of the API ([`crate::api`]) on a Unix socket.

pub mod server;
pub mod unsupervised;
