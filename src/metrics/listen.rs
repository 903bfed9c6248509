//! The listener that the registry's `[metrics]` configures: it answers `GET /metrics` and nothing else.

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};

use super::{CONTENT_TYPE, Source, render};
use crate::registry::Registry;
use crate::web::{self, Body, Peer, Service, whole};

/// The listener, which may listen nowhere. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Listener(web::Listener);

impl Listener {
    /// Listens nowhere until [`Self::listen`] is called.
    pub(crate) fn spawn(source: impl Source) -> Self {
        Self(web::Listener::spawn(Metrics(source)))
    }

    /// Listens on the address that `registry` names, if any.
    pub(crate) fn listen(&self, registry: &Registry) {
        self.0.listen(registry.metrics.address, &registry.network);
    }

    /// Why it does not listen where it should; `None`: it does.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.problem()
    }
}

#[derive(Clone)]
struct Metrics<S>(S);

impl<S: Source> Service for Metrics<S> {
    const NAME: &'static str = "metrics";
    // Prometheus needs only one.
    const CONNECTIONS: usize = 16;

    async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response<Body> {
        if request.method() != Method::GET || request.uri().path() != "/metrics" {
            return whole(StatusCode::NOT_FOUND, CONTENT_TYPE, "there is GET /metrics\n");
        }
        match self.0.snapshot().await {
            Some(snapshot) => whole(StatusCode::OK, CONTENT_TYPE, render(&snapshot)),
            None => whole(StatusCode::SERVICE_UNAVAILABLE, CONTENT_TYPE, "the supervisor is shutting down\n"),
        }
    }
}
