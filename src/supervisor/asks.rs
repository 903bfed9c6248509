//! The loop's answers to what is asked of it.

use tokio::sync::oneshot;

use super::driver::Driver;
use super::handle::Input;
use super::handle::{Answer, Ask};
use crate::api::client::GIVING_UP;
use crate::api::{ApiError, CommandDone, ErrorCode, StartRequest, StopRequest};
use crate::backend::launcher;
use crate::backend::link::Reply;
use crate::backend::link::Request;
use crate::lifecycle::{Event, FailureKind, Name, Outcome, State, StopReason};
use crate::page::Press;
use crate::units::Bytes;

impl Driver {
    /// Answers one question, now or when its outcome is there.
    pub fn asked(&mut self, ask: Ask) {
        // A scrape comes again and again, and should find what it needs.
        if !matches!(ask, Ask::Metrics(_)) {
            self.rest.stir(self.host.now());
        }
        match ask {
            // An asker that is gone is no error: here and below.
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Metrics(reply) => drop(reply.send(self.metrics())),
            Ask::Model(asked, reply) => {
                let name = self.registry.model(&asked).ok().map(|model| model.name.clone());
                drop(reply.send(name.and_then(|name| self.one_status(&name))));
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
            Ask::Events(after, limit, reply) => drop(reply.send(self.journal.after(after, limit))),
            Ask::Follow(follower) => {
                // Those that left are noticed at the next event, which may be far away.
                self.followers.retain(|follower| !follower.is_closed());
                self.followers.push(follower);
            }
            Ask::Shutdown { now } if !self.leave_now() => self.handle(Event::Shutdown { now }),
            Ask::Shutdown { .. } => {}
            Ask::Handover(hold) => self.begin_to_leave(hold),
        }
    }

    /// `first`: a refusal for what is available now is not believed before memory was read again.
    fn start(&mut self, asked: &str, request: StartRequest, answer: Answer<CommandDone>, first: bool) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let lent = match self.lent(&name, &request) {
            Ok(lent) => lent,
            Err(error) => return drop(answer.send(Err(error))),
        };
        self.look_at_programs();
        self.begin_use(&name);
        if request.force {
            self.accept_panics(&name);
        }
        let timeout =
            request.timeout_seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
        let (waiter, mut outcome) = self.waiter();
        self.short_now = false;
        self.handle(Event::Start {
            model: name.clone(),
            waiter,
            force: request.force,
            wait: request.wait,
            timeout,
        });
        if let Some(length) = lent {
            self.lend(&name, length);
        }
        let lag = self.host.memory_lag();
        let believed = !first || !self.short_now || lag.is_zero();
        match outcome.try_recv() {
            Ok(Outcome::Failed(_)) if !believed => {
                let (inbox, model) = (self.inbox.clone(), name.to_string());
                tokio::spawn(async move {
                    tokio::time::sleep(lag).await;
                    // The loop has ended: dropping the answer says so.
                    let _ = inbox.send(Input::Ask(Ask::StartAgain(model, request, answer)));
                });
            }
            Ok(outcome) => drop(answer.send(self.done(&name, "start", outcome))),
            Err(_) => self.answer_later(name, "start", outcome, answer),
        }
    }

    fn pressed(&mut self, asked: &str, press: Press, key: &str) {
        if let Ok(model) = self.registry.model(asked) {
            let (name, verb) = (model.name.clone(), press.verb());
            self.note(Some(&name), "pressed", &format!("{verb} by page, key \"{key}\""));
        }
    }

    fn stop(&mut self, asked: &str, request: &StopRequest, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let drain =
            request.timeout_seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
        let (waiter, outcome) = self.waiter();
        self.handle(Event::Stop {
            model: name.clone(),
            waiter: Some(waiter),
            why: StopReason::ByHand,
            now: request.now,
            drain,
        });
        self.answer_later(name, "stop", outcome, answer);
    }

    fn restart(&mut self, asked: &str, request: &StopRequest, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let drain =
            request.timeout_seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
        self.begin_use(&name);
        let (waiter, outcome) = self.waiter();
        self.handle(Event::Restart { model: name.clone(), waiter, now: request.now, drain });
        self.answer_later(name, "restart", outcome, answer);
    }

    /// The model that `asked` names; or the answer that there is none.
    fn resolve<T>(&self, asked: &str, answer: Answer<T>) -> Option<(Name, Answer<T>)> {
        if self.leaving.is_some() {
            let message = "the supervisor is being replaced by another one".to_owned();
            let hint = Some("the same again in a moment".to_owned());
            drop(answer.send(Err(ApiError { code: ErrorCode::Refused, message, hint })));
            return None;
        }
        match self.registry.model(asked) {
            Ok(model) => Some((Name::from(model.name.as_str()), answer)),
            Err(unknown) => {
                let hint = unknown.nearest.as_ref().map(|nearest| format!("did you mean `{nearest}`?"));
                let error = ApiError { code: ErrorCode::UnknownModel, message: unknown.to_string(), hint };
                drop(answer.send(Err(error)));
                None
            }
        }
    }

    /// Turns the outcome, once it is there, into the answer. The document is made by the loop, through the inbox,
    /// so that it shows what is true after the outcome.
    fn answer_later(
        &mut self,
        name: Name,
        verb: &'static str,
        mut outcome: oneshot::Receiver<Outcome>,
        answer: Answer<CommandDone>,
    ) {
        if let Ok(outcome) = outcome.try_recv() {
            let done = self.done(&name, verb, outcome);
            return drop(answer.send(done));
        }
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let Ok(outcome) = outcome.await else { return };
            // The loop has ended: dropping the answer says so.
            let _ = inbox.send(Input::Outcome(name, verb, outcome, answer));
        });
    }

    /// What came of a command, as its answer.
    pub fn done(&mut self, name: &Name, verb: &str, outcome: Outcome) -> Result<CommandDone, ApiError> {
        let error = |code, message: String, hint: Option<String>| Err(ApiError { code, message, hint });
        let (changed, text) = match outcome {
            Outcome::Ready { changed: false } => (false, format!("{name} is ready already")),
            Outcome::Ready { changed: true } => (true, format!("{name} is ready")),
            Outcome::Granted => (true, format!("{name} is starting")),
            Outcome::Down { changed: false } => (false, format!("{name} is stopped already")),
            Outcome::Down { changed: true } => (true, self.proof(name)),
            Outcome::Failed(failure) => {
                let code = match failure.kind {
                    FailureKind::Refused => ErrorCode::Refused,
                    _ => ErrorCode::Failed,
                };
                let detail = failure.detail.map(|detail| format!("\n{detail}")).unwrap_or_default();
                return error(code, format!("cannot {verb} {name}: {}{detail}", failure.text), failure.hint);
            }
            Outcome::Superseded(why) => {
                return error(ErrorCode::Refused, format!("{name} was not started: {}", why.text()), None);
            }
            Outcome::TimedOut => {
                let hint =
                    Some(format!("it goes on loading; mlxctl status shows it, mlxctl stop {name} ends it"));
                return error(ErrorCode::Timeout, format!("{name} is not ready yet"), hint);
            }
            Outcome::Unknown => {
                return error(ErrorCode::UnknownModel, format!("{name} is no longer in the registry"), None);
            }
        };
        match self.one_status(name) {
            Some(model) => Ok(CommandDone { model, changed, text }),
            None => error(ErrorCode::UnknownModel, format!("{name} is no longer in the registry"), None),
        }
    }

    /// That a stopped model is really gone.
    fn proof(&self, name: &Name) -> String {
        match self.fleet.get(name).map(|managed| &managed.state) {
            Some(State::Stopped { .. } | State::Failed { .. }) | None => {
                format!("{name} is stopped: its process group is gone and its port is free")
            }
            Some(state) => {
                format!("that run of {name} is gone; by another command it is {:?} again", state.name())
                    .to_lowercase()
            }
        }
    }

    fn trim(&mut self, asked: &str, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let Some(run) = self.slots.get(&name).and_then(|slot| slot.run.as_ref()) else {
            let message = format!("{name} is not running");
            return drop(answer.send(Err(ApiError { code: ErrorCode::NotRunning, message, hint: None })));
        };
        let (questions, inbox) = (run.questions.clone(), self.inbox.clone());
        let request = self.trim_of(&name);
        tokio::spawn(async move {
            let (reply, answered) = oneshot::channel();
            let asked = questions.send((request, reply)).await;
            let freed = match tokio::time::timeout(GIVING_UP, answered).await {
                Ok(Ok(Reply::Trim { freed } | Reply::Release { freed })) if asked.is_ok() => freed.map(Bytes),
                _ => None,
            };
            let _ = inbox.send(Input::Trimmed(name, freed, answer));
        });
    }

    /// The backend, if there is one, gives its kept prompts up unwritten; then the files go, whoever wrote them.
    fn forget(&mut self, asked: &str, answer: Answer<CommandDone>) {
        let Some((name, answer)) = self.resolve(asked, answer) else { return };
        let questions =
            self.slots.get(&name).and_then(|slot| slot.run.as_ref()).map(|run| run.questions.clone());
        let (folder, inbox) = (launcher::prompts(&self.registry.paths.state, &name), self.inbox.clone());
        tokio::spawn(async move {
            if let Some(questions) = questions {
                let (reply, answered) = oneshot::channel();
                if questions.send((Request::Forget, reply)).await.is_ok() {
                    // A launcher that cannot, or does not answer: its files are deleted below all the same.
                    let _ = tokio::time::timeout(GIVING_UP, answered).await;
                }
            }
            let deleted = tokio::task::spawn_blocking(move || launcher::forget(&folder)).await;
            let freed = deleted
                .map_err(|error| error.to_string())
                .and_then(|freed| freed.map_err(|error| error.to_string()));
            let _ = inbox.send(super::handle::Input::Forgotten(name, freed, answer));
        });
    }

    /// What came of it, as its answer.
    pub fn forgotten(&mut self, name: &Name, freed: Result<Bytes, String>) -> Result<CommandDone, ApiError> {
        let failed = |message: String| ApiError { code: ErrorCode::Failed, message, hint: None };
        let freed = freed
            .map_err(|error| failed(format!("the stored prompts of {name} could not be deleted: {error}")))?;
        let text = format!("nothing of the prompts of {name} is kept, in memory or on disk");
        self.note(Some(name), "forgotten", &text);
        let model = self.one_status(name).ok_or_else(|| failed(format!("{name} is gone")))?;
        Ok(CommandDone { model, changed: freed > Bytes::ZERO, text })
    }

    /// What a trim gave back, as its answer.
    pub fn trimmed(&mut self, name: &Name, freed: Option<Bytes>) -> Result<CommandDone, ApiError> {
        let failed = |message: String| ApiError { code: ErrorCode::Failed, message, hint: None };
        let freed = freed.ok_or_else(|| failed(format!("the launcher of {name} did not answer")))?;
        let text = format!("{name} gave {freed} back");
        self.note(Some(name), "trimmed", &text);
        let model = self.one_status(name).ok_or_else(|| failed(format!("{name} is gone")))?;
        Ok(CommandDone { model, changed: freed > Bytes::ZERO, text })
    }
}
