//! Watches one run from its spawn to its end, and reports as [`Signed`] events whether it is ready and healthy.
//!
//! Mostly it waits: the launcher pushes what happens inside (listening, a dead generation thread). Only a ready backend
//! is polled, with `GET /health` once per interval, since a process that hangs pushes nothing.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{self, Answer};
use super::diagnose;
use super::link::{Link, LinkEvent, Message, Reply, Request, Thread};
use super::watchdog::{Observation, Watchdog};
use crate::api::{RankStatus, StoreFacts};
use crate::clock::beat;
use crate::host::{Host, Identity};
use crate::lifecycle::{Failure, FailureKind, Signed};
use crate::registry::Health;
use crate::units::Percent;

/// Time between attempts to connect to a launcher, and after a connection is lost.
const RECONNECT: Duration = Duration::from_millis(20);

/// Time between a bad answer and the check that confirms it. By then the process has reported its trouble on the link,
/// or ended, which is more precise than the answer.
const CONFIRM: Duration = Duration::from_millis(100);

/// How long a backend is checked every [`CONFIRM`] after its listener was closed: the server's loop, which waits on the
/// socket for up to half a second at a time, may keep it alive for that long.
const CLOSING: Duration = Duration::from_millis(1500);

/// A run's health for `status`; written by the probe, read by the loop.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    listening: AtomicBool,
    answering: AtomicBool,
    /// Milliseconds on the host's clock; 0: never.
    last_passed: AtomicU64,
    /// By number; empty without a cluster.
    ranks: Mutex<Vec<RankStatus>>,
    /// `None`: the launcher has not reported a store.
    store: Mutex<Option<StoreFacts>>,
}

impl Vitals {
    /// Whether this process, and no other, listens on its port.
    pub(crate) fn listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Whether it has completed a token and passed its last check.
    pub(crate) fn answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// The ranks, by number; empty without a cluster.
    pub(crate) fn ranks(&self) -> Vec<RankStatus> {
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kept prompts on disk; `None`: the launcher has not reported a store.
    pub(crate) fn store(&self) -> Option<StoreFacts> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_store(&self, facts: StoreFacts) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
    }

    fn set_ranks(&self, ranks: Vec<RankStatus>) {
        *self.ranks.lock().unwrap_or_else(PoisonError::into_inner) = ranks;
    }

    /// When it last passed a check, on the host's clock; `None`: never.
    pub(crate) fn last_passed(&self) -> Option<Duration> {
        Some(self.last_passed.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Duration::from_millis)
    }
}

/// A request to the launcher, with the channel for its answer.
pub(crate) type Question = (Request, oneshot::Sender<Reply>);

pub(crate) struct Probe {
    pub host: Arc<dyn Host>,
    pub identity: Identity,
    pub generation: u64,
    pub link: PathBuf,
    pub secret: String,
    pub health: Health,
    /// Returns the requests in flight, and a number that changes whenever bytes of an answer come.
    pub activity: Box<dyn Fn() -> (u32, u64) + Send + Sync>,
    pub findings: Box<dyn Fn(Signed) + Send + Sync>,
    /// Notified when a request failed: then the backend is checked at once.
    pub suspicion: Arc<Notify>,
    pub questions: mpsc::Receiver<Question>,
    /// The share of time the model may work; `None`: all of it. Sent whenever it changes, and on each connection, since
    /// an earlier supervisor may have set another one.
    pub pace: watch::Receiver<Option<Percent>>,
    pub vitals: Arc<Vitals>,
}

/// The request to the backend in progress; there is only one at a time.
type Check = Pin<Box<dyn Future<Output = io::Result<Answer>> + Send>>;

/// What a probe knows about its run so far.
struct Knowledge {
    port: Option<u16>,
    ready: bool,
    last_error: Option<String>,
    /// Whether the backend is a conductor, which reports the loss of a rank itself.
    group: bool,
    /// CPU time of the slowest rank of a group.
    cpu: Option<Duration>,
    /// Whether the last answer was bad and has to be confirmed.
    doubted: bool,
    next_check: Instant,
    /// Until when checks follow at intervals of [`CONFIRM`].
    watchful: Option<Instant>,
    waiting: std::collections::VecDeque<oneshot::Sender<Reply>>,
    dog: Watchdog,
}

impl Probe {
    /// Probes until the future is dropped.
    pub(crate) async fn run(mut self) {
        let mut known = Knowledge {
            port: None,
            ready: false,
            last_error: None,
            group: false,
            cpu: None,
            doubted: false,
            next_check: Instant::now(),
            watchful: None,
            waiting: std::collections::VecDeque::new(),
            dog: Watchdog::default(),
        };
        let mut check: Option<Check> = None;
        loop {
            let mut link = self.connect().await;
            known.waiting.clear();
            self.pace.mark_changed();
            loop {
                if check.is_none()
                    && let Some(port) = known.port
                    && Instant::now() >= known.next_check
                {
                    check = Some(self.check(port, known.ready));
                }
                tokio::select! {
                    message = link.next() => match message {
                        Ok(Message::Event(event)) => {
                            if event == LinkEvent::ListenerClosed {
                                // The check in progress may never be answered.
                                check = None;
                            }
                            self.heard(event, &mut known);
                        },
                        Ok(Message::Reply(reply)) => if let Some(asker) = known.waiting.pop_front() {
                            // The receiver may be gone.
                            let _ = asker.send(reply);
                        },
                        Err(_) => break,
                    },
                    Some((request, asker)) = self.questions.recv() => {
                        known.waiting.push_back(asker);
                        if link.ask(request).await.is_err() {
                            break;
                        }
                    },
                    Ok(()) = self.pace.changed() => {
                        let percent = *self.pace.borrow_and_update();
                        // The answer is not needed, but takes its place among the others.
                        known.waiting.push_back(oneshot::channel().0);
                        if link.ask(Request::Pace { percent }).await.is_err() {
                            break;
                        }
                    },
                    answer = under_way(&mut check) => {
                        check = None;
                        let pause = self.checked(answer, &mut known);
                        let now = Instant::now();
                        let closely = known.watchful.is_some_and(|until| now < until);
                        known.next_check = now + if closely { pause.min(CONFIRM) } else { pause };
                    },
                    () = self.suspicion.notified(), if known.ready => known.next_check = Instant::now(),
                    () = sleep_until(known.next_check), if known.port.is_some() && check.is_none() => {},
                }
            }
            sleep(RECONNECT).await;
        }
    }

    async fn connect(&self) -> Link {
        loop {
            match Link::connect(&self.link).await {
                Ok(link) => return link,
                Err(_) => sleep(RECONNECT).await,
            }
        }
    }

    /// Requests one token until the backend is ready, then `/health`.
    fn check(&self, port: u16, ready: bool) -> Check {
        let (secret, limit) = (self.secret.clone(), self.health.timeout);
        if !ready {
            // No timeout: the lifecycle enforces the load deadline.
            return Box::pin(async move { client::one_token(port, &secret).await });
        }
        Box::pin(async move {
            timeout(limit, client::health(port, &secret))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }

    fn heard(&self, event: LinkEvent, known: &mut Knowledge) {
        match event {
            LinkEvent::Hello { generation, port, thread, error } => {
                if generation != self.generation {
                    return;
                }
                known.last_error = error;
                if let Some(port) = port {
                    self.listens(port, known);
                }
                if thread == Thread::Dead {
                    self.thread_died(known);
                }
            }
            LinkEvent::Listening { port } => self.listens(port, known),
            LinkEvent::ThreadDied { error } => {
                known.last_error = error.or(known.last_error.take());
                self.thread_died(known);
            }
            LinkEvent::GroupLost { error } => {
                self.useless(diagnose::explain(&error, FailureKind::Crashed));
            }
            LinkEvent::Ranks { ranks, cpu_ms } => {
                known.group = true;
                known.cpu = cpu_ms.map(Duration::from_millis);
                self.vitals.set_ranks(ranks);
            }
            LinkEvent::Store(facts) => self.vitals.set_store(facts),
            // The check that follows decides whether it matters.
            LinkEvent::ListenerClosed => {
                known.next_check = Instant::now();
                known.watchful = Some(known.next_check + CLOSING);
            }
            LinkEvent::Exiting { error, .. } => known.last_error = error.or(known.last_error.take()),
        }
    }

    fn listens(&self, port: u16, known: &mut Knowledge) {
        if known.port == Some(port) {
            return;
        }
        known.port = Some(port);
        if self.stranger_on(port) {
            return self.useless(stranger(port));
        }
        self.vitals.listening.store(true, Ordering::Relaxed);
        (self.findings)(Signed::Listening(port));
    }

    fn thread_died(&self, known: &Knowledge) {
        self.useless(dead_thread(known));
    }

    /// Evaluates the answer of a check; returns the time until the next one.
    fn checked(&self, answer: io::Result<Answer>, known: &mut Knowledge) -> Duration {
        let port = known.port.unwrap_or_default();
        let refused = matches!(&answer, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        let bad = match answer {
            Err(_) if refused => {
                self.vitals.listening.store(false, Ordering::Relaxed);
                let text = format!("it no longer listens on its port {port}");
                Some(Failure::new(FailureKind::PortLost, text))
            }
            // What another process answers, or does not, says nothing about the backend.
            _ if self.stranger_on(port) => Some(stranger(port)),
            Ok(answer) if answer.status == 200 => None,
            Ok(answer) if answer.status == 403 => Some(stranger(port)),
            Ok(answer) if known.ready && answer.status == 503 => Some(dead_thread(known)),
            Ok(answer) => {
                let text = known.last_error.clone().unwrap_or_else(|| answer.error());
                Some(diagnose::explain(&text, FailureKind::LoadFailed))
            }
            Err(_) if known.ready => {
                self.observe(known, false);
                return self.health.interval;
            }
            // Cut while loading: if it was not by chance, the link or the exit reports why.
            Err(_) => return RECONNECT,
        };
        if bad.is_some() && known.group && known.ready {
            // Rank 0's answer is a consequence, and the conductor is about to report the cause.
            self.observe(known, false);
            return self.health.interval;
        }
        let doubted = std::mem::replace(&mut known.doubted, bad.is_some());
        match bad {
            None => {
                self.passed(known);
                return beat::wait(self.health.interval);
            }
            Some(_) if !doubted => return CONFIRM,
            Some(failure) => self.useless(failure),
        }
        self.health.interval
    }

    fn passed(&self, known: &mut Knowledge) {
        let now = u64::try_from(self.host.now().0.as_millis()).unwrap_or(u64::MAX);
        self.vitals.last_passed.store(now, Ordering::Relaxed);
        self.vitals.answering.store(true, Ordering::Relaxed);
        if !std::mem::replace(&mut known.ready, true) {
            (self.findings)(Signed::Answered);
        }
        self.observe(known, true);
    }

    fn observe(&self, known: &mut Knowledge, answered: bool) {
        if !answered {
            self.vitals.answering.store(false, Ordering::Relaxed);
        }
        let (in_flight, mark) = (self.activity)();
        let cpu = match known.cpu {
            Some(cpu) => Some(cpu),
            None if in_flight > 0 || !answered => self.host.cpu_time(self.identity).ok(),
            None => None,
        };
        let seen = Observation { now: self.host.awake(), in_flight, mark, cpu, answered };
        // A model that works only part of the time takes longer for everything.
        let pace = self.pace.borrow().unwrap_or(Percent::ALL);
        let health = Health { hang_after: pace.stretched(self.health.hang_after), ..self.health.clone() };
        if let Some(failure) = known.dog.observe(seen, &health) {
            self.useless(failure);
        }
    }

    fn stranger_on(&self, port: u16) -> bool {
        self.host.owns_port(self.identity, port) == Some(false)
    }

    fn useless(&self, failure: Failure) {
        self.vitals.answering.store(false, Ordering::Relaxed);
        (self.findings)(Signed::Unhealthy(failure));
    }
}

fn dead_thread(known: &Knowledge) -> Failure {
    let kind = if known.ready { FailureKind::ThreadDied } else { FailureKind::LoadFailed };
    let mut failure = diagnose::explain(known.last_error.as_deref().unwrap_or_default(), kind);
    if known.ready {
        failure.text = format!("generation thread died: {}", failure.text);
    }
    failure
}

fn stranger(port: u16) -> Failure {
    Failure::new(FailureKind::PortLost, format!("another process answers on its port {port}"))
        .hint("mlxctl doctor names the program")
}

/// Waits for the check in progress; never completes if there is none.
async fn under_way(check: &mut Option<Check>) -> io::Result<Answer> {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}
