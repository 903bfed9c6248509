//! The supervisor's end of the API ([`crate::api`]) on a Unix socket.

pub(crate) mod server;
pub(crate) mod unsupervised;
