"""Loading models and tokenizers, by folder or Hub name, with errors that say what to do."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from scoreonce.pipeline.forward import architecture
from scoreonce.schemas.errors import InputError

disable_progress_bar()  # a stage shows one bar, its own

# oneDNN and the layer above it keep compiled products by shape, 1,024 each by default: after some thousand pairs that
# was 600 MiB. As sizes are rounded up (`rows.CPU_MULTIPLE`), fewer do: 64 train as fast as 128 in 50 MiB less, and
# score as fast in float32, 5 % slower in bfloat16; 32 are slower everywhere.
for capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(capacity, "64")

# Set by the command line's --trust-remote-code alone, never by a run file: a file can come from anywhere.
trust_remote_code = False


def folder_of(name: str, revision: str | None = None) -> Path:
    """The local folder of a model or adapter: the folder itself, or the snapshot of a Hub repository.

    Raises `InputError` where it is neither here nor on the Hub.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(
            "No such model.",
            found=f"no folder {name}",
            where="reference.model / train.model",
            fix="Give a folder with config.json and safetensors, or a Hub name such as org/model.",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, revision=revision, ignore_patterns=["*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            "No such model.",
            found=f"no folder {name}, and the Hub says: {_first_line(error)}",
            where="reference.model / train.model",
            fix="Correct the name, log in with `hf auth login` if it is gated, or download it and give the folder.",
        ) from None


def keep_freed_memory() -> None:
    """Have glibc keep large blocks when they are freed, for this process.

    It hands them back to the system, and the next layer waits for the same pages again: scoring on a CPU was a quarter
    slower. A backward pass frees in another order than it allocates, so training gains nothing. Blocks up to 64 MiB are
    kept; mallopt's options are -1, when to trim the heap, and -3, the size from which a block is mapped on its own.
    """
    # Other C libraries have no mallopt.
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(-1, 2**31 - 1)
        mallopt(-3, 64 << 20)


def load_model(
    name: str,
    *,
    dtype: str,
    device: torch.device | str,
    revision: str | None = None,
    adapter: str | None = None,
    merge: bool = False,
) -> PreTrainedModel:
    """A causal language model in evaluation mode on `device`, its weights in `dtype`, with an adapter if given.

    Dropout is 0: log-probs must be the same each time. `merge` adds the adapter into the weights, which rounds in half
    precision. Raises `InputError` where it cannot be loaded.
    """
    folder = folder_of(name, revision)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _switch_dropout_off(config)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(
            "The model cannot be loaded.",
            found=_first_line(error),
            where=str(folder),
            fix="Check that the folder holds a causal language model: config.json and its safetensors.",
        ) from None
    if adapter is not None:
        model = _with_adapter(model, adapter, merge)
    return model.eval().to(device)


def _with_adapter(model: PreTrainedModel, adapter: str, merge: bool) -> PreTrainedModel:
    peft = _peft("reference.adapter")
    try:
        with _deprecations_ignored():
            wrapped = peft.PeftModel.from_pretrained(model, str(folder_of(adapter)))
        return wrapped.merge_and_unload() if merge else wrapped
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            "The adapter cannot be loaded.",
            found=_first_line(error),
            where=adapter,
            fix="Give a PEFT folder (adapter_config.json, adapter_model.safetensors) made for this model.",
        ) from None


@contextmanager
def _deprecations_ignored() -> Iterator[None]:
    """For names that every release 5 of transformers has, and that a later one calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def recompute_activations(model: PreTrainedModel) -> None:
    """Switch gradient checkpointing on. Transformers does it in training mode alone; dropout is 0 all the same."""
    with _deprecations_ignored():
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()


def _peft(where: str) -> Any:
    try:
        import peft
    except ImportError:
        raise InputError(
            "An adapter needs the peft package.",
            found="peft is not installed",
            where=where,
            fix="pip install 'scoreonce[peft]'.",
        ) from None
    return peft


def with_new_adapter(model: PreTrainedModel, rank: int, alpha: float, targets: list[str]) -> PreTrainedModel:
    """The model with fresh LoRA matrices as its only trained weights; at first it says what the model says.

    Raises `InputError` where no module is called as one of `targets`, or one is the output head: log-probs are made
    from its own weight (`architecture.head_of`), which leaves an adapter out.
    """
    peft = _peft("train.lora_rank")
    head = model.get_output_embeddings()
    named = next((name for name, module in model.named_modules() if module is head), "")
    if any(named == target or named.endswith(f".{target}") for target in targets):
        raise InputError(
            "LoRA cannot adapt the output head.",
            found=f"{named} in lora_targets",
            where="train.lora_targets",
            fix='Leave it out, or use ["all-linear"], which does.',
        )
    modules = "all-linear" if targets == ["all-linear"] else targets
    try:
        settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM")
        with _deprecations_ignored():
            return peft.get_peft_model(model, settings)
    except ValueError as error:
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        )
        raise InputError(
            "LoRA finds nothing to adapt.",
            found=_first_line(error),
            where="train.lora_targets",
            fix=f'Use ["all-linear"], or some of {", ".join(names)}.',
        ) from None


def dropout_settings(config: Any) -> dict[str, float]:
    """The dropout probabilities that a model's config declares."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key.endswith(("dropout", "pdrop", "dropout_prob", "dropout_rate")) and isinstance(value, float)
    }


def _switch_dropout_off(config: Any) -> None:
    for key in dropout_settings(config):
        setattr(config, key, 0.0)


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name. Raises `InputError` where there is none."""
    folder = folder_of(name, revision)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            "The model has no tokenizer that can be loaded.",
            found=_first_line(error),
            where=str(folder),
            fix="Name a folder with tokenizer.json under data.tokenizer.",
        ) from None


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on. Raises `InputError` where CUDA is asked for and absent."""
    if requested == "cuda" and not torch.cuda.is_available():
        build = f"torch {torch.__version__}, " + ("built without CUDA" if torch.version.cuda is None else "no GPU seen")
        raise InputError(
            "CUDA was asked for and there is none.",
            found=build,
            where="compute.device",
            fix='Use compute.device = "auto", or install a CUDA build of torch and check nvidia-smi.',
        )
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(requested)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def require_fit(model: PreTrainedModel, name: str, *, largest_token: int, longest_sequence: int) -> None:
    """Raise `InputError` where a token id lies outside the vocabulary or a sequence outside the table of positions."""
    vocabulary = architecture.causal_lm(model).get_input_embeddings().weight.shape[0]
    if largest_token >= vocabulary:
        raise InputError(
            "The pairs were prepared with a tokenizer whose vocabulary does not fit the model.",
            found=f"token id {largest_token:,} in the pairs, {vocabulary:,} tokens in the model",
            where=name,
            fix="Set data.tokenizer to this model's own tokenizer and run `scoreonce prepare` again.",
        )
    limit = position_limit(architecture.causal_lm(model))
    if limit is not None and longest_sequence > limit:
        raise InputError(
            "A pair is longer than the model can read.",
            where=name,
            found=f"{longest_sequence:,} tokens; the model's table of positions ends at {limit:,}",
            fix=f"Set data.max_length to {limit} or less and run `scoreonce prepare` again.",
        )


def position_limit(model: PreTrainedModel) -> int | None:
    """Positions of a model that looks them up in a learned table, None where they are computed (rotary, ALiBi)."""
    config = architecture.settings(model)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    tables = [
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not model.get_input_embeddings()
    ]
    # OPT's table has two rows more than positions.
    return limit if limit is not None and any(limit <= size <= limit + 2 for size in tables) else None
