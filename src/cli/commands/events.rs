//! `mlxctl events`

use std::io::{BufRead, BufReader};
use std::path::Path;

use unicode_width::UnicodeWidthStr;

use crate::api::EventRecord;
use crate::api::client::ClientError;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::machine;
use crate::cli::remote::Remote;
use crate::cli::render::{Look, Style, wrap};
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
    let show = |event: &EventRecord| context.output.data(&text(event, args.json, &look)?);
    let past = match (remote.client.events(None, args.lines), &remote.registry) {
        (Ok(past), _) => past,
        (Err(ClientError::NotRunning { .. }), Some(registry)) if !args.follow => {
            let file = registry.paths.state.join("events.jsonl");
            for event in written_down(&file, args.lines)? {
                show(&event)?;
            }
            context.output.say("no supervisor is running; these are the events the last one recorded");
            return Ok(());
        }
        (Err(error), _) => return Err(error.into()),
    };
    for event in &past.events {
        show(event)?;
    }
    if !args.follow {
        return Ok(());
    }
    context.output.quit_when_unread();
    remote.client.follow(past.next, |event| show(&event))
}

/// The last events in the file. Lines that are not events are skipped: the last one may be half written.
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

fn text(event: &EventRecord, json: bool, look: &Look) -> Result<String, CliError> {
    if json {
        return serde_json::to_string(event)
            .map_err(|error| CliError::failed("cannot write an event as JSON").why(error));
    }
    let style = match event.kind.as_str() {
        "ready" | "adopted" => Style::Good,
        "crashed" | "failed" | "refused" | "hung" => Style::Bad,
        _ => Style::Plain,
    };
    let at = machine::local_time(&event.at);
    let (model, kind) =
        (format!("{:<8}", event.model.as_deref().unwrap_or("mlxctl")), format!("{:<9}", event.kind));
    let before = at.width() + model.width() + kind.width() + 6;
    let room = look.width.saturating_sub(before);
    // If there is little room left here, a long text begins on a line of its own.
    let longest = event.text.split_whitespace().map(UnicodeWidthStr::width).max().unwrap_or(0);
    let narrow = event.text.width() > room && (room < 32 || longest > room);
    let (first, indent) = if narrow { ("\n    ", 4) } else { ("", before) };
    let text = wrap(&event.text, look.width.saturating_sub(indent)).join(&format!("\n{:indent$}", ""));
    Ok(format!(
        "{}  {}  {}  {first}{text}",
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
        let line = |event: &EventRecord| text(event, false, &look).unwrap();
        assert!(
            line(&event(1)).ends_with("  32b       ready      ready after 12.1 s"),
            "{}",
            line(&event(1))
        );
        let long = EventRecord { text: "not enough memory: 40.7 GB wanted, 20.1 GB free".into(), ..event(1) };
        let at = |width| text(&long, false, &Look { width, ..look }).unwrap();
        assert_eq!(at(usize::MAX).lines().count(), 1);
        assert!(
            at(80).ends_with(" wanted,\n                                          20.1 GB free"),
            "{}",
            at(80)
        );
        assert!(at(60).ends_with("  \n    not enough memory: 40.7 GB wanted, 20.1 GB free"), "{}", at(60));
        assert!(at(60).lines().all(|line| line.width() <= 60));
        let odd = EventRecord { at: "yesterday".into(), ..event(1) };
        assert!(line(&odd).starts_with("yesterday  32b"), "{}", line(&odd));
    }
}
