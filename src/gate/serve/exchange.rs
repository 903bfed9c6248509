//! Takes one request to the backend and its answer back. The request waits for its turn and for a model that is
//! loading, and is sent a second time if a backend dies before the answer has begun: generation has no side effects, so
//! that is safe.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::lease::Lease;
use super::outcome::Outcome;
use super::queue::Place;
use super::record::Record;
use super::relay::{Relay, Relayed};
use super::wait::{self, Line, Loss};
use crate::backend::client::request_head;
use crate::gate::policy::contract::{Report, Upstream};
use crate::gate::policy::rules::Endpoint;
use crate::gate::policy::server_error::{ServerError, from_server};
use crate::gate::wire::{
    AnswerHead, Client, Envelope, Link, Opened, Refusal, Usage, end_head, reply_head, write_all,
};

/// Answers with a larger `Content-Length`, in bytes, are passed on as they arrive; others are collected and sent whole.
const WHOLE: u64 = 256 * 1024;
/// Maximum size of a non-streaming body without Content-Length, in bytes.
const ENDLESS: usize = 16 << 20;

pub(super) struct Exchange<'a> {
    line: Line<'a>,
    work: Work,
    envelope: &'a Envelope<'a>,
    started: Instant,
    relay: Relay,
}

/// The request as it goes to the backend.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) endpoint: Endpoint,
    pub(super) body: Vec<u8>,
    /// Whether the answer will be a stream of events.
    pub(super) stream: bool,
}

enum Attempt {
    Done(Outcome),
    /// The backend is gone; `sent` if it may have read the request.
    Lost {
        why: String,
        sent: bool,
    },
    Aborted(Arc<str>),
    ClientGone,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        line: Line<'a>,
        work: Work,
        chunks: bool,
        envelope: &'a Envelope<'a>,
        started: Instant,
    ) -> Self {
        Self { line, work, envelope, started, relay: Relay::new(chunks) }
    }

    pub(super) async fn run(&mut self, client: &Client, record: &mut Record) -> Outcome {
        let shared = self.line.shared;
        let mut deadline = self.line.patience.until(self.started);
        let _turn = match shared.queue.ask(self.line.client) {
            Ok(Place::Now(turn)) => turn,
            Ok(Place::Later(place)) => match Box::pin(self.line.turn(place, deadline, client)).await {
                Ok(turn) => turn,
                Err(outcome) => return self.over(outcome, record),
            },
            Err(_) => return wait::full().into(),
        };
        let mut loss: Option<Loss> = None;
        loop {
            let upstream = match shared.ready().filter(|_| loss.is_none()) {
                Some(upstream) => upstream,
                None => match Box::pin(self.line.ready(loss, deadline, client)).await {
                    Ok(upstream) => upstream,
                    Err(outcome) => return Box::pin(self.end(outcome, client, record)).await,
                },
            };
            record.attempts += 1;
            record.waited = if record.attempts == 1 { self.started.elapsed() } else { record.waited };
            let lease = shared.leases.begin(upstream.generation, &shared.front.traffic);
            let attempt = match self.send(&upstream, &lease, client).await {
                Ok(backend) => {
                    let attempt = self.attempt(&backend, &lease, client, record).await;
                    if matches!(attempt, Attempt::ClientGone) && !self.work.stream {
                        Box::pin(self.outlast(&backend, &lease)).await;
                    }
                    attempt
                }
                Err(attempt) => attempt,
            };
            match attempt {
                Attempt::Done(Outcome::Answered) => return Outcome::Answered,
                Attempt::Done(outcome) => return Box::pin(self.end(outcome, client, record)).await,
                Attempt::ClientGone => return self.over(Outcome::Over, record),
                Attempt::Aborted(why) => {
                    return Box::pin(self.end(aborted(&why).into(), client, record)).await;
                }
                Attempt::Lost { why, sent } => {
                    drop(lease);
                    let generation = upstream.generation;
                    shared.report(Report::Suspect { generation, why: why.clone() });
                    let again = loss.is_some_and(|loss| loss.sent);
                    if self.relay.begun() || (again && sent) {
                        return Box::pin(self.end(wait::lost(&why).into(), client, record)).await;
                    }
                    // Until now it waited for an answer; the wait for a model begins here.
                    deadline = self.line.patience.until(Instant::now());
                    loss = Some(Loss { generation, at: Instant::now(), sent: sent || again });
                }
            }
        }
    }

    fn over(&self, outcome: Outcome, record: &mut Record) -> Outcome {
        if matches!(outcome, Outcome::Over) {
            record.outcome = "client_gone";
        }
        outcome
    }

    /// Turns a refusal into the last event of a stream whose head was already sent.
    async fn end(&mut self, outcome: Outcome, client: &Client, record: &mut Record) -> Outcome {
        match outcome {
            Outcome::Refused(refusal) if self.relay.started() => {
                record.outcome = if refusal.code == "backend_lost" { "cut" } else { refusal.code };
                let last = self.relay.last_words(&refusal.event());
                // Rare futures are boxed, here and elsewhere: a task is as large as its largest state.
                let _ = Box::pin(write_all(client, &last)).await;
                Outcome::Over
            }
            Outcome::Over => self.over(outcome, record),
            other => other,
        }
    }

    /// Opens a connection to the backend and sends the request.
    async fn send(&self, upstream: &Upstream, lease: &Lease, client: &Client) -> Result<Link, Attempt> {
        let head = request_head(self.work.endpoint.path(), &upstream.secret, self.work.body.len());
        let Opened { link, sent } = Link::open(upstream.address, head.as_bytes(), &self.work.body)
            .map_err(|error| Attempt::Lost { why: format!("cannot connect: {error}"), sent: false })?;
        if sent < head.len() + self.work.body.len() {
            Box::pin(self.send_rest(&head, sent, &link, lease, client)).await?;
        }
        Ok(link)
    }

    /// Waits for the end of an answer whose client has left. `mlx_lm.server` notices only when a write fails, and a
    /// plain answer is written when it is complete: until then the backend computes, and turn and lease stay taken.
    /// Hanging up tells the launcher, which then ends the answer.
    async fn outlast(&mut self, backend: &Link, lease: &Lease) {
        let _orphan = self.line.shared.front.traffic.orphan();
        self.work.body = Vec::new();
        backend.hang_up();
        poll_fn(|cx| {
            loop {
                if lease.ended(cx.waker()).is_some() {
                    return Poll::Ready(());
                }
                match ready!(backend.poll_discard(cx)) {
                    Ok(1..) => self.line.shared.front.traffic.heard(Instant::now()),
                    Ok(0) | Err(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    /// Waits for the answer and passes it on.
    async fn attempt(
        &mut self,
        backend: &Link,
        lease: &Lease,
        client: &Client,
        record: &mut Record,
    ) -> Attempt {
        let mut bytes = Vec::new();
        let answer = loop {
            match self.receive(backend, lease, client, &mut bytes).await {
                Received::Bytes => {}
                Received::End(why) => return Attempt::Lost { why, sent: true },
                Received::Stop(attempt) => return attempt,
            }
            match AnswerHead::parse(&bytes) {
                Ok(Some(answer)) => break answer,
                Ok(None) => {}
                Err(why) => return Attempt::Lost { why, sent: true },
            }
        };
        bytes.drain(..answer.bytes);
        if answer.status == 200 && (answer.events || answer.length.is_some_and(|length| length > WHOLE)) {
            return self.pass_on(backend, &answer, &mut bytes, lease, client, record).await;
        }
        Box::pin(self.collect(backend, &answer, &mut bytes, lease, client, record)).await
    }

    async fn send_rest(
        &self,
        head: &str,
        mut sent: usize,
        backend: &Link,
        lease: &Lease,
        client: &Client,
    ) -> Result<(), Attempt> {
        let failed = |error: io::Error| {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            Attempt::Lost { why: format!("cannot send: {error}"), sent: !refused }
        };
        while sent < head.len() + self.work.body.len() {
            let parts = [
                io::IoSlice::new(head.as_bytes().get(sent..).unwrap_or_default()),
                io::IoSlice::new(self.work.body.get(sent.saturating_sub(head.len())..).unwrap_or_default()),
            ];
            let written = poll_fn(|cx| {
                if let Some(why) = lease.ended(cx.waker()) {
                    return Poll::Ready(Err(Attempt::Aborted(why)));
                }
                if client.poll_left(cx).is_ready() {
                    return Poll::Ready(Err(Attempt::ClientGone));
                }
                backend.poll_write(cx, &parts).map_err(failed)
            });
            sent += written.await?;
        }
        Ok(())
    }

    async fn receive(&self, backend: &Link, lease: &Lease, client: &Client, out: &mut Vec<u8>) -> Received {
        poll_fn(|cx| {
            if let Poll::Ready(result) = backend.poll_append(cx, out) {
                return Poll::Ready(match result {
                    Ok(0) => Received::End("it closed the connection without answering".to_owned()),
                    Ok(_) => {
                        self.line.shared.front.traffic.heard(Instant::now());
                        Received::Bytes
                    }
                    Err(error) => Received::End(format!("the connection broke: {error}")),
                });
            }
            if let Some(why) = lease.ended(cx.waker()) {
                return Poll::Ready(Received::Stop(Attempt::Aborted(why)));
            }
            client.poll_left(cx).map(|()| Received::Stop(Attempt::ClientGone))
        })
        .await
    }

    /// Collects an answer: an error, or JSON of moderate size.
    async fn collect(
        &mut self,
        backend: &Link,
        answer: &AnswerHead,
        body: &mut Vec<u8>,
        lease: &Lease,
        client: &Client,
        record: &mut Record,
    ) -> Attempt {
        loop {
            if answer.length.is_some_and(|length| body.len() as u64 >= length) {
                break;
            }
            if body.len() > ENDLESS {
                return Attempt::Lost { why: "its answer is too long".to_owned(), sent: true };
            }
            match self.receive(backend, lease, client, body).await {
                Received::Bytes => {}
                Received::End(_) if answer.length.is_none() => break,
                Received::End(why) => return Attempt::Lost { why, sent: true },
                Received::Stop(attempt) => return attempt,
            }
        }
        if answer.status != 200 {
            return match from_server(answer.status, body) {
                ServerError::Dead(why) => Attempt::Lost { why, sent: true },
                ServerError::Refused(refusal) => Attempt::Done(refusal.into()),
            };
        }
        if self.relay.started() {
            // The client already has the head of a stream: a plain answer of the second backend is of no use.
            return Attempt::Lost { why: "it did not answer with a stream".to_owned(), sent: true };
        }
        body.truncate(answer.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX));
        let mut head = reply_head(200, self.envelope);
        head.push_str("content-type: application/json\r\n");
        end_head(&mut head, body.len());
        let bytes = [head.as_bytes(), body].concat();
        record.status = 200;
        record.sent = body.len() as u64;
        record.usage = Usage::of(body).unwrap_or_default();
        self.line.shared.front.traffic.answered(record.usage, None, self.started.elapsed());
        match write_all(client, client.rest(&bytes)).await {
            Ok(()) => Attempt::Done(Outcome::Answered),
            Err(_) => Attempt::ClientGone,
        }
    }

    async fn pass_on(
        &mut self,
        backend: &Link,
        answer: &AnswerHead,
        first: &mut Vec<u8>,
        lease: &Lease,
        client: &Client,
        record: &mut Record,
    ) -> Attempt {
        if !self.relay.started() {
            self.relay.prepare(answer, self.envelope);
        }
        record.status = 200;
        let result = self
            .relay
            .run(backend, first, &mut self.work.body, lease, client, &self.line.shared.front.traffic)
            .await;
        let first_token = self.relay.first_token().map(|at| at.saturating_duration_since(self.started));
        record.first_token = first_token;
        record.sent = self.relay.sent();
        record.usage = self.relay.usage();
        if self.relay.begun() {
            self.line.shared.front.traffic.answered(record.usage, first_token, self.started.elapsed());
        }
        match result {
            Relayed::Done => Attempt::Done(Outcome::Answered),
            Relayed::DoneAndClose => Attempt::Done(Outcome::Over),
            Relayed::Lost(why) => Attempt::Lost { why, sent: true },
            Relayed::Aborted(why) => Attempt::Aborted(why),
            Relayed::ClientGone => Attempt::ClientGone,
        }
    }
}

enum Received {
    Bytes,
    End(String),
    Stop(Attempt),
}

fn aborted(why: &str) -> Refusal {
    Refusal::unavailable("aborted", format!("the request was ended: {why}"), Duration::from_secs(5))
}
