//! What a watcher receives, as server-sent events (html.spec.whatwg.org, 9.2): everything once, then what changes.

use std::time::{Duration, SystemTime};

use futures_util::stream::poll_fn;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Source;
use super::access::Reader;
use super::site::Site;
use super::view::View;
use super::watched::{News, Watched};
use crate::terminal::clean;
use crate::web::{Body, whole};

/// How often the state is sent.
const BEAT: Duration = Duration::from_secs(1);
/// A stream ends after this time, and the browser opens another: this cleans up after clients that left unnoticed.
const LIFE: Duration = Duration::from_secs(600);
/// How many past events are sent first.
const EVENTS: usize = 40;

/// A stream for `reader`, with the log of a model if one is named. It ends with the connection, as does all work for
/// it.
pub(super) fn open<S: Source>(site: Site<S>, reader: Reader, log: Option<&str>) -> Response<Body> {
    let (lines, mut coming) = mpsc::channel::<Bytes>(4);
    let watched = Watched::new(site.logs(), log);
    let watcher = Watcher { site, reader, lines: lines.clone() };
    tokio::spawn(async move {
        tokio::select! {
            () = lines.closed() => {}
            () = tokio::time::sleep(LIFE) => {}
            _ = watcher.watch(watched) => {}
        }
    });
    let frames =
        poll_fn(move |context| coming.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line)))));
    let response = whole(StatusCode::OK, "text/event-stream", "");
    response.map(|_| StreamBody::new(frames).boxed_unsync())
}

struct Watcher<S> {
    site: Site<S>,
    reader: Reader,
    lines: mpsc::Sender<Bytes>,
}

impl<S: Source> Watcher<S> {
    /// Runs until the supervisor ends, the reader may no longer read, or the client is gone. Always returns `None`.
    async fn watch(&self, mut watched: Watched) -> Option<()> {
        // Subscribe before reading the past, so that no event is missed in between.
        let mut coming = self.site.source().coming();
        let past = self.site.source().newest(EVENTS).await;
        let mut last = past.last().map_or(0, |event| event.seq);
        self.send("events", &past).await?;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut event = tokio::select! {
                _ = beat.tick() => None,
                // A receiver that fell behind is dropped; the browser reconnects.
                event = coming.recv() => Some(event?),
            };
            while let Some(new) = event {
                if new.seq > last {
                    last = new.seq;
                    self.send("event", &new).await?;
                }
                event = coming.try_recv().ok();
            }
            if !self.site.may_read(&self.reader) {
                return None;
            }
            let snapshot = self.site.source().snapshot().await?;
            self.send("state", &View::of(&snapshot, SystemTime::now())).await?;
            let models: Vec<String> = snapshot.status.models.into_iter().map(|model| model.name).collect();
            // A disk may be slow, and this thread also relays requests.
            let look = tokio::task::spawn_blocking(move || {
                let news = watched.look(&models);
                (watched, news)
            });
            let (back, News { requests, log }) = look.await.ok()?;
            watched = back;
            if let Some((hour, requests)) = requests {
                self.send("hour", &hour).await?;
                self.send("requests", &requests).await?;
            }
            if let Some(text) = log {
                self.send("log", &text).await?;
            }
        }
    }

    /// Sends one event; `None`: the client is gone.
    async fn send(&self, event: &str, document: &impl Serialize) -> Option<()> {
        let mut value = serde_json::to_value(document).ok()?;
        clean(&mut value);
        // Compact JSON contains no newlines.
        self.lines.send(Bytes::from(format!("event: {event}\ndata: {value}\n\n"))).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::api::{ApiError, CommandDone, EventRecord};
    use crate::metrics::Snapshot;
    use crate::page::Press;
    use crate::registry::Paths;

    /// A source that has nothing to show and counts how often it is asked.
    #[derive(Clone, Default)]
    struct Asked(Arc<AtomicU64>);

    impl crate::metrics::Source for Asked {
        async fn snapshot(&self) -> Option<Snapshot> {
            self.0.fetch_add(1, Relaxed);
            let status = serde_json::json!({
                "schema": 1, "supervisor": null, "models": [],
                "host": { "os": "\u{1b}[2J", "chip": null, "memory_bytes": 9, "available_bytes": null,
                          "pressure": "normal", "swap_used_bytes": null, "gpu_limit_bytes": null },
                "budget": { "total_bytes": 9, "reserved_bytes": 0, "models_bytes": 0, "free_bytes": 9, "reserves": [] },
            });
            let status = serde_json::from_value(status).unwrap();
            Some(Snapshot { status, traffic: BTreeMap::new(), noted: BTreeMap::new(), router: None })
        }
    }

    impl crate::page::Source for Asked {
        async fn newest(&self, _: usize) -> Vec<EventRecord> {
            Vec::new()
        }

        fn coming(&self) -> mpsc::Receiver<EventRecord> {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move { sender.closed().await });
            receiver
        }

        async fn press(&self, _: Press, _: &str, _: &str) -> Result<CommandDone, ApiError> {
            unreachable!("no test presses")
        }
    }
    fn paths(folder: &Path) -> Paths {
        let [root, venv, logs, run, state] = std::array::from_fn(|_| folder.to_owned());
        Paths { root, venv, logs, run, state }
    }

    /// The names of the next `count` events, and the text of the last.
    async fn names(body: &mut Body, count: usize) -> (Vec<String>, String) {
        let (mut names, mut text) = (Vec::new(), String::new());
        while names.len() < count {
            text = String::from_utf8(body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec())
                .unwrap();
            names.push(text.lines().next().unwrap().replace("event: ", ""));
        }
        (names, text)
    }

    #[tokio::test(start_paused = true)]
    async fn the_supervisor_is_not_asked_while_no_one_watches() {
        const HOUR: Duration = Duration::from_secs(3600);
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let asked = Asked::default();
        let site = Site::new(asked.clone(), &paths);
        tokio::time::sleep(HOUR).await;
        assert_eq!(asked.0.load(Relaxed), 0);
        let mut body = open(site, Reader::Local, None).into_body();
        let (first, _) = names(&mut body, 4).await;
        assert_eq!(first, ["events", "state", "hour", "requests"]);
        let (next, text) = names(&mut body, 2).await;
        assert_eq!(next, ["state", "state"], "what does not change is not sent again");
        assert!(text.contains("^[[2J") && text.ends_with("\n\n"), "{text}");
        drop(body);
        tokio::time::sleep(2 * BEAT).await;
        let before = asked.0.load(Relaxed);
        tokio::time::sleep(HOUR).await;
        assert_eq!((before, asked.0.load(Relaxed)), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_after_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let began = tokio::time::Instant::now();
        let mut body = open(Site::new(Asked::default(), &paths), Reader::Local, None).into_body();
        while body.frame().await.is_some() {}
        assert_eq!(began.elapsed().as_secs(), LIFE.as_secs());
    }
}
