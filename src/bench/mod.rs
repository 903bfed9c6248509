//! Tokens per second, compared with what the memory bus allows.
//!
//! [`run`] sends requests through the gate, as any client would, and takes times. Everything else is pure: [`stats`],
//! [`roofline`], [`chips`].

pub(crate) mod chips;
pub(crate) mod client;
pub(crate) mod copy;
pub(crate) mod report;
pub(crate) mod roofline;
pub(crate) mod run;
pub(crate) mod shape;
pub(crate) mod stats;
