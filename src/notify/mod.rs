//! Tells the owner of what matters, by the registry's `[notify]`: a command, a macOS notification.
//!
//! [`Episodes`] decides which event is told, [`Message`] says it, [`Notifier`] has it sent: one child at a time, on a
//! thread of its own, so that nothing waits for it.

mod decide;
mod message;
mod notifier;
mod send;
mod trouble;

pub(crate) use decide::Episodes;
pub(crate) use message::Message;
pub(crate) use notifier::{Notifier, Sent};
pub(crate) use send::{send, ways};
pub(crate) use trouble::{News, Trouble};
