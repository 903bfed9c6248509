//! One client's connection: request after request, each answered before the next is read.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::access::Caller;
use super::access_log::Line as LogLine;
use super::answer;
use super::body::{Chunks, too_large};
use super::decide::{Asked, Verdict};
use super::error::Refusal;
use super::exchange::{Exchange, Outcome, Work};
use super::front::{Door, Judged};
use super::http::{self, Framing, Head, Method};
use super::reply::{Envelope, Reply};
use super::rewrite;
use super::shared::{Held, Settings, Shared};
use super::stream::{by, poll_append, write_all};
use super::validate::{Endpoint, validate};
use super::wait::{Line, Patience};
use crate::host;

/// How long a connection may stay open without a request.
const IDLE: Duration = Duration::from_secs(75);
/// How long a client may still send what nobody reads, so that it sees the answer and not a reset.
const LINGER: Duration = Duration::from_secs(1);
/// Bodies may come this slowly, bytes a second, once the read time-out is over.
const SLOWEST: u64 = 64 * 1024;

/// A connection and the bytes of it that are not understood yet.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    client: IpAddr,
    local: IpAddr,
}

/// What there is to say of a request when it is over.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) status: u16,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) tokens: u64,
    pub(super) waited: Duration,
    pub(super) first_token: Option<Duration>,
    pub(super) attempts: u32,
    pub(super) outcome: &'static str,
    /// The gate that it went to.
    gate: Option<Arc<Shared>>,
}

/// The body of a request.
struct Body {
    bytes: Vec<u8>,
    /// Where in `bytes` it begins; it reaches to their end.
    from: usize,
    held: Held,
}

/// Whether the connection goes on.
type GoesOn = bool;

impl Connection {
    fn new(stream: TcpStream, client: SocketAddr) -> Self {
        // A chunk must not wait for the acknowledgement of the one before it.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
        Self { stream, buffer: Vec::new(), client: client.ip().to_canonical(), local: local.to_canonical() }
    }

    /// Serves a new connection to its end.
    pub(super) async fn run(stream: TcpStream, client: SocketAddr, door: Arc<dyn Door>) {
        Self::new(stream, client).serve(&door).await;
    }

    /// A connection that is only to be ended.
    pub(super) fn ending(stream: TcpStream) -> Self {
        let nowhere = IpAddr::from([0, 0, 0, 0]);
        Self { stream, buffer: Vec::new(), client: nowhere, local: nowhere }
    }

    /// Serves it to its end.
    async fn serve(&mut self, door: &Arc<dyn Door>) {
        loop {
            let head = match self.head(&**door).await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(refusal) => {
                    let id = door.next_id();
                    let envelope =
                        Envelope { id: &id, origin: None, close: true, head_only: false, waits: None };
                    let answer = refusal.reply().render(&envelope);
                    door.log().write(&LogLine {
                        client: Some(self.client),
                        id: &id,
                        method: "-",
                        path: "-",
                        status: refusal.status,
                        outcome: refusal.code,
                        ..LogLine::default()
                    });
                    let _ = write_all(&self.stream, &answer).await;
                    return Box::pin(self.linger()).await;
                }
            };
            if !self.request(&head, door).await {
                return Box::pin(self.linger()).await;
            }
        }
    }

    /// Waits for a head. `None`: the client is done, or too slow to begin.
    async fn head(&mut self, door: &dyn Door) -> Result<Option<Head>, Refusal> {
        let mut deadline = None;
        if self.buffer.is_empty() {
            // An idle connection holds no buffer.
            self.buffer = Vec::new();
        }
        loop {
            if !self.buffer.is_empty() {
                if let Some(head) = http::parse(&self.buffer)? {
                    return Ok(Some(head));
                }
                deadline.get_or_insert_with(|| Instant::now() + door.bounds().read_timeout);
            }
            let until = deadline.unwrap_or_else(|| Instant::now() + IDLE);
            if !self.more(until).await {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(slow());
                }
                return Ok(None);
            }
        }
    }

    /// Reads once; `false`: the client has closed, or `deadline` came.
    async fn more(&mut self, deadline: Instant) -> bool {
        let Self { stream, buffer, .. } = self;
        matches!(by(deadline, |cx| poll_append(stream, cx, buffer)).await, Some(Ok(1..)))
    }

    /// Lets the client read what it was told before the connection is gone.
    pub(super) async fn linger(&mut self) {
        let deadline = Instant::now() + LINGER;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await;
        self.buffer = Vec::new();
        let mut read = 0;
        while read < 1 << 20 && self.more(deadline).await {
            read += self.buffer.len();
            self.buffer.clear();
        }
    }

    async fn request(&mut self, head: &Head, door: &Arc<dyn Door>) -> GoesOn {
        let started = Instant::now();
        let id = door.next_id();
        let (verdict, origin, caller) = {
            let text = |range: &Range<usize>| {
                self.buffer
                    .get(range.clone())
                    .and_then(|bytes| std::str::from_utf8(bytes).ok())
                    .unwrap_or("?")
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
            (verdict, origin.map(Box::<str>::from), caller)
        };
        let path: Box<str> =
            String::from_utf8_lossy(self.buffer.get(head.path.clone()).unwrap_or_default()).into();
        let head_only = head.method == Method::Head;
        // A body that is not read stands before the next request.
        let unread = head.framing != Framing::None && head.framing != Framing::Length(0);
        let close = !head.keep_alive || (unread && !matches!(verdict, Verdict::Generate(_)));
        let mut envelope = Envelope { id: &id, origin: origin.as_deref(), close, head_only, waits: None };
        let mut record = Record { outcome: "ok", ..Record::default() };
        let goes_on = match verdict {
            Verdict::Answer(reply) => {
                self.buffer.drain(..head.length);
                Box::pin(self.answer(&reply, &envelope, &mut record)).await
            }
            Verdict::Refuse(refusal) => {
                self.buffer.drain(..head.length);
                Box::pin(self.refuse(&refusal, &envelope, &mut record)).await
            }
            Verdict::Generate(endpoint) => {
                let goes_on = self.generate(head, endpoint, &mut envelope, door, started, &mut record).await;
                if let Some(gate) = &record.gate
                    && record.outcome != "ok"
                    && record.outcome != "client_gone"
                {
                    gate.traffic.failed();
                }
                goes_on
            }
        };
        let (traffic, log) = match &record.gate {
            Some(gate) => (&*gate.traffic, &*gate.log),
            None => (door.traffic(), door.log()),
        };
        traffic.ended(record.status, record.outcome == "client_gone");
        log.write(&LogLine {
            client: Some(self.client),
            key: if let Caller::Named(name) = &caller { Some(name) } else { None },
            id: &id,
            method: match head.method {
                Method::Get => "GET",
                Method::Head => "HEAD",
                Method::Post => "POST",
                Method::Options => "OPTIONS",
                Method::Other => "OTHER",
            },
            path: &path,
            status: record.status,
            received: record.received,
            sent: record.sent,
            tokens: record.tokens,
            waited: record.waited,
            first_token: record.first_token,
            total: started.elapsed(),
            attempts: record.attempts,
            outcome: record.outcome,
        });
        goes_on
    }

    async fn refuse(&mut self, refusal: &Refusal, envelope: &Envelope<'_>, record: &mut Record) -> GoesOn {
        record.outcome = refusal.code;
        self.answer(&refusal.reply(), envelope, record).await
    }

    async fn answer(&mut self, reply: &Reply, envelope: &Envelope<'_>, record: &mut Record) -> GoesOn {
        record.status = reply.status;
        let bytes = reply.render(envelope);
        record.sent = bytes.len() as u64;
        write_all(&self.stream, &bytes).await.is_ok() && !envelope.close
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
        let Body { bytes, from, held } = match Box::pin(self.body(head, &**door)).await {
            Ok(Some(body)) => body,
            Ok(None) => {
                record.outcome = "client_gone";
                return false;
            }
            Err(refusal) => {
                // Where its body ends is not known, so the next request's place is not either.
                envelope.close = true;
                return Box::pin(self.refuse(&refusal, envelope, record)).await;
            }
        };
        let body = bytes.get(from..).unwrap_or_default();
        record.received = body.len() as u64;
        let shared = match door.clone().gate(body) {
            Ok(found) => record.gate.insert(found).clone(),
            Err(refusal) => return Box::pin(self.refuse(&refusal, envelope, record)).await,
        };
        shared.traffic.accepted();
        let settings = shared.settings();
        let patience = Patience::of(head.wait, settings.config.limits.queue_timeout);
        envelope.waits = patience.asked();
        let prepared = prepare(body, endpoint, &shared, &settings, patience);
        drop(bytes);
        let work = match prepared {
            Ok(work) => work,
            Err(refusal) => return Box::pin(self.refuse(&refusal, envelope, record)).await,
        };
        let line = Line { client: self.client, shared: &shared, settings: &settings, patience };
        let mut exchange = Exchange::new(line, work, head.chunks, envelope, started);
        let outcome = exchange.run(&mut self.stream, record).await;
        drop(held);
        match outcome {
            Outcome::Answered => !envelope.close,
            Outcome::Refused(refusal) => Box::pin(self.refuse(&refusal, envelope, record)).await,
            Outcome::Over => false,
        }
    }

    /// Reads the body. `None`: the client went away in the middle.
    async fn body(&mut self, head: &Head, door: &dyn Door) -> Result<Option<Body>, Refusal> {
        let bounds = door.bounds();
        let limit = bounds.body;
        let length = match head.framing {
            Framing::None => return Err(Refusal::invalid(None, "a body is needed".to_owned())),
            Framing::Length(length) if length > limit => return Err(too_large(limit)),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let mut held = door.bodies().none();
        // What has a length is taken out together with the head before it, so that nothing is moved.
        let from = if length.is_some() { head.length } else { 0 };
        self.buffer.drain(..head.length - from);
        if head.expects && self.buffer.len() == from && length != Some(0) {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            if write_all(&self.stream, go_on).await.is_err() {
                return Ok(None);
            }
        }
        let begun = Instant::now();
        let mut chunks = Chunks::default();
        loop {
            let arrived = (self.buffer.len() - from + chunks.body.len()) as u64;
            // A thousand clients must not fill memory with halves of bodies.
            if !held.grow(arrived, limit) {
                return Err(crowded());
            }
            match length.and_then(|length| usize::try_from(length).ok()) {
                Some(length) if self.buffer.len() - from >= length => {
                    let rest = self.buffer.split_off(from + length);
                    let bytes = std::mem::replace(&mut self.buffer, rest);
                    return Ok(Some(Body { bytes, from, held }));
                }
                Some(_) => {}
                None => {
                    if chunks.take(&mut self.buffer, limit)? {
                        return Ok(Some(Body { bytes: chunks.body, from, held }));
                    }
                }
            }
            let deadline = begun + bounds.read_timeout + Duration::from_secs(arrived / SLOWEST);
            if !self.more(deadline).await {
                return if Instant::now() >= deadline { Err(slow()) } else { Ok(None) };
            }
        }
    }
}

/// What goes to the backend in place of `body`.
fn prepare(
    body: &[u8],
    endpoint: Endpoint,
    shared: &Shared,
    settings: &Settings,
    patience: Patience,
) -> Result<Work, Box<Refusal>> {
    // A door to several gates lets in what the largest of them takes.
    if body.len() as u64 > settings.config.limits.body.0 {
        return Err(Box::new(too_large(settings.config.limits.body.0)));
    }
    let availability = &*shared.availability.borrow();
    if let Some(refusal) =
        answer::turned_away(&settings.config, availability, host::now(), patience.asked().is_some())
    {
        return Err(Box::new(refusal));
    }
    let mut accepted = validate(body, endpoint, &settings.rules())?;
    let body = rewrite::apply(body, &mut accepted.edits, &settings.served_json);
    Ok(Work { endpoint, body, stream: accepted.stream })
}

fn slow() -> Refusal {
    Refusal::new(408, "request_timeout", "the request came too slowly")
}

fn crowded() -> Refusal {
    let message = "too many large requests at once";
    Refusal::unavailable("overloaded", message, Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_at_work_fits_into_little_memory() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let shared = Arc::new(crate::gate::shared::Shared::for_tests());
        let size = std::mem::size_of_val(&Connection::run(stream, address, shared));
        assert!(size <= 2560, "{size} bytes");
    }
}
