//! `mlxctl requests`

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use crate::cli::Context;
use crate::cli::error::{CliError, unreadable};
use crate::cli::remote::unknown_model;
use crate::cli::render::{Look, Style, human};
use crate::logs::{Request, Requests};

/// How often `--follow` looks for new requests.
const BETWEEN: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only requests to this model, by name or alias
    model: Option<String>,
    /// Keep printing requests as they end, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Number of requests to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
    /// One JSON document per line, with times in UTC
    #[arg(long)]
    json: bool,
}

/// Prints the last requests of all models, in the order in which they ended. Needs no supervisor.
///
/// # Errors
/// Exit 4 for an unknown model; when a log cannot be read.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let models = match &args.model {
        Some(name) => vec![registry.model(name).map_err(|unknown| unknown_model(&registry, &unknown))?],
        None => registry.models.iter().collect(),
    };
    let mut sources = Vec::with_capacity(models.len());
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    for model in models {
        let opened = Requests::open_at_last(&registry.paths.logs, &model.name, args.lines);
        sources.push(opened.map_err(unreadable)?);
    }
    let mut past = more(&mut sources)?;
    past.drain(..past.len().saturating_sub(args.lines));
    if past.is_empty() && !args.follow {
        context.output.say("no requests yet");
        return Ok(());
    }
    let look = Look::of(&context.output);
    let columns = columns(look.width, &names, &past);
    if !args.json {
        context.output.data(&look.paint(Style::Faint, &heads(&columns)))?;
    }
    let show = |requests: &[Request]| -> Result<(), CliError> {
        let text: Result<Vec<String>, CliError> = requests
            .iter()
            .map(|request| if args.json { json(request) } else { Ok(row(request, &columns, &look)) })
            .collect();
        let text = text?;
        if text.is_empty() { Ok(()) } else { context.output.data(&text.join("\n")) }
    };
    show(&past)?;
    if !args.follow {
        return Ok(());
    }
    context.output.quit_when_unread();
    loop {
        std::thread::sleep(BETWEEN);
        show(&more(&mut sources)?)?;
    }
}

/// Requests logged since the last call, ordered by time.
fn more(sources: &mut [Requests]) -> Result<Vec<Request>, CliError> {
    let mut requests = Vec::new();
    for source in sources {
        requests.extend(source.more().map_err(unreadable)?);
    }
    requests.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(requests)
}

fn json(request: &Request) -> Result<String, CliError> {
    serde_json::to_string(request)
        .map_err(|error| CliError::failed("cannot write a request as JSON").why(error))
}

/// A column. The highest `rank` is dropped first on a narrow terminal; 0 stays.
#[derive(Debug, Clone, Copy)]
struct Column {
    head: &'static str,
    width: usize,
    right: bool,
    rank: u8,
}

const COLUMNS: [Column; 11] = [
    Column { head: "TIME", width: 19, right: false, rank: 0 },
    Column { head: "MODEL", width: 8, right: false, rank: 0 },
    Column { head: "CLIENT", width: 15, right: false, rank: 3 },
    Column { head: "KEY", width: 10, right: false, rank: 5 },
    Column { head: "STATUS", width: 6, right: true, rank: 0 },
    Column { head: "PROMPT", width: 7, right: true, rank: 2 },
    Column { head: "CACHED", width: 7, right: true, rank: 6 },
    Column { head: "TOKENS", width: 7, right: true, rank: 0 },
    Column { head: "FIRST", width: 8, right: true, rank: 4 },
    Column { head: "TOTAL", width: 8, right: true, rank: 1 },
    Column { head: "OUTCOME", width: 12, right: false, rank: 0 },
];

/// The columns that fit, wide enough for every model and for what is there already. Later rows come one by one.
fn columns(width: usize, models: &[&str], past: &[Request]) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
    for column in &mut columns {
        let names = if column.head == "MODEL" { models } else { &[] };
        let widest = past.iter().map(|request| cell(request, column.head).width());
        let widest = widest.chain(names.iter().map(|name| name.width())).max();
        column.width = column.width.max(widest.unwrap_or_default());
    }
    let taken = |columns: &[Column]| columns.iter().map(|column| column.width + 2).sum::<usize>() - 2;
    while taken(&columns) > width
        && let Some(most) = columns.iter().map(|column| column.rank).max().filter(|rank| *rank > 0)
    {
        columns.retain(|column| column.rank != most);
    }
    columns
}

fn line(columns: &[Column], cell: impl Fn(&Column) -> String) -> String {
    let cells: Vec<String> = columns
        .iter()
        .map(|column| {
            let (text, width) = (cell(column), column.width);
            if column.right { format!("{text:>width$}") } else { format!("{text:<width$}") }
        })
        .collect();
    cells.join("  ").trim_end().to_owned()
}

fn row(request: &Request, columns: &[Column], look: &Look) -> String {
    let style = if request.outcome == "ok" { Style::Plain } else { Style::Bad };
    look.paint(style, &look.cut(&line(columns, |column| cell(request, column.head))))
}

fn heads(columns: &[Column]) -> String {
    line(columns, |column| column.head.to_owned())
}

/// What stands below a head.
fn cell(request: &Request, head: &str) -> String {
    let time = |ms: f64| human::span(ms / 1000.0);
    match head {
        "TIME" => human::local(&request.at),
        "MODEL" => request.model.clone(),
        "CLIENT" => request.client.clone(),
        "KEY" => request.key.clone().unwrap_or_default(),
        "STATUS" => request.status.to_string(),
        "PROMPT" => request.prompt_tokens.to_string(),
        "CACHED" => request.cached_tokens.to_string(),
        "TOKENS" => request.tokens.to_string(),
        "FIRST" => request.first_ms.map(time).unwrap_or_default(),
        "TOTAL" => time(request.total_ms),
        _ => request.outcome.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::sample;

    const LINE: &str = "2026-02-08T10:00:00.007Z 192.168.132.9 gateway req-1 POST /v1/chat/completions 200 in=10 \
                        out=2048 prompt=9 cached=8 tokens=7 wait=2ms first=12.3ms total=1000.0ms sent=1 ok\n";

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_a_pipe_all_of_them() {
        let refused = LINE
            .replace(" 200 ", " 400 ")
            .replace(" ok\n", " context_length_exceeded\n")
            .replace("192.168.132.9", "fd12:3456:789a:1::21");
        let parsed = |model, line: &str| Request {
            at: "2026-02-08 10:00:00".into(),
            ..Request::parse(model, line).unwrap()
        };
        let usual = vec![parsed("32b", LINE), parsed("70b", &LINE.replace(" ok", " client_gone"))];
        let wide = vec![parsed("32b", LINE), parsed("deepseek-r1", &refused)];
        for past in [&usual, &wide] {
            let drawn = sample::at_every_width(|look| {
                let columns = columns(look.width, &[], past);
                let rows = past.iter().map(|request| row(request, &columns, look));
                let text: Vec<String> = std::iter::once(heads(&columns)).chain(rows).collect();
                sample::aligned(&text.join("\n"));
                text.join("\n") + "\n"
            });
            insta::assert_snapshot!(drawn);
        }
        assert_eq!(columns(usize::MAX, &[], &usual).len(), COLUMNS.len());
        let later = columns(usize::MAX, &["32b", "qwen2.5-72b"], &usual);
        assert_eq!(later[1].width, 11, "a model that answers later fits as well");
    }

    #[test]
    fn logs_of_several_models_are_one_list_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs_err::write(folder.path().join(format!("{name}.access.log")), text).unwrap();
            Requests::open_at_last(folder.path(), name, 9).unwrap()
        };
        let later = LINE.replace("10:00:00", "10:00:02");
        let mut sources = vec![write("a", &later), write("b", LINE)];
        let names: Vec<String> =
            more(&mut sources).unwrap().into_iter().map(|request| request.model).collect();
        assert_eq!(names, ["b", "a"]);
    }
}
