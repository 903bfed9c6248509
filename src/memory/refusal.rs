//! The refusal of a start, with every term.

use std::fmt;

use serde::Serialize;

use super::checks::{AVAILABLE, Check};
use super::remedy::Remedy;
use crate::units::Bytes;

/// Why a model may not start now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    pub model: String,
    /// The machine that is short, as ssh calls it; `None`: this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub why: Why,
    /// All checks, including those that passed.
    pub checks: Vec<Check>,
    pub remedies: Vec<Remedy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// The model already has a grant.
    AlreadyGranted,
    /// What it takes is not known.
    Unknown,
    NoRoom {
        need: Bytes,
        /// Whether `need` is the registry's `size`.
        declared: bool,
    },
}

impl Refusal {
    /// The largest shortage of all checks.
    pub(crate) fn missing(&self) -> Bytes {
        self.checks.iter().map(|check| check.missing).max().unwrap_or(Bytes::ZERO)
    }

    /// Whether only the memory available at the moment is short, so that a later attempt may succeed.
    pub(crate) fn for_now(&self) -> bool {
        let mut short = self.checks.iter().filter(|check| check.missing > Bytes::ZERO).peekable();
        short.peek().is_some() && short.all(|check| check.name == AVAILABLE)
    }

    pub(crate) fn sentence(&self) -> String {
        let model = &self.model;
        match &self.why {
            Why::AlreadyGranted => format!("{model} is starting or running already"),
            Why::Unknown => format!("it is not known how much memory {model} takes"),
            Why::NoRoom { need, declared } => format!(
                "{model} needs {need}{}{}, {} more than there is",
                if *declared { " (as declared)" } else { "" },
                self.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default(),
                self.missing()
            ),
        }
    }

    /// What to do, one remedy per line.
    pub(crate) fn hint(&self) -> String {
        let force = format!("mlxctl start {} --force", self.model);
        match &self.why {
            Why::AlreadyGranted => format!("mlxctl status {}", self.model),
            Why::Unknown => {
                format!("set `size` in the registry, download it (mlxctl pull {}), or {force}", self.model)
            }
            Why::NoRoom { .. } => {
                let mut lines: Vec<String> = self
                    .remedies
                    .iter()
                    .map(|remedy| {
                        let act = remedy.command.as_ref().unwrap_or(&remedy.act);
                        let enough = if remedy.enough { "" } else { ", not enough on its own" };
                        format!("{act}  (frees {}{enough})", remedy.frees)
                    })
                    .collect();
                lines.extend(self.host.as_ref().map(|host| {
                    format!("free memory on {host}: `mlxctl host` there shows what it has, `mlxctl estimate {}` what it needs", self.model)
                }));
                lines.push(format!("{force}  (at the risk of swapping)"));
                lines.join("\n")
            }
        }
    }
}

/// The failed checks as aligned tables, separated by blank lines.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, check) in self.checks.iter().filter(|check| check.missing > Bytes::ZERO).enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            let need = format!("{} needs", self.model);
            let rows: Vec<(&str, String)> = check
                .lines
                .iter()
                .map(|line| {
                    (line.name.as_str(), if line.bytes == 0 { String::new() } else { signed(line.bytes) })
                })
                .chain([
                    ("= left", signed(check.free)),
                    (need.as_str(), signed(-i128::from(check.need.0))),
                    ("= missing", check.missing.to_string()),
                ])
                .collect();
            let name = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
            let bytes = rows.iter().map(|(_, bytes)| bytes.chars().count()).max().unwrap_or(0);
            let host = self.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
            writeln!(f, "{}{host}:", check.name)?;
            for (row, text) in rows {
                writeln!(f, "{}", format!("  {row:<name$}  {text:>bytes$}").trim_end())?;
            }
        }
        Ok(())
    }
}

/// A size with its sign: "18.4 GB", "−2.10 GB".
pub(crate) fn signed(bytes: i128) -> String {
    let size = Bytes(u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX));
    if bytes < 0 { format!("−{size}") } else { size.to_string() }
}
