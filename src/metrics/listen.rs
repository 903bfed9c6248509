//! The listener that the registry's `[metrics]` names: `GET /metrics` and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE as TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::{CONTENT_TYPE, render};
use crate::gate::GateConfig;
use crate::registry::Registry;
use crate::supervisor::Handle;

/// Between two attempts to listen on an address that is not there, or taken.
const AGAIN: Duration = Duration::from_secs(5);
/// After a failed accept (out of descriptors): the condition passes, the loop does not spin.
const BREATH: Duration = Duration::from_millis(100);
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at once: Prometheus has one.
const CONNECTIONS: usize = 16;

/// What is wanted: an address, and who may read.
#[derive(Debug, Clone, Default, PartialEq)]
struct Wanted {
    address: Option<SocketAddr>,
    allow_from: Vec<IpNet>,
}

/// The listener, whether or not it listens. Ends when it is dropped.
#[derive(Debug)]
pub struct Listener {
    wanted: watch::Sender<Wanted>,
    problem: watch::Receiver<Option<String>>,
    task: AbortHandle,
}

impl Listener {
    /// Listens nowhere, until it is told where.
    #[must_use]
    pub fn spawn(handle: Handle) -> Self {
        let (wanted, want) = watch::channel(Wanted::default());
        let (say, problem) = watch::channel(None);
        let task = tokio::spawn(run(handle, want, say)).abort_handle();
        Self { wanted, problem, task }
    }

    /// Follows a registry. It never fails: what keeps it from listening is [`Self::problem`], and tried again.
    pub fn listen(&self, registry: &Registry) {
        let next =
            Wanted { address: registry.metrics.address, allow_from: registry.network.allow_from.clone() };
        self.wanted.send_if_modified(|now| {
            let changed = *now != next;
            *now = next;
            changed
        });
    }

    /// Why it does not listen where it should.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(handle: Handle, mut wanted: watch::Receiver<Wanted>, problem: watch::Sender<Option<String>>) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let pause = match now.address {
            None => {
                problem.send_replace(None);
                Duration::MAX
            }
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => {
                    problem.send_replace(None);
                    tokio::select! {
                        () = accept(&listener, &handle, &now.allow_from) => {}
                        changed = wanted.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
                Err(error) => {
                    problem.send_replace(Some(format!(
                        "metrics: cannot listen on {address}: {}",
                        reason(&error)
                    )));
                    AGAIN
                }
            },
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "somebody else does".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address now".to_owned(),
        _ => error.to_string(),
    }
}

async fn accept(listener: &TcpListener, handle: &Handle, allow_from: &[IpNet]) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        if !GateConfig::admits(allow_from, client.ip()) {
            continue;
        }
        let handle = handle.clone();
        tokio::spawn(async move {
            serve(stream, handle).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, handle: Handle) {
    let service = service_fn(move |request| {
        let handle = handle.clone();
        async move { Ok::<_, Infallible>(answer(&request, &handle).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a metrics connection ended badly");
    }
}

async fn answer(request: &Request<Incoming>, handle: &Handle) -> Response<Full<Bytes>> {
    let respond = |status, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return respond(StatusCode::NOT_FOUND, "there is GET /metrics\n".to_owned());
    }
    match handle.metrics().await {
        Some(snapshot) => respond(StatusCode::OK, render(&snapshot)),
        None => respond(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is shutting down\n".to_owned()),
    }
}
