"""A run with texts: a tokenizer of one token per byte, a tiny model, and pairs in a file."""

import json
from pathlib import Path
from typing import Any

from chat_tokenizers import chat_tokenizer

from scoreonce.stages.config import Run
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.score.stage import score

PAIRS = [
    {
        "prompt": f"Question {number}: what is {number} + {number}?",
        "chosen": f" It is {2 * number}.",
        "rejected": f" Nobody knows what {number} is" + "!" * (number % 5),
    }
    for number in range(12)
]


def text_run(folder: Path, pairs: list[dict[str, Any]] = PAIRS, template: str | None = None, **data: Any) -> Run:
    """A run over these pairs, all of them for training unless `data` says otherwise."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model, source = folder / "model", folder / "pairs.jsonl"
    if not model.exists():
        tokenizer = chat_tokenizer(template)
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.3, **shape)
        LlamaForCausalLM(config).save_pretrained(model)
        tokenizer.save_pretrained(model)
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return Run.model_validate(
        {
            "out": str(folder / "out"),
            "data": {"source": str(source), "max_length": 128, "test_share": 0, **data},
            "reference": {"model": str(model)},
            "compute": {"device": "cpu", "tokens_per_microbatch": 512},
        }
    )


def scored_text_run(folder: Path, pairs: list[dict[str, Any]] = PAIRS, template: str | None = None, **data: Any) -> Run:
    """The same, prepared and scored."""
    run = text_run(folder, pairs, template, **data)
    prepare(run)
    score(run)
    return run
