//! The progress of a download: a bar with rate and time left on a terminal, one line per tenth elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::render::human;
use crate::python::pull::{Plan, Step};
use crate::units::Bytes;

/// Shows a download on stderr until it is dropped.
pub(super) struct Transfer<'a> {
    output: &'a Output,
    model: &'a str,
    repo: &'a str,
    began: Instant,
    plan: Option<Plan>,
    bar: Option<ProgressBar>,
    /// The last tenth that was reported to a pipe.
    tenth: u64,
    waits: bool,
}

impl<'a> Transfer<'a> {
    /// Shows nothing until the hub has answered.
    pub(super) fn new(output: &'a Output, model: &'a str, repo: &'a str) -> Self {
        Self { output, model, repo, began: Instant::now(), plan: None, bar: None, tenth: 0, waits: false }
    }

    pub(super) fn show(&mut self, step: &Step) {
        match step {
            Step::Planned(plan) => self.planned(plan),
            Step::Progress(done) => self.progress(*done),
            Step::Waiting(why) if !self.waits => {
                self.waits = true;
                self.say(&format!("{}  the hub is unreachable, retrying: {why}", self.model));
            }
            Step::Waiting(_) => {}
            Step::Damaged(name) => {
                self.say(&format!("{}  {name} is damaged; downloading it again", self.model));
            }
        }
    }

    fn planned(&mut self, plan: &Plan) {
        self.say(&heading(self.model, self.repo, plan));
        self.began = Instant::now();
        self.tenth = tenth(plan.there, plan.bytes);
        if self.output.interactive && plan.there < plan.bytes {
            let template = "{msg}  [{wide_bar}] {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template).map(|style| style.progress_chars("=> "));
            let bar = ProgressBar::new(plan.bytes.0).with_message(self.model.to_owned());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(plan.there.0);
            // What was already there must not count towards the rate.
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(200));
            self.bar = Some(bar);
        }
        self.plan = Some(plan.clone());
    }

    fn progress(&mut self, done: Bytes) {
        self.waits = false;
        let Some(plan) = &self.plan else { return };
        if let Some(bar) = &self.bar {
            return bar.set_position(done.0);
        }
        let reached = tenth(done, plan.bytes);
        if reached > self.tenth && plan.there < plan.bytes {
            self.tenth = reached;
            self.output.say(&line(self.model, plan, done, self.began.elapsed()));
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.say(line)),
            None => self.output.say(line),
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn tenth(done: Bytes, all: Bytes) -> u64 {
    done.0.saturating_mul(10) / all.0.max(1)
}

fn heading(model: &str, repo: &str, plan: &Plan) -> String {
    let license = plan.license.as_deref().unwrap_or("not stated");
    let there = match plan.there {
        Bytes::ZERO => String::new(),
        there if there == plan.bytes => ", already downloaded".to_owned(),
        there => format!(", {there} already downloaded"),
    };
    format!("{model}  {repo}  {} in {} files{there}  licence: {license}", plan.bytes, plan.files.len())
}

/// "32b  pulling 40 %  7.40 GB of 18.4 GB  95.0 MB/s  1m 56s left".
#[expect(clippy::cast_precision_loss, reason = "a rate does not need 53 bits")]
fn line(model: &str, plan: &Plan, done: Bytes, elapsed: Duration) -> String {
    let (all, came) = (plan.bytes.0.max(1) as f64, done.saturating_sub(plan.there).0 as f64);
    let share = human::percent(done.0 as f64 / all);
    let mut text = format!("{model}  pulling {share}  {done} of {}", plan.bytes);
    let rate = came / elapsed.as_secs_f64().max(0.001);
    if rate >= 1.0 {
        let left = plan.bytes.saturating_sub(done).0 as f64 / rate;
        text.push_str(&format!("  {}/s", Bytes(1).scale(rate)));
        if done < plan.bytes {
            text.push_str(&format!("  {} left", human::span(left)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(there: u64) -> Plan {
        Plan {
            cache: "/cache".into(),
            endpoint: String::new(),
            commit: "abc".to_owned(),
            license: Some("apache-2.0".to_owned()),
            files: vec!["config.json".to_owned(); 9],
            bytes: Bytes::gb(20),
            there: Bytes::gb(there),
        }
    }

    #[test]
    fn licence_and_size_come_first() {
        let text = heading("32b", "org/name", &plan(0));
        assert_eq!(text, "32b  org/name  20.0 GB in 9 files  licence: apache-2.0");
        assert!(heading("32b", "org/name", &plan(5)).contains("5.00 GB already downloaded"));
    }

    #[test]
    fn rate_and_time_left_are_those_of_this_download() {
        let text = line("32b", &plan(5), Bytes::gb(15), Duration::from_secs(100));
        assert_eq!(text, "32b  pulling 75 %  15.0 GB of 20.0 GB  100 MB/s  50s left");
        let none = line("32b", &plan(5), Bytes::gb(5), Duration::from_secs(100));
        assert_eq!(none, "32b  pulling 25 %  5.00 GB of 20.0 GB");
    }

    #[test]
    fn progress_is_counted_in_tenths() {
        assert_eq!(tenth(Bytes(19), Bytes(100)), 1);
        assert_eq!(tenth(Bytes(20), Bytes(100)), 2);
        assert_eq!(tenth(Bytes::ZERO, Bytes::ZERO), 0);
    }
}
