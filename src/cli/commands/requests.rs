//! `mlxctl requests`

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::unknown_model;
use crate::cli::render::{Look, Style, human};
use crate::cli::tail::{Tail, unreadable};
use crate::terminal::shown;

/// Between two looks of `-f`.
const BETWEEN: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
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

/// One request, as the access log has it. Keys are promises.
#[derive(Debug, PartialEq, Serialize)]
struct Request {
    at: String,
    model: String,
    client: String,
    key: Option<String>,
    id: String,
    method: String,
    path: String,
    status: u16,
    received_bytes: u64,
    sent_bytes: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    tokens: u64,
    wait_ms: f64,
    first_ms: Option<f64>,
    total_ms: f64,
    attempts: u32,
    outcome: String,
}

/// One access log, and the beginning of a line that is not there wholly yet.
struct Source {
    model: String,
    tail: Tail,
    pending: Vec<u8>,
}

/// Prints the last requests, of all models in the order in which they ended. Needs no supervisor.
///
/// # Errors
/// Exit 4 for an unknown model; when a log cannot be read.
pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let models = match &args.model {
        Some(name) => vec![registry.model(name).map_err(|unknown| unknown_model(&registry, &unknown))?],
        None => registry.models.iter().collect(),
    };
    let mut sources: Vec<Source> = Vec::with_capacity(models.len());
    for model in models {
        let mut tail = Tail::new(registry.paths.logs.join(format!("{}.access.log", model.name)));
        match tail.open_at_last(args.lines) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(error)),
            _ => sources.push(Source { model: model.name.clone(), tail, pending: Vec::new() }),
        }
    }
    let mut past = more(&mut sources)?;
    past.drain(..past.len().saturating_sub(args.lines));
    if past.is_empty() && !args.follow {
        context.output.say("no requests yet");
        return Ok(());
    }
    let look = Look::of(&context.output);
    let columns = columns(look.width);
    if !args.json {
        context.output.data(&look.paint(Style::Faint, &line(&columns, |column| column.head.to_owned())))?;
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
        for source in &mut sources {
            source.tail.catch_up().map_err(unreadable)?;
        }
        show(&more(&mut sources)?)?;
    }
}

/// What has come since, in the order of its times.
fn more(sources: &mut [Source]) -> Result<Vec<Request>, CliError> {
    let mut requests = Vec::new();
    for Source { model, tail, pending } in sources {
        tail.read(|block| {
            pending.extend_from_slice(block);
            while let Some(end) = memchr::memchr(b'\n', pending) {
                let line: Vec<u8> = pending.drain(..=end).collect();
                requests.extend(parse(model, &String::from_utf8_lossy(&line)));
            }
            Ok(())
        })?;
    }
    requests.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(requests)
}

/// A line of the access log; `None`: something else, or half of one.
fn parse(model: &str, line: &str) -> Option<Request> {
    let line = shown(line.trim_end());
    let mut words = line.split(' ');
    let mut word = || words.next().map(str::to_owned);
    let (at, client, key, id) = (word()?, word()?, word()?, word()?);
    let (method, path, status) = (word()?, word()?, word()?.parse().ok()?);
    humantime::parse_rfc3339(&at).ok()?;
    let mut request = Request {
        at,
        model: model.to_owned(),
        client,
        key: Some(key).filter(|key| key != "-"),
        id,
        method,
        path,
        status,
        received_bytes: 0,
        sent_bytes: 0,
        prompt_tokens: 0,
        cached_tokens: 0,
        tokens: 0,
        wait_ms: 0.0,
        first_ms: None,
        total_ms: 0.0,
        attempts: 0,
        outcome: String::new(),
    };
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u64>().ok();
        let time = || value.strip_suffix("ms")?.parse::<f64>().ok();
        match name {
            "in" => request.received_bytes = number()?,
            "out" => request.sent_bytes = number()?,
            "prompt" => request.prompt_tokens = number()?,
            "cached" => request.cached_tokens = number()?,
            "tokens" => request.tokens = number()?,
            "wait" => request.wait_ms = time()?,
            "first" => request.first_ms = Some(time()?),
            "total" => request.total_ms = time()?,
            "sent" => request.attempts = value.parse().ok()?,
            _ => request.outcome = word.to_owned(),
        }
    }
    (!request.outcome.is_empty()).then_some(request)
}

fn json(request: &Request) -> Result<String, CliError> {
    serde_json::to_string(request)
        .map_err(|error| CliError::failed("cannot write a request as JSON").why(error))
}

/// A column: its head, its width, and the order in which it gives way to a narrow terminal; 0 stays.
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

/// Those that fit. Rows come one by one, so widths do not follow from what is in them.
fn columns(width: usize) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
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
    let time = |ms: f64| human::span(ms / 1000.0);
    let text = line(columns, |column| match column.head {
        "TIME" => {
            let local = humantime::parse_rfc3339(&request.at).ok().and_then(crate::host::posix::local_time);
            local.unwrap_or_else(|| request.at.clone())
        }
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
    });
    let style = if request.outcome == "ok" { Style::Plain } else { Style::Bad };
    look.paint(style, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-02-08T10:00:00.007Z 192.168.132.9 gateway req-1 POST /v1/chat/completions 200 in=10 \
                        out=2048 prompt=9 cached=8 tokens=7 wait=2ms first=12.3ms total=1000.0ms sent=1 ok\n";

    #[test]
    fn a_line_of_the_access_log_is_read_back() {
        let request = parse("32b", LINE).unwrap();
        assert_eq!((request.key.as_deref(), request.status, request.tokens), (Some("gateway"), 200, 7));
        assert_eq!(
            (request.first_ms, request.total_ms, request.outcome.as_str()),
            (Some(12.3), 1000.0, "ok")
        );
        let refused = parse("32b", &LINE.replace(" first=12.3ms", "").replace("gateway", "-")).unwrap();
        assert_eq!((refused.key, refused.first_ms), (None, None));
    }

    #[test]
    fn what_is_not_a_line_of_it_is_passed_over_and_nothing_reaches_the_terminal_raw() {
        for text in
            ["", "hello world", &LINE[..60], &LINE.replace("in=10", "in=ten"), &LINE.replace(" ok", "")]
        {
            assert_eq!(parse("32b", text), None, "{text}");
        }
        let forged = parse("32b", &LINE.replace("gateway", "\u{1b}[31mred")).unwrap();
        assert!(!forged.key.unwrap().contains('\u{1b}'));
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_a_pipe_all_of_them() {
        let look = Look { width: 80, color: false, unicode: true };
        for width in [60, 80, 120, 160] {
            let columns = columns(width);
            let row = row(&parse("32b", LINE).unwrap(), &columns, &look);
            assert!(row.len() <= width.max(63), "{width}: {row}");
            assert!(row.contains("200") && row.ends_with("ok"), "{row}");
        }
        assert_eq!(columns(usize::MAX).len(), COLUMNS.len());
    }

    #[test]
    fn logs_of_several_models_are_one_list_by_time_and_half_a_line_waits() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs_err::write(&path, text).unwrap();
            let mut tail = Tail::new(path);
            tail.open_at_last(9).unwrap();
            Source { model: name.to_owned(), tail, pending: Vec::new() }
        };
        let later = LINE.replace("10:00:00", "10:00:02");
        let (whole, half) = LINE.split_at(40);
        let mut sources =
            vec![write("a", &format!("{later}{whole}")), write("b", &LINE.replace("10:00:00", "10:00:01"))];
        let names: Vec<String> =
            more(&mut sources).unwrap().into_iter().map(|request| request.model).collect();
        assert_eq!(names, ["b", "a"]);
        let mut file = std::fs::OpenOptions::new().append(true).open(folder.path().join("a")).unwrap();
        io::Write::write_all(&mut file, half.as_bytes()).unwrap();
        assert_eq!(more(&mut sources).unwrap().len(), 1);
    }
}
