//! What a conductor knows about one rank.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::frame::{Beat, Gone};
use super::silence::Silence;
use crate::api::{RankState, RankStatus};

/// How many lines of its output are kept for the verdict.
const TAIL: usize = 60;

pub(super) struct Watched {
    pub beat: Option<Beat>,
    pub silence: Silence,
    pub gone: Option<Gone>,
    /// Whether `mlx.launch` saw it end.
    pub lost: bool,
    tail: VecDeque<String>,
}

impl Watched {
    pub(super) fn new(silence: Silence) -> Self {
        Self { beat: None, silence, gone: None, lost: false, tail: VecDeque::new() }
    }

    /// Whether no more messages will come from it.
    pub(super) fn is_over(&self) -> bool {
        self.gone.is_some() || self.lost
    }

    /// Keeps a line of its output, and drops the oldest beyond [`TAIL`].
    pub(super) fn remember(&mut self, line: String) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// The last lines of its output.
    pub(super) fn said(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn status(&self, rank: usize, host: &str, now: Instant, heartbeat: Duration) -> RankStatus {
        let beat = self.beat.as_ref();
        let state = if self.is_over() {
            RankState::Ended
        } else if self.silence.length(now) > heartbeat * 3 && beat.is_some() {
            RankState::Silent
        } else if beat.is_some_and(|beat| beat.pid.is_some()) {
            RankState::Running
        } else {
            RankState::Starting
        };
        let live = beat.filter(|_| state != RankState::Ended);
        RankStatus {
            rank,
            host: host.to_owned(),
            pid: live.and_then(|beat| beat.pid),
            footprint_bytes: live.and_then(|beat| beat.footprint),
            state,
        }
    }
}
