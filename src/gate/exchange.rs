//! One request's way to the backend and its answer's way back. It waits for its turn and for a model that is on
//! its way, and is sent a second time when a backend dies before the answer has begun: generation has no side
//! effects, so nobody can tell.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer;
use super::backend::{self, AnswerHead, Link, Opened};
use super::connection::Record;
use super::error::{self, Refusal, ServerError};
use super::events::completion_tokens;
use super::lease::Lease;
use super::queue::{Place, Turn};
use super::relay::{Relay, Relayed};
use super::reply::{self, Envelope};
use super::shared::{Settings, Shared};
use super::stream::{gone, poll_append_link, poll_gone, write_all};
use super::validate::Endpoint;
use super::{Availability, Report, Upstream};

/// How long the supervisor may take to see that a backend is gone, after a connection was cut.
const NOTICED: Duration = Duration::from_secs(2);
/// Between two attempts to connect to a backend that refuses and is said to be ready.
const PAUSE: Duration = Duration::from_millis(50);
/// Answers up to this size are collected and sent whole; larger ones pass as they come.
const WHOLE: u64 = 256 * 1024;
/// Bytes of an answer that tells no length and is no stream, at most.
const ENDLESS: usize = 16 << 20;

/// One request at work.
pub(super) struct Exchange<'a> {
    client: IpAddr,
    endpoint: Endpoint,
    body: Vec<u8>,
    shared: &'a Arc<Shared>,
    settings: &'a Arc<Settings>,
    envelope: &'a Envelope<'a>,
    started: Instant,
    deadline: Instant,
    relay: Relay,
}

/// How it ended.
pub(super) enum Outcome {
    /// The client has its answer, and the connection may go on.
    Answered,
    /// Nothing was sent to the client yet.
    Refused(Box<Refusal>),
    /// The connection is of no use any more.
    Over,
}

/// How one attempt ended.
enum Attempt {
    Done(Outcome),
    /// The backend went away; `sent`: it had the request.
    Lost {
        why: String,
        sent: bool,
    },
    Aborted(Arc<str>),
    ClientGone,
}

/// A run that a request was lost on.
#[derive(Clone, Copy)]
struct Loss {
    generation: u64,
    at: Instant,
    sent: bool,
}

impl<'a> Exchange<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once; a struct of the same fields would be this one"
    )]
    pub(super) fn new(
        client: IpAddr,
        endpoint: Endpoint,
        body: Vec<u8>,
        chunks: bool,
        shared: &'a Arc<Shared>,
        settings: &'a Arc<Settings>,
        envelope: &'a Envelope<'a>,
        started: Instant,
    ) -> Self {
        let deadline = started + settings.config.limits.queue_timeout;
        let relay = Relay::new(chunks);
        Self { client, endpoint, body, shared, settings, envelope, started, deadline, relay }
    }

    pub(super) async fn run(&mut self, client: &mut TcpStream, record: &mut Record) -> Outcome {
        let _turn = match self.shared.queue.ask(self.client) {
            Ok(Place::Now(turn)) => turn,
            Ok(Place::Later(place)) => match Box::pin(self.wait_turn(place, client)).await {
                Ok(turn) => turn,
                Err(outcome) => return self.over(outcome, record),
            },
            Err(_) => return refused(full()),
        };
        let mut loss: Option<Loss> = None;
        loop {
            let upstream = match self.shared.ready().filter(|_| loss.is_none()) {
                Some(upstream) => upstream,
                None => match Box::pin(self.wait_ready(loss, client)).await {
                    Ok(upstream) => upstream,
                    Err(outcome) => return Box::pin(self.end(outcome, client, record)).await,
                },
            };
            record.attempts += 1;
            record.waited = if record.attempts == 1 { self.started.elapsed() } else { record.waited };
            let lease = self.shared.leases.begin(upstream.generation, &self.shared.traffic);
            match self.attempt(&upstream, &lease, client, record).await {
                Attempt::Done(outcome) => return Box::pin(self.end(outcome, client, record)).await,
                Attempt::ClientGone => return self.over(Outcome::Over, record),
                Attempt::Aborted(why) => {
                    return Box::pin(self.end(refused(aborted(&why)), client, record)).await;
                }
                Attempt::Lost { why, sent } => {
                    drop(lease);
                    let generation = upstream.generation;
                    self.shared.report(Report::Suspect { generation, why: why.clone() });
                    let again = loss.is_some_and(|loss| loss.sent);
                    if self.relay.begun() || (again && sent) {
                        return Box::pin(self.end(refused(lost(&why)), client, record)).await;
                    }
                    // It waited for an answer until now, not for a model; that wait begins here.
                    self.deadline = Instant::now() + self.settings.config.limits.queue_timeout;
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

    /// A refusal after the head of a stream went out becomes the stream's last event.
    async fn end(&mut self, outcome: Outcome, client: &TcpStream, record: &mut Record) -> Outcome {
        match outcome {
            Outcome::Refused(refusal) if self.relay.started() => {
                record.outcome = if refusal.code == "backend_lost" { "cut" } else { refusal.code };
                let last = self.relay.last_words(&refusal.event());
                // Boxed, here and elsewhere, where it is rare: a connection's memory is that of its largest moment.
                let _ = Box::pin(write_all(client, &last)).await;
                Outcome::Over
            }
            Outcome::Over => self.over(outcome, record),
            other => other,
        }
    }

    async fn wait_turn(
        &self,
        mut place: oneshot::Receiver<Turn>,
        client: &TcpStream,
    ) -> Result<Turn, Outcome> {
        let _queued = Queued::new(self.shared);
        let mut availability = self.shared.availability.clone();
        loop {
            tokio::select! {
                biased;
                turn = &mut place => return turn.map_err(|_| refused(full())),
                () = gone(client) => return Err(Outcome::Over),
                () = tokio::time::sleep_until(self.deadline) => return Err(refused(waited())),
                changed = availability.changed() => {
                    let now = availability.borrow_and_update().clone();
                    if let Some(refusal) = answer::turned_away(&self.settings.config, &now).filter(|_| changed.is_ok()) {
                        return Err(refused(refusal));
                    }
                    if changed.is_err() {
                        return Err(refused(closing()));
                    }
                }
            }
        }
    }

    /// Waits until there is a run to send to, after `loss` another one.
    async fn wait_ready(&self, loss: Option<Loss>, client: &TcpStream) -> Result<Upstream, Outcome> {
        let _queued = Queued::new(self.shared);
        let mut availability = self.shared.availability.clone();
        loop {
            let now = availability.borrow_and_update().clone();
            let mut until = self.deadline;
            if let Availability::Ready(upstream) = &now {
                match loss.filter(|loss| loss.generation == upstream.generation) {
                    None => return Ok(upstream.clone()),
                    // Still the run that cut it off. Nothing was sent: it may try there again.
                    Some(loss) if !loss.sent && loss.at.elapsed() >= PAUSE => return Ok(upstream.clone()),
                    Some(loss) if loss.sent && loss.at.elapsed() >= NOTICED => {
                        return Err(refused(lost("it closed the connection without an answer")));
                    }
                    Some(loss) => until = until.min(loss.at + if loss.sent { NOTICED } else { PAUSE }),
                }
            } else if let Some(refusal) = answer::turned_away(&self.settings.config, &now) {
                return Err(refused(refusal));
            }
            if Instant::now() >= self.deadline {
                return Err(refused(answer::unavailable(&self.settings.config, &now).unwrap_or_else(waited)));
            }
            tokio::select! {
                biased;
                () = gone(client) => return Err(Outcome::Over),
                changed = availability.changed() => {
                    if changed.is_err() {
                        return Err(refused(closing()));
                    }
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn attempt(
        &mut self,
        upstream: &Upstream,
        lease: &Lease,
        client: &mut TcpStream,
        record: &mut Record,
    ) -> Attempt {
        let head = backend::request_head(self.endpoint, upstream, self.body.len());
        let Opened { link: backend, sent } =
            match backend::open(upstream.address, head.as_bytes(), &self.body) {
                Ok(opened) => opened,
                Err(error) => return Attempt::Lost { why: format!("cannot connect: {error}"), sent: false },
            };
        if sent < head.len() + self.body.len() {
            match Box::pin(self.send_rest(&head, sent, &backend, lease, client)).await {
                Ok(()) => {}
                Err(attempt) => return attempt,
            }
        }
        drop(head);
        let mut bytes = Vec::new();
        let answer = loop {
            match self.receive(&backend, lease, client, &mut bytes).await {
                Received::Bytes => {}
                Received::End(why) => return Attempt::Lost { why, sent: true },
                Received::Stop(attempt) => return attempt,
            }
            match backend::answer_head(&bytes) {
                Ok(Some(answer)) => break answer,
                Ok(None) => {}
                Err(why) => return Attempt::Lost { why, sent: true },
            }
        };
        bytes.drain(..answer.bytes);
        if answer.status == 200 && (answer.events || answer.length.is_some_and(|length| length > WHOLE)) {
            return self.pass_on(&backend, &answer, &mut bytes, lease, client, record).await;
        }
        Box::pin(self.collect(&backend, &answer, &mut bytes, lease, client, record)).await
    }

    async fn send_rest(
        &self,
        head: &str,
        mut sent: usize,
        backend: &Link,
        lease: &Lease,
        client: &TcpStream,
    ) -> Result<(), Attempt> {
        let failed = |error: io::Error| {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            Attempt::Lost { why: format!("cannot send: {error}"), sent: !refused }
        };
        while sent < head.len() + self.body.len() {
            let parts = [
                io::IoSlice::new(head.as_bytes().get(sent..).unwrap_or_default()),
                io::IoSlice::new(self.body.get(sent.saturating_sub(head.len())..).unwrap_or_default()),
            ];
            let written = poll_fn(|cx| {
                if let Some(why) = lease.ended(cx.waker()) {
                    return Poll::Ready(Err(Attempt::Aborted(why)));
                }
                if poll_gone(client, cx).is_ready() {
                    return Poll::Ready(Err(Attempt::ClientGone));
                }
                backend.poll_write(cx, &parts).map_err(failed)
            });
            sent += written.await?;
        }
        Ok(())
    }

    async fn receive(
        &self,
        backend: &Link,
        lease: &Lease,
        client: &TcpStream,
        out: &mut Vec<u8>,
    ) -> Received {
        poll_fn(|cx| {
            if let Poll::Ready(result) = poll_append_link(backend, cx, out) {
                return Poll::Ready(match result {
                    Ok(0) => Received::End("it closed the connection without an answer".to_owned()),
                    Ok(_) => {
                        self.shared.traffic.heard(Instant::now());
                        Received::Bytes
                    }
                    Err(error) => Received::End(format!("the connection broke: {error}")),
                });
            }
            if let Some(why) = lease.ended(cx.waker()) {
                return Poll::Ready(Received::Stop(Attempt::Aborted(why)));
            }
            poll_gone(client, cx).map(|()| Received::Stop(Attempt::ClientGone))
        })
        .await
    }

    /// An answer that is collected: an error, or JSON of a moderate size.
    async fn collect(
        &mut self,
        backend: &Link,
        answer: &AnswerHead,
        body: &mut Vec<u8>,
        lease: &Lease,
        client: &TcpStream,
        record: &mut Record,
    ) -> Attempt {
        loop {
            if answer.length.is_some_and(|length| body.len() as u64 >= length) {
                break;
            }
            if body.len() > ENDLESS {
                return Attempt::Lost { why: "its answer has no end".to_owned(), sent: true };
            }
            match self.receive(backend, lease, client, body).await {
                Received::Bytes => {}
                Received::End(_) if answer.length.is_none() => break,
                Received::End(why) => return Attempt::Lost { why, sent: true },
                Received::Stop(attempt) => return attempt,
            }
        }
        if answer.status != 200 {
            return match error::from_server(answer.status, body) {
                ServerError::Dead(why) => Attempt::Lost { why, sent: true },
                ServerError::Refused(refusal) => Attempt::Done(refused(refusal)),
            };
        }
        if self.relay.started() {
            // A stream was begun with comments, and the second backend answers without one: nothing it can be.
            return Attempt::Lost { why: "it did not answer with a stream".to_owned(), sent: true };
        }
        body.truncate(answer.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX));
        let mut bytes = reply::head(200, self.envelope).into_bytes();
        bytes.extend_from_slice(
            format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(),
        );
        bytes.extend_from_slice(body);
        record.status = 200;
        record.sent = body.len() as u64;
        record.tokens = completion_tokens(body).unwrap_or(0);
        self.shared.traffic.answered(record.tokens, None, self.started.elapsed());
        match write_all(client, &bytes).await {
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
        client: &mut TcpStream,
        record: &mut Record,
    ) -> Attempt {
        if !self.relay.started() {
            self.relay.prepare(answer, self.envelope);
        }
        record.status = 200;
        let result =
            self.relay.run(backend, first, &mut self.body, lease, client, &self.shared.traffic).await;
        let first_token = self.relay.first_token().map(|at| at.saturating_duration_since(self.started));
        record.first_token = first_token;
        record.sent = self.relay.sent();
        record.tokens = self.relay.tokens();
        if self.relay.begun() {
            self.shared.traffic.answered(record.tokens, first_token, self.started.elapsed());
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

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(Box::new(refusal))
}

enum Received {
    Bytes,
    End(String),
    Stop(Attempt),
}

/// Counted as waiting, for as long as it lives.
struct Queued<'a>(&'a Shared);

impl<'a> Queued<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.traffic.queue_grew();
        Self(shared)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.traffic.queue_shrank();
    }
}

fn full() -> Refusal {
    let message = "too many requests wait for this model already";
    Refusal { retry_after: Some(Duration::from_secs(2)), ..Refusal::new(429, "queue_full", message) }
}

fn waited() -> Refusal {
    Refusal::unavailable("queue_timeout", "the request waited for its turn too long", Duration::from_secs(5))
}

fn closing() -> Refusal {
    Refusal::unavailable("closing", "this server is going down", Duration::from_secs(10))
}

fn lost(why: &str) -> Refusal {
    let message = format!("the model server went away before the answer was complete: {why}");
    Refusal { retry_after: Some(Duration::from_secs(5)), ..Refusal::new(502, "backend_lost", message) }
}

fn aborted(why: &str) -> Refusal {
    Refusal::unavailable("aborted", format!("the request was ended: {why}"), Duration::from_secs(5))
}
