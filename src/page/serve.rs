//! Answers the page's requests.

use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{self, Reader};
use super::sessions::{LIFE, Refused, Session};
use super::site::{Site, cookie_name};
use super::{Press, Source, stream};
use crate::api::ApiError;
use crate::api::http::percent_decode;
use crate::gate::keys::May;
use crate::host;
use crate::registry::{Paths, Registry};
use crate::web::{self, Body, Peer, Service, whole};

/// The longest body of a request, bytes.
const BODY_MAX: usize = 4 * 1024;
const BODY: Duration = Duration::from_secs(10);
/// How long a press may take before it is answered without its outcome, which the page shows anyway.
const PRESS: Duration = Duration::from_secs(5);

/// Allows nothing from other origins, no inline script or style, and no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/page.js", SCRIPT, include_str!("page.js")),
    ("/parts.js", SCRIPT, include_str!("parts.js")),
    ("/chart.js", SCRIPT, include_str!("chart.js")),
    ("/memory.js", SCRIPT, include_str!("memory.js")),
    ("/rows.js", SCRIPT, include_str!("rows.js")),
];

/// The listener of the registry's `[page]`, which may listen nowhere. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Listener(web::Listener);

impl Listener {
    /// Listens nowhere until [`Self::listen`] is called.
    pub(crate) fn spawn(source: impl Source, paths: &Paths) -> Self {
        Self(web::Listener::spawn(Site::new(source, paths)))
    }

    /// Listens on the address that `registry` names, if any.
    pub(crate) fn listen(&self, registry: &Registry) {
        self.0.listen(registry.page.address, &registry.network);
    }

    /// Why it does not listen where it should; `None`: it does.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.problem()
    }
}

struct No {
    status: StatusCode,
    document: Value,
    /// Sent as `Retry-After`, rounded up to seconds.
    after: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    key: String,
}

impl<S: Source> Service for Site<S> {
    const NAME: &'static str = "page";
    const CONNECTIONS: usize = 32;

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let mut response = self.route(request, peer).await.unwrap_or_else(No::response);
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-store"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl<S: Source> Site<S> {
    async fn route(&self, request: Request<Incoming>, peer: Peer) -> Result<Response<Body>, No> {
        let path = request.uri().path().to_owned();
        if let Some((_, kind, text)) = FILES.iter().find(|(file, ..)| *file == path) {
            return match *request.method() {
                Method::GET | Method::HEAD => Ok(whole(StatusCode::OK, kind, *text)),
                _ => Err(No::nothing()),
            };
        }
        let headers = request.headers();
        if access::is_foreign(headers) {
            return Err(No::new(StatusCode::FORBIDDEN, "other sites may not request this"));
        }
        let reader = self.reader(headers, peer);
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["session"]) => {
                Ok(document(StatusCode::OK, &describe(&reader.ok_or_else(No::stranger)?)))
            }
            (&Method::GET, ["stream"]) => {
                let query = request.uri().query().unwrap_or_default();
                self.watch(reader.ok_or_else(No::stranger)?, query).await
            }
            (&Method::POST, _) if !access::is_own(headers) => {
                Err(No::new(StatusCode::FORBIDDEN, "only this page may post here"))
            }
            (&Method::POST, ["login"]) => self.login(request, peer).await,
            (&Method::POST, ["logout"]) => self.logout(headers, reader, peer),
            (&Method::POST, ["models", model, verb @ ("start" | "stop")]) => {
                let press = if *verb == "start" { Press::Start } else { Press::Stop };
                self.press(headers, reader, press, &percent_decode(model)).await
            }
            _ => Err(No::nothing()),
        }
    }

    async fn watch(&self, reader: Reader, query: &str) -> Result<Response<Body>, No> {
        let log = query.strip_prefix("log=").map(percent_decode);
        if let Some(model) = &log {
            // The name becomes part of a path.
            let snapshot = self.source().snapshot().await.ok_or_else(No::ending)?;
            if !snapshot.status.models.iter().any(|known| known.name == *model) {
                return Err(No::new(StatusCode::NOT_FOUND, "there is no such model"));
            }
        }
        Ok(stream::open(self.clone(), reader, log.as_deref()))
    }

    async fn login(&self, request: Request<Incoming>, peer: Peer) -> Result<Response<Body>, No> {
        if !access::has_token(request.headers(), None) {
            return Err(No::new(StatusCode::FORBIDDEN, "only this page may post here"));
        }
        let secure = if access::is_secure(request.headers()) { "; Secure" } else { "" };
        let body = tokio::time::timeout(BODY, Limited::new(request.into_body(), BODY_MAX).collect()).await;
        let body = body
            .map_err(|_| No::new(StatusCode::REQUEST_TIMEOUT, "the body arrived too slowly"))?
            .map_err(|_| No::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large for a key"))?
            .to_bytes();
        let Login { key } = serde_json::from_slice(&body)
            .map_err(|_| No::new(StatusCode::BAD_REQUEST, "the body must be {\"key\": \"…\"}"))?;
        match self.sessions().open(peer.client, key.trim(), host::now()) {
            Ok((session, cookie)) => {
                tracing::info!(client = %peer.client, key = session.key.name, "a key was given to the page");
                let text = describe(&Reader::Known(session));
                let cookie = set_cookie(peer, &cookie, LIFE.as_secs(), secure);
                Ok(with_cookie(document(StatusCode::OK, &text), &cookie))
            }
            Err(Refused::Wrong) => {
                tracing::warn!(client = %peer.client, "a wrong key was given to the page");
                Err(No::new(StatusCode::UNAUTHORIZED, "this key is unknown; it may have been revoked"))
            }
            Err(Refused::Wait(wait)) => {
                let seconds = wait.as_secs() + 1;
                let text = format!("too many wrong keys; try again in {seconds} s");
                Err(No { after: Some(wait), ..No::new(StatusCode::TOO_MANY_REQUESTS, &text) })
            }
            Err(Refused::Io(error)) => Err(No::new(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
        }
    }

    fn logout(&self, headers: &HeaderMap, reader: Option<Reader>, peer: Peer) -> Result<Response<Body>, No> {
        let Some(Reader::Known(session)) = reader else { return Err(No::stranger()) };
        token(headers, &session)?;
        self.sessions().close(&session);
        Ok(with_cookie(document(StatusCode::OK, &json!({})), &set_cookie(peer, "", 0, "")))
    }

    async fn press(
        &self,
        headers: &HeaderMap,
        reader: Option<Reader>,
        press: Press,
        model: &str,
    ) -> Result<Response<Body>, No> {
        let reader = reader.ok_or_else(No::stranger)?;
        let Some(session) = reader.controls() else {
            let why = "this needs a key that may control: mlxctl key add NAME --may control";
            return Err(No::new(StatusCode::FORBIDDEN, why));
        };
        token(headers, session)?;
        let work = self.source().press(press, model, &session.key.name);
        // What takes longer continues without being waited for.
        match tokio::time::timeout(PRESS, work).await {
            Ok(Ok(done)) => {
                Ok(document(StatusCode::OK, &json!({ "text": done.text, "changed": done.changed })))
            }
            Ok(Err(error)) => Err(No::from(error)),
            Err(_) => {
                Ok(document(StatusCode::ACCEPTED, &json!({ "text": "still in progress", "changed": true })))
            }
        }
    }
}

fn token(headers: &HeaderMap, session: &Session) -> Result<(), No> {
    if access::has_token(headers, Some(session)) {
        return Ok(());
    }
    Err(No::new(StatusCode::FORBIDDEN, "the token of this session is missing; reload the page"))
}

/// What the page may know about its reader.
fn describe(reader: &Reader) -> Value {
    match reader {
        Reader::Local => json!({ "key": null, "control": false, "token": null }),
        Reader::Known(session) => json!({
            "key": session.key.name,
            "control": session.key.may == May::Control,
            "token": session.token,
        }),
    }
}

fn set_cookie(peer: Peer, value: &str, seconds: u64, more: &str) -> String {
    let name = cookie_name(peer);
    format!("{name}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{more}")
}

fn with_cookie(mut response: Response<Body>, cookie: &str) -> Response<Body> {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    whole(status, "application/json", value.to_string())
}

impl No {
    fn new(status: StatusCode, message: &str) -> Self {
        Self { status, document: json!({ "message": message }), after: None }
    }

    fn stranger() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "a key is needed: mlxctl key add NAME makes one")
    }

    fn nothing() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing here")
    }

    fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is shutting down")
    }

    fn response(self) -> Response<Body> {
        let mut response = document(self.status, &self.document);
        if let Some(after) = self.after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs() + 1));
        }
        response
    }
}

impl From<ApiError> for No {
    fn from(error: ApiError) -> Self {
        let status = web::http_status(error.code);
        let mut document = json!({ "message": error.message, "hint": error.hint });
        crate::terminal::clean(&mut document);
        Self { status, document, after: None }
    }
}
