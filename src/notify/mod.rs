//! Notifies the owner of what matters, as the registry's `[notify]` says: by a command, by a macOS notification.
//!
//! [`Episodes`] decides which events, [`Message`] is the text, and [`Notifier`] has it sent: one child at a time, on a
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
