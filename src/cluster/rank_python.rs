//! The Python of one rank: the launcher, tied to the process that started it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::frame::{LONGEST_LINE, Order};
use super::inputs::RankInput as Input;
use super::record::{self, RankRecord, TERM};
use super::streams::read_lines;
use crate::api::paths::{link_path, make_folder};
use crate::backend::group::{rank_name, ranks_folder};
use crate::backend::launcher;
use crate::backend::link::{Link, Message, Request, Thread};
use crate::backend::record::replace;
use crate::host::{self as system, Exit, Host, Identity};
use crate::python::{hub, process};

pub(super) struct Python {
    pub who: Identity,
    _tie: Option<ChildStdin>,
    pub requests: UnboundedSender<Request>,
    /// Where `mlx_lm.server` listens, once it does.
    pub port: Option<u16>,
    pub thread: Thread,
    /// The last error that it reported.
    pub error: Option<String>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// How many of its stdout and stderr are still open, 0 to 2.
    pub streams: u8,
}

impl Python {
    /// Starts it; its events go to `inputs`.
    ///
    /// # Errors
    /// The system's own; `TimedOut` if a rank of an earlier run does not end.
    pub(super) async fn start(
        order: &Order,
        rank: usize,
        keeper: Identity,
        host: &dyn Host,
        inputs: &UnboundedSender<Input>,
    ) -> io::Result<Self> {
        let run = &order.run;
        let ranks = ranks_folder(run);
        DirBuilder::new().recursive(true).mode(0o700).create(&ranks)?;
        // A rank of an earlier run that has not ended yet would take memory from this one.
        record::wait_gone(host, run, &order.model, rank, TERM).await?;
        let mut written = RankRecord {
            generation: order.generation,
            keeper,
            python: None,
            boot_id: host.facts().boot_id.clone(),
        };
        record::write(run, &order.model, rank, &written)?;
        let name = rank_name(&order.model, rank);
        launcher::write(&ranks)?;
        let launcher = ranks.join("launcher.py");
        let link = link_path(&ranks, &name);
        make_folder(&link)?;
        let spec = ranks.join(format!("{name}.json"));
        replace(&spec, &launcher_spec(order, &link))?;
        let mut child = process::command(&order.python)
            .arg(launcher)
            .arg(spec)
            .args(with_folder(order))
            .envs(order.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", order.python.display())))?;
        let who = system::identify_child(i32::try_from(child.id()).map_err(io::Error::other)?)?;
        written.python = Some(who);
        record::write(run, &order.model, rank, &written)?;
        Self::attend(who, &mut child, link, host, inputs)
    }

    fn attend(
        who: Identity,
        child: &mut Child,
        link: PathBuf,
        host: &dyn Host,
        inputs: &UnboundedSender<Input>,
    ) -> io::Result<Self> {
        let exit = host.watch(who)?;
        let ended = inputs.clone();
        tokio::spawn(async move {
            let _ = ended.send(Input::Exited(exit.await));
        });
        let mut streams = 0;
        for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            let (lines, end) = (inputs.clone(), inputs.clone());
            streams += 1;
            read_lines(
                stream,
                move |line| {
                    let line: String =
                        String::from_utf8_lossy(line.trim_ascii_end()).chars().take(LONGEST_LINE).collect();
                    let _ = lines.send(Input::Line(line));
                },
                move || {
                    let _ = end.send(Input::LinesEnded);
                },
            );
        }
        let (requests, asked) = unbounded_channel();
        tokio::spawn(follow(link, inputs.clone(), asked));
        Ok(Self {
            who,
            _tie: child.stdin.take(),
            requests,
            port: None,
            thread: Thread::None,
            error: None,
            exit: None,
            streams,
        })
    }
}

fn boxed(stream: impl io::Read + Send + 'static) -> Box<dyn io::Read + Send> {
    Box::new(stream)
}

/// The server's arguments, with the repository replaced by its folder in this host's cache.
fn with_folder(order: &Order) -> Vec<String> {
    let mut arguments = order.arguments.clone();
    let served = arguments.iter().position(|argument| argument == "--model");
    let Some(served) = served.and_then(|flag| arguments.get_mut(flag + 1)) else { return arguments };
    let of_order =
        |name: &str| order.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.into());
    let cache =
        hub::cache_folder_from(|name| of_order(name).or_else(|| std::env::var_os(name)).map(PathBuf::from));
    let found = cache.filter(|_| !served.starts_with('/')).and_then(|cache| hub::cached_in(&cache, served));
    if let Some(found) = found.filter(|found| found.complete) {
        *served = found.folder.to_string_lossy().into_owned();
    }
    arguments
}

fn launcher_spec(order: &Order, link: &Path) -> serde_json::Value {
    serde_json::json!({
        "link": link,
        "generation": order.generation,
        "model": order.model,
        "secret": order.secret,
        "cache_limit": order.cache_limit,
        "prompt_cache_bytes": order.prompt_cache_bytes,
        "wired": order.wired,
        "tied": true,
    })
}

/// Passes events and requests between the launcher and this process; reconnects for as long as this process runs.
async fn follow(path: PathBuf, inputs: UnboundedSender<Input>, mut asked: UnboundedReceiver<Request>) {
    const AGAIN: Duration = Duration::from_millis(20);
    loop {
        if let Ok(mut link) = Link::connect(&path).await {
            loop {
                tokio::select! {
                    message = link.next() => match message {
                        Ok(Message::Event(event)) => { let _ = inputs.send(Input::Link(event)); }
                        Ok(Message::Reply(_)) => {}
                        Err(_) => break,
                    },
                    Some(request) = asked.recv() => if link.ask(request).await.is_err() { break },
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
