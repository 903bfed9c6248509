//! The keys of `[[model]]` and of the tables that it shares with `[defaults]`.

use std::path::PathBuf;
use std::time::Duration;

use super::Maybe;
use super::table::{Key, Keys, MANY, Over, Place, Table, Words, Written, either, keys, range};
use crate::registry::choices::{LogLevel, Start, Wired};
use crate::registry::notes::At;
use crate::registry::reader::{NameOr, Section};
use crate::units::Bytes;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

keys! {
    /// Values that the gate puts into requests that name none.
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
        /// least probability, as a share of the best token's
        min_p: real(0.0..=1.0);
    }
}

keys! {
    RawPreset of "model.aliases" {
        /// the alias, where it comes with values of its own
        name: text("fast") => "required";
        /// what a request under this name gets where it names no value itself
        set: table(RawSampling) => "required";
    }
}

keys! {
    RawEntry of "model" {
        /// at most 64 letters, digits, `.`, `_`, `-`; unique together with all aliases. Upper and lower case are the
        /// same here and on the command line
        name: text("32b") => "required";
        /// what it serves
        repo: repo("mlx-community/Qwen3-32B-4bit") => "required";
        /// the gate's, unique
        port: number(u16, 1..=65_535) => "required";
        /// `always`: comes up with the supervisor and comes back after a crash; `manual`: only through `mlxctl start`
        start: word(Start) = Start::Manual;
        /// memory it takes, until its files are there to be read
        size: size;
        /// what the owner expects: `"30 tok/s"`
        target: rate("30 tok/s");
        /// other names, each plain (`"reasoning"`) or a [preset](#presets):
        /// `{ name = "fast", set = { temperature = 0.6 } }`
        aliases: names(RawPreset, "reasoning") => "`[]`";
        /// repos that `mlxctl use` may switch to
        alternatives: list("mlx-community/Qwen3-32B-4bit") => "`[]`";
    }
}

keys! {
    /// Typed options of `mlx_lm.server`; `None` leaves the server's own default.
    #[derive(Debug, Clone, Default, PartialEq)]
    ServerOptions() from RawServer of "model.server" {
        /// a smaller model for speculative decoding; stops batching
        draft_model: repo("mlx-community/Qwen3-0.6B-4bit");
        /// tokens drafted at once
        num_draft_tokens: number(u32, 1..=1024);
        /// folder of LoRA weights; they count in the memory estimate
        adapter_path: path("/Users/Shared/adapters");
        /// KV cache quantisation, not 7; stops batching; not together with `draft_model`
        kv_bits: number(u8, 2..=8);
        /// 32, 64 or 128
        kv_group_size: number(u32, 0..=MANY);
        /// first position that is quantised, tokens
        quantized_kv_start: number(u32, 0..=MANY);
        /// longest answer to a request that sets no limit, tokens. Left out: 512, the default of `mlx_lm.server`,
        /// which cuts a reasoning model off while it thinks; `mlxctl check` says so
        max_tokens: number(u32, 1..=MANY);
        /// for requests that name none
        temperature: real(0.0..=100.0);
        /// for requests that name none; above 0
        top_p: real(0.0..=1.0);
        /// for requests that name none, tokens; 0 is off
        top_k: number(u32, 0..=MANY);
        /// for requests that name none
        min_p: real(0.0..=1.0);
        /// requests decoded in one batch
        decode_concurrency: number(u32, 1..=4096);
        /// prompts processed in one batch
        prompt_concurrency: number(u32, 1..=4096);
        /// prompt tokens per step; left out: 512 where memory is scarce, up to 2048 where the room that is
        /// [promised](memory.md#one-room) allows it
        prefill_step_size: number(u32, 1..=MANY);
        /// distinct KV caches that are kept
        prompt_cache: number(u32, 1..=MANY);
        /// in place of the model's own
        chat_template: text("{{ messages }}");
        /// a JSON object: `'{"enable_thinking": false}'`
        chat_template_args: text("{}");
        /// how much `mlx_lm.server` logs
        log_level: word(LogLevel);
        /// the way out: passed on unchanged, after everything else. Flags that have a key here, and those that mlxctl
        /// sets itself, are refused
        extra_args: list("--pipeline") = Vec::new();
    }
}

keys! {
    /// Bounds from which the memory promise follows.
    #[derive(Debug, Clone, PartialEq, Eq)]
    ModelMemory() from RawMemory of "model.memory" {
        /// longest prompt plus answer, tokens; left out: 32768, or the model's own limit if that is less
        context: number(u32, 1..=MANY);
        /// requests at once in the backend; each is promised a whole context
        concurrency: number(u32, 1..=4096) = crate::registry::CONCURRENCY;
        /// prompts (KV caches) kept between requests; left out: one whole context, at least 4GB
        kv_limit: size;
        /// MLX's buffer cache; left out: 1GB
        cache_limit: size;
        /// bound of the whole backend; not below `size`
        ceiling: size;
        /// kept prompts on disk, in `state/prompts/<model>`: written before they are given up, read back when a
        /// prompt begins with one; `"0B"` is off
        prompt_store: size(zero) = Bytes::gb(20);
        /// after this time without a request, MLX's buffer cache is emptied; kept prompts stay, so it costs the next
        /// request nothing
        trim_after: time = seconds(45);
        /// after this time without a request, kept prompts are given up as well; pressure, a program of `yield`,
        /// `mlxctl trim` and a stop do the same at once
        forget_after: time = seconds(1800);
        /// whether critical memory pressure may stop it although it is always-on
        yield_to_pressure: flag = false;
        /// how much memory MLX pins for the GPU on a Mac: `off` none, `weights` as much as the weights take,
        /// `default` as `mlx_lm.server` does it. Pinned memory has caused kernel panics under concurrent requests
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
        /// between two checks of an idle model
        interval: time = seconds(10);
        /// for one check
        timeout: time = seconds(5);
        /// no progress for this long with requests in flight: hung
        hang_after: time = seconds(120);
    }
}

keys! {
    /// What happens after a crash.
    #[derive(Debug, Clone, PartialEq)]
    Restart(start: Start) from RawRestart of "model.restart" {
        /// whether a crash is followed by a new start
        enabled: flag = start == Start::Always => "whether `start` is `always`";
        /// first wait
        backoff_min: time = seconds(1);
        /// longest wait
        backoff_max: time = seconds(60);
        /// a run that was ready for this long forgives earlier crashes
        stable_after: time = seconds(60);
        /// this many crashes within `window` put it into quarantine
        max_crashes: number(u32, 1..=10_000) = 5;
        /// see `max_crashes`
        window: time = seconds(600);
    }
}

keys! {
    /// How a model is stopped.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Stop() from RawStop of "model.stop" {
        /// for requests in flight to finish
        drain: time = seconds(30);
        /// between SIGTERM and SIGKILL; SIGKILL can strand wired memory on a Mac until it is rebooted
        term: time = seconds(120);
        /// manual models only: after this time without a request it is stopped, and the memory is free again. An event
        /// announces it, a tenth of the time before, 15 minutes at most; a request in flight keeps it. `mlxctl start
        /// --for 3h` counts instead
        idle: time;
    }
}

keys! {
    /// What the gate lets through.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Limits(at_once: u32) from RawLimits of "model.limits" {
        /// requests at the backend at once; the rest queues. Not above `memory.concurrency`
        in_flight: number(u32, 1..=4096) = at_once => "`memory.concurrency`; 1 with `cluster`";
        /// requests that may queue
        queue: number(u32, 0..=100_000) = 64;
        /// how long one may queue, or wait for a model that restarts. A request with the header `Prefer: wait=30`
        /// waits at most that long, and then for a manual model that is loading as well; the answer says
        /// `Preference-Applied`
        queue_timeout: time = seconds(120);
        /// of all clients; one address gets three quarters of them at most
        connections: number(u32, 1..=100_000) = 256;
        /// of one request
        body: size = Bytes::mb(16);
        /// longest answer, tokens; a request that asks for more gets this. Not above `memory.context`
        max_tokens: number(u32, 1..=MANY);
        /// of one chat
        messages: number(u32, 1..=MANY) = 2000;
        /// slowest arrival of head and body
        read_timeout: time = seconds(30);
        /// whether a request may name images for the server to fetch
        remote_images: flag = false;
    }
}
