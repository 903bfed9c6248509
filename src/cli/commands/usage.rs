//! `mlxctl usage`

use crate::api::{Counts, KeyUsage};
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::Remote;
use crate::cli::render::table::{Cell, Column, draw};
use crate::cli::render::{Look, human};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias [default: all models]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the tokens of prompts and answers by model and by key, since the time in the last column: the counts outlive
/// a supervisor, but not a boot.
///
/// # Errors
/// Exit 3 without a supervisor, 4 for an unknown model.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    let status = remote.client.status()?;
    let name = args.model.as_ref().map(|typed| remote.name(typed));
    let models: Vec<(&str, &Counts)> = status
        .models
        .iter()
        .filter(|model| name.as_ref().is_none_or(|name| *name == model.name))
        .map(|model| (model.name.as_str(), &model.traffic.counts))
        .collect();
    if models.is_empty()
        && let Some(name) = name
    {
        return Err(CliError::new(
            crate::cli::error::Exit::UnknownModel,
            format!("no model is called `{name}`"),
        )
        .hint("mlxctl models"));
    }
    if args.json {
        let models: Vec<_> = models
            .iter()
            .map(|(name, traffic)| serde_json::json!({ "name": name, "since": traffic.since, "all": all(traffic), "keys": traffic.keys }))
            .collect();
        return context.output.data(&serde_json::json!({ "schema": 1, "models": models }).to_string());
    }
    context.output.data(&listed(&models, &Look::of(&context.output)))
}

/// All requests, with a key and without.
fn all(traffic: &Counts) -> KeyUsage {
    KeyUsage {
        requests: traffic.requests,
        prompt_tokens: traffic.prompt_tokens,
        cached_tokens: traffic.cached_tokens,
        tokens: traffic.tokens,
    }
}

fn listed(models: &[(&str, &Counts)], look: &Look) -> String {
    const COLUMNS: [Column; 7] = [
        Column::left("MODEL", 0),
        Column::left("KEY", 0),
        Column::right("REQUESTS", 2),
        Column::right("PROMPT", 0),
        Column::right("CACHED", 3),
        Column::right("ANSWER", 0),
        Column::left("SINCE", 1),
    ];
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (model, traffic) in models {
        let since = traffic.since.as_deref().map_or_else(|| "this boot".to_owned(), human::local);
        let total = ("all".to_owned(), all(traffic), since);
        let keys = traffic.keys.iter().map(|(name, usage)| (name.clone(), *usage, String::new()));
        for (key, usage, since) in std::iter::once(total).chain(keys) {
            rows.push(vec![
                (*model).into(),
                key.into(),
                usage.requests.to_string().into(),
                usage.prompt_tokens.to_string().into(),
                usage.cached_tokens.to_string().into(),
                usage.tokens.to_string().into(),
                since.into(),
            ]);
        }
    }
    let wide = Look { width: usize::MAX, ..*look };
    draw(&COLUMNS, &rows, look).or_else(|| draw(&COLUMNS, &rows, &wide)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::sample;

    #[test]
    fn a_model_has_a_row_and_so_has_each_of_its_keys() {
        let key = KeyUsage { requests: 2, prompt_tokens: 300, cached_tokens: 200, tokens: 20 };
        let traffic = Counts {
            requests: 5,
            tokens: 60,
            prompt_tokens: 900,
            cached_tokens: 800,
            since: Some("2026-01-01T00:00:00Z".to_owned()),
            keys: std::collections::BTreeMap::from([("ann".to_owned(), key)]),
            ..Counts::default()
        };
        let text = listed(&[("32b", &traffic)], &Look { width: usize::MAX, color: false, unicode: true });
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][..6], ["32b", "all", "5", "900", "800", "60"]);
        assert!(text.contains("  2025-12-31 ") || text.contains("  2026-01-01 "), "{text}");
        assert_eq!(rows[2], ["32b", "ann", "2", "300", "200", "20"]);
    }

    #[test]
    fn tokens_are_drawn_at_every_width() {
        let key = KeyUsage { requests: 91, prompt_tokens: 301_448_120, cached_tokens: 2_900, tokens: 51_020 };
        let keys = [("gateway".to_owned(), key), ("laptop-of-ann".to_owned(), KeyUsage::default())];
        let busy = Counts {
            requests: 140,
            tokens: 90_000,
            prompt_tokens: 412_000_000,
            cached_tokens: 300_000_000,
            since: Some("2026-02-08 10:00:00".to_owned()),
            keys: keys.into(),
            ..Counts::default()
        };
        let idle = Counts::default();
        insta::assert_snapshot!(sample::at_every_width(|look| {
            let text = listed(&[("32b", &busy), ("70b", &idle)], look);
            sample::aligned(&text);
            text
        }));
    }
}
