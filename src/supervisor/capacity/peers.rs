//! The other machines of a cluster are asked for room, away from the loop, which judges what they answer.

use std::sync::Arc;

use crate::cluster::ask::{Answer, Ssh};
use crate::cluster::host::{Question, Report};
use crate::lifecycle::{Event, Failure, FailureKind, Generation, Name, Signed, State};
use crate::memory::elsewhere::{Elsewhere, Held, judge_there};
use crate::memory::{Grant, Platform, Refusal};
use crate::registry::Model;
use crate::supervisor::driver::Driver;
use crate::supervisor::handle::Input;
use crate::supervisor::runs::slot::Slot;
use crate::units::Bytes;

/// What they say to one start.
pub(in crate::supervisor) struct Others {
    name: Name,
    generation: Generation,
    /// As it was when they were asked.
    model: Arc<Model>,
    answers: Vec<(String, Answer)>,
}

impl Driver {
    /// Asks them in a thread of its own; `Input::Others` brings the answers, no later than ssh's limits.
    pub fn ask_others(&mut self, name: &Name, generation: Generation) -> Option<Event> {
        let slot = self.slots.get_mut(name)?;
        // The run before this one is over.
        (slot.run, slot.sample) = (None, None);
        let model = slot.model.clone();
        let reserves = self.registry.reserves.iter();
        let programs = reserves.flat_map(|reserve| reserve.while_running.iter().cloned()).collect();
        let question = Question { programs, ..Question::default() };
        let (ssh, inbox) = (Ssh::new(&self.binary), self.inbox.clone());
        let asked = name.clone();
        let ask = move || {
            let answers =
                model.cluster.as_ref().map(|cluster| ssh.ask(cluster, &question)).unwrap_or_default();
            // After the loop's end nobody wants to know.
            let _ = inbox.send(Input::Others(Box::new(Others { name: asked, generation, model, answers })));
        };
        let error = std::thread::Builder::new().name("ask".to_owned()).spawn(ask).err()?;
        let failure =
            Failure::new(FailureKind::Refused, format!("the other machines cannot be asked: {error}"));
        Some(Event::Of { model: name.clone(), generation, signed: Signed::Refused(failure) })
    }

    /// Judges what they say; the start goes on, or is refused with the terms of those that are short.
    pub fn others_answered(&mut self, others: Others) {
        let Others { name, generation, model, answers } = others;
        let waits = self.fleet.get(&name).is_some_and(|managed| {
            matches!(managed.state, State::Asking { .. }) && managed.state.generation() == Some(generation)
        });
        if !waits {
            return;
        }
        let signed = match self.judge_others(&name, &model, &answers) {
            Ok(()) => Signed::Agreed,
            Err(failure) => Signed::Refused(failure),
        };
        self.handle(Event::Of { model: name, generation, signed });
    }

    fn judge_others(&self, name: &Name, model: &Model, answers: &[(String, Answer)]) -> Result<(), Failure> {
        let refused = |text: String| Failure::new(FailureKind::Refused, text);
        let Some(slot) = self.slots.get(name).filter(|slot| *slot.model == *model) else {
            let failure = refused("its settings changed while its other machines were asked".to_owned());
            return Err(failure.hint(format!("mlxctl start {name}")));
        };
        let judged = answers.iter().filter_map(|(host, answer)| match answer {
            Ok(report) => self.judge_one(name, slot, host, report).err().map(Refused::Short),
            Err(why) => Some(Refused::Silent(format!("{host} could not be asked for room: {why}"))),
        });
        failure(name, &judged.collect::<Vec<_>>()).map_or(Ok(()), Err)
    }

    fn judge_one(
        &self,
        name: &Name,
        slot: &Slot,
        host: &str,
        report: &Report,
    ) -> Result<Grant, Box<Refusal>> {
        let held: Vec<Held> = self
            .slots
            .iter()
            .filter(|(other, _)| *other != name)
            .filter_map(|(other, slot)| self.held(other, slot, host))
            .collect();
        judge_there(&elsewhere(host, report), &self.registry.reserves, &held, name, slot.share(host))
    }

    /// What a live run of another model holds on `host`.
    fn held(&self, name: &Name, slot: &Slot, host: &str) -> Option<Held> {
        let run = self.fleet.get(name)?.state.run()?;
        let bytes = slot.share(host)?.reserve();
        let ranks = slot.run.as_ref().map(|run| run.vitals.ranks()).unwrap_or_default();
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

/// Why one machine does not agree.
enum Refused {
    Short(Box<Refusal>),
    Silent(String),
}

/// All of them together; `None`: every one agrees.
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
