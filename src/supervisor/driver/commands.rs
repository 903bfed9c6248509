//! Questions and commands to the loop: commands become events of the fleet, with a waiter for their outcome.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Driver;
use crate::api::{CommandDone, ModelStatus, StartRequest, Status, StopRequest};
use crate::lifecycle::{Event, Name, Outcome, StopReason};
use crate::metrics::Snapshot;
use crate::page::Press;
use crate::supervisor::answers::{
    self, Answer, Answers, Ask, Sources, being_replaced, lent, not_running, unknown,
};
use crate::supervisor::inbox::Input;
use crate::supervisor::records::Note;
use crate::supervisor::runs::Slot;
use crate::units::Bytes;

impl Driver {
    /// Answers one question, now or when there is an outcome.
    pub(super) fn asked(&mut self, ask: Ask) {
        // Scrapes come regularly, and would keep memory from ever being given back.
        if !matches!(ask, Ask::Metrics(_)) {
            self.quiet.stir(self.host.now());
        }
        match ask {
            // An asker that is gone is not an error, here and below.
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Metrics(reply) => drop(reply.send(self.metrics())),
            Ask::Model(asked, reply) => {
                let name = self.registry.model(&asked).ok().map(|model| model.name.clone());
                drop(reply.send(name.and_then(|name| self.model_status(&name))));
            }
            Ask::Start(model, request, answer) => self.start(&model, request, answer, true),
            Ask::StartAgain(model, request, answer) => self.start(&model, request, answer, false),
            Ask::Stop(model, request, answer) => self.stop(&model, &request, answer),
            Ask::Restart(model, request, answer) => self.restart(&model, &request, answer),
            Ask::Pressed(model, press, key) => self.pressed(&model, press, &key),
            Ask::Trim(model, answer) => self.trim(&model, answer),
            Ask::Forget(model, answer) => self.forget(&model, answer),
            Ask::Reload(registry, dry_run, answer) => {
                let outcome = match registry {
                    Ok(registry) => Ok(self.reload(*registry, dry_run)),
                    Err(problem) => Err(self.keep_registry(problem)),
                };
                drop(answer.send(outcome));
            }
            Ask::Events(after, limit, reply) => drop(reply.send(self.records.after(after, limit))),
            Ask::Follow(follower) => self.records.follow(follower),
            Ask::Shutdown { now } if !self.leave_now() => self.handle(Event::Shutdown { now }),
            Ask::Shutdown { .. } => {}
            Ask::Handover(hold) => self.begin_handover(hold),
        }
    }

    fn status(&mut self) -> Status {
        self.look_at_registry();
        let (answers, sources) = self.measured();
        answers.status(&sources)
    }

    fn metrics(&mut self) -> Snapshot {
        self.look_at_registry();
        let (answers, sources) = self.measured();
        answers.metrics(&sources)
    }

    fn model_status(&mut self, name: &str) -> Option<ModelStatus> {
        let (answers, sources) = self.measured();
        answers.model(&sources, name)
    }

    /// Measures live runs; returns what documents are made of.
    fn measured(&mut self) -> (&mut Answers, Sources<'_>) {
        self.runs.measure(self.host.now(), &self.fleet);
        let sources = Sources {
            host: &*self.host,
            registry: &self.registry,
            registry_problem: self.registry_problem.as_deref(),
            fleet: &self.fleet,
            runs: &self.runs,
            capacity: &self.capacity,
            records: &self.records,
        };
        (&mut self.answers, sources)
    }

    /// `first`: a refusal because of the memory available at the moment is checked again with a fresh reading.
    fn start(&mut self, asked: &str, request: StartRequest, answer: Answer<CommandDone>, first: bool) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let given = match self.runs.slot(&name).map(|slot| lent(slot.model(), &request)).transpose() {
            Ok(given) => given.flatten(),
            Err(error) => return drop(answer.send(Err(error))),
        };
        self.look_at_programs();
        self.begin_use(&name);
        if request.force {
            let note = self.capacity.accept_panics(&self.registry, &name);
            self.note(note);
        }
        let (waiter, mut outcome) = self.answers.waiter();
        self.capacity.take_short_now();
        self.handle(Event::Start {
            model: name.clone(),
            waiter,
            force: request.force,
            wait: request.wait,
            timeout: seconds(request.timeout_seconds),
        });
        if let (Some(length), Some(slot)) = (given, self.runs.slot_mut(&name))
            && slot.lend(self.fleet.get(&name), length)
        {
            self.save(false);
        }
        let lag = self.host.memory_lag();
        let believed = !first || !self.capacity.take_short_now() || lag.is_zero();
        match outcome.try_recv() {
            Ok(Outcome::Failed(_)) if !believed => {
                let (inbox, model) = (self.inbox.clone(), name.to_string());
                tokio::spawn(async move {
                    tokio::time::sleep(lag).await;
                    // If the loop has ended, the dropped answer tells the asker.
                    let _ = inbox.send(Input::Ask(Ask::StartAgain(model, request, answer)));
                });
            }
            Ok(outcome) => self.done(&name, "start", outcome, answer),
            Err(_) => self.answer_later(name, "start", outcome, answer),
        }
    }

    fn pressed(&mut self, asked: &str, press: Press, key: &str) {
        if let Ok(model) = self.registry.model(asked) {
            let text = format!("{} by page, key \"{key}\"", press.verb());
            self.note(Some(Note::of(&Name::from(model.name.as_str()), "pressed", text)));
        }
    }

    fn stop(&mut self, asked: &str, request: &StopRequest, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let (waiter, outcome) = self.answers.waiter();
        self.handle(Event::Stop {
            model: name.clone(),
            waiter: Some(waiter),
            why: StopReason::ByHand,
            now: request.now,
            drain: seconds(request.timeout_seconds),
        });
        self.answer_later(name, "stop", outcome, answer);
    }

    fn restart(&mut self, asked: &str, request: &StopRequest, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        self.begin_use(&name);
        let (waiter, outcome) = self.answers.waiter();
        let drain = seconds(request.timeout_seconds);
        self.handle(Event::Restart { model: name.clone(), waiter, now: request.now, drain });
        self.answer_later(name, "restart", outcome, answer);
    }

    /// Cancels the time that a person gave to an earlier run of a model.
    fn begin_use(&mut self, name: &Name) {
        if let Some(slot) = self.runs.slot_mut(name) {
            slot.begin_use(self.fleet.get(name));
        }
    }

    /// The model that `asked` names; `None`: the error was sent as the answer.
    fn resolve<T>(&self, asked: &str, answer: Answer<T>) -> Option<(Name, Answer<T>)> {
        let error = match self.registry.model(asked) {
            _ if self.handover.is_some() => being_replaced(),
            Ok(model) => return Some((Name::from(model.name.as_str()), answer)),
            Err(error) => unknown(&error),
        };
        drop(answer.send(Err(error)));
        None
    }

    /// Answers a command once there is an outcome. The loop makes the answer, through the inbox, so that it shows the state
    /// after the outcome.
    fn answer_later(
        &mut self,
        name: Name,
        verb: &'static str,
        mut outcome: oneshot::Receiver<Outcome>,
        answer: Answer<CommandDone>,
    ) {
        if let Ok(outcome) = outcome.try_recv() {
            return self.done(&name, verb, outcome, answer);
        }
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let Ok(outcome) = outcome.await else { return };
            // If the loop has ended, the dropped answer tells the asker.
            let _ = inbox.send(Input::Outcome(name, verb, outcome, answer));
        });
    }

    /// Answers a command with its outcome.
    pub(super) fn done(&mut self, name: &Name, verb: &str, outcome: Outcome, answer: Answer<CommandDone>) {
        let status = self.model_status(name);
        // The asker may be gone, here and below.
        drop(answer.send(answers::done(name, verb, outcome, self.fleet.get(name), status)));
    }

    fn trim(&mut self, asked: &str, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let Some(trimmed) = self.runs.slot(&name).and_then(Slot::trim) else {
            return drop(answer.send(Err(not_running(&name))));
        };
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let _ = inbox.send(Input::Trimmed(name, trimmed.await, answer));
        });
    }

    /// Answers a trim; `None`: the launcher did not answer.
    pub(super) fn trimmed(&mut self, name: &Name, freed: Option<Bytes>, answer: Answer<CommandDone>) {
        let done = match freed {
            Some(freed) => self.freed(name, "trimmed", freed, format!("{name} released {freed}")),
            None => Err(answers::failed(format!("the launcher of {name} did not answer"))),
        };
        drop(answer.send(done));
    }

    /// Has the backend, if there is one, drop its kept prompts unwritten, then deletes the stored ones.
    fn forget(&mut self, asked: &str, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let Some(slot) = self.runs.slot(&name) else { return };
        let (forgotten, inbox) = (slot.forget_prompts(&self.registry.paths.state), self.inbox.clone());
        tokio::spawn(async move {
            let _ = inbox.send(Input::Forgotten(name, forgotten.await, answer));
        });
    }

    /// Answers a `forget`.
    pub(super) fn forgotten(
        &mut self,
        name: &Name,
        freed: Result<Bytes, String>,
        answer: Answer<CommandDone>,
    ) {
        let text = format!("no prompts of {name} are kept any longer, in memory or on disk");
        let done = match freed {
            Ok(freed) => self.freed(name, "forgotten", freed, text),
            Err(error) => {
                let text = format!("the stored prompts of {name} could not be deleted: {error}");
                Err(answers::failed(text))
            }
        };
        drop(answer.send(done));
    }

    fn freed(
        &mut self,
        name: &Name,
        kind: &'static str,
        freed: Bytes,
        text: String,
    ) -> Result<CommandDone, crate::api::ApiError> {
        self.note([Note::of(name, kind, text.as_str())]);
        answers::freed(name, freed, text, self.model_status(name))
    }
}

/// The time that a command gives; `None` also if it is not a valid one.
fn seconds(named: Option<f64>) -> Option<Duration> {
    named.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}
