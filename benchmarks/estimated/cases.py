"""The runs that are measured: models, settings, and the files that a run needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compared.profiles import VOCABULARY, TokenPair
from compared.world import write_pairs, write_tokenizer

PAIRS = 64
# Tokens of a prompt and of each completion, EOS included.
PROMPT, COMPLETION = 128, 192


@dataclass(frozen=True)
class Case:
    """A model, by a class of transformers' configurations and its settings, and keys of the run file."""

    name: str
    stage: str  # "train" or "score"
    family: str
    shape: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)


def llama(width: int, layers: int, feed_forward: int, vocabulary: int, *, tied: bool = False) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": feed_forward,
        "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 128),
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 2_048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


SMALL = llama(384, 6, 1_088, 16_384)
MIDDLE = llama(768, 12, 2_048, 16_384)
WIDE = llama(640, 10, 1_728, 65_536, tied=True)
CHECKPOINTING = {"train.gradient_checkpointing": True}
LORA = {"train.lora_rank": 16}
LARGER = {"compute.tokens_per_microbatch": 2_048}
CASES = (
    Case("Llama 23 M, AdamW", "train", "LlamaConfig", SMALL, LARGER),
    Case("Llama 23 M, AdamW, checkpointing", "train", "LlamaConfig", SMALL, LARGER | CHECKPOINTING),
    Case("Llama 103 M, AdamW", "train", "LlamaConfig", MIDDLE),
    Case("Llama 103 M, SGD", "train", "LlamaConfig", MIDDLE, {"train.optimizer": "sgd"}),
    Case("Llama 103 M, LoRA", "train", "LlamaConfig", MIDDLE, LARGER | LORA),
    Case("Llama 103 M, LoRA, checkpointing", "train", "LlamaConfig", MIDDLE, LARGER | LORA | CHECKPOINTING),
    Case("Qwen2 86 M, tied, AdamW, checkpointing", "train", "Qwen2Config", WIDE, CHECKPOINTING),
    Case("Llama 103 M", "score", "LlamaConfig", MIDDLE, LARGER),
    Case("Qwen2 86 M, tied", "score", "Qwen2Config", WIDE),
)
# What libraries, data and the smallest model take, which is no part of an estimate.
TINY = llama(64, 1, 64, VOCABULARY)


def write(folder: Path, case: Case) -> str:
    """Write model, pairs and run file; the name of the run file."""
    import torch
    import transformers
    from tomli_w import dumps

    torch.manual_seed(0)
    config = getattr(transformers, case.family)(**case.shape)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    # In a folder of its own: beside the config, transformers may load it by the rules of that model's tokenizer.
    write_tokenizer(folder / "tokenizer", VOCABULARY)
    write_pairs(folder / "pairs.jsonl", [_pair(number) for number in range(PAIRS)])
    tree: dict[str, Any] = {
        "out": str(folder / "out"),
        "data": {
            "source": str(folder / "pairs.jsonl"),
            "tokenizer": str(folder / "tokenizer"),
            "test_share": 0.0,
            "workers": 1,
        },
        "reference": {"model": str(folder / "model")},
        "compute": {"device": "cpu"},
        # It reads no reference, so nothing has to be scored before.
        "train": {"method": "simpo", "learning_rate": 1e-6, "batch_pairs": PAIRS, "max_steps": 3},
    }
    for key, value in case.keys.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    path = folder / "run.toml"
    path.write_text(dumps(tree))
    return str(path)


def _pair(number: int) -> TokenPair:
    """Of one length, with words that differ from pair to pair."""
    words = [4 + (number * 7_919 + place * 31) % (VOCABULARY - 4) for place in range(PROMPT + 2 * COMPLETION)]
    return TokenPair(words[:PROMPT], words[PROMPT : PROMPT + COMPLETION - 1], words[PROMPT + COMPLETION : -1])
