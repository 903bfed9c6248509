//! `mlxctl models`

use std::collections::BTreeMap;

use serde::Serialize;

use crate::backend::weights;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::render::Look;
use crate::cli::render::table::{Cell, Column, draw};
use crate::python::hub::{self, CachedModel};
use crate::registry::{Model, Source, Start};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `models --json` prints; its keys are stable.
#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    models: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    aliases: Vec<String>,
    /// Sampling values, by the alias that selects them.
    presets: BTreeMap<String, BTreeMap<&'static str, serde_json::Number>>,
    role: &'static str,
    start: Start,
    port: u16,
    repo: String,
    alternatives: Vec<String>,
    /// The `size` key of the registry.
    declared_bytes: Option<Bytes>,
    /// The files on disk; null: there are none.
    cached: Option<Cached>,
    /// A file that is not what its name says, so that a start is certain to fail; null: there is none.
    unusable: Option<String>,
}

#[derive(Debug, Serialize)]
struct Cached {
    folder: String,
    bytes: Bytes,
    complete: bool,
    /// Why this is not the revision that the cache names as current; null: it is.
    instead: Option<String>,
}

/// Lists the models.
///
/// # Errors
/// Exit 2 when the registry is not valid; when stdout cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let rows: Vec<Row> = registry.models.iter().map(row).collect();
    if args.json {
        let document = Document { schema: 1, models: rows };
        return context.output.json(&document);
    }
    for row in &rows {
        if let Some(unusable) = &row.unusable {
            context.output.say(&format!("note: {} cannot be served: {unusable}", row.name));
        }
        if let Some(instead) = row.cached.as_ref().and_then(|cached| cached.instead.as_ref()) {
            context.output.say(&format!("note: {}: {instead}; complete it with mlxctl pull {0}", row.name));
        }
    }
    context.output.data(&listed(&rows, &Look::of(&context.output)))?;
    let presets = presets(&rows);
    if presets.is_empty() { Ok(()) } else { context.output.data(&format!("\n{presets}")) }
}

/// One line per preset: the values that a request under that name gets.
fn presets(rows: &[Row]) -> String {
    let lines = rows.iter().flat_map(|row| {
        row.presets.iter().map(|(name, set)| {
            let values: Vec<_> = set.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("preset {name} of {}: {}", row.name, values.join(", "))
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn row(model: &Model) -> Row {
    let cached = match &model.source {
        Source::Hub(repo) => hub::cached(repo),
        Source::Folder(folder) => hub::inspect(folder),
        Source::Tiny => None,
    };
    Row {
        name: model.name.clone(),
        aliases: model.aliases.clone(),
        presets: model
            .presets
            .iter()
            .map(|preset| (preset.name.clone(), preset.set.values().into_iter().collect()))
            .collect(),
        role: match model.start {
            Start::Always => "always-on",
            Start::Manual => "on-demand",
        },
        start: model.start,
        port: model.port,
        repo: model.source.to_string(),
        alternatives: model.alternatives.clone(),
        declared_bytes: model.size,
        unusable: weights::impostor(model).map(|problem| problem.to_string()),
        cached: cached.map(|CachedModel { folder, bytes, complete, instead }| Cached {
            folder: folder.to_string_lossy().into_owned(),
            bytes,
            complete,
            instead,
        }),
    }
}

/// The size on disk, if the download is complete, else the size that the registry declares.
fn size(row: &Row) -> String {
    match (&row.cached, row.declared_bytes) {
        (Some(cached), _) if cached.complete => cached.bytes.to_string(),
        (_, Some(declared)) => format!("{declared} declared"),
        (_, None) => "unknown".to_owned(),
    }
}

fn on_disk(row: &Row) -> String {
    match &row.cached {
        Some(cached) if cached.complete => "cached".to_owned(),
        Some(cached) => format!("in part, {}", cached.bytes),
        None if row.repo == Source::Tiny.to_string() => "built in".to_owned(),
        None => "no".to_owned(),
    }
}

/// On a narrow terminal, columns that another one implies are left out first.
fn listed(rows: &[Row], look: &Look) -> String {
    let columns = |repo| {
        [
            Column::left("NAME", 0),
            Column::left("ROLE", 4),
            Column::left("START", 6),
            Column::right("PORT", 2),
            Column::left("SIZE", 1),
            Column::left("ON DISK", 3),
            Column::left("ALIASES", 5),
            Column::left("REPO", repo),
        ]
    };
    let rows: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let start = match row.start {
                Start::Always => "always",
                Start::Manual => "manual",
            };
            let aliases = if row.aliases.is_empty() { "-".to_owned() } else { row.aliases.join(", ") };
            vec![
                row.name.as_str().into(),
                row.role.into(),
                start.into(),
                row.port.to_string().into(),
                size(row).into(),
                on_disk(row).into(),
                aliases.into(),
                row.repo.as_str().into(),
            ]
        })
        .collect();
    let wide = Look { width: usize::MAX, ..*look };
    // A repository's name would take all the room of a small terminal.
    let named = (look.width >= 70).then(|| draw(&columns(0), &rows, look)).flatten();
    let unnamed = || draw(&columns(7), &rows, look);
    named.or_else(unnamed).or_else(|| draw(&columns(0), &rows, &wide)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::sample;

    #[test]
    fn every_width_has_whole_columns() {
        let text = include_str!("../../../config/models.toml");
        let registry = crate::registry::Registry::parse(std::path::Path::new("/etc/m.toml"), text).unwrap();
        let mut rows: Vec<Row> = registry.models.iter().map(row).collect();
        rows.iter_mut().for_each(|row| row.cached = None);
        insta::assert_snapshot!(sample::at_every_width(|look| {
            let text = listed(&rows, look);
            sample::aligned(&text);
            text
        }));
        rows[0].repo = format!("an-organisation/{}", "a-long-name".repeat(6));
        sample::at_every_width(|look| listed(&rows, look));
    }
}
