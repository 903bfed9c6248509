//! `mlxctl __rank`: what `mlx.launch` starts on every host. It starts Python when the conductor orders it, tells how
//! Python is, and ends it when the conductor says so, is gone, or is not heard of for too long.
//!
//! Python holds the other end of a pipe of ours as its standard input: where we are killed, it sees the end of it and
//! goes too (`launcher.py`, "tied").

use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::frame::{Beat, Down, Gone, LONGEST_LINE, Order, Up, Why, decode, encode};
use super::group::{rank_name, ranks_folder};
use super::record::{self, RankRecord};
use super::silence::Silence;
use super::streams::{Writer, read_lines};
use crate::backend::LAUNCHER;
use crate::backend::link::{Link, LinkEvent, Message, Request, Thread};
use crate::backend::record::replace;
use crate::control::paths::{link_path, make_folder};
use crate::host::{self, Exit, Host, Identity, Signal};

/// So long it waits for its order: nothing is in memory yet.
const ORDER: Duration = Duration::from_secs(60);
/// Between two signs of life before the order says how long.
const BEAT: Duration = Duration::from_millis(500);
/// After SIGTERM, before SIGKILL: the launcher ends within milliseconds, unless it is stuck in the system.
pub(super) const TERM: Duration = Duration::from_secs(5);
/// For the last lines of a Python that is gone.
const LAST_LINES: Duration = Duration::from_millis(500);
/// For the goodbye to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// What happens to a rank.
enum Input {
    Down(Down),
    /// The conductor's end of the connection is closed, or a signal says so.
    Ended,
    Line(String),
    LinesEnded,
    Link(LinkEvent),
    Exited(Exit),
}

/// Runs it; the exit code.
#[must_use]
pub fn run() -> u8 {
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

struct Python {
    who: Identity,
    /// Its end is Python's.
    _tie: Option<ChildStdin>,
    requests: UnboundedSender<Request>,
    port: Option<u16>,
    thread: Thread,
    error: Option<String>,
    exit: Option<Exit>,
    /// Its stdout and stderr.
    streams: u8,
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
        on_signals(sender.clone())?;
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
            LinkEvent::Ranks { .. } | LinkEvent::ListenerClosed => {}
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
        let made = self.make_python(&order).await;
        self.order = Some(order);
        match made {
            Ok(python) => self.python = Some(python),
            Err(error) => {
                self.ending = Some(Ending { why: Why::Obstacle(error.to_string()), kill_at: Instant::now() });
            }
        }
    }

    async fn make_python(&self, order: &Order) -> io::Result<Python> {
        let run = &order.run;
        let ranks = ranks_folder(run);
        DirBuilder::new().recursive(true).mode(0o700).create(&ranks)?;
        // One of an earlier run that is not gone yet would share the machine's memory with this one.
        record::wait_gone(&*self.host, run, &order.model, self.rank, TERM).await?;
        let mut written = RankRecord {
            generation: order.generation,
            keeper: self.own,
            python: None,
            boot_id: self.host.facts().boot_id.clone(),
        };
        record::write(run, &order.model, self.rank, &written)?;
        let name = rank_name(&order.model, self.rank);
        let launcher = launcher(&ranks)?;
        let link = link_path(&ranks, &name);
        make_folder(&link)?;
        let spec = ranks.join(format!("{name}.json"));
        replace(&spec, &launcher_spec(order, &link))?;
        let mut child = Command::new(&order.python)
            .arg(launcher)
            .arg(spec)
            .args(&order.arguments)
            .envs(order.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", order.python.display())))?;
        let who = host::identify_child(i32::try_from(child.id()).map_err(io::Error::other)?)?;
        written.python = Some(who);
        record::write(run, &order.model, self.rank, &written)?;
        self.attend(who, &mut child, link)
    }

    fn attend(&self, who: Identity, child: &mut Child, link: PathBuf) -> io::Result<Python> {
        let exit = self.host.watch(who)?;
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let _ = inputs.send(Input::Exited(exit.await));
        });
        let mut streams = 0;
        for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            let (lines, end) = (self.inputs.clone(), self.inputs.clone());
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
        tokio::spawn(follow(link, self.inputs.clone(), asked));
        Ok(Python {
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

fn boxed(stream: impl io::Read + Send + 'static) -> Box<dyn io::Read + Send> {
    Box::new(stream)
}

/// Writes the launcher where it is not, or is another version's.
fn launcher(ranks: &Path) -> io::Result<PathBuf> {
    let path = ranks.join("launcher.py");
    if std::fs::read(&path).is_ok_and(|found| found == LAUNCHER.as_bytes()) {
        return Ok(path);
    }
    let beside = ranks.join(format!("launcher.{}.tmp", std::process::id()));
    std::fs::write(&beside, LAUNCHER)?;
    std::fs::rename(beside, &path)?;
    Ok(path)
}

/// What `launcher.py` reads.
fn launcher_spec(order: &Order, link: &Path) -> serde_json::Value {
    serde_json::json!({
        "link": link,
        "generation": order.generation,
        "secret": order.secret,
        "cache_limit": order.cache_limit,
        "prompt_cache_bytes": order.prompt_cache_bytes,
        "tied": true,
    })
}

/// Passes on what the launcher says, for as long as this process lives.
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

/// Over ssh, standard input is a terminal: it must not edit, echo, or turn bytes into signals.
fn raw_terminal() {
    let stdin = io::stdin();
    if let Ok(mut settings) = tcgetattr(stdin.as_fd()) {
        cfmakeraw(&mut settings);
        // Where it fails, long orders do not come through, and the conductor says that the rank is late.
        let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &settings);
    }
}

fn on_signals(inputs: UnboundedSender<Input>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = inputs.send(Input::Ended);
        }
    });
    Ok(())
}

fn beats(every: Duration) -> tokio::time::Interval {
    let mut beats = interval(every.max(Duration::from_millis(10)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// `mlxctl __end_ranks RUN MODEL RANKS PATIENCE_MS`: waits until these ranks are gone from this host, kills what is not, and says
/// so; the exit code.
#[must_use]
pub fn end_ranks(arguments: &[String]) -> u8 {
    let [run, model, ranks, patience] = arguments else { return 2 };
    let ranks: Option<Vec<usize>> = ranks.split(',').map(|rank| rank.parse().ok()).collect();
    let (Some(ranks), Ok(patience)) = (ranks, patience.parse().map(Duration::from_millis)) else { return 2 };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    let host = host::system();
    let all = async {
        for rank in ranks {
            record::wait_gone(&*host, Path::new(run), model, rank, patience).await?;
        }
        Ok::<(), io::Error>(())
    };
    let limit = patience * 4 + Duration::from_secs(20);
    match runtime.block_on(async { timeout(limit, all).await }) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            // The one who asked shows it; where even that cannot be written, the code is what is left.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{error}\n"));
            1
        }
        Err(_) => 1,
    }
}
