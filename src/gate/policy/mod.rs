//! Decisions: who may ask for what, and what goes to the backend. Pure, except for the file of keys.

pub(super) mod access;
pub(super) mod answer;
pub(super) mod bounds;
pub(super) mod contract;
pub(super) mod decide;
pub(super) mod fields;
pub(super) mod json;
pub(crate) mod keys;
pub(super) mod messages;
pub(super) mod rewrite;
pub(super) mod room;
pub(super) mod rules;
pub(super) mod server_error;
pub(crate) mod template;
pub(super) mod unread;
pub(super) mod validate;
pub(super) mod value;
