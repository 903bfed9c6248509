//! What was written, field by field, each with its place. Types and units are right, nothing else is checked.

mod cluster;

use std::time::Duration;

pub(super) use cluster::{RawCluster, RawHost};

use super::Wired;
use super::reader::Section;
use super::{PowerChoice, ProcessType, Start};
use crate::registry::notes::At;
use crate::units::Bytes;

type Maybe<T> = Option<At<T>>;
type Texts = Option<At<Vec<At<String>>>>;

/// The whole file.
pub(super) struct RawRegistry {
    pub paths: RawPaths,
    pub interpreter: Maybe<String>,
    pub packages: Texts,
    pub network: RawNetwork,
    pub reserves: Vec<RawReserve>,
    pub pressure: RawPressure,
    pub power: RawPower,
    pub agent: RawAgent,
    pub metrics_address: Maybe<String>,
    pub router_port: Maybe<u16>,
    /// The place of a router that names no port, not even a wrong one.
    pub router_without_port: Option<std::ops::Range<usize>>,
    pub defaults: RawOptions,
    pub models: Vec<RawModel>,
    /// Whether something was written as `model`, be it wrongly.
    pub has_models: bool,
}

/// `[memory]` without the reserves.
pub(super) struct RawPressure {
    pub yield_to: Texts,
    pub yield_actions: Texts,
    pub yield_hold: Maybe<Duration>,
    pub critical_hold: Maybe<Duration>,
    pub calm_hold: Maybe<Duration>,
}

pub(super) struct RawPaths {
    pub root: Maybe<String>,
    pub venv: Maybe<String>,
    pub logs: Maybe<String>,
    pub run: Maybe<String>,
    pub state: Maybe<String>,
}

pub(super) struct RawNetwork {
    pub host: Maybe<String>,
    pub allow_from: Texts,
    pub allow_origins: Texts,
    pub allow_hosts: Texts,
    pub require_key: Maybe<bool>,
    pub expose: Maybe<bool>,
}

pub(super) struct RawReserve {
    pub name: Maybe<String>,
    pub size: Maybe<Bytes>,
    pub while_running: Texts,
    pub span: std::ops::Range<usize>,
    pub has_size: bool,
}

pub(super) struct RawPower {
    pub on_battery: Maybe<PowerChoice>,
    pub low_power: Maybe<PowerChoice>,
}

pub(super) struct RawAgent {
    pub label: Maybe<String>,
    pub process_type: Maybe<ProcessType>,
    pub nice: Maybe<i8>,
    pub low_priority_io: Maybe<bool>,
    pub path: Maybe<String>,
    pub working_directory: Maybe<String>,
    pub log: Maybe<String>,
    pub exit_timeout: Maybe<Duration>,
    pub throttle_interval: Maybe<Duration>,
    pub open_files: Maybe<u64>,
    pub environment: Texts,
}

pub(super) struct RawModel {
    pub span: std::ops::Range<usize>,
    pub name: Maybe<String>,
    pub repo: Maybe<String>,
    pub port: Maybe<u16>,
    /// Which of the required keys were written, be it wrongly: name, repo, port.
    pub written: [bool; 3],
    pub start: Maybe<Start>,
    pub size: Maybe<Bytes>,
    pub target: Maybe<String>,
    pub aliases: Texts,
    pub alternatives: Texts,
    pub cluster: Option<RawCluster>,
    pub options: RawOptions,
}

/// The sub-tables that `[defaults]` and a model share.
pub(super) struct RawOptions {
    /// Names and values.
    pub environment: Vec<(At<String>, String)>,
    pub server: RawServer,
    pub memory: RawMemory,
    pub health: RawHealth,
    pub restart: RawRestart,
    pub stop: RawStop,
    pub limits: RawLimits,
}

pub(super) struct RawServer {
    pub draft_model: Maybe<String>,
    pub num_draft_tokens: Maybe<u32>,
    pub adapter_path: Maybe<String>,
    pub kv_bits: Maybe<u8>,
    pub kv_group_size: Maybe<u32>,
    pub quantized_kv_start: Maybe<u32>,
    pub max_tokens: Maybe<u32>,
    pub temperature: Maybe<f64>,
    pub top_p: Maybe<f64>,
    pub top_k: Maybe<u32>,
    pub min_p: Maybe<f64>,
    pub decode_concurrency: Maybe<u32>,
    pub prompt_concurrency: Maybe<u32>,
    pub prefill_step_size: Maybe<u32>,
    pub prompt_cache: Maybe<u32>,
    pub chat_template: Maybe<String>,
    pub chat_template_args: Maybe<String>,
    pub log_level: Maybe<&'static str>,
    pub extra_args: Texts,
}

pub(super) struct RawMemory {
    pub context: Maybe<u32>,
    pub concurrency: Maybe<u32>,
    pub kv_limit: Maybe<Bytes>,
    pub cache_limit: Maybe<Bytes>,
    pub ceiling: Maybe<Bytes>,
    pub prompt_store: Maybe<Bytes>,
    pub trim_after: Maybe<Duration>,
    pub forget_after: Maybe<Duration>,
    pub yield_to_pressure: Maybe<bool>,
    pub wired: Maybe<Wired>,
}

pub(super) struct RawHealth {
    pub load_timeout: Maybe<Duration>,
    pub interval: Maybe<Duration>,
    pub timeout: Maybe<Duration>,
    pub hang_after: Maybe<Duration>,
}

pub(super) struct RawRestart {
    pub enabled: Maybe<bool>,
    pub backoff_min: Maybe<Duration>,
    pub backoff_max: Maybe<Duration>,
    pub stable_after: Maybe<Duration>,
    pub max_crashes: Maybe<u32>,
    pub window: Maybe<Duration>,
}

pub(super) struct RawStop {
    pub drain: Maybe<Duration>,
    pub term: Maybe<Duration>,
}

pub(super) struct RawLimits {
    pub in_flight: Maybe<u32>,
    pub queue: Maybe<u32>,
    pub queue_timeout: Maybe<Duration>,
    pub connections: Maybe<u32>,
    pub body: Maybe<Bytes>,
    pub max_tokens: Maybe<u32>,
    pub messages: Maybe<u32>,
    pub read_timeout: Maybe<Duration>,
    pub remote_images: Maybe<bool>,
}

/// Python's ints have no bound; nothing here is meant beyond this one.
const MANY: i64 = u32::MAX as i64;

const WIRED: [(&str, Wired); 3] =
    [("off", Wired::Off), ("weights", Wired::Weights), ("default", Wired::Default)];

const LOG_LEVELS: [(&str, &str); 5] = [
    ("DEBUG", "DEBUG"),
    ("INFO", "INFO"),
    ("WARNING", "WARNING"),
    ("ERROR", "ERROR"),
    ("CRITICAL", "CRITICAL"),
];

impl RawRegistry {
    pub fn read(file: &Section<'_>) -> Self {
        let (interpreter, packages) = file.section("python", |python| {
            (
                python.text("interpreter", "/opt/homebrew/bin/python3"),
                python.texts("packages", "mlx-lm==0.32.2"),
            )
        });
        let (reserves, pressure) = file.section("memory", |memory| {
            (memory.sections("reserve", RawReserve::read), RawPressure::read(memory))
        });
        let (router_port, router_without_port) = file.section("router", |router| {
            let place = router.place().filter(|_| !router.has("port"));
            (router.whole("port", 1..=i64::from(u16::MAX)), place)
        });
        Self {
            paths: file.section("paths", RawPaths::read),
            interpreter,
            packages,
            network: file.section("network", RawNetwork::read),
            reserves,
            pressure,
            power: file.section("power", RawPower::read),
            agent: file.section("agent", RawAgent::read),
            metrics_address: file.section("metrics", |metrics| metrics.text("address", "127.0.0.1:9464")),
            router_port,
            router_without_port,
            defaults: file.section("defaults", RawOptions::read),
            models: file.sections("model", RawModel::read),
            has_models: file.has("model") && !file.has_empty_list("model"),
        }
    }
}

impl RawPaths {
    fn read(paths: &Section<'_>) -> Self {
        Self {
            root: paths.text("root", "/Users/Shared/mlxctl"),
            venv: paths.text("venv", "mlx_venv"),
            logs: paths.text("logs", "logs"),
            run: paths.text("run", "run"),
            state: paths.text("state", "state"),
        }
    }
}

impl RawNetwork {
    fn read(network: &Section<'_>) -> Self {
        Self {
            host: network.text("host", "127.0.0.1"),
            allow_from: network.texts("allow_from", "192.168.1.0/24"),
            allow_origins: network.texts("allow_origins", "https://chat.example.org"),
            allow_hosts: network.texts("allow_hosts", "mac.local"),
            require_key: network.flag("require_key"),
            expose: network.flag("expose"),
        }
    }
}

impl RawPressure {
    fn read(memory: &Section<'_>) -> Self {
        Self {
            yield_to: memory.texts("yield", "Civilization V"),
            yield_actions: memory.texts("yield_actions", "trim"),
            yield_hold: memory.duration("yield_hold"),
            critical_hold: memory.duration("critical_hold"),
            calm_hold: memory.duration("calm_hold"),
        }
    }
}

impl RawReserve {
    fn read(reserve: &Section<'_>) -> Self {
        Self {
            name: reserve.text("name", "macOS + apps"),
            size: reserve.size("size"),
            while_running: reserve.texts("while_running", "Civilization V"),
            span: reserve.span.clone().unwrap_or_default(),
            has_size: reserve.has("size"),
        }
    }
}

impl RawPower {
    fn read(power: &Section<'_>) -> Self {
        let choices = [
            ("serve", PowerChoice::Serve),
            ("refuse_manual", PowerChoice::RefuseManual),
            ("stop_manual", PowerChoice::StopManual),
        ];
        Self {
            on_battery: power.choice("on_battery", &choices),
            low_power: power.choice("low_power", &choices),
        }
    }
}

impl RawAgent {
    fn read(agent: &Section<'_>) -> Self {
        Self {
            label: agent.text("label", "org.example.mlxctl"),
            process_type: agent.choice(
                "process_type",
                &[
                    ("Background", ProcessType::Background),
                    ("Standard", ProcessType::Standard),
                    ("Adaptive", ProcessType::Adaptive),
                    ("Interactive", ProcessType::Interactive),
                ],
            ),
            nice: agent.whole("nice", -20..=20),
            low_priority_io: agent.flag("low_priority_io"),
            path: agent.text("path", "/usr/bin:/bin"),
            working_directory: agent.text("working_directory", "."),
            log: agent.text("log", "logs/mlxctl.log"),
            exit_timeout: agent.duration("exit_timeout"),
            throttle_interval: agent.duration("throttle_interval"),
            open_files: agent.whole("open_files", 256..=1 << 20),
            environment: agent.texts("environment", "HF_HOME=/Volumes/Models/huggingface"),
        }
    }
}

impl RawModel {
    fn read(model: &Section<'_>) -> Self {
        Self {
            span: model.span.clone().unwrap_or_default(),
            name: model.text("name", "32b"),
            repo: model.text("repo", "mlx-community/Qwen3-32B-4bit"),
            port: model.whole("port", 1..=i64::from(u16::MAX)),
            written: ["name", "repo", "port"].map(|key| model.has(key)),
            start: model.choice("start", &[("always", Start::Always), ("manual", Start::Manual)]),
            size: model.size("size"),
            target: model.text("target", "30 tok/s"),
            aliases: model.texts("aliases", "reasoning"),
            alternatives: model.texts("alternatives", "mlx-community/Qwen3-32B-4bit"),
            cluster: RawCluster::read(model),
            options: RawOptions::read(model),
        }
    }
}

impl RawOptions {
    fn read(parent: &Section<'_>) -> Self {
        Self {
            environment: parent.variables("environment", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"),
            server: parent.section("server", RawServer::read),
            memory: parent.section("memory", RawMemory::read),
            health: parent.section("health", RawHealth::read),
            restart: parent.section("restart", RawRestart::read),
            stop: parent.section("stop", RawStop::read),
            limits: parent.section("limits", RawLimits::read),
        }
    }
}

impl RawServer {
    fn read(server: &Section<'_>) -> Self {
        Self {
            draft_model: server.text("draft_model", "mlx-community/Qwen3-0.6B-4bit"),
            num_draft_tokens: server.whole("num_draft_tokens", 1..=1024),
            adapter_path: server.text("adapter_path", "/Users/Shared/adapters"),
            kv_bits: server.whole("kv_bits", 0..=255),
            kv_group_size: server.whole("kv_group_size", 0..=MANY),
            quantized_kv_start: server.whole("quantized_kv_start", 0..=MANY),
            max_tokens: server.whole("max_tokens", 1..=MANY),
            temperature: server.number("temperature", 0.0..=100.0),
            top_p: server.number("top_p", 0.0..=1.0),
            top_k: server.whole("top_k", 0..=MANY),
            min_p: server.number("min_p", 0.0..=1.0),
            decode_concurrency: server.whole("decode_concurrency", 1..=4096),
            prompt_concurrency: server.whole("prompt_concurrency", 1..=4096),
            prefill_step_size: server.whole("prefill_step_size", 1..=MANY),
            prompt_cache: server.whole("prompt_cache", 1..=MANY),
            chat_template: server.text("chat_template", "{{ messages }}"),
            chat_template_args: server.text("chat_template_args", "{}"),
            log_level: server.choice("log_level", &LOG_LEVELS),
            extra_args: server.texts("extra_args", "--pipeline"),
        }
    }
}

impl RawMemory {
    fn read(memory: &Section<'_>) -> Self {
        Self {
            context: memory.whole("context", 1..=MANY),
            concurrency: memory.whole("concurrency", 1..=4096),
            kv_limit: memory.size("kv_limit"),
            cache_limit: memory.size("cache_limit"),
            ceiling: memory.size("ceiling"),
            prompt_store: memory.size("prompt_store"),
            trim_after: memory.duration("trim_after"),
            forget_after: memory.duration("forget_after"),
            yield_to_pressure: memory.flag("yield_to_pressure"),
            wired: memory.choice("wired", &WIRED),
        }
    }
}

impl RawHealth {
    fn read(health: &Section<'_>) -> Self {
        Self {
            load_timeout: health.duration("load_timeout"),
            interval: health.duration("interval"),
            timeout: health.duration("timeout"),
            hang_after: health.duration("hang_after"),
        }
    }
}

impl RawRestart {
    fn read(restart: &Section<'_>) -> Self {
        Self {
            enabled: restart.flag("enabled"),
            backoff_min: restart.duration("backoff_min"),
            backoff_max: restart.duration("backoff_max"),
            stable_after: restart.duration("stable_after"),
            max_crashes: restart.whole("max_crashes", 1..=10_000),
            window: restart.duration("window"),
        }
    }
}

impl RawStop {
    fn read(stop: &Section<'_>) -> Self {
        Self { drain: stop.duration("drain"), term: stop.duration("term") }
    }
}

impl RawLimits {
    fn read(limits: &Section<'_>) -> Self {
        Self {
            in_flight: limits.whole("in_flight", 1..=4096),
            queue: limits.whole("queue", 0..=100_000),
            queue_timeout: limits.duration("queue_timeout"),
            connections: limits.whole("connections", 1..=100_000),
            body: limits.size("body"),
            max_tokens: limits.whole("max_tokens", 1..=MANY),
            messages: limits.whole("messages", 1..=MANY),
            read_timeout: limits.duration("read_timeout"),
            remote_images: limits.flag("remote_images"),
        }
    }
}
