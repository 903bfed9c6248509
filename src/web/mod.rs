//! A listener of hyper's that follows the registry: who may connect, how many at once, and for how long. For the metrics
//! and the page; the gate has its own (docs/architecture.md).

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

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub client: IpAddr,
    /// The port that it reached.
    pub port: u16,
}

/// What answers at a listener.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// For people: `metrics`.
    const NAME: &'static str;
    /// Connections at once.
    const CONNECTIONS: usize;

    /// Answers a request whose `Host` names this machine.
    fn answer(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// An answer that is there wholly.
pub(crate) fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What is wanted of a listener: an address, and who may read and under which names.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    address: SocketAddr,
    network: crate::registry::Network,
}

/// The status with which an error of the supervisor is answered.
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
