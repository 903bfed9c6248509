//! Counters of what passes through a gate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::histogram::{Counted, Histogram, PER_TOKEN, TTFT};
use crate::api::{Counts, KeyUsage, TrafficStatus};
use crate::gate::wire::Usage;
use crate::speed;

/// The counters of one model since its gate was made. Reading never waits long for a writer.
#[derive(Debug)]
pub struct Traffic {
    started: Instant,
    /// The wall-clock time of `started`.
    since: SystemTime,
    in_flight: AtomicU64,
    /// Notified when `in_flight` leaves 0 and when it returns. A watch channel would be notified of each request as
    /// well, and has eight waiter lists to search for it.
    turned: Notify,
    /// Requests in flight whose clients have left, and which the backend has yet to end.
    orphaned: AtomicU64,
    queued: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    tokens: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    keys: Mutex<BTreeMap<String, KeyUsage>>,
    /// When the backend last sent a byte: milliseconds after `started`, plus one; 0 for never.
    activity: AtomicU64,
    recent: Mutex<Recent>,
    codes: Mutex<BTreeMap<u16, u64>>,
    ttft: Histogram,
    per_token: Histogram,
}

/// What the metrics show: [`TrafficStatus`] and more.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficDetail {
    pub status: TrafficStatus,
    /// Requests waiting for their turn, or for a model that is loading.
    pub queued: u64,
    /// All answers by HTTP status; 499 means that the client left first.
    pub codes: BTreeMap<u16, u64>,
    /// Time to first token of streamed answers.
    pub ttft: Counted,
    /// Time between two tokens: one count per token, at the mean of its answer.
    pub per_token: Counted,
}

/// Moving averages: each new answer counts for a fifth, so about the last ten matter.
#[derive(Debug, Default)]
struct Recent {
    tokens_per_second: Option<f64>,
    ttft_ms: Option<f64>,
}

const WEIGHT: f64 = 0.2;
/// nginx's status for a client that left; HTTP defines none.
const CLIENT_GONE: u16 = 499;

/// Guard of [`Traffic::orphan`]; dropping it ends the count.
#[must_use]
pub(super) struct Orphan<'a>(&'a AtomicU64);

impl Drop for Orphan<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            since: SystemTime::now(),
            in_flight: AtomicU64::new(0),
            turned: Notify::new(),
            orphaned: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            keys: Mutex::default(),
            activity: AtomicU64::new(0),
            recent: Mutex::new(Recent::default()),
            codes: Mutex::default(),
            ttft: Histogram::new(TTFT),
            per_token: Histogram::new(PER_TOKEN),
        }
    }
}

impl Traffic {
    /// Requests at the backend now, those of clients that have left included.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Whether a client waits for something: an answer, its turn, or a model that is loading. A backend that computes
    /// only for clients that have left is not wanted.
    pub fn wanted(&self) -> bool {
        self.in_flight() > self.orphaned.load(Relaxed) || self.queued() > 0
    }

    /// Resolves as soon as nothing is in flight.
    pub async fn drained(&self) {
        self.turns(false).await;
    }

    /// Resolves as soon as something is in flight.
    pub async fn busy(&self) {
        self.turns(true).await;
    }

    async fn turns(&self, busy: bool) {
        loop {
            // Created before the check, so that a change after it is not missed.
            let turned = self.turned.notified();
            if (self.in_flight() > 0) == busy {
                return;
            }
            turned.await;
        }
    }

    /// Requests waiting for their turn, or for a model that is loading.
    pub fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// When the backend last sent a byte; `None` if it never has.
    pub fn last_activity(&self) -> Option<Instant> {
        let millis = self.activity.load(Relaxed).checked_sub(1)?;
        self.started.checked_add(Duration::from_millis(millis))
    }

    /// Requests at the backend now, and a number that changes whenever the backend sends a byte.
    pub fn progress(&self) -> (u32, u64) {
        let in_flight = u32::try_from(self.in_flight()).unwrap_or(u32::MAX);
        (in_flight, self.activity.load(Relaxed))
    }

    /// The counters as `mlxctl status` shows them.
    pub fn status(&self) -> TrafficStatus {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        TrafficStatus {
            in_flight: self.in_flight(),
            counts: Counts {
                requests: self.requests.load(Relaxed),
                errors: self.errors.load(Relaxed),
                tokens: self.tokens.load(Relaxed),
                prompt_tokens: self.prompt_tokens.load(Relaxed),
                cached_tokens: self.cached_tokens.load(Relaxed),
                keys: self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                since: Some(humantime::format_rfc3339_seconds(self.since).to_string()),
            },
            tokens_per_second: recent.tokens_per_second,
            ttft_ms: recent.ttft_ms,
        }
    }

    /// The counters as the metrics show them.
    pub fn detail(&self) -> TrafficDetail {
        TrafficDetail {
            status: self.status(),
            queued: self.queued(),
            codes: self.codes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ttft: self.ttft.counted(),
            per_token: self.per_token.counted(),
        }
    }

    /// Counts a request that ended with this HTTP status, or without one because its client left.
    pub(super) fn ended(&self, status: u16, client_gone: bool) {
        let code = if client_gone { CLIENT_GONE } else { status };
        *self.codes.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// Counts a request made with this key. There are only as many entries as keys.
    pub(super) fn counted(&self, key: &str, usage: Usage) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let one = KeyUsage {
            requests: 1,
            prompt_tokens: usage.prompt,
            cached_tokens: usage.cached,
            tokens: usage.answer,
        };
        match keys.get_mut(key) {
            Some(known) => known.add(one),
            None => drop(keys.insert(key.to_owned(), one)),
        }
    }

    pub(crate) fn begin(&self) {
        if self.in_flight.fetch_add(1, Relaxed) == 0 {
            self.turned.notify_waiters();
        }
    }

    /// Must be called once for each [`Self::begin`].
    pub(crate) fn end(&self) {
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.turned.notify_waiters();
        }
    }

    /// Counts a request in flight whose client has left, until the guard is dropped: the backend still works on it.
    pub(super) fn orphan(&self) -> Orphan<'_> {
        self.orphaned.fetch_add(1, Relaxed);
        Orphan(&self.orphaned)
    }

    pub(super) fn queue_grew(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    pub(super) fn queue_shrank(&self) {
        self.queued.fetch_sub(1, Relaxed);
    }

    pub(super) fn accepted(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn heard(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.started).as_millis();
        self.activity.store(u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1, Relaxed);
    }

    /// Counts an answer: its first token came after `ttft`, its last after `total`.
    #[expect(clippy::cast_precision_loss, reason = "no answer has 2⁵³ tokens")]
    pub(super) fn answered(&self, usage: Usage, ttft: Option<Duration>, total: Duration) {
        let tokens = usage.answer;
        self.tokens.fetch_add(tokens, Relaxed);
        self.prompt_tokens.fetch_add(usage.prompt, Relaxed);
        self.cached_tokens.fetch_add(usage.cached, Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let blend = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + WEIGHT * (new - old)));
        if let Some(ttft) = ttft {
            recent.ttft_ms = blend(recent.ttft_ms, ttft.as_secs_f64() * 1000.0);
            self.ttft.add(ttft, 1);
        }
        // Between n tokens there are n − 1 intervals. Without a stream it is not known when the first one came.
        let (count, time) = match ttft {
            Some(ttft) => (tokens.saturating_sub(1), total.saturating_sub(ttft)),
            None => (tokens, total),
        };
        if count > 0 && !time.is_zero() {
            if ttft.is_some() {
                self.per_token.add(time.div_f64(count as f64), count);
            }
            if let Some(speed) = speed::per_second(count, time) {
                recent.tokens_per_second = blend(recent.tokens_per_second, speed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answer: u64) -> Usage {
        Usage { answer, ..Usage::default() }
    }

    #[test]
    fn speeds_follow_the_latest_answers() {
        let traffic = Traffic::default();
        let mut fresh = traffic.status();
        fresh.counts.since = None;
        assert_eq!(fresh, TrafficStatus::default());
        traffic.answered(answer(11), Some(Duration::from_millis(500)), Duration::from_millis(1500));
        let status = traffic.status();
        assert_eq!(
            (status.counts.tokens, status.ttft_ms, status.tokens_per_second),
            (11, Some(500.0), Some(10.0))
        );
        for _ in 0..50 {
            traffic.answered(answer(21), Some(Duration::from_millis(100)), Duration::from_millis(1100));
        }
        let status = traffic.status();
        assert!((status.ttft_ms.unwrap() - 100.0).abs() < 0.1, "{status:?}");
        assert!((status.tokens_per_second.unwrap() - 20.0).abs() < 0.1, "{status:?}");
    }

    #[test]
    fn a_short_answer_is_not_extrapolated() {
        let traffic = Traffic::default();
        traffic.answered(answer(4), Some(Duration::from_millis(100)), Duration::from_micros(100_005));
        let status = traffic.status();
        assert_eq!((status.counts.tokens, status.tokens_per_second), (4, None));
    }

    #[test]
    fn every_token_after_the_first_is_counted_and_so_is_every_status() {
        let traffic = Traffic::default();
        traffic.answered(answer(11), Some(Duration::from_millis(500)), Duration::from_millis(1500));
        traffic.answered(answer(7), None, Duration::from_secs(1));
        traffic.ended(200, false);
        traffic.ended(200, true);
        traffic.ended(503, false);
        let detail = traffic.detail();
        assert_eq!((detail.ttft.count, detail.per_token.count), (1, 10), "{detail:?}");
        assert_eq!(detail.per_token.buckets.iter().find(|(bound, _)| *bound == 0.1), Some(&(0.1, 10)));
        assert_eq!(detail.codes, BTreeMap::from([(200, 1), (499, 1), (503, 1)]));
    }

    #[tokio::test]
    async fn drained_waits_for_the_last_request() {
        let traffic = std::sync::Arc::new(Traffic::default());
        traffic.drained().await;
        traffic.begin();
        traffic.begin();
        let waiting = tokio::spawn({
            let traffic = traffic.clone();
            async move { traffic.drained().await }
        });
        traffic.end();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        traffic.end();
        waiting.await.unwrap();
    }
}
