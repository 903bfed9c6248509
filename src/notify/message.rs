//! What one notification says, for a program and for people. Pure.

use serde::Serialize;

use crate::api::EventRecord;
use crate::registry::NotifyKind;
use crate::terminal::shown;

const SCHEMA: u32 = 1;
/// Longest text, characters. A whole document fits into a pipe (16 KiB on macOS), so that writing it never waits.
const TEXT: usize = 1500;
const HINT: usize = 500;

/// One notification: the JSON document that a command reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Message {
    schema: u32,
    /// What it is about; null in a test.
    kind: Option<NotifyKind>,
    /// Null if it is about the machine.
    model: Option<String>,
    /// One short line: "mlxctl: 32b is down".
    title: String,
    text: String,
    hint: Option<String>,
    /// When the event happened, RFC 3339, UTC.
    at: String,
    /// Number of the event; null in a test.
    seq: Option<u64>,
    test: bool,
}

impl Message {
    /// The notification of `kind` about an event.
    pub(crate) fn new(event: &EventRecord, kind: NotifyKind) -> Self {
        let hint = event.hint.as_deref().map(|hint| short(hint, HINT));
        let model = event.model.as_deref().map(|model| short(model, HINT));
        Self {
            schema: SCHEMA,
            kind: Some(kind),
            title: title(kind, model.as_deref()),
            model,
            text: short(&event.text, TEXT),
            hint,
            at: event.at.clone(),
            seq: Some(event.seq),
            test: false,
        }
    }

    /// The notification that `mlxctl notify --test` sends.
    pub(crate) fn test(at: std::time::SystemTime) -> Self {
        Self {
            schema: SCHEMA,
            kind: None,
            model: None,
            title: "mlxctl: test".into(),
            text: "this is a test of [notify]".into(),
            hint: Some("no action needed".into()),
            at: humantime::format_rfc3339_millis(at).to_string(),
            seq: None,
            test: true,
        }
    }

    /// The JSON that a command reads, ending in a newline.
    pub(crate) fn json(&self) -> String {
        // Serializing strings, numbers and flags cannot fail.
        format!("{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// For commands that do not read JSON; a value that is missing is empty.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 5] {
        [
            ("MLXCTL_NOTIFY_KIND", self.kind.map_or("test", NotifyKind::name)),
            ("MLXCTL_NOTIFY_MODEL", self.model.as_deref().unwrap_or_default()),
            ("MLXCTL_NOTIFY_TITLE", &self.title),
            ("MLXCTL_NOTIFY_TEXT", &self.text),
            ("MLXCTL_NOTIFY_HINT", self.hint.as_deref().unwrap_or_default()),
        ]
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// The text below the title: what happened and what to do.
    pub(crate) fn body(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}. Try: {hint}", self.text),
            None => self.text.clone(),
        }
    }
}

fn title(kind: NotifyKind, model: Option<&str>) -> String {
    let model = model.unwrap_or("a model");
    match kind {
        NotifyKind::Failed => format!("mlxctl: {model} is down"),
        NotifyKind::Refused => format!("mlxctl: {model} was not started"),
        NotifyKind::Panic => "mlxctl: this machine had a kernel panic".to_owned(),
        NotifyKind::Disk => "mlxctl: the disk cannot be written".to_owned(),
        NotifyKind::KeyRevoked => "mlxctl: a key was revoked".to_owned(),
    }
}

/// One line of at most `most` characters, without control characters.
fn short(text: &str, most: usize) -> String {
    let line = shown(text).replace(['\n', '\t'], " ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> EventRecord {
        EventRecord {
            seq: 7,
            at: "2026-02-08T10:00:00Z".into(),
            model: Some("32b".into()),
            kind: "failed".into(),
            text: text.into(),
            hint: Some("mlxctl pull 32b".into()),
        }
    }

    #[test]
    fn a_command_and_a_person_get_the_same_message() {
        let message = Message::new(&event("x/y is not downloaded"), NotifyKind::Failed);
        let json: serde_json::Value = serde_json::from_str(&message.json()).unwrap();
        let expected = serde_json::json!({
            "schema": 1, "kind": "failed", "model": "32b", "title": "mlxctl: 32b is down",
            "text": "x/y is not downloaded", "hint": "mlxctl pull 32b", "at": "2026-02-08T10:00:00Z",
            "seq": 7, "test": false,
        });
        assert_eq!(json, expected);
        assert_eq!(message.body(), "x/y is not downloaded. Try: mlxctl pull 32b");
        assert_eq!(message.variables()[0], ("MLXCTL_NOTIFY_KIND", "failed"));
    }

    #[test]
    fn a_text_becomes_one_bounded_line_without_control_characters() {
        let message = Message::new(&event(&"\u{1b}]0;x\u{7}\0\n\"é".repeat(2000)), NotifyKind::Failed);
        assert!(message.json().len() < 16 * 1024, "{}", message.json().len());
        assert!(message.text.chars().all(|c| !c.is_control()) && message.text.ends_with('…'));
    }
}
