//! The server of the supervisor's API: HTTP/1.1 and JSON on a Unix socket (0600, in a 0700 folder), for this user
//! and root.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::api::http::percent_decode;
use crate::api::paths;
use crate::api::{
    ApiError, CommandDone, ErrorCode, EventRecord, Events, HandedOver, HandoverRequest, Line, ModelStatus,
    Progress, ReloadRequest, Reloaded, SCHEMA, SCHEMA_HEADER, StartRequest, StateName, StopRequest,
};
use crate::metrics::{self, Source};
use crate::supervisor::Handle;
use crate::units::Bytes as Size;
use crate::web;

/// The longest body of a request, bytes.
const BODY_MAX: usize = 64 * 1024;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_millis(250);
/// Pause after a failed accept (out of descriptors): the condition passes, and the loop must not spin.
const BREATH: Duration = Duration::from_millis(100);
/// The most events in one answer.
const EVENTS_MAX: usize = 1000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) struct Server {
    listener: UnixListener,
    socket: PathBuf,
}

impl Server {
    /// Binds the socket of `run`, replacing one that a dead supervisor left. The caller holds the lock, so no living
    /// supervisor uses it.
    pub(crate) fn bind(run: &Path) -> io::Result<Self> {
        let socket = paths::socket_path(run);
        paths::make_folder(&socket)?;
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, socket })
    }

    pub(crate) async fn run(self, handle: Handle, config: PathBuf) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if may_ask(&stream) => {
                    tokio::spawn(serve(stream, handle.clone(), config.clone()));
                }
                Ok(_) => tracing::warn!("another user's connection to the control socket was closed"),
                Err(error) => {
                    tracing::warn!(%error, "the control socket accepts no connections");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A file that stays behind does no harm: connections to it are refused.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Root may connect as well: it could become this user.
fn may_ask(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| paths::may_ask(peer.uid(), nix::unistd::getuid().as_raw()))
}

async fn serve(stream: UnixStream, handle: Handle, config: PathBuf) {
    let service = service_fn(move |request| {
        let (handle, config) = (handle.clone(), config.clone());
        async move { Ok::<_, Infallible>(answer(request, handle, config).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a control connection failed");
    }
}

async fn answer(request: Request<Incoming>, handle: Handle, config: PathBuf) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let outcome = match (&method, parts.as_slice()) {
        (&Method::GET, ["v1", "status"]) => match handle.status().await {
            Some(status) => Ok(document(StatusCode::OK, &status)),
            None => Err(ending()),
        },
        (&Method::GET, ["metrics"]) => match handle.snapshot().await {
            Some(snapshot) => {
                let text = Full::new(Bytes::from(metrics::render(&snapshot)));
                Ok(respond(StatusCode::OK, metrics::CONTENT_TYPE, text.boxed_unsync()))
            }
            None => Err(ending()),
        },
        (&Method::GET, ["v1", "events"]) => Ok(events(&handle, &query).await),
        (&Method::GET, ["v1", "events", "follow"]) => {
            Ok(follow(handle, number(&query, "after").unwrap_or(0)).await)
        }
        (&Method::POST, ["v1", "models", model, verb @ ("start" | "stop" | "restart")]) => {
            command(request, handle, &percent_decode(model), verb).await
        }
        (&Method::POST, ["v1", "models", model, "trim"]) => {
            handle.trim(&percent_decode(model)).await.map(|done| document(StatusCode::OK, &done))
        }
        (&Method::POST, ["v1", "models", model, "forget"]) => {
            handle.forget(&percent_decode(model)).await.map(|done| document(StatusCode::OK, &done))
        }
        (&Method::POST, ["v1", "reload"]) => reload(request, &handle, &config).await,
        (&Method::POST, ["v1", "handover"]) => hand_over(request, &handle).await,
        _ => Err(bad_request(format!("there is no {method} {path}"))),
    };
    outcome.unwrap_or_else(|error| document(web::http_status(error.code), &error))
}

async fn events(handle: &Handle, query: &str) -> Response<Body> {
    let limit = usize::try_from(number(query, "limit").unwrap_or(100)).unwrap_or(EVENTS_MAX).min(EVENTS_MAX);
    let events = handle.events(number(query, "after"), limit).await;
    let next = events.last().map_or_else(|| number(query, "after").unwrap_or(0), |event| event.seq);
    document(StatusCode::OK, &Events { events, next })
}

/// Every event after number `after`, including those to come.
async fn follow(handle: Handle, after: u64) -> Response<Body> {
    let (lines, body) = stream();
    tokio::spawn(async move {
        // Subscribe before reading the past, so that no event is missed in between.
        let mut coming = handle.follow();
        let mut last = after;
        for event in handle.events(Some(after), EVENTS_MAX).await {
            last = event.seq;
            if !send(&lines, &event).await {
                return;
            }
        }
        while let Some(event) = coming.recv().await {
            if event.seq > last && !send::<EventRecord>(&lines, &event).await {
                return;
            }
        }
    });
    body
}

/// `start`, `stop`, `restart`: progress while they take, then the outcome.
async fn command(
    request: Request<Incoming>,
    handle: Handle,
    model: &str,
    verb: &str,
) -> Result<Response<Body>, ApiError> {
    let work: std::pin::Pin<Box<dyn Future<Output = Result<CommandDone, ApiError>> + Send>> = {
        let (handle, model) = (handle.clone(), model.to_owned());
        match verb {
            "start" => {
                let request: StartRequest = body(request).await?;
                Box::pin(async move { handle.start(&model, request).await })
            }
            "stop" => {
                let request: StopRequest = body(request).await?;
                Box::pin(async move { handle.stop(&model, request).await })
            }
            _ => {
                let request: StopRequest = body(request).await?;
                Box::pin(async move { handle.restart(&model, request).await })
            }
        }
    };
    // What is refused at once is an HTTP error; what takes time is a stream.
    let mut work = work;
    let quick = tokio::time::timeout(Duration::from_millis(20), &mut work).await;
    if let Ok(Err(error)) = quick {
        return Err(error);
    }
    let (lines, response) = stream();
    let model = model.to_owned();
    tokio::spawn(async move {
        let outcome = match quick {
            Ok(outcome) => outcome,
            Err(_) => match watched(&lines, &handle, &model, work).await {
                Some(outcome) => outcome,
                None => return,
            },
        };
        let line = outcome.map_or_else(Line::Error, Line::Done);
        send(&lines, &line).await;
    });
    Ok(response)
}

/// Waits for the outcome and sends progress; `None`: the client disconnected, and the command continues.
async fn watched(
    lines: &mpsc::Sender<Bytes>,
    handle: &Handle,
    model: &str,
    mut work: std::pin::Pin<Box<dyn Future<Output = Result<CommandDone, ApiError>> + Send>>,
) -> Option<Result<CommandDone, ApiError>> {
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(PROGRESS);
    loop {
        tokio::select! {
            outcome = &mut work => return Some(outcome),
            _ = ticks.tick() => {
                if let Some(now) = handle.model(model).await
                    && !send(lines, &Line::Progress(progress(&now, began.elapsed()))).await
                {
                    return None;
                }
            }
        }
    }
}

fn progress(now: &ModelStatus, elapsed: Duration) -> Progress {
    let weights = now.memory.weights_bytes.map(Size);
    let text = match (now.state, now.progress, weights) {
        (StateName::Loading, Some(share), Some(weights)) if share < 1.0 => {
            format!("reading weights, {} of {weights}", weights.scale(share))
        }
        (StateName::Loading, ..) if now.health.listening => {
            "warming up, waiting for the first token".to_owned()
        }
        (StateName::Loading, ..) => "starting Python".to_owned(),
        (StateName::Spawning, ..) => now.reason.clone().unwrap_or_else(|| "spawning".to_owned()),
        (StateName::Draining, ..) => match now.traffic.in_flight {
            1 => "waiting for 1 request in flight".to_owned(),
            n => format!("waiting for {n} requests in flight"),
        },
        (StateName::Stopping, ..) => "waiting for the process group to end".to_owned(),
        _ => now.reason.clone().unwrap_or_default(),
    };
    Progress { state: now.state, text, fraction: now.progress, elapsed_seconds: elapsed.as_secs_f64() }
}

async fn hand_over(request: Request<Incoming>, handle: &Handle) -> Result<Response<Body>, ApiError> {
    let HandoverRequest { hold_seconds } = body(request).await?;
    let hold = hold_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match hold {
        Some(time) => handle.hand_over_and_hold(time).await,
        None => handle.hand_over(),
    }
    Ok(document(StatusCode::ACCEPTED, &HandedOver { holds: hold.is_some() }))
}

async fn reload(
    request: Request<Incoming>,
    handle: &Handle,
    config: &Path,
) -> Result<Response<Body>, ApiError> {
    let ReloadRequest { dry_run } = body(request).await?;
    let changes = handle.reload(crate::supervisor::read_registry(config), dry_run).await?;
    Ok(document(StatusCode::OK, &Reloaded { changes, applied: !dry_run }))
}

/// The request's JSON; an empty body is the default.
async fn body<T: DeserializeOwned + Default>(request: Request<Incoming>) -> Result<T, ApiError> {
    let collected = Limited::new(request.into_body(), BODY_MAX).collect().await;
    let bytes = collected.map_err(|error| bad_request(format!("the body was not read: {error}")))?.to_bytes();
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| bad_request(format!("the body is not valid for this request: {error}")))
}

fn document(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    respond(status, "application/json", Full::new(Bytes::from(text)).boxed_unsync())
}

/// A response of JSON lines, and the sender that feeds it.
fn stream() -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, mut lines) = mpsc::channel::<Bytes>(16);
    let frames = futures_util::stream::poll_fn(move |context| {
        lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    });
    let response = respond(StatusCode::OK, "application/x-ndjson", StreamBody::new(frames).boxed_unsync());
    (sender, response)
}

/// Sends one JSON line; `false` if the client is gone.
async fn send<T: Serialize>(lines: &mpsc::Sender<Bytes>, value: &T) -> bool {
    let Ok(mut line) = serde_json::to_vec(value) else { return false };
    line.push(b'\n');
    lines.send(Bytes::from(line)).await.is_ok()
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(SCHEMA_HEADER, HeaderValue::from(SCHEMA));
    response
}

fn bad_request(message: String) -> ApiError {
    ApiError { code: ErrorCode::BadRequest, message, hint: None }
}

fn ending() -> ApiError {
    ApiError { code: ErrorCode::Refused, message: "the supervisor is shutting down".into(), hint: None }
}

/// A number from the query string, by name.
fn number(query: &str, name: &str) -> Option<u64> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_query_are_found_by_name() {
        assert_eq!(number("after=7&limit=20", "limit"), Some(20));
        assert_eq!(number("after=x", "after"), None);
        assert_eq!(number("", "after"), None);
    }
}
