"""A tiny config.json for every family of the installed mlx_lm.

COMMON has a small number for every key that a `ModelArgs` of mlx_lm requires; a family reads the keys that it knows.
SPECIAL has what a family needs in addition, or differently.
"""

import dataclasses
import importlib
import pkgutil

LAYERS = 4
COMMON = {
    # Sizes.
    "hidden_size": 64, "n_embd": 64, "d_model": 64, "hidden_dim": 64, "dim_model_base": 64, "num_hidden_layers": LAYERS,
    "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS, "model_dim": 64, "num_vocab": 128, "kv_channels": 16, "n_shared_head": 2, "hidden_size_per_head": 16, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "num_key_value_heads": 2, "n_kv_heads": 2, "num_kv_heads": 2, "num_attention_groups": 2,
    "head_dim": 32, "intermediate_size": 96, "ffn_hidden_size": 96, "n_inner": 96, "intermediate_size_mlp": 96,
    "ff_intermediate_size": 96, "shared_intermediate_size": 32, "vocab_size": 128, "max_position_embeddings": 8192,
    "n_positions": 8192, "n_ctx": 8192, "block_size": 8192, "model_max_length": 8192, "tie_word_embeddings": False,
    # Norms, positions, scales.
    "rms_norm_eps": 1e-6, "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "layernorm_epsilon": 1e-5,
    "norm_eps": 1e-5, "post_norm_eps": 1e-8, "rope_theta": 10000.0, "swa_rope_theta": 10000.0, "rotary_emb_base": 10000,
    "rotary_pct": 0.5, "rotary_dim": 16, "partial_rotary_factor": 0.5, "rope_scaling": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "logits_scaling": 1.0,
    "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "scale_depth": 1.4,
    "scale_emb": 1.0, "gegelu_limit": 20.0, "logits_soft_cap": 30.0, "final_logit_softcapping": 30.0,
    "output_multiplier": 1.0, "attention_bias": False, "mlp_bias": False, "use_bias": False, "use_qkv_bias": False,
    "conv_bias": False, "use_conv_bias": True, "post_norm": True, "qk_norm": True, "use_qk_norm": True,
    "use_cla": False, "cla_share_factor": 2, "use_mixed_mlp_moe": False, "hidden_act": "silu",
    "dense_attention_every_n_layers": 2, "attention_method": "MLA", "zero_expert_type": "identity",
    # Windows.
    "sliding_window": 128, "sliding_window_size": 128, "attention_window_size": 128, "window_size": 128,
    "loop_window_size": 64, "attention_chunk_size": 512, "sliding_window_pattern": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window_layers": [0, 2],
    "hybrid_layer_pattern": [1, 0, 1, 0], "no_rope_layers": [1, 1, 1, 0], "layer_rope_theta": [10000.0] * LAYERS,
    # Experts.
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "moe_top_k": 2, "moe_k": 2, "n_shared_experts": 1,
    "num_shared_experts": 1, "num_shared_expert": 1, "moe_num_shared_experts": 1, "moe_intermediate_size": 32,
    "moe_hidden_size": 32, "expert_ffn_hidden_size": 32, "shared_expert_intermediate_size": 32, "share_expert_dim": 32,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    "n_group": 1, "topk_group": 1, "num_expert_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "num_dense_layers": 1, "use_expert_bias": True, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
    "zero_expert_num": 1, "expert_layer_offset": 1, "expert_layer_period": 2, "is_moe_layer": [False] + [True] * 3,
    # Latent attention and its indexer.
    "kv_lora_rank": 48, "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24, "v_head_dim": 20,
    "index_head_dim": 32, "index_n_heads": 2, "index_topk": 64, "mla_scale_q_lora": True, "mla_scale_kv_lora": True,
    # Recurrent layers.
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4, "linear_allow_neg_eigval": True, "full_attention_interval": 2, "layer_group_size": 2,
    "group_norm_size": 1, "state_size": 16, "ssm_state_size": 16, "n_groups": 1, "conv_kernel": 4, "conv_window": 2,
    "conv1d_width": 4, "expand": 1, "chunk_size": 32, "time_step_limit": [0.0, 1000.0], "time_step_rank": 4,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16,
    "mamba_d_conv": 4, "mamba_n_groups": 1, "mamba_expand": 1, "mamba_d_ssm": 64, "mamba_proj_bias": False,
    "mamba_conv_bias": True, "attn_layer_offset": 1, "attn_layer_period": 2, "conv_L_cache": 3, "block_dim": 64,
    "block_ff_dim": 64, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False,
    "full_attn_idxs": [1, 3], "hybrid_override_pattern": "M*-E", "a_low_rank_dim": 8, "v_low_rank_dim": 8,
    "gate_low_rank_dim": 8, "decay_low_rank_dim": 8,
}
LINEAR = {"kda_layers": [1, 3], "full_attn_layers": [2, 4], "num_heads": 4, "head_dim": 32, "short_conv_kernel_size": 4}
YARN = {
    "type": "yarn", "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0,
    "mscale_all_dim": 1.0, "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1, "beta_fast": 32.0, "beta_slow": 1.0,
}
BLOCK = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}}
PER_TYPE = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")}
SPECIAL = {
    "afm7": {"num_kv_reuse_layers": 1},
    "cohere2": {"head_dim": 16},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {"rope_scaling": YARN, "topk_method": "greedy"},
    "deepseek_v41": {
        "o_groups": 2, "o_lora_rank": 16, "compress_ratios": [1, 4, 4, 0], "kv_source_layer_ids": [0, 1],
        "index_source_layer_ids": [0, 1], "candidate_source_layer_id": -1, "hc_mult": 2,
    },
    "exaone": {"head_dim": 16},
    "exaone4": {"sliding_window_pattern": "LLLG"},
    "gemma3n": {
        "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 128, "rope_local_base_freq": 10000.0,
        "activation_sparsity_pattern": [0.0] * LAYERS, "hidden_size_per_layer_input": 16, "altup_num_inputs": 2,
        "altup_coef_clip": 120.0, "altup_correct_scale": True, "altup_active_idx": 0, "laurel_rank": 8,
        "query_pre_attn_scalar": 32,
    },
    "gemma4": {"num_kv_shared_layers": 0, "global_head_dim": 48, "hidden_size_per_layer_input": 0},
    "gemma4_text": {
        "num_kv_shared_layers": 2, "global_head_dim": 48, "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 128,
    },
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "mamba", "attention"]},
    "hunyuan": {"rope_scaling": {"type": "dynamic", "alpha": 1.0, "factor": 1.0}},
    "kimi_k3": {"hidden_act": "situ", "linear_attn_config": LINEAR},
    "kimi_linear": {"linear_attn_config": LINEAR},
    "llama4": {"interleave_moe_layer_step": 2, "num_experts_per_tok": 1},
    "mellum": {"rope_parameters": PER_TYPE},
    "mimo_v2_flash": {
        "moe_layer_freq": [0, 1, 1, 1], "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 32, "swa_v_head_dim": 20,
    },
    "minicpm3": {"rope_scaling": {**YARN, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}},
    "minimax_m3_vl": {
        "moe_layer_freq": [0, 1, 1, 1], "mlp_layer_types": None, "layer_types": None, "dense_intermediate_size": 96,
        "index_block_size": 16, "index_topk_blocks": 4, "sparse_attention_freq": [0, 1, 1, 1],
    },
    "ministral3": {"rope_parameters": YARN},
    "mistral3": {"model_type": "mistral3"},
    "mistral4": {"rope_parameters": YARN},
    "muse_spark": {"num_shared_experts": 0},
    # Layers without attention, as in Nemotron Super, have no cache.
    "nemotron-nas": {"block_configs": [BLOCK, {**BLOCK, "attention": {"no_op": True}}, BLOCK, BLOCK]},
    "openelm": {
        "num_transformer_layers": LAYERS, "model_dim": 64, "ffn_dim_divisor": 16, "num_query_heads": [2, 2, 4, 4],
        "num_kv_heads": [1, 1, 2, 2], "ffn_multipliers": [1.0, 1.5, 2.0, 2.5],
    },
    # It overwrites the logits of token ids that the tokenizer does not have.
    "phi3small": {"vocab_size": 100352},
    "prism_hadamard_qwen35": {
        "schema_version": 1, "tensor_namespace": "mlx-lm-text", "hidden_size": 128, "intermediate_size": 128,
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"}, "torch_dtype": "float16",
        "num_experts": 0, "modules": [{"path": "model.embed_tokens", "embedding": True, "dtype": "float16", "block": 0}],
    },
    "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"]},
    "spark2_5": {"rope_parameters": PER_TYPE, "hidden_act": "gelu"},
}


def families():
    """Modules of mlx_lm that contain a model, or cannot be imported: their names and mlx_lm's own reason."""
    import mlx_lm.models

    for module in sorted(found.name for found in pkgutil.iter_modules(mlx_lm.models.__path__)):
        try:
            loaded = importlib.import_module(f"mlx_lm.models.{module}")
        except BaseException as error:  # One of them exits the interpreter if its package is missing.
            yield module, None, f"{type(error).__name__}: {error}"
            continue
        if hasattr(loaded, "Model") and hasattr(loaded, "ModelArgs"):
            yield module, loaded.ModelArgs, None


def config_of(name, args):
    config = {**COMMON, "model_type": name, "torch_dtype": "float32", **SPECIAL.get(name, {})}
    if any(field.name == "text_config" for field in dataclasses.fields(args)):
        config["text_config"] = {**config, **config.get("text_config", {})}
    return config
