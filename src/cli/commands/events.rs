//! `mlxctl events`

use std::io::{BufRead, BufReader};
use std::path::Path;

use unicode_width::UnicodeWidthStr;

use crate::api::EventRecord;
use crate::api::client::ClientError;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::Remote;
use crate::cli::render::{Look, Style, human, wrap};
use crate::terminal;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep printing events as they happen, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Number of events to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
    /// One JSON document per line, with times in UTC
    #[arg(long)]
    json: bool,
}

/// Prints what happened and why; without a supervisor, what the last one recorded.
///
/// # Errors
/// Exit 3 for `--follow` without a supervisor, or when it ends; when the events cannot be read.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    let look = Look::of(&context.output);
    let (past, next) = match (remote.client.events(None, args.lines), &remote.registry) {
        (Ok(past), _) => (past.events, Some(past.next)),
        (Err(ClientError::NotRunning { .. }), Some(registry)) if !args.follow => {
            (written_down(&registry.paths.state.join("events.jsonl"), args.lines)?, None)
        }
        (Err(error), _) => return Err(error.into()),
    };
    let widths = Widths::of(&past, &look);
    let show = |event: &EventRecord| context.output.data(&text(event, args.json, widths, &look)?);
    for event in &past {
        show(event)?;
    }
    let Some(next) = next else {
        context.output.say("no supervisor is running; these are the events the last one recorded");
        return Ok(());
    };
    if !args.follow {
        return Ok(());
    }
    context.output.quit_when_unread();
    remote.client.follow(next, |event| show(&event))
}

/// Widths of the columns before the text. Events that follow come one by one.
#[derive(Debug, Clone, Copy)]
struct Widths {
    model: usize,
    kind: usize,
}

impl Widths {
    /// Wide enough for what is there already, as long as the text keeps its room.
    fn of(past: &[EventRecord], look: &Look) -> Self {
        let model = past.iter().map(|event| of(event).width()).fold(8, usize::max);
        let kind = past.iter().map(|event| event.kind.width()).fold(9, usize::max);
        Self { model, kind: kind.min(look.width.saturating_sub(TIME + model + 6 + ROOM)).max(9) }
    }
}

/// Columns of a time, and those that a text of several lines needs at least.
const TIME: usize = 19;
const ROOM: usize = 32;

fn of(event: &EventRecord) -> &str {
    event.model.as_deref().unwrap_or("mlxctl")
}

/// The last events of the file. Lines that are not events are skipped: the last one may be half written.
fn written_down(file: &Path, lines: usize) -> Result<Vec<EventRecord>, CliError> {
    let opened = match fs_err::File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| CliError::failed("cannot read the events").why(error))?,
    };
    let mut last = std::collections::VecDeque::new();
    for line in BufReader::new(opened).split(b'\n') {
        let line = line.map_err(|error| CliError::failed("cannot read the events").why(error))?;
        if let Ok(event) = terminal::decode(&line) {
            last.push_back(event);
            if last.len() > lines {
                last.pop_front();
            }
        }
    }
    Ok(last.into())
}

fn text(event: &EventRecord, json: bool, widths: Widths, look: &Look) -> Result<String, CliError> {
    if json {
        return serde_json::to_string(event)
            .map_err(|error| CliError::failed("cannot write an event as JSON").why(error));
    }
    let style = match event.kind.as_str() {
        "ready" | "adopted" => Style::Good,
        "crashed" | "failed" | "refused" | "hung" => Style::Bad,
        _ => Style::Plain,
    };
    let at = human::local(&event.at);
    let model = format!("{:1$}", of(event), widths.model);
    let before = at.width() + widths.model + widths.kind + 6;
    let room = look.width.saturating_sub(before);
    // If there is little room left here, or would begin further to the right than the others, it has a line of its own.
    let longest = event.text.split_whitespace().map(UnicodeWidthStr::width).max().unwrap_or(0);
    let moved = look.width < usize::MAX && event.kind.width() > widths.kind;
    let narrow = moved || event.text.width() > room && (room < ROOM || longest > room);
    let (first, indent, kind) = match narrow {
        true => ("\n    ", 4, event.kind.clone()),
        false => ("  ", before, format!("{:1$}", event.kind, widths.kind)),
    };
    let text = wrap(&event.text, look.width.saturating_sub(indent)).join(&format!("\n{:indent$}", ""));
    Ok(format!(
        "{}  {}  {}{first}{text}",
        look.paint(Style::Faint, &at),
        look.paint(Style::Strong, &model),
        look.paint(style, &kind),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> EventRecord {
        EventRecord {
            seq,
            at: "2026-02-08T10:00:00Z".into(),
            model: Some("32b".into()),
            kind: "ready".into(),
            text: "ready after 12.1 s".into(),
            hint: None,
        }
    }

    #[test]
    fn a_half_written_line_hides_no_other_event() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.jsonl");
        assert_eq!(written_down(&file, 2).unwrap(), []);
        let mut text = b"\xff\xfe not an event\n".to_vec();
        for seq in 1..=3 {
            text.extend(serde_json::to_vec(&event(seq)).unwrap());
            text.push(b'\n');
        }
        text.extend_from_slice(b"{\"seq\":4,\"at\":");
        std::fs::write(&file, text).unwrap();
        assert_eq!(written_down(&file, 2).unwrap(), [event(2), event(3)]);
    }

    #[test]
    fn an_event_is_one_line_and_wraps_on_a_narrow_terminal() {
        let look = Look { width: 80, color: false, unicode: true };
        let widths = Widths::of(&[], &look);
        let line = |event: &EventRecord| text(event, false, widths, &look).unwrap();
        assert!(
            line(&event(1)).ends_with("  32b       ready      ready after 12.1 s"),
            "{}",
            line(&event(1))
        );
        let long = EventRecord { text: "not enough memory: 40.7 GB wanted, 20.1 GB free".into(), ..event(1) };
        let at = |width| text(&long, false, widths, &Look { width, ..look }).unwrap();
        assert_eq!(at(usize::MAX).lines().count(), 1);
        assert!(
            at(80).ends_with(" wanted,\n                                          20.1 GB free"),
            "{}",
            at(80)
        );
        assert!(
            at(60).ends_with(" ready\n    not enough memory: 40.7 GB wanted, 20.1 GB free"),
            "{}",
            at(60)
        );
        assert!(at(60).lines().all(|line| line.width() <= 60));
        let odd = EventRecord { at: "yesterday".into(), ..event(1) };
        assert!(line(&odd).starts_with("yesterday  32b"), "{}", line(&odd));
    }

    #[test]
    fn events_are_drawn_at_every_width() {
        let event = |model: Option<&str>, kind: &str, text: &str| EventRecord {
            at: "2026-02-08 10:00:00".into(),
            model: model.map(str::to_owned),
            kind: kind.into(),
            text: text.into(),
            ..event(1)
        };
        let past = [
            event(Some("32b"), "ready", "ready after 12.1 s"),
            event(
                Some("deepseek-r1"),
                "refused",
                "not enough memory: 40.7 GB wanted, 20.1 GB free of 128 GB",
            ),
            event(Some("32b"), "stopped_for_memory", "stopped after memory pressure was critical for 30 s"),
            event(None, "reloaded", "/Users/Shared/ganuda/config/models.toml was applied"),
        ];
        insta::assert_snapshot!(crate::cli::render::sample::at_every_width(|look| {
            let widths = Widths::of(&past, look);
            past.iter().map(|event| text(event, false, widths, look).unwrap() + "\n").collect()
        }));
    }
}
