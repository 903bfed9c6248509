"""Builds tiny models of many families with mlx_lm, feeds them, and prints what their caches take.

One line of JSON a case: name, config, tokens, bytes of an activation element, bytes of the caches.
"""

import json
import sys

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.generate import maybe_quantize_kv_cache
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
MLA = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 24,
    "v_head_dim": 20,
    "routed_scaling_factor": 1.0,
}
YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}
GATED_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "head_dim": 32,
    "full_attention_interval": 4,
    "partial_rotary_factor": 0.25,
}
QWEN3_NEXT = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 32,
    "moe_intermediate_size": 32,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
MAMBA2 = {
    "num_heads": 4,
    "head_dim": 16,
    "state_size": 16,
    "n_groups": 1,
    "conv_kernel": 4,
    "expand": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "chunk_size": 32,
    "time_step_limit": (0.0, 1000.0),
    "time_step_rank": "auto",
    "layer_norm_epsilon": 1e-5,
    "norm_before_gate": True,
}
CASES = {
    "multi-head": {"model_type": "llama", "num_key_value_heads": 4},
    "grouped-query": {"model_type": "qwen2"},
    "grouped-query, heads of a width of their own": {"model_type": "qwen3", "head_dim": 32},
    "multi-query": {"model_type": "llama", "num_key_value_heads": 1},
    "some layers with a window": {
        "model_type": "llama",
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "a window in five of six layers": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "head_dim": 32,
        "sliding_window": 128,
        "sliding_window_pattern": 6,
    },
    "nested in a multimodal model": {
        "model_type": "gemma3",
        "vocab_size": 64,
        "text_config": {**BASE, "model_type": "gemma3_text", "num_hidden_layers": 7, "head_dim": 32, "sliding_window": 300},
    },
    "a window in three of four layers": {
        "model_type": "cohere2",
        "head_dim": 16,
        "sliding_window": 128,
        "sliding_window_pattern": 4,
        "logit_scale": 1.0,
        "layer_norm_eps": 1e-5,
        "layer_norm_bias": False,
    },
    "a window in every other layer": {
        "model_type": "gpt_oss",
        "head_dim": 16,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "sliding_window": 128,
        "rope_scaling": None,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "latent attention, expanded": {"model_type": "deepseek_v2", **MLA, "rope_scaling": YARN},
    "latent attention": {"model_type": "deepseek_v3", **MLA, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
                         "norm_topk_prob": True, "rope_scaling": None},
    "gated delta net": {"model_type": "qwen3_next", **GATED_DELTA, **QWEN3_NEXT},
    "gated delta net, nested": {
        "model_type": "qwen3_5",
        "text_config": {**BASE, **GATED_DELTA, "model_type": "qwen3_5_text"},
    },
    "mamba": {
        "model_type": "mamba",
        "state_size": 16,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "mamba 2": {"model_type": "mamba2", **MAMBA2},
    "attention and mamba 2 in turn": {
        "model_type": "granitemoehybrid",
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_bias": False,
        "layer_types": ["mamba", "mamba", "mamba", "attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_proj_bias": False,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
        "mlp_bias": False,
        "shared_intermediate_size": 64,
        "position_embedding_type": "nope",
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "time_step_limit": (0.0, 1000.0),
    },
    "short convolutions": {
        "model_type": "lfm2",
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 64,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
    },
}


def caches_of(config, prompt, answer, dtype, bits=None, start=0):
    config = json.loads(json.dumps(config))
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.update(tree_map(lambda p: p.astype(dtype) if mx.issubdtype(p.dtype, mx.floating) else p, model.parameters()))
    cache = make_prompt_cache(model)

    def feed(tokens):
        model(mx.zeros((1, tokens), mx.int32), cache=cache)
        maybe_quantize_kv_cache(cache, quantized_kv_start=start, kv_group_size=64, kv_bits=bits)
        mx.eval([c.state for c in cache])

    feed(prompt)
    for _ in range(answer):
        feed(1)
    return sum(a.nbytes for _, a in tree_flatten([c.state for c in cache]) if isinstance(a, mx.array))


def main():
    mx.set_default_device(mx.cpu)
    out = sys.stdout
    for name, case in CASES.items():
        config = case if "text_config" in case else {**BASE, **case}
        # On a CPU, MLX has mixtures of experts in float32 only.
        experts = any(key in config for key in ("num_experts", "n_routed_experts")) or case["model_type"] == "gpt_oss"
        kinds = (mx.float32,) if experts else (mx.bfloat16, mx.float32)
        for prompt, dtype in ((prompt, dtype) for prompt in (20, 300) for dtype in kinds):
            found = {
                "name": name,
                "config": json.dumps(config),
                "tokens": prompt + 1,
                "activation": dtype.size,
                "bits": None,
                "bytes": caches_of(config, prompt, 1, dtype),
            }
            print(json.dumps(found), file=out, flush=True)
    config = {**BASE, "model_type": "qwen2", "hidden_size": 256}
    for bits in (4, 8):
        found = {
            "name": f"{bits}-bit caches",
            "config": json.dumps(config),
            "tokens": 301,
            "activation": 2,
            "bits": bits,
            "bytes": caches_of(config, 300, 1, mx.bfloat16, bits, 0),
        }
        print(json.dumps(found), file=out, flush=True)


main()
