//! Tokens per second, beside what the memory bus allows.
//!
//! [`run`] asks and takes times, through the gate, as any client would. Everything else is pure: [`stats`],
//! [`roofline`], [`chips`].

pub(crate) mod chips;
pub(crate) mod client;
pub(crate) mod copy;
pub(crate) mod report;
pub(crate) mod roofline;
pub(crate) mod run;
pub(crate) mod shape;
pub(crate) mod stats;
