"""Small random models of many architectures, and random prompt rows, for the tests of the forward pass."""

import numpy as np
import torch
import transformers as tr

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.stages.models.loading import attention_for

VOCABULARY = 97
# Random weights of the usual 0.02 give nearly uniform distributions, in which a wrong mask hardly shows.
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OWN = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# Those that must share prompts exactly...
SHARED = {
    "llama": lambda: tr.LlamaConfig(**SHAPE),
    "qwen2": lambda: tr.Qwen2Config(**SHAPE),
    "qwen3": lambda: tr.Qwen3Config(**SHAPE, head_dim=8),
    "mistral_sliding": lambda: tr.MistralConfig(**SHAPE, sliding_window=6),
    "gemma2_softcap_sliding": lambda: tr.Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, final_logit_softcapping=3.0
    ),
    "gemma3_sliding": lambda: tr.Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=6, query_pre_attn_scalar=8),
    "gpt_neox": lambda: tr.GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}),
    "gpt2_absolute_positions": lambda: tr.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3, **OWN
    ),
    "phi_head_bias": lambda: tr.PhiConfig(**SHAPE),
    "olmo2": lambda: tr.Olmo2Config(**SHAPE),
    "cohere_logit_scale": lambda: tr.CohereConfig(**SHAPE, logit_scale=0.25),
    "granite_logits_scaling": lambda: tr.GraniteConfig(**SHAPE, logits_scaling=4.0),
}
# ...those that pack rows on a GPU alone...
SHARED_ON_GPU = {
    "gpt_oss_sinks_sliding": lambda: tr.GptOssConfig(
        **SHAPE | {"initializer_range": 0.2}, head_dim=8, sliding_window=6, num_local_experts=4, num_experts_per_tok=2
    ),
}
# Its files have a tensor for each expert, the model one for all of them.
MIXTRAL = {**{key: SHAPE[key] for key in SHAPE if key not in OWN}, "num_hidden_layers": 2, "num_local_experts": 4}
# ...and those whose attention takes no custom mask.
PADDED_ONLY = {
    "bloom": lambda: tr.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, **OWN
    ),
    "mamba": lambda: tr.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, **OWN),
}
# Those with layers that are no attention. Completions go on from a cache of their prompt...
HYBRIDS = {
    "lfm2": lambda: tr.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"] * 2, block_multiple_of=32),
    "qwen3_5": lambda: tr.Qwen3_5TextConfig(
        **SHAPE,
        head_dim=8,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        layer_types=["linear_attention", "full_attention"] * 2,
    ),
    "falcon_h1": lambda: tr.FalconH1Config(
        **SHAPE, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16
    ),
    "bamba": lambda: tr.BambaConfig(
        **SHAPE,
        attn_layer_indices=[1, 3],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_chunk_size=16,
    ),
}
# ...but for those of Jamba, whose scan begins anew, and of MiniMax, whose mask leaves the prompt out where the first
# layer is linear.
FORGETFUL = {
    "jamba": lambda: tr.JambaConfig(
        **SHAPE, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=8, num_experts=4
    ),
    "minimax": lambda: tr.MiniMaxConfig(
        **SHAPE, layer_types=["linear_attention", "full_attention"] * 2, num_local_experts=4, block_size=16
    ),
}


def tiny_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0):
    torch.manual_seed(seed)
    config = {**SHARED, **SHARED_ON_GPU, **PADDED_ONLY, **HYBRIDS, **FORGETFUL}[name]()
    made = tr.AutoModelForCausalLM.from_config(config, attn_implementation=attention_for(config))
    return made.eval().to(dtype)


def random_rows(count: int, seed: int = 0, longest: int = 24) -> list[PromptRow]:
    random = np.random.default_rng(seed)

    def ids() -> np.ndarray:
        return random.integers(3, VOCABULARY, random.integers(1, longest), dtype=np.int32)

    return [PromptRow(ids(), tuple(ids() for _ in range(random.integers(1, 4)))) for _ in range(count)]


def plain_token_logps(model, rows) -> torch.Tensor:
    """The oracle: one unpadded sequence at a time through the model's own logits."""
    parts = []
    with torch.inference_mode():
        for row in rows:
            for completion in row.completions:
                ids = torch.tensor(np.concatenate([row.prompt, completion]), dtype=torch.long)
                logps = model(ids[None]).logits[0].double().log_softmax(-1)[len(row.prompt) - 1 : -1]
                parts.append(logps.gather(1, ids[len(row.prompt) :, None])[:, 0])
    return torch.cat(parts)
