"""A tiny model with its tokenizer, and data, in a folder of their own."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

WORDS = ["<unk>", "</s>", "<user>", "<assistant>", "yes", "no", *(f"p{number}" for number in range(91))]
CHATML = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """`model`: one token per word, 256 positions, a chat template. `bare`: without one, stored in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models")
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape))
    for name, template in (("model", CHATML), ("bare", None)):
        backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
        (model if template else model.bfloat16()).save_pretrained(folder / name)
    return folder


@pytest.fixture
def place(tmp_path, models, monkeypatch):
    """The working directory, with 40 pairs in pairs.jsonl. `write(name, rows)` writes other data."""
    monkeypatch.chdir(tmp_path)

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    write("pairs.jsonl", [pair(number) for number in range(40)])
    tmp_path.joinpath("models").symlink_to(models)
    return write


def pair(number, words=2):
    """Prompt of one token; completions of so many words and EOS."""
    return {"prompt": f"p{number % 90}", "chosen": " yes" * words, "rejected": " no" * words}
