//! `mlxctl __rank`, which `mlx.launch` starts on every host. It starts Python when the conductor says so, reports its
//! state, and ends it when the conductor says so, is gone, or is silent for too long.
//!
//! Python's standard input is a pipe from this process: if that is killed, Python sees end of file and ends too
//! (`launcher.py`, "tied").

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::frame::{Beat, Down, Gone, Order, Up, Why, decode, encode};
use super::inputs::{RankInput as Input, beats, on_signals, until};
use super::rank_python::Python;
use super::record;
use super::record::TERM;
use super::silence::Silence;
use super::streams::{Writer, read_lines};
use crate::backend::link::{LinkEvent, Request, Thread};
use crate::host::{self, Host, Identity, Signal};

/// How long it waits for its order; nothing is in memory yet.
const ORDER: Duration = Duration::from_secs(60);
/// Heartbeat until the order sets another.
const BEAT: Duration = Duration::from_millis(500);
/// How long to wait for the last lines of a Python that has ended.
const LAST_LINES: Duration = Duration::from_millis(500);
/// How long writing the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Returns the exit code: 0 if it was asked to end.
pub(crate) fn run() -> u8 {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    runtime.block_on(async {
        match Rank::new() {
            Ok((rank, inputs)) => rank.run(inputs).await,
            Err(_) => 1,
        }
    })
}

/// This process's rank, from the variables of `mlx.launch` or MPI.
fn own_rank() -> io::Result<usize> {
    ["MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
        .ok_or_else(|| io::Error::other("no rank in the environment"))
}

struct Rank {
    rank: usize,
    host: Arc<dyn Host>,
    own: Identity,
    output: Writer,
    inputs: UnboundedSender<Input>,
    order: Option<Order>,
    python: Option<Python>,
    ending: Option<Ending>,
}

struct Ending {
    why: Why,
    kill_at: Instant,
}

impl Rank {
    fn new() -> io::Result<(Self, UnboundedReceiver<Input>)> {
        raw_terminal();
        let (sender, inputs) = unbounded_channel();
        let (heard, ended) = (sender.clone(), sender.clone());
        read_lines(
            io::stdin(),
            move |line| {
                if let Some(down) = decode(&line) {
                    let _ = heard.send(Input::Down(down));
                }
            },
            move || {
                let _ = ended.send(Input::Ended);
            },
        );
        on_signals(sender.clone(), || Input::Ended)?;
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let own = host::identify(pid)?.ok_or(io::ErrorKind::NotFound)?;
        let rank = Self {
            rank: own_rank()?,
            host: host::system(),
            own,
            output: Writer::new(io::stdout()),
            inputs: sender,
            order: None,
            python: None,
            ending: None,
        };
        Ok((rank, inputs))
    }

    async fn run(mut self, mut inputs: UnboundedReceiver<Input>) -> u8 {
        let mut beats = beats(BEAT);
        let mut silence = Silence::new(Instant::now(), ORDER, BEAT);
        loop {
            let kill_at = self.ending.as_ref().map(|ending| ending.kill_at);
            tokio::select! {
                biased;
                Some(input) = inputs.recv() => {
                    if matches!(input, Input::Down(_)) {
                        silence.heard(Instant::now());
                    }
                    if let Input::Down(Down::Order(order)) = input {
                        if self.order.is_none() {
                            let every = Duration::from_millis(order.heartbeat_ms);
                            beats = super::inputs::beats(every);
                            silence = Silence::new(Instant::now(), Duration::from_millis(order.timeout_ms), every);
                            self.start(*order).await;
                        }
                    } else {
                        self.take(input);
                    }
                }
                _ = beats.tick() => {
                    self.beat();
                    if silence.too_long(Instant::now()) {
                        self.end(Why::Silence);
                    }
                }
                () = until(kill_at) => self.kill(),
            }
            if self.is_over() {
                return self.leave();
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Down(Down::End) | Input::Ended => self.end(Why::Asked),
            Input::Down(Down::Trim) => {
                if let Some(python) = &self.python {
                    // Fails only once the link is gone, and then there is nothing to trim.
                    let _ = python.requests.send(Request::Trim);
                }
            }
            Input::Down(Down::Beat | Down::Order(_)) => {}
            Input::Line(line) => {
                self.say(&Up::Log { rank: self.rank, line });
            }
            Input::LinesEnded => {
                if let Some(python) = &mut self.python {
                    python.streams = python.streams.saturating_sub(1);
                }
            }
            Input::Link(event) => self.heard(event),
            Input::Exited(exit) => {
                if let Some(python) = &mut self.python {
                    python.exit = Some(exit);
                }
                let inputs = self.inputs.clone();
                if self.ending.is_none() {
                    self.ending = Some(Ending { why: Why::Died, kill_at: Instant::now() + TERM });
                }
                // Descendants may hold its streams open, so don't wait long.
                tokio::spawn(async move {
                    tokio::time::sleep(LAST_LINES).await;
                    let _ = inputs.send(Input::LinesEnded);
                    let _ = inputs.send(Input::LinesEnded);
                });
            }
        }
    }

    fn heard(&mut self, event: LinkEvent) {
        let Some(python) = &mut self.python else { return };
        match event {
            LinkEvent::Hello { port, thread, error, .. } => {
                (python.port, python.thread) = (port, thread);
                python.error = error.or(python.error.take());
            }
            LinkEvent::Listening { port } => python.port = Some(port),
            LinkEvent::ThreadDied { error } => {
                python.thread = Thread::Dead;
                python.error = error.or(python.error.take());
            }
            LinkEvent::Exiting { error, .. } => python.error = error.or(python.error.take()),
            // A lost listener is noticed from outside, by the next request or check.
            LinkEvent::Ranks { .. }
            | LinkEvent::GroupLost { .. }
            | LinkEvent::ListenerClosed
            | LinkEvent::Store(_) => {}
        }
        self.beat();
    }

    fn beat(&self) {
        let python = self.python.as_ref();
        let measured = python.and_then(|python| self.host.footprint(python.who).ok());
        let cpu = python.and_then(|python| self.host.cpu_time(python.who).ok());
        self.say(&Up::Beat(Beat {
            rank: self.rank,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: python.map(|python| python.who.pid),
            footprint: measured.map(|measured| measured.bytes.0),
            cpu_ms: cpu.and_then(|cpu| u64::try_from(cpu.as_millis()).ok()),
            port: python.and_then(|python| python.port),
            thread: python.map_or(Thread::None, |python| python.thread),
            error: python.and_then(|python| python.error.clone()),
        }));
    }

    fn say(&self, up: &Up) {
        // A lost message is repeated by the next beat.
        let _ = self.output.say(encode(up));
    }

    async fn start(&mut self, order: Order) {
        let made = Python::start(&order, self.rank, self.own, &*self.host, &self.inputs).await;
        self.order = Some(order);
        match made {
            Ok(python) => self.python = Some(python),
            Err(error) => {
                self.ending = Some(Ending { why: Why::Obstacle(error.to_string()), kill_at: Instant::now() });
            }
        }
    }

    /// Begins to end; the first reason is the one that is reported.
    fn end(&mut self, why: Why) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending { why, kill_at: Instant::now() + TERM });
        self.signal(Signal::Term);
    }

    fn kill(&mut self) {
        self.signal(Signal::Kill);
        if let Some(ending) = &mut self.ending {
            ending.kill_at = Instant::now() + TERM;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(python) = &self.python
            && python.exit.is_none()
            && let Err(error) = self.host.signal(python.who, signal)
        {
            self.say(&Up::Log { rank: self.rank, line: format!("mlxctl: cannot signal Python: {error}") });
        }
    }

    fn is_over(&self) -> bool {
        self.ending.is_some()
            && self.python.as_ref().is_none_or(|python| python.exit.is_some() && python.streams == 0)
    }

    /// Says goodbye and cleans up; returns the exit code, by which `mlx.launch` ends the other ranks.
    fn leave(self) -> u8 {
        let why = self.ending.map_or(Why::Asked, |ending| ending.why);
        let code = u8::from(why != Why::Asked);
        let (exit, error) = self.python.map_or((None, None), |python| (python.exit, python.error));
        let _ = self.output.say(encode(&Up::Gone(Gone { rank: self.rank, why, exit, error })));
        if let Some(order) = &self.order {
            // Best effort: the next run replaces these files.
            let _ = record::forget(&order.run, &order.model, self.rank);
        }
        forget_launch_files();
        self.output.close(GOODBYE);
        code
    }
}

/// Removes files that `mlx.launch` makes with mktemp and leaves behind.
fn forget_launch_files() {
    for name in ["MLX_HOSTFILE", "MLX_IBV_DEVICES"] {
        if let Some(file) = std::env::var_os(name).filter(|file| Path::new(file).is_absolute()) {
            // Best effort: it is not read any more, and the next start makes another.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Makes the terminal that is standard input over ssh raw: no editing, no echo, no signals from bytes.
fn raw_terminal() {
    let stdin = io::stdin();
    if let Ok(mut settings) = tcgetattr(stdin.as_fd()) {
        cfmakeraw(&mut settings);
        // If this fails, long orders do not arrive, and the conductor reports the rank as late.
        let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &settings);
    }
}
