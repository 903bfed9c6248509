//! The least that a gate built on hyper would be: its server, its framing, a stream passed on from the backend. No
//! policy, no log, no counters, no detection of clients that have left, so its cost is a lower bound
//! (`scripts/bench-gate --only gate,hyper`).
//!
//!     cargo run --release --example hyper_floor -- LISTEN UPSTREAM
//!
//! It ends when its standard input does.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PIECE: usize = 4 * 1024;
const BODY: usize = 32 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream] = arguments.as_slice() else {
        return Err("usage: hyper_floor LISTEN UPSTREAM".into());
    };
    let (listen, upstream) = (listen.parse::<SocketAddr>()?, upstream.parse::<SocketAddr>()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        let (end, mut ended) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            let _ = end.send(());
        });
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(serve(stream, upstream));
                }
                _ = &mut ended => return Ok(()),
            }
        }
    })
}

async fn serve(stream: TcpStream, upstream: SocketAddr) {
    let service = service_fn(move |request| async move {
        Ok::<_, Infallible>(match answer(request, upstream).await {
            Ok(response) => response,
            Err(error) => {
                let mut response = Response::new(whole(Bytes::from(error.to_string())));
                *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
                response
            }
        })
    });
    // The smallest buffers that hyper allows; clients that half-close get their answer, as with the gate.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(8 * 1024)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

async fn answer(request: Request<Incoming>, upstream: SocketAddr) -> Result<Answer, Failure> {
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), BODY).collect().await?.to_bytes();
    let mut backend = TcpStream::connect(upstream).await?;
    backend.set_nodelay(true)?;
    let mut out = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(&body);
    backend.write_all(&out).await?;
    drop((out, body));
    let mut bytes = Vec::with_capacity(1024);
    let (length, events) = loop {
        if backend.read_buf(&mut bytes).await? == 0 {
            return Err("the backend closed the connection without an answer".into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(length) = head.parse(&bytes)? {
            let kind = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-type"));
            break (length, kind.is_some_and(|kind| kind.value.starts_with(b"text/event-stream")));
        }
    };
    bytes.drain(..length);
    let (kind, body) = if events {
        ("text/event-stream", Stream { first: Bytes::from(bytes), backend }.boxed())
    } else {
        backend.read_to_end(&mut bytes).await?;
        ("application/json", whole(Bytes::from(bytes)))
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// What the backend sends, as it arrives.
struct Stream {
    first: Bytes,
    backend: TcpStream,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let first = std::mem::take(&mut self.first);
        if !first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.backend).poll_read(cx, &mut buffer))?;
            let data = buffer.filled();
            Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(Bytes::copy_from_slice(data)))))
        })
    }
}
