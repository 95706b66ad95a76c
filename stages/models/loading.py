"""Load models and tokenizers by folder or Hub name, with errors that say what to do."""

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
from scoreonce.stages.models import policy_manifest

disable_progress_bar()  # a stage shows only its own bar

# oneDNN and PyTorch's layer above it cache compiled matrix products by shape, 1,024 each by default: 600 MiB after some
# thousand pairs. Sizes are rounded up (`prompt_rows.CPU_MULTIPLE`), so fewer suffice. 64 train as fast as 128 with
# 50 MiB less, and score as fast in float32 and 5 % slower in bfloat16; 32 are slower everywhere.
for capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(capacity, "64")

# Set only by the command line's --trust-remote-code, never by a run file, which may come from someone else.
trust_remote_code = False


def folder_of(name: str, revision: str | None = None) -> Path:
    """The local folder of a model or adapter: `name` itself, or the snapshot of a Hub repository, downloaded if needed.

    Raises `InputError` if there is neither.
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
    """Make glibc keep freed blocks of up to 64 MiB, in this process.

    By default it returns them to the system, and the next layer waits for the same pages again: scoring on a CPU was a
    quarter slower. Training gains nothing, because a backward pass frees blocks in a different order.
    """
    # -1 is M_TRIM_THRESHOLD, -3 is M_MMAP_THRESHOLD. Other C libraries have no mallopt.
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
    """A causal language model in evaluation mode on `device`, with its weights in `dtype` and an adapter if given.

    Dropout is set to 0, so that log-probs are reproducible in training mode too. `merge` merges the adapter into the
    weights, which rounds in half precision. Raises `InputError` if the model or adapter cannot be loaded, has a weight
    that is not finite, or is one that `train` wrote and has changed since.
    """
    folder = folder_of(name, revision)
    policy_manifest.require_sound(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _disable_dropout(config)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    except Exception as error:  # of any type: several packages read the config, another one a .bin file
        raise InputError(
            "The model cannot be loaded.",
            found=_first_line(error),
            where=str(folder),
            fix="Check that the folder holds a causal language model: config.json and its safetensors.",
        ) from None
    _require_finite(model, folder)
    if adapter is not None:
        model = _with_adapter(model, folder_of(adapter), merge)
    return model.eval().to(device)


def _require_finite(model: PreTrainedModel, folder: Path) -> None:
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise InputError(
            "The model has weights that are NaN or infinite.",
            found=f"{len(bad):,} tensors, the first {bad[0]}",
            where=str(folder),
            fix="Download or save the model again; if its training diverged, take an earlier checkpoint.",
        )


def _with_adapter(model: PreTrainedModel, folder: Path, merge: bool) -> PreTrainedModel:
    peft = _peft("reference.adapter")
    policy_manifest.require_sound(folder)
    try:
        with _deprecations_ignored():
            wrapped = peft.PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # of any type, as above
        raise InputError(
            "The adapter cannot be loaded.",
            found=_first_line(error),
            where=str(folder),
            fix="Give a PEFT folder (adapter_config.json, adapter_model.safetensors) trained for this model.",
        ) from None
    _require_finite(wrapped, folder)
    return wrapped.merge_and_unload() if merge else wrapped


@contextmanager
def _deprecations_ignored() -> Iterator[None]:
    """For names that exist in every release 5 of transformers and are deprecated in later ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def recompute_activations(model: PreTrainedModel) -> None:
    """Enable gradient checkpointing, and training mode, which transformers requires for it. Dropout stays 0."""
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
    """The model with new LoRA matrices as its only trained weights. Its outputs are unchanged at first.

    Raises `InputError` if no module matches `targets`, or if one is the output head: log-probs are computed from the
    head's own weight (`architecture.head_of`), without an adapter.
    """
    peft = _peft("train.lora_rank")
    head = model.get_output_embeddings()
    named = next((name for name, module in model.named_modules() if module is head), "")
    if any(named == target or named.endswith(f".{target}") for target in targets):
        raise InputError(
            "LoRA cannot adapt the output head.",
            found=f"{named} in lora_targets",
            where="train.lora_targets",
            fix='Leave it out, or use ["all-linear"], which excludes it.',
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
    """The dropout probabilities in a model's config, by key."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key.endswith(("dropout", "pdrop", "dropout_prob", "dropout_rate")) and isinstance(value, float)
    }


def _disable_dropout(config: Any) -> None:
    for key in dropout_settings(config):
        setattr(config, key, 0.0)


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name. Raises `InputError` if there is none."""
    folder = folder_of(name, revision)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers package raises Exception itself
        raise InputError(
            "The tokenizer cannot be loaded.",
            found=_first_line(error),
            where=str(folder),
            fix="Set data.tokenizer to a folder with tokenizer.json, or a Hub name.",
        ) from None


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on. Raises `InputError` if CUDA is requested and there is none."""
    if requested == "cuda" and not torch.cuda.is_available():
        build = f"torch {torch.__version__}, " + ("built without CUDA" if torch.version.cuda is None else "no GPU seen")
        raise InputError(
            "CUDA was asked for, and there is no CUDA device.",
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
    """Raise `InputError` if a token id exceeds the vocabulary or a sequence exceeds the table of positions."""
    vocabulary = architecture.causal_lm(model).get_input_embeddings().weight.shape[0]
    if largest_token >= vocabulary:
        raise InputError(
            "The pairs were prepared with a tokenizer that does not fit the model.",
            found=f"token id {largest_token:,} in the pairs, {vocabulary:,} tokens in the model",
            where=name,
            fix="Set data.tokenizer to this model's tokenizer and run `scoreonce prepare` again.",
        )
    limit = position_limit(architecture.causal_lm(model))
    if limit is not None and longest_sequence > limit:
        raise InputError(
            "A sequence is longer than the model allows.",
            where=name,
            found=f"{longest_sequence:,} tokens; the model's table of positions ends at {limit:,}",
            fix=f"Set data.max_length to {limit} or less and run `scoreonce prepare` again.",
        )


def position_limit(model: PreTrainedModel) -> int | None:
    """Number of positions of a model with a learned table of them; None if they are computed (rotary, ALiBi)."""
    config = architecture.settings(model)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    tables = [
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not model.get_input_embeddings()
    ]
    # OPT's table has two rows more than it has positions.
    return limit if limit is not None and any(limit <= size <= limit + 2 for size in tables) else None
