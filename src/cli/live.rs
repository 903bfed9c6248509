//! The progress of a command: one live line on a terminal, one line per change elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use super::output::Output;
use super::render::progress;
use crate::api::{Progress, StateName};

/// Shows progress on stderr until it is dropped.
pub(super) struct Live<'a> {
    output: &'a Output,
    model: &'a str,
    bar: Option<ProgressBar>,
    last: Option<(StateName, u8)>,
}

impl<'a> Live<'a> {
    /// Shows nothing until the first progress arrives.
    pub(super) fn new(context: &'a Context, model: &'a str) -> Self {
        Self { output: &context.output, model, bar: None, last: None }
    }

    pub(super) fn show(&mut self, now: &Progress) {
        if self.output.interactive {
            let elapsed = Duration::try_from_secs_f64(now.elapsed_seconds).unwrap_or_default();
            let bar = self.bar.get_or_insert_with(spinner);
            bar.set_elapsed(elapsed);
            bar.set_message(progress::words(self.model, now));
            return;
        }
        let step = Some(progress::step(now));
        if step != self.last {
            self.last = step;
            self.output.say(&progress::line(self.model, now));
        }
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Ticks by itself, so that the elapsed time advances while the supervisor has no news.
fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style.tick_chars("|/-\\ "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
