//! Bytes to and from clients and backends. Nothing here decides who may ask for what.

mod backend;
mod chunks;
mod client;
mod drain;
mod events;
mod head;
mod refusal;
mod reply;
mod stream;

pub(crate) use backend::{AnswerHead, Link, Opened};
pub(crate) use chunks::{Chunks, LAST_CHUNK, body_too_large, size_line};
pub(crate) use client::{Client, Silence};
pub(crate) use drain::{LINGER, SLOWEST, part};
pub(crate) use events::{Events, Usage};
pub(crate) use head::{Framing, HEAD_BYTES, Head, Method, empty_lines, head_too_large};
pub(crate) use refusal::{Refusal, first, shown};
pub(crate) use reply::{Envelope, Reply, end_head, reply_head};
pub(crate) use stream::{BEFORE, MIDDLE, PIECE, by, poll_append, with_scratch, write_all};
