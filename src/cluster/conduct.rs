//! `mlxctl __conduct SPEC`: the backend process of a model on several ranks. It runs `mlx.launch`, watches the ranks,
//! takes all of them down when one is lost, and ends once all of them are proven gone.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::frame::{Beat, Down, Gone, Order, Up, encode};
use super::inputs::{ConductorInput as Input, beats, on_signals, until};
use super::link_server::{self, Seen};
use super::silence::Silence;
use super::streams::Writer;
use super::verdict::{Sign, Verdict};
use super::watched::Watched;
use super::{mlx_launch, proof, record};
use crate::backend::group::{Group, scratch};
use crate::backend::link::Request;
use crate::backend::spec::Spec;
use crate::host::{self, Host, Identity, Signal};

/// Time for every rank's first message: ssh, a shell and our binary, no Python yet.
const COME_UP: Duration = Duration::from_secs(30);
/// Time between the first bad sign and the verdict: the cause may arrive after its consequences.
const SETTLE: Duration = Duration::from_millis(700);
/// Time for the goodbyes, in addition to what a rank gives its Python.
const GOODBYES: Duration = Duration::from_secs(1);

/// Returns the exit code: 0 if it was asked to end.
pub(crate) fn run(spec_file: &Path) -> u8 {
    let conducted = read(spec_file).and_then(|(spec, group)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (conductor, inputs) = Conductor::start(spec, group, spec_file)?;
            Ok(conductor.run(inputs).await)
        })
    });
    conducted.unwrap_or_else(|error| {
        tell(&format!("mlxctl: the group cannot be started: {error}"));
        1
    })
}

fn read(spec_file: &Path) -> io::Result<(Spec, Group)> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(spec_file)?)?;
    let group = spec.group.clone().ok_or_else(|| io::Error::other("the spec names no ranks"))?;
    Ok((spec, group))
}

/// Writes a line to the log. Failures are ignored: a full disk costs lines, not ranks.
fn tell(line: &str) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

struct Conductor {
    spec: Spec,
    group: Group,
    run: PathBuf,
    host: Arc<dyn Host>,
    launch: Identity,
    launched: bool,
    output: Writer,
    seen: watch::Sender<Seen>,
    ranks: Vec<Watched>,
    verdict: Verdict,
    ordered: bool,
    asked: bool,
    last_beat: Instant,
    /// Why ssh to the culprit's host failed.
    ssh_says: Option<String>,
}

impl Conductor {
    fn start(spec: Spec, group: Group, spec_file: &Path) -> io::Result<(Self, UnboundedReceiver<Input>)> {
        let run = spec_file.parent().unwrap_or(Path::new("/")).to_owned();
        let (sender, inputs) = unbounded_channel();
        on_signals(sender.clone(), || Input::Signal)?;
        let (seen, looks) = watch::channel(Seen::new(spec.generation));
        link_server::serve(&spec.link, looks, sender.clone())?;
        let (launch, output) = mlx_launch::start(&spec, &group, &run, &sender)?;
        let now = Instant::now();
        let come_up = COME_UP.max(group.timeout());
        let watched = |_: &_| Watched::new(Silence::new(now, come_up, group.heartbeat()));
        let conductor = Self {
            ranks: group.places.iter().map(watched).collect(),
            spec,
            run,
            host: host::system(),
            launch,
            launched: true,
            output,
            seen,
            verdict: Verdict::default(),
            ordered: false,
            asked: false,
            last_beat: now,
            ssh_says: None,
            group,
        };
        conductor.show();
        Ok((conductor, inputs))
    }

    async fn run(mut self, mut inputs: UnboundedReceiver<Input>) -> u8 {
        let mut beats = beats(self.group.heartbeat());
        let mut settled: Option<Instant> = None;
        while !self.asked {
            tokio::select! {
                biased;
                () = until(settled) => break,
                Some(input) = inputs.recv() => self.take(input),
                _ = beats.tick() => self.tick(),
            }
            if settled.is_none() && self.verdict.is_bad() {
                settled = Some(Instant::now() + SETTLE);
            }
            if !self.launched && settled.is_none() {
                // All ranks have reported their end, or never started.
                settled = Some(Instant::now());
            }
        }
        self.take_down(&mut inputs).await;
        self.leave()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Up(Up::Beat(beat)) => self.beat(beat),
            Input::Up(Up::Log { rank, line }) => self.log(rank, line),
            Input::Up(Up::Gone(gone)) => self.gone(gone),
            Input::Text(bytes) => self.text(&String::from_utf8_lossy(&bytes)),
            Input::Launch(exit) => {
                self.launched = false;
                if !self.verdict.is_bad() && !self.asked {
                    tell(&format!("mlxctl: mlx.launch {exit}"));
                }
            }
            Input::Signal => self.asked = true,
            Input::Asked(Request::Trim | Request::Release | Request::Forget) => self.say(&Down::Trim),
            Input::Asked(Request::ReopenLog) => {
                if let Err(error) = reopen_log(&self.spec.log) {
                    tell(&format!("mlxctl: the log cannot be reopened: {error}"));
                }
            }
            Input::Asked(Request::Memory | Request::Pace { .. }) => {}
        }
    }

    fn beat(&mut self, beat: Beat) {
        let rank = beat.rank;
        let sign = Sign::of_beat(&beat);
        let Some(watched) = self.ranks.get_mut(rank) else { return };
        watched.silence.heard(Instant::now());
        watched.beat = Some(beat);
        if let Some(sign) = sign {
            self.verdict.see(rank, sign);
        }
        if !self.ordered && self.ranks.iter().all(|watched| watched.beat.is_some()) {
            self.order();
        }
        self.show();
    }

    /// Starts Python on all ranks, once all of them are up.
    fn order(&mut self) {
        self.ordered = true;
        let order = Order {
            model: self.spec.model.clone(),
            generation: self.spec.generation,
            run: self.run.clone(),
            python: self.group.python.clone(),
            arguments: self.spec.argv.iter().skip(3).cloned().collect(),
            env: self.group.env.clone(),
            secret: self.spec.secret.clone(),
            cache_limit: self.spec.cache_limit,
            prompt_cache_bytes: self.spec.prompt_cache_bytes,
            wired: self.spec.wired,
            heartbeat_ms: self.group.heartbeat_ms,
            timeout_ms: self.group.timeout_ms,
        };
        self.say(&Down::Order(Box::new(order)));
        let now = Instant::now();
        for watched in &mut self.ranks {
            watched.silence = Silence::new(now, self.group.timeout(), self.group.heartbeat());
        }
    }

    fn log(&mut self, rank: usize, line: String) {
        let host = self.group.places.get(rank).map_or("?", |place| place.host.as_str());
        tell(&format!("[{rank} {host}] {line}"));
        let Some(watched) = self.ranks.get_mut(rank) else { return };
        watched.silence.heard(Instant::now());
        watched.remember(line);
    }

    fn gone(&mut self, gone: Gone) {
        let rank = gone.rank;
        let Some(watched) = self.ranks.get_mut(rank) else { return };
        self.verdict.forgive_loss(rank);
        if let Some(sign) = Sign::of_goodbye(&gone) {
            self.verdict.see(rank, sign);
        }
        watched.gone = Some(gone);
        self.show();
    }

    /// Handles a line that is not a frame: from a login shell, ssh or `mlx.launch`.
    fn text(&mut self, text: &str) {
        let line = text.trim_end();
        if line.is_empty() {
            return;
        }
        tell(line);
        let Some((rank, code)) = mlx_launch::lost_rank(line) else { return };
        let Some(watched) = self.ranks.get_mut(rank) else { return };
        watched.lost = true;
        if watched.gone.is_none() {
            let sign = if watched.beat.is_some() { Sign::Lost(code) } else { Sign::Unreached(code) };
            self.verdict.see(rank, sign);
        }
        self.show();
    }

    fn tick(&mut self) {
        self.say(&Down::Beat);
        let now = Instant::now();
        self.last_beat = now;
        for (rank, watched) in self.ranks.iter_mut().enumerate() {
            if !watched.silence.too_long(now) || watched.is_over() {
                continue;
            }
            let seconds = watched.silence.length(now).as_secs();
            let sign = if watched.beat.is_some() { Sign::Silent(seconds) } else { Sign::Late(seconds) };
            self.verdict.see(rank, sign);
        }
        self.show();
    }

    fn say(&self, down: &Down) {
        // If mlx.launch does not read, the ranks fall silent.
        let _ = self.output.say(encode(down));
    }

    /// Reports the state to the supervisor.
    fn show(&self) {
        let now = Instant::now();
        let heartbeat = self.group.heartbeat();
        let ranks = self.ranks.iter().zip(&self.group.places).enumerate();
        let ranks = ranks.map(|(rank, (watched, place))| watched.status(rank, &place.host, now, heartbeat));
        let ranks: Vec<_> = ranks.collect();
        let first = self.ranks.first().and_then(|watched| watched.beat.as_ref());
        // The slowest rank holds up the others.
        let cpu = self.ranks.iter().map(|watched| watched.beat.as_ref()?.cpu_ms).min().flatten();
        self.seen.send_if_modified(|seen| {
            let port = first.and_then(|beat| beat.port);
            let changed = seen.port != port || seen.ranks != ranks || seen.cpu_ms != cpu;
            (seen.port, seen.cpu_ms) = (port, cpu);
            seen.ranks.clone_from(&ranks);
            changed
        });
    }

    /// Ends every rank and proves that all are gone.
    async fn take_down(&mut self, inputs: &mut UnboundedReceiver<Input>) {
        if let Some(line) = self.blame() {
            tell(&format!("mlxctl: {line}; the whole group is taken down"));
            // Before its consequences can be noticed.
            self.seen.send_modify(|seen| seen.lost = Some(line));
        }
        self.say(&Down::End);
        let (blamed, asked) = (self.verdict.clone(), self.asked);
        let silent = |watched: &Watched, group: &Group| {
            watched.silence.length(Instant::now()) > group.timeout() || watched.beat.is_none()
        };
        let limit = Instant::now() + record::TERM + GOODBYES;
        while self.launched
            && self.ranks.iter().any(|watched| !watched.is_over() && !silent(watched, &self.group))
        {
            match timeout_at(limit, inputs.recv()).await {
                Ok(Some(input)) => self.take(input),
                Ok(None) | Err(_) => break,
            }
        }
        self.end_launch(inputs).await;
        // Ranks that end, and requests to end, are from now on consequences of ours.
        (self.verdict, self.asked) = (blamed, asked);
        let unproven: Vec<usize> =
            (0..self.ranks.len()).filter(|rank| self.ranks[*rank].gone.is_none()).collect();
        let unheard = self.last_beat.elapsed();
        let words =
            proof::gone(&*self.host, &self.run, &self.spec.model, &self.group, &unproven, unheard).await;
        for word in &words {
            if let Some(problem) = &word.problem {
                if self.verdict.culprit().is_some_and(|(rank, _)| word.ranks.contains(&rank)) {
                    self.ssh_says = Some(problem.clone());
                }
                let ranks: Vec<_> = word.ranks.iter().map(usize::to_string).collect();
                tell(&format!(
                    "mlxctl: {} could not be asked about rank {} ({problem}); a rank there ends itself after {:?} without contact",
                    word.host,
                    ranks.join(", "),
                    self.group.timeout()
                ));
            }
        }
        for watched in &mut self.ranks {
            watched.lost = true;
        }
        self.show();
    }

    async fn end_launch(&mut self, inputs: &mut UnboundedReceiver<Input>) {
        let limit = Instant::now() + GOODBYES;
        while self.launched {
            match timeout_at(limit, inputs.recv()).await {
                Ok(Some(input)) => self.take(input),
                Ok(None) | Err(_) => break,
            }
        }
        if self.launched
            && let Err(error) = self.host.signal(self.launch, Signal::Kill)
        {
            tell(&format!("mlxctl: mlx.launch cannot be ended: {error}"));
        }
    }

    fn blame(&self) -> Option<String> {
        if self.asked {
            return None;
        }
        let said = |rank: usize| self.ranks.get(rank).map(Watched::said).unwrap_or_default();
        let line = self.verdict.line(&self.group, said)?;
        Some(match &self.ssh_says {
            Some(why) => format!("{line} (ssh: {why})"),
            None => line,
        })
    }

    /// Writes the verdict as the log's last line, where a diagnosis looks for it, and cleans up.
    fn leave(self) -> u8 {
        let blame = self.blame();
        let code = u8::from(!self.asked);
        if let Some(line) = &blame {
            tell(&format!("mlxctl: {line}"));
        }
        // Best effort: the next run replaces these files.
        let _ = std::fs::remove_file(&self.spec.link);
        let _ = std::fs::remove_dir_all(scratch(&self.run, &self.spec.model));
        self.output.close(Duration::from_millis(100));
        code
    }
}

fn reopen_log(log: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(log)?;
    nix::unistd::dup2_stdout(&file)?;
    nix::unistd::dup2_stderr(&file)?;
    Ok(())
}
