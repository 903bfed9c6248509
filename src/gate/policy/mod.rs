//! Decisions: what may be asked, by whom, and what becomes of it. Pure.

pub mod access;
pub mod answer;
pub mod bounds;
pub mod contract;
pub mod decide;
pub mod fields;
pub mod json;
pub mod keys;
pub mod messages;
pub mod rewrite;
pub mod room;
pub mod rules;
pub mod server_error;
pub mod template;
pub mod unread;
pub mod validate;
pub mod value;
