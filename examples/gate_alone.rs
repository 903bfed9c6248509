//! A gate in front of a server that is assumed to be ready, for benchmarks, fuzzing and tests of client libraries.
//!
//!     cargo run --release --example gate_alone -- LISTEN UPSTREAM [KEY=VALUE …]
//!
//! LISTEN and UPSTREAM are `address:port`. Keys: name, secret, vocabulary, context, in_flight, queue,
//! connections, body, max_tokens, log, keys (a file; then a key is needed), origin, host.
//! It ends when its standard input does.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use mlxctl::internals::gate::{Availability, Gate, GateConfig, Upstream};
use mlxctl::internals::registry::{Limits, Network, Start};
use mlxctl::internals::units::Bytes;
use tokio::sync::{mpsc, watch};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot run the gate");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let [listen, upstream, options @ ..] = arguments else {
        return Err("usage: gate_alone LISTEN UPSTREAM [KEY=VALUE …]".into());
    };
    let listen: SocketAddr = listen.parse()?;
    let upstream = Upstream { address: upstream.parse()?, secret: "".into(), generation: 1 };
    let options: HashMap<&str, &str> = options.iter().filter_map(|option| option.split_once('=')).collect();
    let upstream = Upstream { secret: options.get("secret").copied().unwrap_or("none").into(), ..upstream };
    let config = config(listen, &options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_availability, ready) = watch::channel(Availability::Ready(upstream));
        let (reports, mut heard) = mpsc::unbounded_channel();
        let gate = Gate::spawn(config, ready, reports);
        let (end, ended) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = end.send(());
        });
        let listening = async {
            while let Some((model, report)) = heard.recv().await {
                tracing::info!(model, ?report);
            }
        };
        tokio::select! {
            () = listening => {}
            _ = ended => {}
        }
        tracing::info!(traffic = ?gate.traffic().status());
        gate.close().await;
    });
    Ok(())
}

fn config(listen: SocketAddr, options: &HashMap<&str, &str>) -> Result<GateConfig, Failure> {
    let text = |key: &str, default: &str| options.get(key).copied().unwrap_or(default).to_owned();
    let list = |key: &str| options.get(key).map(|value| vec![(*value).to_owned()]).unwrap_or_default();
    let number = |key: &str, default: u32| options.get(key).map_or(Ok(default), |value| value.parse::<u32>());
    let optional = |key: &str| options.get(key).map(|value| value.parse::<u32>()).transpose();
    let name = text("name", "tiny");
    Ok(GateConfig {
        accepted: vec![name.clone(), "builtin/tiny".to_owned()],
        presets: Vec::new(),
        name,
        start: Start::Always,
        port: listen.port(),
        network: Network {
            host: listen.ip(),
            allow_from: Vec::new(),
            allow_origins: list("origin"),
            allow_hosts: list("host"),
            require_key: options.contains_key("keys"),
        },
        limits: Limits {
            in_flight: number("in_flight", 2000)?,
            queue: number("queue", 1000)?,
            queue_timeout: Duration::from_secs(30),
            connections: number("connections", 4000)?,
            body: Bytes(u64::from(number("body", 32 << 20)?)),
            max_tokens: optional("max_tokens")?,
            messages: 1000,
            read_timeout: Duration::from_secs(10),
            remote_images: false,
        },
        counted: false,
        context: optional("context")?,
        default_tokens: 512,
        vocabulary: optional("vocabulary")?,
        variables: Some(std::collections::BTreeSet::new()),
        keys: text("keys", "/nonexistent").into(),
        access_log: text("log", "/dev/null").into(),
    })
}
