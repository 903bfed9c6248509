//! Asks the other machines of a cluster for room, in a thread of its own, and judges their answers in the loop.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::demand::Demand;
use crate::api::RankStatus;
use crate::cluster::ask::{Answer, Ssh};
use crate::cluster::host::{Question, Report};
use crate::lifecycle::{Event, Failure, FailureKind, Fleet, Generation, Name, Signed, State};
use crate::memory::elsewhere::{Elsewhere, Held, judge_there};
use crate::memory::{Grant, Platform, Refusal};
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// The answers to one start.
pub(crate) struct PeerAnswers {
    name: Name,
    generation: Generation,
    /// The registry's entry when they were asked.
    model: Arc<Model>,
    answers: Vec<(String, Answer)>,
}

/// Asks the machines in a thread of its own; `report` gets the answers, within ssh's timeouts.
///
/// # Errors
/// The system's, if it cannot start a thread.
pub(super) fn ask(
    name: Name,
    generation: Generation,
    model: Arc<Model>,
    registry: &Registry,
    ssh: Ssh,
    report: impl Fn(PeerAnswers) + Send + 'static,
) -> io::Result<()> {
    let reserves = registry.reserves.iter();
    let programs = reserves.flat_map(|reserve| reserve.while_running.iter().cloned()).collect();
    let question = Question { programs, ..Question::default() };
    let ask = move || {
        let answers = model.cluster.as_ref().map(|cluster| ssh.ask(cluster, &question)).unwrap_or_default();
        report(PeerAnswers { name, generation, model, answers });
    };
    std::thread::Builder::new().name("ask".to_owned()).spawn(ask).map(drop)
}

/// What answers are judged by.
pub(super) struct Judge<'a> {
    pub demands: &'a HashMap<Name, Demand>,
    pub registry: &'a Registry,
    pub fleet: &'a Fleet,
    /// Returns the ranks of a model's live run.
    pub ranks: &'a dyn Fn(&Name) -> Vec<RankStatus>,
}

impl Judge<'_> {
    /// The event by which the start continues, or is refused with the terms of the machines that lack room. `None`: the
    /// start is no longer waiting for these answers.
    pub(super) fn judge(&self, peers: PeerAnswers) -> Option<Event> {
        let PeerAnswers { name, generation, model, answers } = peers;
        let managed = self.fleet.get(&name)?;
        let waits =
            matches!(managed.state, State::Asking { .. }) && managed.state.generation() == Some(generation);
        if !waits {
            return None;
        }
        let signed = match self.judge_all(&name, &model, &answers) {
            Ok(()) => Signed::Agreed,
            Err(failure) => Signed::Refused(failure),
        };
        Some(Event::Of { model: name, generation, signed })
    }

    fn judge_all(&self, name: &Name, model: &Model, answers: &[(String, Answer)]) -> Result<(), Failure> {
        let refused = |text: String| Failure::new(FailureKind::Refused, text);
        let Some(demand) = self.demands.get(name).filter(|demand| *demand.model == *model) else {
            let failure =
                refused("its settings changed while the other machines were being asked".to_owned());
            return Err(failure.hint(format!("mlxctl start {name}")));
        };
        let judged = answers.iter().filter_map(|(host, answer)| match answer {
            Ok(report) => self.judge_one(name, demand, host, report).err().map(Refused::Short),
            Err(why) => Some(Refused::Silent(format!("{host} could not be asked for room: {why}"))),
        });
        failure(name, &judged.collect::<Vec<_>>()).map_or(Ok(()), Err)
    }

    fn judge_one(
        &self,
        name: &Name,
        demand: &Demand,
        host: &str,
        report: &Report,
    ) -> Result<Grant, Box<Refusal>> {
        let held: Vec<Held> = self
            .demands
            .iter()
            .filter(|(other, _)| *other != name)
            .filter_map(|(other, demand)| self.held(other, demand, host))
            .collect();
        judge_there(&elsewhere(host, report), &self.registry.reserves, &held, name, demand.share(host))
    }

    /// What a live run of a model holds on `host`.
    fn held(&self, name: &Name, demand: &Demand, host: &str) -> Option<Held> {
        let run = self.fleet.get(name)?.state.run()?;
        let bytes = demand.share(host)?.reserve();
        let ranks = (self.ranks)(name);
        let now = ranks.iter().filter(|rank| rank.host == host).filter_map(|rank| rank.footprint_bytes);
        Some(Held {
            model: name.to_string(),
            grant: Grant { bytes, forced: run.forced },
            now: now.map(Bytes).sum(),
        })
    }
}

fn elsewhere(host: &str, report: &Report) -> Elsewhere {
    let platform = match (report.os.starts_with("macOS"), report.gpu_limit_bytes) {
        (true, _) => Platform::Metal,
        (false, Some(_)) => Platform::Cuda,
        (false, None) => Platform::Cpu,
    };
    Elsewhere {
        host: host.to_owned(),
        total: Bytes(report.memory_bytes),
        available: report.available_bytes.map(Bytes),
        gpu_limit: report.gpu_limit_bytes.map(Bytes),
        programs: report.running.clone(),
        platform,
    }
}

/// Why one machine refuses: it lacks room, or gave no answer.
enum Refused {
    Short(Box<Refusal>),
    Silent(String),
}

/// All refusals as one failure; `None`: every machine agrees.
fn failure(name: &Name, refused: &[Refused]) -> Option<Failure> {
    let sentences: Vec<String> = refused
        .iter()
        .map(|refused| match refused {
            Refused::Short(refusal) => refusal.sentence(),
            Refused::Silent(why) => why.clone(),
        })
        .collect();
    let short: Vec<&Refusal> = refused
        .iter()
        .filter_map(|refused| match refused {
            Refused::Short(refusal) => Some(&**refusal),
            Refused::Silent(_) => None,
        })
        .collect();
    let hint = match (refused.first()?, short.first()) {
        (_, Some(refusal)) if short.len() == refused.len() => refusal.hint(),
        _ => format!("mlxctl doctor checks every machine\nmlxctl start {name} --force  (asks no machine)"),
    };
    let mut failure = Failure::new(FailureKind::Refused, sentences.join("; ")).hint(hint);
    let tables: Vec<String> = short.iter().map(|refusal| refusal.to_string()).collect();
    failure.detail = (!tables.is_empty()).then(|| tables.join("\n"));
    Some(failure)
}
