//! Backends of an earlier supervisor: found by their records, or by their arguments where a record was lost; adopted
//! if they are who it says, left alone if they are not, put away if they are ours and of no use.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fs_err as fs;

use super::driver::Driver;
use super::handle::Input;
use super::journal::wall_seconds;
use super::kept::{self, Kept};
use crate::backend::spec::{Record, Spec};
use crate::backend::{logs, record};
use crate::clock::Moment;
use crate::host::{Host, Identity, Marked, Signal};
use crate::lifecycle::{Event, Generation, Name, Run, StopReason};
use crate::units::Bytes;

/// How long a process that is put away may take after SIGTERM: as long as the registry gives a backend.
const TERM: Duration = Duration::from_secs(20);

/// Between two tries to signal or watch a process that is put away.
const AGAIN: Duration = Duration::from_millis(200);

/// What the files of earlier runs say.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Runs that live and are who their record says.
    pub alive: Vec<Record>,
    /// Runs whose process is gone by their record: whoever has their arguments now is another.
    pub ended: Vec<(Name, Generation)>,
    /// The last generation of each model, live or not.
    pub last: Vec<(Name, Generation)>,
    /// Files that could not be read, and what became of them.
    pub problems: Vec<String>,
}

/// Reads every record and spec in `run`. Records of processes that are gone are removed.
pub(super) fn find(run: &Path, host: &dyn Host) -> Found {
    let mut found = Found::default();
    let Ok(entries) = fs::read_dir(run) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            // Of a writer that was killed: none is left while we have the lock.
            if let Err(error) = record::remove(&entry.path()) {
                found.problems.push(error.to_string());
            }
        } else if let Some(model) = name.strip_suffix(".live.json") {
            look_at_record(&mut found, run, model, host);
        } else if let Some(model) = model_of_spec(&name)
            && let Ok(Some(spec)) = record::read_spec(run, model)
        {
            // Its run may never have come to be; the number is used up all the same.
            found.last.push((Name::from(model), Generation(spec.generation)));
        }
    }
    found
}

fn look_at_record(found: &mut Found, run: &Path, model: &str, host: &dyn Host) {
    match record::read_record(run, model) {
        Ok(Some(record)) => {
            found.last.push((Name::from(model), Generation(record.spec.generation)));
            if lives(&record, host) {
                found.alive.push(record);
                return;
            }
            found.ended.push((Name::from(model), Generation(record.spec.generation)));
            if let Err(error) = record::forget(run, model) {
                found.problems.push(error.to_string());
            }
        }
        Ok(None) => found.problems.push(format!("the record of {model} was damaged and is set aside")),
        Err(error) => found.problems.push(format!("the record of {model} cannot be used: {error}")),
    }
}

/// The model whose spec a file is, by its name.
fn model_of_spec(name: &str) -> Option<&str> {
    let model = name.strip_suffix(".json")?;
    let other = [".live", ".failed", ".kept"].iter().any(|suffix| model.ends_with(suffix));
    (!other).then_some(model)
}

/// Whether the recorded process is the one that has its pid now, on this boot.
pub(super) fn lives(record: &Record, host: &dyn Host) -> bool {
    record.boot_id == host.facts().boot_id
        && host.identify(record.identity.pid).ok().flatten() == Some(record.identity)
}

/// The model that a process serves, if it is a backend of the instance with this run folder: it runs our launcher,
/// with a spec of ours. A person who reads one of these files is not.
pub(super) fn serves(arguments: &[String], run: &Path) -> Option<String> {
    let launcher = run.join("launcher.py");
    let ours = |first: &str| Path::new(first) == launcher || first == crate::backend::CONDUCT;
    let spec = arguments.windows(2).find(|pair| ours(&pair[0]))?[1].as_str();
    let name = Path::new(spec).strip_prefix(run).ok()?.to_str()?;
    model_of_spec(name).filter(|model| !model.contains('/')).map(str::to_owned)
}

/// Those of our processes that belong to no recorded run, and to none of each other: what a backend forked is the
/// backend's, also where it has its arguments still, or has begun a session of its own.
fn strays(ours: Vec<(String, Marked)>, recorded: &[Identity]) -> Vec<(String, Marked)> {
    let begins_its_session = |marked: &Marked| marked.session == marked.who.pid;
    let leaders: Vec<i32> = ours
        .iter()
        .filter(|(_, marked)| begins_its_session(marked))
        .map(|(_, marked)| marked.who.pid)
        .chain(recorded.iter().map(|identity| identity.pid))
        .collect();
    let is_stray = |(_, marked): &(String, Marked)| {
        let another = if begins_its_session(marked) { marked.parent } else { marked.session };
        !recorded.contains(&marked.who) && !leaders.contains(&another)
    };
    ours.into_iter().filter(is_stray).collect()
}

impl Driver {
    /// Takes over what was found. What belongs to no model of the registry, or cannot be made use of, is ended: it is
    /// ours, and nobody would ever stop it.
    pub fn adopt(&mut self, found: Found) {
        for problem in &found.problems {
            self.note(None, "record_problem", problem);
        }
        self.recall();
        let run = self.registry.paths.run.clone();
        let marked = self.host.find_by_argument(&run.to_string_lossy()).into_iter();
        let ours = marked.filter_map(|marked| Some((serves(&marked.arguments, &run)?, marked))).collect();
        let recorded: Vec<_> = found.alive.iter().map(|record| record.identity).collect();
        let strays = strays(ours, &recorded);
        for record in found.alive {
            let name = Name::from(record.spec.model.as_str());
            if self.slots.contains_key(&name) {
                self.take_over(&name, record);
            } else {
                self.put_away(name, record.identity, "its model is no longer in the registry");
            }
        }
        for (model, marked) in strays {
            let name = Name::from(model.as_str());
            match self.without_record(&name, &marked, &found.ended) {
                Some(spec) => self.take_over_without_record(&name, spec, marked.who),
                None => self.put_away(name, marked.who, "it runs our launcher but belongs to no run"),
            }
        }
    }

    /// What earlier supervisors of this boot knew of the models.
    fn recall(&mut self) {
        for model in self.registry.clone().models.iter() {
            let name = Name::from(model.name.as_str());
            let Some(slot) = self.slots.get_mut(&name) else { continue };
            let kept = Kept::read(&self.registry.paths.run, &name, &self.host.facts().boot_id);
            let event = Event::Recall {
                model: name,
                restarts: kept.restarts,
                by_hand: kept.by_hand,
                up_late: kept.up_late,
            };
            slot.lent = kept.lent;
            slot.used.last = kept.last_used;
            slot.overdraft = kept.forced.then_some(Bytes(kept.overdraft));
            slot.before = kept.clone();
            slot.kept = kept;
            self.handle(event);
        }
    }

    /// The spec of a backend whose record was lost, if it still is what the process was started with.
    fn without_record(&self, name: &Name, marked: &Marked, ended: &[(Name, Generation)]) -> Option<Spec> {
        if marked.session != marked.who.pid {
            // What a backend that has ended forked.
            return None;
        }
        let slot = self.slots.get(name)?;
        let spec = record::read_spec(&self.registry.paths.run, name).ok().flatten()?;
        let same = marked.arguments.ends_with(spec.argv.get(1..)?);
        let over = ended.contains(&(name.clone(), Generation(spec.generation)));
        (slot.run.is_none() && same && !over).then_some(spec)
    }

    fn take_over_without_record(&mut self, name: &Name, spec: Spec, who: Identity) {
        let text = format!("process {} has no record: it was found by its arguments", who.pid);
        self.note(Some(name), "record_lost", &text);
        let started = self.host.started(who);
        let record = Record {
            spec,
            identity: who,
            boot_id: self.host.facts().boot_id.clone(),
            spawned_at: wall_seconds(SystemTime::now())
                .saturating_sub(self.host.now().since(started).as_secs()),
            spawned: Some(started),
        };
        if let Err(error) = record::write_record(&self.registry.paths.run, &record) {
            self.note(Some(name), "record_problem", &error.to_string());
        }
        self.take_over(name, record);
    }

    fn take_over(&mut self, name: &Name, record: Record) {
        let spec = record.spec;
        let generation = Generation(spec.generation);
        let forced = self.slots.get(name).is_some_and(|slot| slot.before.forced);
        let run = Run {
            generation,
            identity: record.identity,
            reserved: Bytes(spec.reserved),
            forced,
            spawned: record.spawned.unwrap_or_else(|| spawned_at(&*self.host, record.spawned_at)),
            port: None,
            adopted: true,
        };
        // It must be in the books before its exit can be reported.
        self.handle(Event::Adopt { model: name.clone(), run });
        let log_start = logs::mark(&spec.log);
        self.attend(name, generation, record.identity, spec, log_start);
        self.look_for_differences(name);
        if self.slots.get(name).is_some_and(|slot| slot.before.by_hand) {
            // The supervisor died while it carried out somebody's `stop`.
            let why = StopReason::ByHand;
            self.handle(Event::Stop { model: name.clone(), waiter: None, why, now: false, drain: None });
        }
    }

    /// Ends a process that is ours and of no use. Until it is gone its model is not started.
    fn put_away(&mut self, name: Name, who: Identity, why: &str) {
        self.note(Some(&name), "stray_stopped", &format!("process {} is stopped: {why}", who.pid));
        self.strays.push((name.clone(), who));
        let (host, inbox) = (self.host.clone(), self.inbox.clone());
        tokio::spawn(async move {
            end(host, who).await;
            // After the loop's end the next supervisor finds it gone.
            let _ = inbox.send(Input::PutAway(name, who));
        });
    }

    /// A process that was put away is gone.
    pub fn was_put_away(&mut self, name: &Name, who: Identity) {
        self.strays.retain(|(_, stray)| *stray != who);
        self.note(Some(name), "stray_gone", &format!("process {} is gone", who.pid));
        let run = &self.registry.paths.run;
        if self.slots.contains_key(name) {
            return self.handle(Event::Retry(name.clone()));
        }
        let forgotten = record::forget_model(run, name).and_then(|()| record::remove(&kept::file(run, name)));
        if let Err(error) = forgotten {
            self.note(Some(name), "record_problem", &error.to_string());
        }
    }

    /// A process of this model that is still being put away.
    pub fn stray_of(&self, name: &Name) -> Option<Identity> {
        self.strays.iter().find(|(model, _)| model == name).map(|(_, who)| *who)
    }
}

/// Ends a process and its group, whatever it takes.
async fn end(host: Arc<dyn Host>, who: Identity) {
    let mut gone = super::exits::watch(host.clone(), who);
    let mut signal = Signal::Term;
    let began = host.awake();
    loop {
        if let Err(error) = host.signal(who, signal) {
            tracing::warn!(pid = who.pid, %error, "a stray backend could not be signalled");
        }
        let patience = if signal == Signal::Term { TERM } else { AGAIN };
        let ended = tokio::time::timeout(patience, &mut gone).await.is_ok();
        if ended && !host.group_alive(who) {
            return;
        }
        if ended || host.awake().since(began) >= TERM {
            signal = Signal::Kill;
        }
        if ended {
            gone = Box::pin(std::future::pending());
        }
    }
}

/// The wall time of a spawn on the host's clock.
fn spawned_at(host: &dyn Host, wall: u64) -> Moment {
    let age = wall_seconds(SystemTime::now()).saturating_sub(wall);
    Moment(host.now().0.saturating_sub(Duration::from_secs(age)))
}

/// The last generation of `name` among those that files told of.
pub(super) fn last_generation(found: &Found, name: &str) -> Generation {
    found.last.iter().filter(|(model, _)| **model == *name).map(|(_, last)| *last).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(line: &str) -> Option<String> {
        let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
        serves(&arguments, Path::new("/m/run"))
    }

    #[test]
    fn what_a_backend_forked_is_no_backend() {
        let process = |pid, parent, session| {
            let who = Identity { pid, started: 1 };
            ("m".to_owned(), Marked { who, parent, session, arguments: Vec::new() })
        };
        let pids = |ours: Vec<(String, Marked)>, recorded: &[i32]| -> Vec<i32> {
            let recorded: Vec<_> = recorded.iter().map(|&pid| Identity { pid, started: 1 }).collect();
            strays(ours, &recorded).into_iter().map(|(_, marked)| marked.who.pid).collect()
        };
        let family = || vec![process(70, 1, 70), process(71, 70, 70), process(72, 70, 72)];
        assert_eq!(pids(family(), &[70]), [] as [i32; 0], "the recorded one and its children");
        assert_eq!(pids(family(), &[]), [70], "the one whose record was lost");
        let orphans = vec![process(71, 1, 70), process(72, 1, 72)];
        assert_eq!(pids(orphans, &[]), [71, 72], "of one that has ended");
        // Its number is another backend's now.
        let mut again = vec![process(70, 1, 70)];
        again[0].1.who.started = 2;
        assert_eq!(pids(again, &[70]), [70]);
    }

    #[test]
    fn only_a_process_that_runs_our_launcher_with_our_spec_is_ours() {
        let ours = "/venv/bin/python /m/run/launcher.py /m/run/qwen2.5.json --model x";
        assert_eq!(model(ours).as_deref(), Some("qwen2.5"));
        let conductor = "/bin/mlxctl __conduct /m/run/70b.json --model x";
        assert_eq!(model(conductor).as_deref(), Some("70b"));
        for strangers in [
            "/venv/bin/python /m/run/ranks/launcher.py /m/run/ranks/70b.rank0.json",
            "/bin/mlxctl __conduct /elsewhere/70b.json",
            "vim /m/run/launcher.py",
            "tail -f /m/run/launcher.py /m/run/32b.live.json",
            "python /m/run/launcher.py /elsewhere/32b.json",
            "python /other/run/launcher.py /m/run/32b.json",
            "grep x /m/run/32b.json",
            "python /m/run/launcher.py",
            "python /m/run/launcher.py /m/run/a/b.json",
        ] {
            assert_eq!(model(strangers), None, "{strangers}");
        }
    }
}
