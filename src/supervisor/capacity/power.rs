//! Applies the registry's choice for manual models on battery and in low power mode.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::host::{Host, Power};
use crate::registry::{Power as Rules, PowerChoice, Start};

/// Time between readings, each of which runs a program. There are none without rules in the registry.
const INTERVAL: Duration = Duration::from_secs(30);

/// Receives readings, from another task.
pub(super) type Report = Arc<dyn Fn(Power) + Send + Sync>;

/// The rules for power, and the last reading.
pub(super) struct PowerState {
    rules: watch::Sender<Rules>,
    seen: Power,
    /// The choice in effect after the last reading.
    choice: PowerChoice,
    task: AbortHandle,
}

impl Drop for PowerState {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PowerState {
    /// Takes readings while there are rules, and reports them for [`PowerState::seen`].
    pub(super) fn watch(host: &Arc<dyn Host>, rules: Rules, report: Report) -> Self {
        let (rules, changed) = watch::channel(rules);
        let task = tokio::spawn(look(host.clone(), changed, report)).abort_handle();
        Self { rules, seen: Power::default(), choice: PowerChoice::Serve, task }
    }

    /// Follows a reloaded registry. Returns what [`PowerState::seen`] does: without rules there are no more readings, so
    /// the change takes effect here.
    pub(super) fn set_rules(&mut self, rules: Rules) -> Option<(PowerChoice, String)> {
        self.rules.send_if_modified(|now| std::mem::replace(now, rules) != rules);
        if rules == Rules::default() { self.seen(self.seen) } else { None }
    }

    /// Handles a reading. If it changes the choice, returns the new one with a sentence about it; only once, so that a
    /// forced start is not undone.
    pub(super) fn seen(&mut self, power: Power) -> Option<(PowerChoice, String)> {
        self.seen = power;
        let (choice, why) = judge(*self.rules.borrow(), power);
        if choice == std::mem::replace(&mut self.choice, choice) {
            return None;
        }
        let text = match choice {
            PowerChoice::Serve => "power is no longer short: manual models may be started".to_owned(),
            PowerChoice::RefuseManual => format!("{why}: manual models are not started"),
            PowerChoice::StopManual => format!("{why}: manual models are stopped and not started"),
        };
        Some((choice, text))
    }

    /// Why no model of this kind may start; `None`: it may.
    pub(super) fn refuses(&self, start: Start) -> Option<&'static str> {
        let (choice, why) = judge(*self.rules.borrow(), self.seen);
        (start == Start::Manual && choice >= PowerChoice::RefuseManual).then_some(why)
    }
}

/// The strictest choice that applies, and why.
fn judge(rules: Rules, power: Power) -> (PowerChoice, &'static str) {
    let battery = if power.on_battery == Some(true) { rules.on_battery } else { PowerChoice::Serve };
    let low = if power.low_power == Some(true) { rules.low_power } else { PowerChoice::Serve };
    match (battery, low) {
        (PowerChoice::Serve, PowerChoice::Serve) => (PowerChoice::Serve, "power is not short"),
        (battery, low) if battery >= low => (battery, "the machine is running on battery"),
        (_, low) => (low, "the machine is in low power mode"),
    }
}

async fn look(host: Arc<dyn Host>, mut rules: watch::Receiver<Rules>, report: Report) {
    while rules.wait_for(|rules| *rules != Rules::default()).await.is_ok() {
        rules.mark_unchanged();
        let asked = host.clone();
        let power = match tokio::task::spawn_blocking(move || asked.power()).await {
            Ok(Ok(power)) => power,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot read the power source");
                Power::default()
            }
            Err(_) => return,
        };
        report(power);
        // A change of the rules leads to a reading at once.
        if matches!(tokio::time::timeout(INTERVAL, rules.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::host::fake::Fake;
    use crate::units::Bytes;

    fn report() -> (Report, mpsc::UnboundedReceiver<Power>) {
        let (readings, received) = mpsc::unbounded_channel();
        (Arc::new(move |power| _ = readings.send(power)), received)
    }

    const ON_BATTERY: Power = Power { on_battery: Some(true), low_power: Some(false) };

    #[test]
    fn the_strictest_choice_that_applies_counts() {
        let rules = Rules { on_battery: PowerChoice::RefuseManual, low_power: PowerChoice::StopManual };
        let judge = |on_battery, low_power| judge(rules, Power { on_battery, low_power }).0;
        assert_eq!(judge(Some(false), Some(false)), PowerChoice::Serve);
        assert_eq!(judge(Some(true), Some(false)), PowerChoice::RefuseManual);
        assert_eq!(judge(Some(true), Some(true)), PowerChoice::StopManual);
        assert_eq!(judge(None, None), PowerChoice::Serve, "an unknown power source forbids nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn only_manual_models_are_refused() {
        let host = Fake::new(Bytes::gb(128));
        host.set_power(ON_BATTERY);
        let (report, mut received) = report();
        let rules = Rules { on_battery: PowerChoice::RefuseManual, ..Rules::default() };
        let host: Arc<dyn Host> = host;
        let mut state = PowerState::watch(&host, rules, report);
        assert_eq!(state.refuses(Start::Manual), None, "there is no reading yet");
        let seen = received.recv().await.unwrap();
        assert_eq!(state.seen(seen).unwrap().0, PowerChoice::RefuseManual);
        assert_eq!(state.seen(seen), None, "reported once");
        assert_eq!(state.refuses(Start::Manual), Some("the machine is running on battery"));
        assert_eq!(state.refuses(Start::Always), None);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_no_readings_without_rules_in_the_registry() {
        let host: Arc<dyn Host> = Fake::new(Bytes::gb(128));
        let (report, mut received) = report();
        let mut state = PowerState::watch(&host, Rules::default(), report);
        tokio::time::sleep(INTERVAL * 10).await;
        assert!(received.try_recv().is_err());
        state.set_rules(Rules { low_power: PowerChoice::StopManual, ..Rules::default() });
        assert!(received.recv().await.is_some());
        assert!(received.recv().await.is_some(), "and again after the interval");
    }
}
