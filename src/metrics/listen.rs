//! The listener that the registry's `[metrics]` names: `GET /metrics` and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE as TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{CONTENT_TYPE, Source, render};
use crate::gate::{Crowd, GateConfig, Place, check_host};
use crate::registry::{Network, Registry};

/// Between two attempts to listen on an address that is not there, or taken.
const AGAIN: Duration = Duration::from_secs(5);
/// After a failed accept (out of descriptors): the condition passes, the loop does not spin.
const BREATH: Duration = Duration::from_millis(100);
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at once: Prometheus has one.
const CONNECTIONS: usize = 16;

/// What is wanted: an address, and who may read and under which names.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    address: SocketAddr,
    network: Network,
}

/// The listener, whether or not it listens. Ends when it is dropped.
#[derive(Debug)]
pub struct Listener {
    wanted: watch::Sender<Option<Wanted>>,
    problem: watch::Receiver<Option<String>>,
    task: AbortHandle,
}

impl Listener {
    /// Listens nowhere, until it is told where.
    #[must_use]
    pub fn spawn(source: impl Source) -> Self {
        let (wanted, want) = watch::channel(None);
        let (say, problem) = watch::channel(None);
        let task = tokio::spawn(run(source, want, say)).abort_handle();
        Self { wanted, problem, task }
    }

    /// Follows a registry. It never fails: what keeps it from listening is [`Self::problem`], and tried again.
    pub fn listen(&self, registry: &Registry) {
        let network = || registry.network.clone();
        let next = registry.metrics.address.map(|address| Wanted { address, network: network() });
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

async fn run(
    source: impl Source,
    mut wanted: watch::Receiver<Option<Wanted>>,
    problem: watch::Sender<Option<String>>,
) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let pause = match now {
            None => {
                problem.send_replace(None);
                Duration::MAX
            }
            Some(Wanted { address, network }) => match TcpListener::bind(address).await {
                Ok(listener) => {
                    let network = Arc::new(network);
                    problem.send_replace(None);
                    tokio::select! {
                        () = accept(&listener, &source, &network) => {}
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

async fn accept(listener: &TcpListener, source: &impl Source, network: &Arc<Network>) {
    let crowd = Arc::<Crowd>::default();
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let client = client.ip().to_canonical();
        if !GateConfig::admits(&network.allow_from, client) {
            continue;
        }
        let Some((place, ending)) = crowd.enter(client, CONNECTIONS) else { continue };
        let local = stream.local_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
        let page =
            Page { source: source.clone(), network: network.clone(), local: local.to_canonical(), place };
        ending.by(tokio::spawn(serve(stream, page)).abort_handle());
    }
}

async fn serve(stream: TcpStream, page: Page<impl Source>) {
    let page = Arc::new(page);
    let service = service_fn(move |request| {
        let page = page.clone();
        async move {
            page.place.works();
            let answer = page.answer(&request).await;
            page.place.waits();
            Ok::<_, Infallible>(answer)
        }
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

/// What one connection can read.
struct Page<S> {
    source: S,
    network: Arc<Network>,
    /// The address that its client reached.
    local: IpAddr,
    place: Place,
}

impl<S: Source> Page<S> {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let respond = |status, text: String| {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = status;
            response.headers_mut().insert(TYPE, HeaderValue::from_static(CONTENT_TYPE));
            response
        };
        if let Err(why) = self.check_host(request) {
            return respond(StatusCode::MISDIRECTED_REQUEST, why);
        }
        if request.method() != Method::GET || request.uri().path() != "/metrics" {
            return respond(StatusCode::NOT_FOUND, "there is GET /metrics\n".to_owned());
        }
        match self.source.snapshot().await {
            Some(snapshot) => respond(StatusCode::OK, render(&snapshot)),
            None => respond(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is shutting down\n".to_owned()),
        }
    }

    /// A page whose domain was pointed here gets nothing, as at the gates.
    fn check_host(&self, request: &Request<Incoming>) -> Result<(), String> {
        let named = request.uri().authority().map(|authority| authority.as_str());
        let headers = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        for host in named.into_iter().chain(headers) {
            check_host(Some(host), self.local, &self.network)
                .map_err(|refusal| format!("{}\n", refusal.message))?;
        }
        Ok(())
    }
}
