//! Tokens per second, beside what the memory bus allows.
//!
//! [`run`] asks and takes times, through the gate, as any client would. Everything else is pure: [`stats`],
//! [`roofline`], [`chips`].

pub mod chips;
pub mod client;
pub mod copy;
pub mod report;
pub mod roofline;
pub mod run;
pub mod shape;
pub mod stats;
