//! The keys of `[[model]]` and of the tables that it shares with `[defaults]`.

use std::path::PathBuf;
use std::time::Duration;

use super::Maybe;
use super::table::{Key, Keys, MANY, Over, Place, Table, Words, either, keys, range};
use super::written::Written;
use crate::clock::hours::Hours;
use crate::registry::choices::{LogLevel, Start, Wired};
use crate::registry::notes::At;
use crate::registry::reader::{NameOr, Section};
use crate::units::Bytes;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

keys! {
    /// Sampling values that the gate adds to requests without their own.
    #[derive(Debug, Clone, Default, PartialEq)]
    Sampling() from RawSampling of "model.aliases.set" {
        /// longest answer, tokens
        max_tokens: number(u32, 1..=MANY);
        /// sampling temperature
        temperature: real(0.0..=100.0);
        /// above 0
        top_p: real(0.0..=1.0);
        /// tokens; 0 is off
        top_k: number(u32, 0..=MANY);
        /// lowest probability, relative to the best token's
        min_p: real(0.0..=1.0);
    }
}

keys! {
    RawPreset of "model.aliases" {
        /// the alias
        name: text("fast") => "required";
        /// the values for requests under this name that do not set them
        set: table(RawSampling) => "required";
    }
}

keys! {
    RawEntry of "model" {
        /// at most 64 letters, digits, `.`, `_`, `-`; unique together with all aliases. Upper and lower case are the
        /// same here and on the command line
        name: text("32b") => "required";
        /// the model to serve
        repo: repo("mlx-community/Qwen3-32B-4bit") => "required";
        /// the port of its gate; unique
        port: number(u16, 1..=65_535) => "required";
        /// `always`: starts with the supervisor and is restarted after a crash; `manual`: starts only through `mlxctl start`
        start: word(Start) = Start::Manual;
        /// always-on models only: when the model runs, in local time, `"08:00-23:30"`; several ranges as a list, across
        /// midnight as `"20:00-02:00"`. Outside them it sleeps: requests in flight finish within `stop.drain`, others get
        /// 503 with `Retry-After`. `mlxctl start` wakes it until the next end of its hours. Default: always
        hours: hours;
        /// memory it needs, used until its files are downloaded
        size: size;
        /// the expected speed: `"30 tok/s"`; `mlxctl bench` compares with it
        target: rate("30 tok/s");
        /// other names, each plain (`"reasoning"`) or a [preset](#presets):
        /// `{ name = "fast", set = { temperature = 0.6 } }`
        aliases: names(RawPreset, "reasoning") => "`[]`";
        /// repositories `mlxctl use` can switch to
        alternatives: list("mlx-community/Qwen3-32B-4bit") => "`[]`";
    }
}

keys! {
    /// Typed options of `mlx_lm.server`; `None` leaves the server's own default.
    #[derive(Debug, Clone, Default, PartialEq)]
    ServerOptions() from RawServer of "model.server" {
        /// a smaller model for speculative decoding; stops batching
        draft_model: repo("mlx-community/Qwen3-0.6B-4bit");
        /// tokens drafted per step
        num_draft_tokens: number(u32, 1..=1024);
        /// folder of LoRA weights; included in the memory estimate
        adapter_path: path("/Users/Shared/adapters");
        /// KV cache quantisation, not 7; stops batching; not together with `draft_model`
        kv_bits: number(u8, 2..=8);
        /// 32, 64 or 128
        kv_group_size: number(u32, 0..=MANY);
        /// first quantised position, in tokens
        quantized_kv_start: number(u32, 0..=MANY);
        /// longest answer to a request that sets no limit, in tokens. If omitted: 512, the default of `mlx_lm.server`,
        /// which can cut off a reasoning model while it thinks; `mlxctl check` warns about it
        max_tokens: number(u32, 1..=MANY);
        /// for requests that do not set it
        temperature: real(0.0..=100.0);
        /// for requests that do not set it; above 0
        top_p: real(0.0..=1.0);
        /// for requests that do not set it, in tokens; 0 turns it off
        top_k: number(u32, 0..=MANY);
        /// for requests that do not set it
        min_p: real(0.0..=1.0);
        /// requests decoded in one batch
        decode_concurrency: number(u32, 1..=4096);
        /// prompts processed in one batch
        prompt_concurrency: number(u32, 1..=4096);
        /// prompt tokens per step; if omitted: 512 when memory is scarce, up to 2048 when the
        /// [promised room](memory.md#one-room) allows it
        prefill_step_size: number(u32, 1..=MANY);
        /// number of KV caches to keep
        prompt_cache: number(u32, 1..=MANY);
        /// replaces the model's own template
        chat_template: text("{{ messages }}");
        /// a JSON object: `'{"enable_thinking": false}'`
        chat_template_args: text("{}");
        /// log level of `mlx_lm.server`
        log_level: word(LogLevel);
        /// further flags, passed unchanged after everything else. Flags that have a key here, and those that mlxctl
        /// sets itself, are refused
        extra_args: list("--pipeline") = Vec::new();
    }
}

keys! {
    /// Bounds from which the memory promise follows.
    #[derive(Debug, Clone, PartialEq, Eq)]
    ModelMemory() from RawMemory of "model.memory" {
        /// longest prompt plus answer, in tokens; if omitted: 32768, or the model's own limit if that is less
        context: number(u32, 1..=MANY);
        /// concurrent requests in the backend; memory for a whole context is reserved for each
        concurrency: number(u32, 1..=4096) = crate::registry::CONCURRENCY;
        /// prompts (KV caches) kept between requests; if omitted: one whole context, at least 4GB
        kv_limit: size;
        /// MLX's buffer cache; if omitted: 1GB
        cache_limit: size;
        /// limit of the whole backend; not below `size`
        ceiling: size;
        /// kept prompts on disk, in `state/prompts/<model>`: written before memory drops them, read back when a
        /// prompt begins with one; `"0B"` turns it off
        prompt_store: size(zero) = Bytes::gb(20);
        /// after this time without a request, MLX's buffer cache is emptied; kept prompts stay, so the next request
        /// is not slower
        trim_after: time = seconds(45);
        /// after this time without a request, memory drops kept prompts as well; pressure, a program of `yield`,
        /// `mlxctl trim` and a stop do the same at once
        forget_after: time = seconds(1800);
        /// whether critical memory pressure may stop it even though it is always-on
        yield_to_pressure: flag = false;
        /// how much memory MLX wires for the GPU on a Mac: `off` none, `weights` as much as the weights need,
        /// `default` as `mlx_lm.server` does it. Wired memory has caused kernel panics under concurrent requests
        /// (mlx 3186, mlx-lm 1666)
        wired: word(Wired) = Wired::Off;
    }
}

keys! {
    /// When a model counts as loaded, hung or gone.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Health() from RawHealth of "model.health" {
        /// from spawn to the first completed token
        load_timeout: time = seconds(600);
        /// interval between checks of an idle model
        interval: time = seconds(10);
        /// timeout of one check
        timeout: time = seconds(5);
        /// with requests in flight, no progress for this long means hung
        hang_after: time = seconds(120);
    }
}

keys! {
    /// What happens after a crash.
    #[derive(Debug, Clone, PartialEq)]
    Restart(start: Start) from RawRestart of "model.restart" {
        /// whether to restart it after a crash
        enabled: flag = start == Start::Always => "whether `start` is `always`";
        /// wait before the first restart
        backoff_min: time = seconds(1);
        /// longest wait before a restart
        backoff_max: time = seconds(60);
        /// earlier crashes are forgotten after a run was ready for this long
        stable_after: time = seconds(60);
        /// after this many crashes within `window` it is quarantined: it stays down for a `window`
        max_crashes: number(u32, 1..=10_000) = 5;
        /// see `max_crashes`
        window: time = seconds(600);
    }
}

keys! {
    /// How a model is stopped.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Stop() from RawStop of "model.stop" {
        /// time for requests in flight to finish
        drain: time = seconds(30);
        /// time between SIGTERM and SIGKILL; SIGKILL can strand wired memory on a Mac until it is rebooted
        term: time = seconds(120);
        /// manual models only: after this time without a request it is stopped, and its memory is free again. An event
        /// announces it, a tenth of the time before, at most 15 minutes; a request in flight keeps it running. `mlxctl
        /// start --for 3h` replaces it
        idle: time;
    }
}

keys! {
    /// What the gate lets through.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Limits(at_once: u32) from RawLimits of "model.limits" {
        /// concurrent requests at the backend; the rest queue. Not above `memory.concurrency`
        in_flight: number(u32, 1..=4096) = at_once => "`memory.concurrency`; 1 with `cluster`";
        /// requests that may queue
        queue: number(u32, 0..=100_000) = 64;
        /// how long one may queue, or wait for a model that restarts. A request with the header `Prefer: wait=30`
        /// waits at most 30 s, but also for a manual model that is loading; the answer has `Preference-Applied`
        queue_timeout: time = seconds(120);
        /// connections of all clients; one address gets at most three quarters of them
        connections: number(u32, 1..=100_000) = 256;
        /// largest body of a request
        body: size = Bytes::mb(16);
        /// longest answer, in tokens; requests for more are lowered to it. Not above `memory.context`
        max_tokens: number(u32, 1..=MANY);
        /// messages in one chat
        messages: number(u32, 1..=MANY) = 2000;
        /// longest time for a head to arrive, and for a body beyond what it takes at 64 KiB a second
        read_timeout: time = seconds(30);
        /// whether a request may name images for the server to fetch over http
        remote_images: flag = false;
    }
}
