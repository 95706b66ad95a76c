"""Tiny configurations of every causal architecture of the installed transformers, made from the default of each.

Sizes are set by the names under which configurations keep them. Lists of layer kinds keep every kind that the default
has. What an architecture needs besides stands in `OWN`.
"""

from __future__ import annotations

from typing import Any

import transformers as tr
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

VOCABULARY = 128
LAYERS = 4
MOST_PARAMETERS = 10_000_000  # more means that a size kept its default

# Random weights of the usual 0.02 give nearly uniform distributions, in which a wrong mask hardly shows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_dim", "attention_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("swa_num_attention_heads",), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "dff", "intermediate_size_mlp"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("head_dim", "global_head_dim", "swa_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "swa_v_head_dim", "rotary_dim", "qk_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group"), 1),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size", "attention_window_size"), 6),
    **dict.fromkeys(("index_topk", "index_head_dim"), 8),
    "index_n_heads": 16,  # with few heads, scores of 0 tie, and which of them is taken depends on the batch
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_dt_rank", "time_step_rank"), 8),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    "lru_width": 32,
    "first_k_dense_replace": 1,
    **dict.fromkeys(("initializer_range", "init_std"), 0.3),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER: dict[str, Any] = {
    **dict.fromkeys(("embed_dim", "width", "out_hidden_size", "encoder_hidden_size"), 32),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim", "vision_output_dim", "projector_hidden_size"), 32),
    **dict.fromkeys(("hidden_dim", "d_model", "proj_dim", "output_dim"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "mlp_dim"), 64),
    **dict.fromkeys(("depth", "encoder_layers", "num_hidden_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "num_heads"), 4),
    "downsample_hidden_size": 32,
}
# Rotary positions of time, height and width, each with some of the frequencies.
SECTIONS = {
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 1.0,
    "mrope_section": [2, 1, 1],
}
KINDS_OF_LAYERS = ("layer_types", "layers_block_type", "block_types", "mlp_layer_types")
MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
OWN: dict[str, dict[str, Any]] = {
    **{
        f"{name}_text": {"rope_parameters": SECTIONS}
        for name in (
            "glm4v",
            "glm4v_moe",
            "glm_ocr",
            "hunyuan_vl",
            "paddleocr_vl",
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen2_5_omni",
        )
    },
    "bailing_hybrid": {"layer_types": MIXED},
    "bamba": {"attn_layer_indices": [1, 3], "num_experts_per_tok": None},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "shared_experts_intermediate_size": 32,
        "layer_types": ["indexed_attention"] * 4,
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 8},
    "gemma4_unified_text": {"hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": MIXED},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {"kv_channels": 8},
    "hrm_text": {"num_layers_per_stack": 2, "initializer_range": 0.1},
    "inkling_text": {"logits_mup_width_multiplier": 24.0},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "laguna": {"num_attention_heads_per_layer": [4] * LAYERS},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "block_multiple_of": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2, "num_layers": 2},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "minicpm3": {"dim_model_base": 16},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "index_n_heads": 2,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1},
    "qwen4_exp_text": {
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 8,
        "shape_vocab_size": 8,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "xlstm": {"num_heads": 2, "chunk_size": 16},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {"mamba_ngroups": 1, "n_mamba_heads": 4, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}

# Model types for which transformers lists a causal language model, and why they have no row.
LEFT_OUT = {
    "decoders of encoder-decoder models": (
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart moshi musicgen musicgen_melody mvp pegasus "
        "plbart prophetnet trocr whisper"
    ),
    "models of images or audio whose towers need the package timm": "fast_vlm gemma3n perception_lm",
    "models of images or audio of which no tiny one was made": (
        "chameleon cosmos3_edge deepseek_ocr2 diffusion_gemma dots3_note emu3 ernie4_5_vl_moe evolla florence2 "
        "fun_asr_nano glm5_next granite4_vision inkling2 inkling_mm_model janus kosmos-2 kosmos-2.5 "
        "kyutai_speech_to_text mistral4 molmo2 muse_glimmer muse_spark nemo_speechlm nemotron_h_omni pi0 "
        "pp_formulanet qwen2_5_omni qwen3_omni_moe shieldgemma2 step3p7 t5gemma2 unlimited_ocr vibevoice_asr"
    ),
    "drafts of another model's tokens": "gemma4_assistant gemma4_unified_assistant",
    "other names of Llama and GPT-2": "gpt-sw3 internlm3 iquestcoder",
    "no tokens of a vocabulary, or no log-probs of one sequence": "blt cpmant reformer xlm xmod",
}


def config_of(model_type: str) -> tr.PretrainedConfig:
    """The tiny configuration of a model type of transformers, with tiny parts where it has several."""
    default = CONFIG_MAPPING[model_type]()
    if model_type not in multimodal_types():
        return _tiny(default)
    parts = {key: getattr(default, key) for key in default.sub_configs}
    tiny = {
        key: (_tiny if part is default.get_text_config() else _tiny_tower)(part) for key, part in parts.items() if part
    }
    whole = _tiny(default) if default.get_text_config() is default else default
    changed = {key: part.to_dict() for key, part in tiny.items()} | OWN.get(model_type, {})
    return type(default)(**{**whole.to_dict(), **changed})


def _tiny_tower(default: tr.PretrainedConfig) -> tr.PretrainedConfig:
    """The part of a configuration that describes a tower of images or audio, made tiny."""
    plain = default.to_dict()
    changed = {key: size for key, size in (SIZES | TOWER).items() if isinstance(plain.get(key), type(size))}
    for key in KINDS_OF_LAYERS:
        if plain.get(key):
            changed[key] = plain[key][: changed["num_hidden_layers"]]
    return type(default)(**{**plain, **changed})


def _tiny(default: tr.PretrainedConfig) -> tr.PretrainedConfig:
    """The configuration of a model that reads text, made tiny."""
    model_type, plain = default.model_type, default.to_dict()
    changed = {key: size for key, size in SIZES.items() if plain.get(key) is not None}
    for key in KINDS_OF_LAYERS:
        if plain.get(key):
            kinds = list(dict.fromkeys(plain[key]))
            changed[key] = [kinds[layer % len(kinds)] for layer in range(LAYERS)]
    if plain.get("kv_lora_rank"):  # latent attention: keys of their own for each head, of two parts
        changed |= {"num_key_value_heads": 4, "qk_head_dim": 16}
    if plain.get("is_decoder") is False:
        changed["is_decoder"] = True
    if plain.get("head_dim", 0) is None:
        changed["head_dim"] = 8
    return type(default)(**{**changed, **OWN.get(model_type, {})})


def multimodal_types() -> list[str]:
    """Every model type of transformers that reads images or audio beside text, without those in `LEFT_OUT`."""
    return sorted(set(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES) - _left_out())


def model_types() -> list[str]:
    """Every model type of transformers that has a causal language model, without those in `LEFT_OUT`."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - _left_out() | set(multimodal_types()))


def _left_out() -> set[str]:
    return {model_type for types in LEFT_OUT.values() for model_type in types.split()}
