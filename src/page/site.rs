//! What the page's requests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::HeaderMap;

use super::Source;
use super::access::{self, Reader};
use super::sessions::Sessions;
use crate::gate::keys::KeyRing;
use crate::host;
use crate::registry::Paths;
use crate::web::Peer;

/// State that all requests share; cheap to clone.
#[derive(Clone)]
pub(super) struct Site<S> {
    source: S,
    shared: Arc<Shared>,
}

struct Shared {
    sessions: Sessions,
    logs: PathBuf,
}

impl<S: Source> Site<S> {
    pub(super) fn new(source: S, paths: &Paths) -> Self {
        let sessions = Sessions::new(KeyRing::new(paths.state.join("keys.json")));
        Self { source, shared: Arc::new(Shared { sessions, logs: paths.logs.clone() }) }
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    pub(super) fn logs(&self) -> &Path {
        &self.shared.logs
    }

    /// The sender of a request, if it may read.
    pub(super) fn reader(&self, headers: &HeaderMap, peer: Peer) -> Option<Reader> {
        let cookie = access::cookie(headers, &cookie_name(peer));
        match cookie.and_then(|cookie| self.sessions().find(cookie, host::now())) {
            Some(session) => Some(Reader::Known(session)),
            None => access::is_local(peer.client, headers).then_some(Reader::Local),
        }
    }

    /// Whether `reader` may still read: a session can end.
    pub(super) fn may_read(&self, reader: &Reader) -> bool {
        match reader {
            Reader::Local => true,
            Reader::Known(session) => self.sessions().lasts(session, host::now()),
        }
    }
}

/// Contains the port, because browsers send a cookie to every port of a machine.
pub(super) fn cookie_name(peer: Peer) -> String {
    format!("mlxctl-{}", peer.port)
}
