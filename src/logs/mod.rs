//! Reads logs: the end of a file that others write to, and the lines of the access log.

mod request;
mod tail;

pub(crate) use request::{Request, Requests};
pub(crate) use tail::Tail;
