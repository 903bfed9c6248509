"""Profiles of many models in one process: one JSON object per line, with the measured size of the caches.

    profile.py PROBE FAMILIES CONFIGS FOLDER

The folder gets a checkpoint in FP8, and one with an index of consolidated files, for the real probe.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import sys
import tempfile

probe_file, families_file, configs, folder = sys.argv[1:5]


def module(name, path):
    sys.path.insert(0, os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.generate import maybe_quantize_kv_cache  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

mx.set_default_device(mx.cpu)
probe = module("probe", probe_file)
families = module("families", families_file)


def config_of(name):
    return families.config_of(name, importlib.import_module(f"mlx_lm.models.{name}").ModelArgs)


def say(name, document, tokens, quantized=None):
    print(json.dumps({"name": name, "document": json.dumps(document), "bytes": tokens, "quantized": quantized}),
          flush=True)


# Evaluated now, because nothing is later: caches that the server quantises from the first token on.
QUANTIZED = {**config_of("qwen2"), "head_dim": 64, "hidden_size": 256}


def quantized_bytes(tokens, bits):
    model = probe.build(QUANTIZED)
    caches = make_prompt_cache(model)
    for count in (tokens - 1, 1):
        model(mx.zeros((1, count), mx.int32), cache=caches)
        maybe_quantize_kv_cache(caches, quantized_kv_start=0, kv_group_size=64, kv_bits=bits)
        mx.eval([cache.state for cache in caches])
    state = [array for _, array in tree_flatten([cache.state for cache in caches])]
    return sum(array.nbytes for array in state if isinstance(array, mx.array))


def fp8():
    """DeepSeek's FP8: one byte per element and one scale per block of 128 × 128; mlx_lm expands it to bfloat16."""
    config = {**config_of("deepseek_v3"), "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}
    weights = dict(tree_flatten(probe.build(config).parameters()))
    stored = {}
    for name, array in weights.items():
        parts = name.split(".switch_mlp.")
        single = [(name, array)]
        if len(parts) == 2:
            stem, part = parts[0], parts[1]
            single = [(f"{stem}.experts.{n}.{part}", array[n]) for n in range(array.shape[0])]
        elif ".embed_q." in name or ".unembed_out." in name:
            continue
        for key, value in single:
            if value.ndim == 2 and key.endswith("_proj.weight"):
                rows, columns = value.shape
                stored[key] = mx.to_fp8(value)
                stored[key + "_scale_inv"] = mx.ones((-(-rows // 128), -(-columns // 128)), mx.float32)
            else:
                stored[key] = value
    heads, nope, rank, value_dim = (config[k] for k in ("num_attention_heads", "qk_nope_head_dim", "kv_lora_rank",
                                                       "v_head_dim"))
    for layer in range(config["num_hidden_layers"]):
        stem = f"model.layers.{layer}.self_attn.kv_b_proj.weight"
        stored[stem] = mx.to_fp8(mx.ones((heads * (nope + value_dim), rank), mx.bfloat16))
        stored[stem + "_scale_inv"] = mx.ones((1, 1), mx.float32)
    path = pathlib.Path(folder, "fp8")
    path.mkdir()
    path.joinpath("config.json").write_text(json.dumps(config))
    mx.eval(list(stored.values()))
    mx.save_safetensors(str(path / "model.safetensors"), stored)
    model, _ = load_model(path)
    served = [array for _, array in tree_flatten(model.parameters())]
    mx.eval(served)
    return sum(array.nbytes for array in served), sum(array.nbytes for array in stored.values())


served, stored = fp8()
quantized = {bits: quantized_bytes(301, bits) for bits in (4, 8)}
probe.lazy(mx)


def describe(name, config, quantized=None):
    with tempfile.TemporaryDirectory() as model:
        pathlib.Path(model, "config.json").write_text(json.dumps(config))
        try:
            document = probe.profile(model)
        except probe.Refused as error:
            document = probe.refusal(error.kind, error.message)
    if quantized is not None:
        return document
    tokens = {n: sys.modules["profile_caches"].bytes_at(document, n) for n in (1, 300, 10_000)} if "error" not in document else {}
    say(name, document, tokens)


for case in json.loads(pathlib.Path(configs).read_text()):
    describe(case["name"], case["config"])
for name in ("llama4", "gemma3_text", "deepseek_v32", "deepseek_v41", "falcon_h1", "rwkv7", "minimax_m3_vl"):
    describe(name, config_of(name))
document = describe("qwen2", QUANTIZED, quantized=True)
for bits, found in quantized.items():
    say("quantised", document, {301: found}, bits)
say("FP8", {}, {1: served, 2: stored})
