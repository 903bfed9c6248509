//! `mlxctl __rank`: what `mlx.launch` starts on every host. It starts Python when the conductor orders it, tells how
//! Python is, and ends it when the conductor says so, is gone, or is not heard of for too long.
//!
//! Python holds the other end of a pipe of ours as its standard input: where we are killed, it sees the end of it and
//! goes too (`launcher.py`, "tied").

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::frame::{Beat, Down, Gone, Order, Up, Why, decode, encode};
use super::inputs::{RankInput as Input, on_signals, until};
use super::rank_python::Python;
use super::record;
use super::record::TERM;
use super::silence::Silence;
use super::streams::{Writer, read_lines};
use crate::backend::link::{LinkEvent, Request, Thread};
use crate::host::{self, Host, Identity, Signal};

/// So long it waits for its order: nothing is in memory yet.
const ORDER: Duration = Duration::from_secs(60);
/// Between two signs of life before the order says how long.
const BEAT: Duration = Duration::from_millis(500);
/// For the last lines of a Python that is gone.
const LAST_LINES: Duration = Duration::from_millis(500);
/// For the goodbye to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// Runs it; the exit code.
pub(crate) fn run() -> u8 {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    runtime.block_on(async {
        match Rank::new() {
            Ok((rank, inputs)) => rank.run(inputs).await,
            Err(_) => 1,
        }
    })
}

/// This process's rank, as the launcher that started it says.
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
                            beats = self::beats(every);
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
                    // Where the link is gone, there is nothing to trim.
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
                // Who inherited its streams may hold them open: they are not waited for long.
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
            // A listener that is gone is found from outside, by the next request or check.
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
        // What cannot be said is lost; the next beat says it again.
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

    /// Begins to end; the first reason is the one that is told.
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

    /// Says goodbye and cleans up; the exit code, by which `mlx.launch` ends the other ranks.
    fn leave(self) -> u8 {
        let why = self.ending.map_or(Why::Asked, |ending| ending.why);
        let code = u8::from(why != Why::Asked);
        let (exit, error) = self.python.map_or((None, None), |python| (python.exit, python.error));
        let _ = self.output.say(encode(&Up::Gone(Gone { rank: self.rank, why, exit, error })));
        if let Some(order) = &self.order {
            // What cannot be removed is replaced by the next run.
            let _ = record::forget(&order.run, &order.model, self.rank);
        }
        forget_launch_files();
        self.output.close(GOODBYE);
        code
    }
}

/// `mlx.launch` makes these with mktemp and leaves them.
fn forget_launch_files() {
    for name in ["MLX_HOSTFILE", "MLX_IBV_DEVICES"] {
        if let Some(file) = std::env::var_os(name).filter(|file| Path::new(file).is_absolute()) {
            // Nobody reads it any more, and the next start makes another.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Over ssh, standard input is a terminal: it must not edit, echo, or turn bytes into signals.
fn raw_terminal() {
    let stdin = io::stdin();
    if let Ok(mut settings) = tcgetattr(stdin.as_fd()) {
        cfmakeraw(&mut settings);
        // Where it fails, long orders do not come through, and the conductor says that the rank is late.
        let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &settings);
    }
}

fn beats(every: Duration) -> tokio::time::Interval {
    let mut beats = interval(every.max(Duration::from_millis(10)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}
