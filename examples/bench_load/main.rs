//! The two ends between which `scripts/bench-gate` puts a proxy: a backend that behaves on the wire like
//! `mlx_lm.server` (HTTP/1.0, one connection per request, the end of the connection is the end of a stream) but costs
//! almost nothing, and a load generator that measures. Prints one JSON document to stdout; times are in µs.
//!
//!     bench_load backend ADDRESS [THREADS]
//!     bench_load json    ADDRESS COUNT [BODY_BYTES]     one client, one request after the other
//!     bench_load first   ADDRESS COUNT                  time to the first event of a stream
//!     bench_load chunks  ADDRESS STREAMS EVENTS EVERY [THREADS]
//!                                                       events of STREAMS streams at once, one every EVERY µs
//!     bench_load hold    ADDRESS STREAMS                slow streams, until standard input ends; checks each

mod backend;
mod client;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use client::Client;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(document) => say(&document),
        Err(error) => {
            let failed = say(&json!({ "error": error.to_string() }));
            if failed == ExitCode::SUCCESS { ExitCode::FAILURE } else { failed }
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing its document is its purpose")]
fn say(document: &Value) -> ExitCode {
    println!("{document}");
    ExitCode::SUCCESS
}

fn dispatch(arguments: &[String]) -> Result<Value, Failure> {
    let text = |at: usize| arguments.get(at).map(String::as_str).ok_or("an argument is missing");
    let number = |at: usize| -> Result<u64, Failure> { Ok(text(at)?.parse()?) };
    let address = text(1)?;
    match text(0)? {
        "backend" => on_threads(number(2).unwrap_or(1), |_| backend::serve(address)).map(|_| Value::Null),
        "json" => block_on(json_requests(address, number(2)?, number(3).unwrap_or(0))),
        "first" => block_on(first_events(address, number(2)?)),
        "chunks" => chunks(address, number(2)?, number(3)?, number(4)?, number(5).unwrap_or(1)),
        "hold" => block_on(hold(address, number(2)?)),
        other => Err(format!("no such mode: {other}").into()),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The same on several threads, each with its own runtime.
fn on_threads<T: Send, W>(threads: u64, work: impl Fn(u64) -> W + Sync) -> Result<Vec<T>, Failure>
where
    W: Future<Output = Result<T, Failure>>,
{
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || block_on(work(thread)))).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn request(extra: &str, padding: u64) -> String {
    let padding = "lorem ipsum dolor sit amet ".repeat(usize::try_from(padding / 27).unwrap_or(0));
    format!(
        "{{\"model\": \"tiny\", \"messages\": [{{\"role\": \"system\", \"content\": \"You are helpful.{padding}\"}}, {{\"role\": \"user\", \"content\": \"What are the trade-offs between distributed and single-node inference?\"}}], \"max_tokens\": 200, \"temperature\": 0.7, \"top_p\": 0.9{extra}}}"
    )
}

async fn json_requests(address: &str, count: u64, padding: u64) -> Result<Value, Failure> {
    let mut client = Client::new(address);
    let body = request("", padding);
    let mut times = Vec::new();
    for round in 0..count + count / 10 {
        let started = Instant::now();
        client.send(&body).await?;
        client.finish(b"completion_tokens").await?;
        if round >= count / 10 {
            times.push(micros(started.elapsed()));
        }
    }
    Ok(summary(times))
}

async fn first_events(address: &str, count: u64) -> Result<Value, Failure> {
    let mut client = Client::new(address);
    let body = request(", \"stream\": true, \"events\": 3", 0);
    let mut times = Vec::new();
    for round in 0..count + count / 10 {
        let started = Instant::now();
        client.send(&body).await?;
        while memchr::memmem::find(&client.body, b"data: ").is_none() {
            if !client.read().await? {
                return Err("the stream ended before it began".into());
            }
        }
        if round >= count / 10 {
            times.push(micros(started.elapsed()));
        }
        client.finish(b"data: [DONE]").await?;
    }
    Ok(summary(times))
}

fn chunks(address: &str, streams: u64, events: u64, every: u64, threads: u64) -> Result<Value, Failure> {
    let started = Instant::now();
    let work = |thread: u64| async move {
        // Spread over the interval, so that they do not arrive in bursts.
        let opened = (thread..streams).step_by(usize::try_from(threads)?).map(|id| {
            let after = Duration::from_micros(every * id / streams);
            tokio::spawn(one_stream(address.to_owned(), id, events, every, after))
        });
        let mut times = Vec::new();
        for task in opened.collect::<Vec<_>>() {
            times.extend(task.await??);
        }
        Ok(times)
    };
    let times: Vec<f64> = on_threads(threads, work)?.into_iter().flatten().collect();
    let seconds = started.elapsed().as_secs_f64();
    let mut document = summary(times);
    document["per_second"] = ((streams * events) as f64 / seconds).into();
    Ok(document)
}

/// How long each event of a stream took to arrive, µs.
async fn one_stream(
    address: String,
    id: u64,
    events: u64,
    every: u64,
    after: Duration,
) -> Result<Vec<f64>, Failure> {
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
    let mut client = Client::new(&address);
    let extra = format!(", \"stream\": true, \"id\": {id}, \"events\": {events}, \"every\": {every}");
    client.send(&request(&extra, 0)).await?;
    let (mut times, mut seen) = (Vec::new(), 0);
    loop {
        let more = client.read().await?;
        let at = now();
        while let Some(found) = memchr::memmem::find(client.body.get(seen..).unwrap_or_default(), b"\"at\": ")
        {
            let digits = client.body.get(seen + found + 6..seen + found + 25).unwrap_or_default();
            if digits.len() < 19 {
                break;
            }
            let sent: u64 = std::str::from_utf8(digits)?.parse()?;
            times.push(at.saturating_sub(sent) as f64 / 1000.0);
            seen += found + 25;
        }
        if memchr::memmem::find(client.body.get(seen..).unwrap_or_default(), b"data: [DONE]").is_some() {
            break;
        }
        if !more {
            return Err("the stream was cut off".into());
        }
        client.body.drain(..seen);
        seen = 0;
    }
    if times.len() != usize::try_from(events)? {
        return Err(format!("{} events instead of {events}", times.len()).into());
    }
    Ok(times)
}

/// Opens the streams, prints `{"open": N}`, holds them, and then checks that each got its own events, in order.
async fn hold(address: &str, streams: u64) -> Result<Value, Failure> {
    let (events, every) = (12_u64, 1_000_000_u64);
    let mut tasks = Vec::new();
    let (opened, mut count) = tokio::sync::mpsc::unbounded_channel();
    for id in 0..streams {
        let mut client = Client::new(address);
        let opened = opened.clone();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(700 * id)).await;
            let extra = format!(", \"stream\": true, \"id\": {id}, \"events\": {events}, \"every\": {every}");
            client.send(&request(&extra, 0)).await?;
            while memchr::memmem::find(&client.body, b"\"at\": ").is_none() {
                if !client.read().await? {
                    return Err::<bool, Failure>("the stream ended before it began".into());
                }
            }
            let _ = opened.send(());
            client.finish(b"data: [DONE]").await?;
            let text = String::from_utf8_lossy(&client.body);
            let ids: Vec<&str> =
                text.split("\"chatcmpl-").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            let wanted: Vec<String> = (0..events).map(|event| format!("{id}-{event}")).collect();
            Ok(ids == wanted)
        }));
    }
    for _ in 0..streams {
        count.recv().await;
    }
    say(&json!({ "open": streams }));
    let (mut whole, mut lost, mut mixed) = (0, 0, 0);
    for task in tasks {
        match task.await? {
            Ok(true) => whole += 1,
            Ok(false) => mixed += 1,
            Err(_) => lost += 1,
        }
    }
    Ok(json!({ "whole": whole, "lost": lost, "mixed": mixed }))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into what was counted")]
fn summary(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len().saturating_sub(1) as f64 * share) as usize).copied();
    json!({ "count": times.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) })
}
