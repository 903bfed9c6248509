"""Tiny models of several families: their files, and what mlx_lm leaves on each rank, a JSON object a line."""

import importlib
import json
import os
import sys

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

DENSE = {
    "hidden_size": 128, "num_hidden_layers": 5, "intermediate_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": 256, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "max_position_embeddings": 512, "head_dim": 32,
}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "moe_intermediate_size": 128, "norm_topk_prob": True,
}
CASES = [
    ("llama", "llama", {}, False), ("qwen2", "qwen2", {}, True), ("qwen3", "qwen3", {}, False),
    ("qwen3_moe", "qwen3_moe", EXPERTS, True), ("qwen2", "qwen2", {"tie_word_embeddings": True}, True),
]


class Group:
    def __init__(self, rank, size):
        self._rank, self._size = rank, size

    def rank(self):
        return self._rank

    def size(self):
        return self._size


def build(family, config, quantized):
    module = importlib.import_module(f"mlx_lm.models.{family}")
    model = module.Model(module.ModelArgs.from_dict(config))
    if quantized:
        nn.quantize(model, group_size=32, bits=4)
    return model


def nbytes(tree):
    return sum(v.nbytes for _, v in tree_flatten(tree) if isinstance(v, mx.array))


folder = sys.argv[1]
for number, (name, family, more, pipelines) in enumerate(CASES):
    for quantized in (False, True):
        config = {"model_type": name, **DENSE, **more}
        path = os.path.join(folder, f"{number}-{quantized}")
        os.makedirs(path)
        weights = dict(tree_flatten(build(family, config, quantized).parameters()))
        mx.save_safetensors(os.path.join(path, "model.safetensors"), weights)
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(config, file)
        for mode in ("tensor", "pipeline") if pipelines else ("tensor",):
            for size in (2, 4):
                held, caches = [], []
                for rank in range(size):
                    model = build(family, config, quantized)
                    if mode == "tensor":
                        model.shard(Group(rank, size))
                    else:
                        model.model.pipeline(Group(rank, size))
                    held.append(nbytes(model.parameters()))
                    layers = [layer for layer in model.layers if layer is not None]
                    heads = [getattr(l.self_attn, "n_kv_heads") for l in layers]
                    caches.append(sum(heads) * 2 * config["head_dim"])
                print(json.dumps({
                    "name": f"{name} {config['tie_word_embeddings']} {quantized}", "folder": path, "mode": mode,
                    "bytes": held, "elements_a_token": caches,
                }))
