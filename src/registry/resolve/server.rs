//! `server = { … }`: the options of `mlx_lm.server`.

use super::{Scope, TINY};
use crate::registry::keys::RawServer;
use crate::registry::notes::At;
use crate::registry::problem::quote;
use crate::registry::resolve::source::source;
use crate::registry::{ServerOptions, Source};

/// Bit widths and group sizes that MLX can quantise to (`mx.quantize`).
const KV_BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];
const KV_GROUPS: [u32; 3] = [32, 64, 128];

/// Flags of `mlx_lm.server` 0.32 that users cannot pass, and what to use instead.
const OWNED: [(&str, &str); 21] = [
    ("--model", "`repo` names the model"),
    ("--host", "the gate listens for the model: network.host"),
    ("--port", "the gate listens for the model: `port`"),
    ("--allowed-origins", "the gate answers browsers: network.allow_origins"),
    ("--prompt-cache-bytes", "use memory.kv_limit, which is enforced"),
    ("--draft-model", "use server.draft_model"),
    ("--num-draft-tokens", "use server.num_draft_tokens"),
    ("--adapter-path", "use server.adapter_path"),
    ("--kv-bits", "use server.kv_bits"),
    ("--kv-group-size", "use server.kv_group_size"),
    ("--quantized-kv-start", "use server.quantized_kv_start"),
    ("--max-tokens", "use server.max_tokens"),
    ("--temp", "use server.temperature"),
    ("--top-p", "use server.top_p"),
    ("--top-k", "use server.top_k"),
    ("--min-p", "use server.min_p"),
    ("--decode-concurrency", "use server.decode_concurrency"),
    ("--prompt-concurrency", "use server.prompt_concurrency"),
    ("--prefill-step-size", "use server.prefill_step_size"),
    ("--prompt-cache-size", "use server.prompt_cache"),
    ("--log-level", "use server.log_level"),
];

pub(super) fn server(scope: &Scope<'_>, raw: &RawServer) -> ServerOptions {
    check_kv(scope, raw);
    check_extra(scope, raw.extra_args.as_ref());
    check_template_args(scope, raw.chat_template_args.as_ref());
    check_top_p(scope, raw.top_p.as_ref());
    let folder = &scope.around.folder;
    let adapter = raw.adapter_path.as_ref();
    ServerOptions {
        draft_model: raw.draft_model.as_ref().map(|written| draft(scope, written)),
        adapter_path: adapter.map(|path| scope.path("adapter_path", Some(path), folder, folder.clone())),
        ..raw.valid()
    }
}

pub(super) fn check_top_p(scope: &Scope<'_>, top_p: Option<&At<f64>>) {
    if let Some(written) = top_p.filter(|at| at.value == 0.0) {
        scope.notes.wrong(written, "`top_p` is zero, which leaves no token", "above 0, at most 1");
    }
}

fn draft(scope: &Scope<'_>, written: &At<String>) -> String {
    match source(scope, written) {
        Source::Tiny if written.value == TINY => {
            let hint = "use a smaller model of the same family";
            scope.notes.wrong(written, "the built-in tiny model cannot be a draft model", hint);
            String::new()
        }
        source => source.to_string(),
    }
}

fn check_kv(scope: &Scope<'_>, raw: &RawServer) {
    let bits = raw.kv_bits.as_ref();
    if let Some(written) = bits.filter(|at| !KV_BITS.contains(&at.value)) {
        scope.notes.wrong(written, format!("`kv_bits` cannot be {}", written.value), "2, 3, 4, 5, 6 or 8");
    }
    let group = raw.kv_group_size.as_ref();
    if let Some(written) = group.filter(|at| !KV_GROUPS.contains(&at.value)) {
        scope.notes.wrong(written, format!("`kv_group_size` cannot be {}", written.value), "32, 64 or 128");
    }
    if let (Some(written), Some(_)) = (bits, &raw.draft_model) {
        let message = "`kv_bits` and `draft_model` cannot be combined: their memory cannot be estimated";
        scope.notes.wrong(written, message, "leave one of them out");
    }
}

/// Refuses flags in [`OWNED`], and prefixes of them, which argparse accepts as well.
fn check_extra(scope: &Scope<'_>, list: Option<&At<Vec<At<String>>>>) {
    for arg in list.into_iter().flat_map(|list| &list.value) {
        if arg.value.contains('\0') {
            scope.notes.wrong(arg, "an argument contains a NUL character", "leave it out");
        }
        let flag = arg.value.split('=').next().unwrap_or_default();
        let owned = OWNED.iter().find(|(owned, _)| *owned == flag).or_else(|| {
            OWNED
                .iter()
                .find(|(owned, _)| flag.len() > 3 && flag.starts_with("--") && owned.starts_with(flag))
        });
        if let Some((owned, instead)) = owned {
            let message = format!("`extra_args` sets {}, which mlxctl sets itself", quote(owned));
            scope.notes.wrong(arg, message, *instead);
        }
    }
}

fn check_template_args(scope: &Scope<'_>, written: Option<&At<String>>) {
    let Some(written) = written else { return };
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&written.value);
    if let Err(error) = object {
        let message = format!("`chat_template_args` is not a JSON object: {error}");
        scope.notes.wrong(written, message, "for example '{\"enable_thinking\": false}'");
    }
}
