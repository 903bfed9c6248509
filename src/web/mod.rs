//! A listener based on hyper that follows the registry: who may connect, how many at once, and for how long. For the
//! metrics and the page; the gate has its own (docs/architecture.md).

mod listen;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::api::ErrorCode;

pub(crate) use listen::Listener;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub client: IpAddr,
    /// The local port that it connected to.
    pub port: u16,
}

/// Answers the requests that a listener accepts.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Name for messages, such as `metrics`.
    const NAME: &'static str;
    /// The most connections open at once.
    const CONNECTIONS: usize;

    /// Answers a request whose `Host` names this machine.
    fn answer(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// A complete response, not a stream.
pub(crate) fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Where a listener should listen, and for whom and under which host names.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    address: SocketAddr,
    network: crate::registry::Network,
}

/// The HTTP status for an error of the supervisor.
pub(crate) fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::UnknownModel => StatusCode::NOT_FOUND,
        ErrorCode::Refused => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Failed => StatusCode::BAD_GATEWAY,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::NotRunning => StatusCode::CONFLICT,
    }
}
