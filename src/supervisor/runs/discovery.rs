//! Finds backends of an earlier supervisor by their records, or by their arguments if a record was lost.

use std::path::Path;

use fs_err as fs;

use crate::backend::record;
use crate::backend::spec::{Record, Spec};
use crate::host::{Host, Identity, Marked};
use crate::lifecycle::{Generation, Name};

/// What was found in the files of earlier runs.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Records of runs that are still alive.
    pub(super) alive: Vec<Record>,
    /// Runs that have ended by their record; a process with their arguments is a different one.
    ended: Vec<(Name, Generation)>,
    /// The last generation of each model, live or not.
    last: Vec<(Name, Generation)>,
    /// Problems with files, one sentence each.
    problems: Vec<String>,
}

/// A process of an earlier supervisor's backend.
pub(crate) enum Candidate {
    /// It has a record.
    Recorded(Record),
    /// It has no record but runs our launcher. `spec`: what it was started with; `None`: the spec on disk differs.
    Unrecorded { name: Name, who: Identity, spec: Option<Spec> },
}

impl Found {
    /// Problems with files, one sentence each.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The last generation of a model by the files; 0: none.
    pub(crate) fn last_generation(&self, model: &str) -> Generation {
        let of_model = self.last.iter().filter(|(name, _)| **name == *model);
        of_model.map(|(_, last)| *last).max().unwrap_or_default()
    }

    /// All processes of earlier supervisors, those with a record first.
    pub(crate) fn candidates(self, run: &Path, host: &dyn Host) -> Vec<Candidate> {
        let marked = host.find_by_argument(&run.to_string_lossy()).into_iter();
        let ours = marked.filter_map(|marked| Some((serves(&marked.arguments, run)?, marked))).collect();
        let recorded: Vec<_> = self.alive.iter().map(|record| record.identity).collect();
        let unrecorded: Vec<_> = strays(ours, &recorded)
            .into_iter()
            .map(|(model, marked)| {
                let name = Name::from(model.as_str());
                let spec = without_record(&name, &marked, run, &self.ended);
                Candidate::Unrecorded { name, who: marked.who, spec }
            })
            .collect();
        self.alive.into_iter().map(Candidate::Recorded).chain(unrecorded).collect()
    }
}

/// The spec of a backend whose record was lost, if the process was started with it.
fn without_record(name: &Name, marked: &Marked, run: &Path, ended: &[(Name, Generation)]) -> Option<Spec> {
    if marked.session != marked.who.pid {
        // Forked by a backend that has ended.
        return None;
    }
    let spec = record::read_spec(run, name).ok().flatten()?;
    let same = marked.arguments.ends_with(spec.argv.get(1..)?);
    let over = ended.contains(&(name.clone(), Generation(spec.generation)));
    (same && !over).then_some(spec)
}

/// Reads every record and spec in `run`. Records of processes that are gone are removed.
pub(crate) fn find(run: &Path, host: &dyn Host) -> Found {
    let mut found = Found::default();
    let Ok(entries) = fs::read_dir(run) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            // Left by a writer that was killed; there is no other writer while we hold the lock.
            if let Err(error) = record::remove(&entry.path()) {
                found.problems.push(error.to_string());
            }
        } else if let Some(model) = name.strip_suffix(".live.json") {
            look_at_record(&mut found, run, model, host);
        } else if let Some(model) = model_of_spec(&name)
            && let Ok(Some(spec)) = record::read_spec(run, model)
        {
            // Its run may never have started, but the number is used up.
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

/// The model whose spec has this file name; `None`: it is not a spec.
fn model_of_spec(name: &str) -> Option<&str> {
    let model = name.strip_suffix(".json")?;
    let other = [".live", ".failed", ".kept"].iter().any(|suffix| model.ends_with(suffix));
    (!other).then_some(model)
}

/// Whether the recorded process is still alive: same boot, pid and start time.
pub(super) fn lives(record: &Record, host: &dyn Host) -> bool {
    record.boot_id == host.facts().boot_id
        && host.identify(record.identity.pid).ok().flatten() == Some(record.identity)
}

/// The model that a process serves, if it is a backend of the instance with this run folder: it runs our launcher with
/// a spec of ours. A program that merely reads one of these files does not count.
pub(super) fn serves(arguments: &[String], run: &Path) -> Option<String> {
    let launcher = run.join("launcher.py");
    let ours = |first: &str| Path::new(first) == launcher || first == crate::backend::CONDUCT;
    let spec = arguments.windows(2).find(|pair| ours(&pair[0]))?[1].as_str();
    let name = Path::new(spec).strip_prefix(run).ok()?.to_str()?;
    model_of_spec(name).filter(|model| !model.contains('/')).map(str::to_owned)
}

/// Those of our processes that belong neither to a recorded run nor to one another. A process forked by a backend
/// belongs to it, even with the same arguments or a session of its own.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn model(line: &str) -> Option<String> {
        let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
        serves(&arguments, Path::new("/m/run"))
    }

    #[test]
    fn a_process_forked_by_a_backend_is_not_a_backend() {
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
        assert_eq!(pids(family(), &[]), [70], "one whose record was lost");
        let orphans = vec![process(71, 1, 70), process(72, 1, 72)];
        assert_eq!(pids(orphans, &[]), [71, 72], "forked by one that has ended");
        // The pid has been reused by another backend.
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
