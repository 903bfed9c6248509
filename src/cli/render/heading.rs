//! The first lines of `status`: supervisor and machine.

use unicode_width::UnicodeWidthStr;

use super::{Look, Style, human, wrap};
use crate::api::{HostStatus, StateName, Status, SupervisorStatus};
use crate::host::Pressure;
use crate::units::Bytes;

/// One line each for supervisor and machine, or more if they do not fit.
pub(super) fn heading(status: &Status, look: &Look) -> String {
    let supervisor = match &status.supervisor {
        Some(supervisor) => supervisor_words(supervisor),
        None => {
            let live = status.models.iter().filter(|model| model.state == StateName::Unsupervised).count();
            let beside = match live {
                0 => "this is the plan".to_owned(),
                1 => "1 backend is running without one".to_owned(),
                live => format!("{live} backends are running without one"),
            };
            vec!["no supervisor is running".to_owned(), beside]
        }
    };
    let style = if status.supervisor.is_some() { Style::Strong } else { Style::Busy };
    let mut out = facts(&supervisor, style, look);
    out.push_str(&facts(&host_words(&status.host), Style::Plain, look));
    out
}

/// The running programs that models yield to, and how.
fn giving_way(supervisor: &SupervisorStatus) -> Option<String> {
    let programs = supervisor.yielding_to.join(", ");
    let how = match (supervisor.holding, supervisor.pace_percent) {
        _ if programs.is_empty() => return None,
        (true, Some(_)) => "pacing and holding for",
        (true, None) => "holding for",
        (false, Some(_)) => "pacing for",
        (false, None) => "yielding to",
    };
    Some(format!("{how} {programs}"))
}

fn supervisor_words(supervisor: &SupervisorStatus) -> Vec<String> {
    let mut words = vec![
        format!("mlxctl {}", supervisor.version),
        format!("pid {}", supervisor.pid),
        format!("up {}", human::span(supervisor.uptime_seconds)),
    ];
    words.extend(supervisor.footprint_bytes.map(|bytes| Bytes(bytes).to_string()));
    words.extend(giving_way(supervisor));
    words
}

fn host_words(host: &HostStatus) -> Vec<String> {
    let mut words: Vec<String> = host.chip.iter().cloned().collect();
    words.push(host.os.clone());
    words.push(Bytes(host.memory_bytes).to_string());
    words.extend(host.available_bytes.map(|bytes| format!("{} available", Bytes(bytes))));
    words.push(match host.pressure {
        Pressure::Normal => "pressure normal".to_owned(),
        Pressure::Warning => "pressure WARNING".to_owned(),
        Pressure::Critical => "pressure CRITICAL".to_owned(),
    });
    words.extend(host.swap_used_bytes.filter(|used| *used > 0).map(|used| format!("swap {}", Bytes(used))));
    words
}

/// Facts in one line, or more if they do not fit; the first one in `style`.
fn facts(words: &[String], style: Style, look: &Look) -> String {
    let between = look.pick(" · ", ", ");
    let mut out = String::new();
    let mut column = 0;
    for (index, word) in words.iter().enumerate() {
        let length = word.width();
        if column > 0 && column + between.width() + length > look.width {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push_str(&look.paint(Style::Faint, between));
            column += between.width();
        }
        let style = if word.ends_with("WARNING") || word.ends_with("CRITICAL") {
            Style::Bad
        } else if ["yielding to ", "pacing ", "holding "].iter().any(|busy| word.starts_with(busy)) {
            Style::Busy
        } else if index == 0 {
            style
        } else {
            Style::Plain
        };
        // What is longer than the terminal breaks at its blanks.
        let lines: Vec<String> = wrap(word, look.width).iter().map(|line| look.paint(style, line)).collect();
        out.push_str(&lines.join("\n"));
        column += length;
    }
    out.push('\n');
    out
}
