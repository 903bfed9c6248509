//! The listener and its connections.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{Body, Peer, Service, Wanted, whole};
use crate::gate::{Crowd, GateConfig, Place, check_host};
use crate::registry::Network;

/// Time between two attempts to listen on an address that is missing or taken.
const AGAIN: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of descriptors): the condition passes, and the loop must not spin.
const BREATH: Duration = Duration::from_millis(100);
/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// The longest head of a request, bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// The listener, which may listen nowhere. It ends when dropped, with its connections.
#[derive(Debug)]
pub(crate) struct Listener {
    wanted: watch::Sender<Option<Wanted>>,
    problem: watch::Receiver<Option<String>>,
    task: AbortHandle,
}

impl Listener {
    /// Listens nowhere until [`Self::listen`] is called.
    pub(crate) fn spawn(service: impl Service) -> Self {
        let (wanted, want) = watch::channel(None);
        let (say, problem) = watch::channel(None);
        let task = tokio::spawn(run(service, want, say)).abort_handle();
        Self { wanted, problem, task }
    }

    /// Listens on `address`, or nowhere if `None`. It never fails: it retries, and [`Self::problem`] says why.
    pub(crate) fn listen(&self, address: Option<SocketAddr>, network: &Network) {
        let next = address.map(|address| Wanted { address, network: network.clone() });
        self.wanted.send_if_modified(|now| {
            let changed = *now != next;
            *now = next;
            changed
        });
    }

    /// Why it does not listen where it should; `None`: it does.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run<S: Service>(
    service: S,
    mut wanted: watch::Receiver<Option<Wanted>>,
    problem: watch::Sender<Option<String>>,
) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let again = match now {
            None => {
                problem.send_replace(None);
                None
            }
            Some(Wanted { address, network }) => match TcpListener::bind(address).await {
                Ok(listener) => {
                    let network = Arc::new(network);
                    problem.send_replace(None);
                    tokio::select! {
                        () = accept(&listener, &service, &network) => {}
                        changed = wanted.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
                Err(error) => {
                    let text = format!("{}: cannot listen on {address}: {}", S::NAME, reason(&error));
                    problem.send_replace(Some(text));
                    Some(AGAIN)
                }
            },
        };
        tokio::select! {
            () = async { match again {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            } } => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program does".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address now".to_owned(),
        _ => error.to_string(),
    }
}

/// Connections end with this future, so none outlives the rules that admitted it.
async fn accept<S: Service>(listener: &TcpListener, service: &S, network: &Arc<Network>) {
    let crowd = Arc::<Crowd>::default();
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let client = client.ip().to_canonical();
        if !GateConfig::admits(&network.allow_from, client) {
            continue;
        }
        let Some((place, ending)) = crowd.enter(client, S::CONNECTIONS) else { continue };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let local = stream.local_addr().unwrap_or(nowhere);
        let connection = Connection {
            service: service.clone(),
            network: network.clone(),
            peer: Peer { client, port: local.port() },
            local: local.ip().to_canonical(),
            place: Arc::new(place),
        };
        ending.by(connections.spawn(serve(stream, connection)));
    }
}

async fn serve(stream: TcpStream, connection: Connection<impl Service>) {
    let connection = Arc::new(connection);
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended badly");
    }
}

struct Connection<S> {
    service: S,
    network: Arc<Network>,
    peer: Peer,
    /// The local address that the client connected to.
    local: IpAddr,
    place: Arc<Place>,
}

impl<S: Service> Connection<S> {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.place.works();
        let working = Working(self.place.clone());
        let answer = match self.check_host(&request) {
            Ok(()) => self.service.answer(request, self.peer).await,
            Err(why) => whole(StatusCode::MISDIRECTED_REQUEST, "text/plain; charset=utf-8", why),
        };
        answer.map(|body| Told { body, working }.boxed_unsync())
    }

    /// Refuses pages whose domain was pointed at this machine (DNS rebinding), as the gates do.
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

/// Marks a place as working until its answer, which may be a stream, is complete.
struct Working(Arc<Place>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.waits();
    }
}

/// An answer's body, and what ends with it.
struct Told {
    body: Body,
    #[expect(dead_code, reason = "it is there only to be dropped with the body")]
    working: Working,
}

impl hyper::body::Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
