//! One client's connection: request after request, each answered before the next is read.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::crowd::Place;
use super::door::{self, Door, Judged};
use super::exchange::{Exchange, Work};
use super::intake::{Body, Intake, LARGE};
use super::outcome::Outcome;
use super::record::{About, Record};
use super::shared::{Settings, Shared};
use super::wait::{Line, Patience};
use crate::gate::policy::access::Caller;
use crate::gate::policy::answer;
use crate::gate::policy::decide::{Asked, Verdict};
use crate::gate::policy::rewrite;
use crate::gate::policy::rules::{Endpoint, Rules};
use crate::gate::policy::validate::validate;
use crate::gate::wire::{Envelope, Framing, Head, Method, Refusal, Reply, body_too_large, write_all};
use crate::host;

/// One large body is read at a time: clients must not occupy all processors.
static READER: Semaphore = Semaphore::const_new(1);

pub(super) struct Connection {
    intake: Intake,
    client: IpAddr,
    local: IpAddr,
}

/// Whether the connection stays open.
type GoesOn = bool;

impl Connection {
    fn new(stream: TcpStream, client: SocketAddr, place: Place) -> Self {
        // A chunk must not wait until the one before it is acknowledged.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
        Self {
            intake: Intake::new(stream, place),
            client: client.ip().to_canonical(),
            local: local.to_canonical(),
        }
    }

    /// Serves a new connection to its end.
    pub(super) async fn run(stream: TcpStream, client: SocketAddr, door: Arc<dyn Door>, place: Place) {
        Self::new(stream, client, place).serve(&door).await;
    }

    async fn serve(&mut self, door: &Arc<dyn Door>) {
        loop {
            let head = match self.intake.head(door.bounds().read_timeout).await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(refusal) => {
                    let _ = self.write(&door::refuse_unread(&**door, self.client, &refusal)).await;
                    return Box::pin(self.intake.part()).await;
                }
            };
            if !self.request(&head, door).await {
                return Box::pin(self.intake.part()).await;
            }
            self.intake.give_back();
            if !self.intake.buffer.is_empty() {
                // The next request is here already. However many there are, others get a turn after each.
                self.intake.yields().await;
            }
        }
    }

    async fn request(&mut self, head: &Head, door: &Arc<dyn Door>) -> GoesOn {
        self.intake.place.works();
        self.intake.stream.expects_answer();
        let started = Instant::now();
        let id = door.front().ids.next();
        let (verdict, origin, caller) = self.judge(head, &**door);
        let path: Box<str> =
            String::from_utf8_lossy(self.intake.buffer.get(head.path.clone()).unwrap_or_default()).into();
        let head_only = head.method == Method::Head;
        // An unread body is in the way of the next request.
        let unread = head.framing != Framing::None && head.framing != Framing::Length(0);
        self.intake.owed = match head.framing {
            // A client that waits for `100 Continue` will not send it.
            Framing::Length(length) if !head.expects => length,
            _ => 0,
        };
        let close = !head.keep_alive || (unread && !matches!(verdict, Verdict::Generate(_)));
        let mut envelope = Envelope { id: &id, origin: origin.as_deref(), close, head_only, waits: None };
        let mut record = Record { outcome: "ok", ..Record::default() };
        let goes_on = match verdict {
            Verdict::Answer(reply) => {
                self.intake.buffer.drain(..head.length);
                Box::pin(self.answer(&reply, &envelope, &mut record)).await
            }
            Verdict::Refuse(refusal) => {
                self.intake.buffer.drain(..head.length);
                Box::pin(self.refuse(&refusal, &envelope, &mut record)).await
            }
            Verdict::Generate(endpoint) => {
                let goes_on = self.generate(head, endpoint, &mut envelope, door, started, &mut record).await;
                if let Some(gate) = &record.gate
                    && record.outcome != "ok"
                    && record.outcome != "client_gone"
                {
                    gate.front.traffic.failed();
                }
                goes_on
            }
        };
        record.close(
            &**door,
            &About {
                client: self.client,
                caller: &caller,
                id: &id,
                method: head.method,
                path: &path,
                started,
            },
        );
        goes_on
    }

    fn judge(&self, head: &Head, door: &dyn Door) -> (Verdict, Option<Box<str>>, Caller) {
        let text = |range: &Range<usize>| {
            let bytes = self.intake.buffer.get(range.clone());
            bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("?")
        };
        let optional = |range: &Option<Range<usize>>| range.as_ref().map(text);
        let asked = Asked {
            method: head.method,
            path: text(&head.path),
            host: optional(&head.host),
            origin: optional(&head.origin),
            wanted_headers: optional(&head.wanted_headers),
            authorization: optional(&head.authorization),
            client: self.client,
            local: self.local,
        };
        let Judged { verdict, origin, caller } = door.judge(&asked);
        (verdict, origin.map(Box::from), caller)
    }

    async fn refuse(&mut self, refusal: &Refusal, envelope: &Envelope<'_>, record: &mut Record) -> GoesOn {
        record.outcome = refusal.code;
        self.answer(&refusal.reply(), envelope, record).await
    }

    async fn answer(&mut self, reply: &Reply, envelope: &Envelope<'_>, record: &mut Record) -> GoesOn {
        record.status = reply.status;
        match self.write(&reply.render(envelope)).await {
            Ok(sent) => {
                record.sent = sent;
                !envelope.close
            }
            Err(_) => false,
        }
    }

    /// Returns the size of the answer in bytes.
    async fn write(&self, answer: &[u8]) -> std::io::Result<u64> {
        self.intake.place.waits();
        write_all(&self.intake.stream, self.intake.stream.rest(answer)).await?;
        Ok(answer.len() as u64)
    }

    async fn generate(
        &mut self,
        head: &Head,
        endpoint: Endpoint,
        envelope: &mut Envelope<'_>,
        door: &Arc<dyn Door>,
        started: Instant,
        record: &mut Record,
    ) -> GoesOn {
        let Body { bytes, from, held } = match Box::pin(self.intake.body(
            head,
            door.bounds(),
            door.front().bodies.of(self.client),
        ))
        .await
        {
            Ok(Some(body)) => body,
            Ok(None) => {
                record.outcome = "client_gone";
                return false;
            }
            Err(refusal) => {
                // It is not known where the body ends and the next request begins.
                envelope.close = true;
                return Box::pin(self.refuse(&refusal, envelope, record)).await;
            }
        };
        let length = bytes.len() - from;
        record.received = length as u64;
        let (door, wait) = (door.clone(), head.wait);
        let read = move || understand(bytes.get(from..).unwrap_or_default(), endpoint, door, wait);
        let understood = match (length < LARGE, read) {
            (true, read) => read(),
            (false, read) => Box::pin(aside(read)).await,
        };
        let Understood { shared, settings, patience, work } = match understood {
            Ok(understood) => understood,
            Err(refusal) => return Box::pin(self.refuse(&refusal, envelope, record)).await,
        };
        record.gate = Some(shared.clone());
        envelope.waits = patience.asked();
        let work = match work {
            Ok(work) => work,
            Err(refusal) => return Box::pin(self.refuse(&refusal, envelope, record)).await,
        };
        let line = Line { client: self.client, shared: &shared, settings: &settings, patience };
        let mut exchange = Exchange::new(line, work, head.chunks, envelope, started);
        let outcome = exchange.run(&self.intake.stream, record).await;
        drop(held);
        match outcome {
            Outcome::Answered => !envelope.close,
            Outcome::Refused(refusal) => Box::pin(self.refuse(&refusal, envelope, record)).await,
            Outcome::Over => false,
        }
    }
}

/// A request whose gate is known.
struct Understood {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    patience: Patience,
    work: Result<Work, Box<Refusal>>,
}

fn understand(
    body: &[u8],
    endpoint: Endpoint,
    door: Arc<dyn Door>,
    wait: Option<Duration>,
) -> Result<Understood, Box<Refusal>> {
    let shared = door.gate(body)?;
    shared.front.traffic.accepted();
    let settings = shared.settings();
    let patience = Patience::of(wait, settings.config.limits.queue_timeout);
    let work = prepare(body, endpoint, &shared, &settings, patience);
    Ok(Understood { shared, settings, patience, work })
}

/// Runs slow work on a thread of its own, so that others are served meanwhile.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Box<Refusal>> + Send + 'static,
) -> Result<T, Box<Refusal>> {
    // The semaphore is never closed.
    let _one = READER.acquire().await;
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a request could not be read");
            Err(Box::new(Refusal::new(500, "internal", "the request could not be read")))
        }
    }
}

/// What goes to the backend instead of `body`.
fn prepare(
    body: &[u8],
    endpoint: Endpoint,
    shared: &Shared,
    settings: &Settings,
    patience: Patience,
) -> Result<Work, Box<Refusal>> {
    // A router admits what the largest of its gates allows.
    if body.len() as u64 > settings.config.limits.body.0 {
        return Err(Box::new(body_too_large(settings.config.limits.body.0)));
    }
    let availability = &*shared.availability.borrow();
    if let Some(refusal) =
        answer::turned_away(&settings.config, availability, host::now(), patience.asked().is_some())
    {
        return Err(Box::new(refusal));
    }
    let mut accepted = validate(body, endpoint, &Rules::of(&settings.config))?;
    let body = rewrite::apply(body, &mut accepted.edits);
    Ok(Work { endpoint, body, stream: accepted.stream })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_at_work_takes_little_memory() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let shared = Arc::new(crate::gate::serve::shared::Shared::for_tests());
        let (place, _) =
            Arc::new(crate::gate::serve::crowd::Crowd::default()).enter(address.ip(), 1).unwrap();
        let size = std::mem::size_of_val(&Connection::run(stream, address, shared, place));
        assert!(size <= 2720, "{size} bytes");
    }
}
