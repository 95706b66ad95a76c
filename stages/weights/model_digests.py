"""The identity of a model: a digest of its files' contents. A copy under another name or path is the same model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.digests import file_digests
from scoreonce.stages.common.files import parse_json
from scoreonce.stages.weights import policy_manifest
from scoreonce.stages.weights.safetensors_header import require_whole

# Keys of a config that describe origin or speed and do not change the outputs.
PROVENANCE_KEYS = frozenset(
    {
        "transformers_version",
        "_name_or_path",
        "_commit_hash",
        "dtype",
        "torch_dtype",
        "use_cache",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
        "auto_mapping",
    }
)
# In the order in which transformers and PEFT look for them.
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def model_digest(folder: Path) -> str:
    """Digest of a model folder, 64 hex digits: its weight files, its config without provenance, and its Python files
    where the config names classes of them.

    Raises `InputError` if the folder has no weights, no config, or lacks a file that its index names; if a weight file
    is cut short; and if `train` wrote the model and it is not what it wrote.
    """
    policy_manifest.require_sound(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(
            "This is an adapter, not a whole model.",
            found="adapter_config.json without config.json",
            where=str(folder),
            fix="Set `model` to the base model and `adapter` to this folder.",
        )
    config = _config(folder / "config.json")
    if "auto_map" in config:
        config["auto_map"] = [config["auto_map"], _code(folder)]
    return _digest(config, _weight_files(folder, MODEL_FILES))


def adapter_digest(folder: Path) -> str:
    """Digest of a PEFT adapter, 64 hex digits. Raises `InputError` as `model_digest` does."""
    policy_manifest.require_sound(folder)
    config = _config(folder / "adapter_config.json")
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # PEFT saves a set, in arbitrary order
    return _digest(config, _weight_files(folder, ADAPTER_FILES))


def _digest(config: Any, files: list[Path]) -> str:
    for file in files:
        require_whole(file)
    # Sorted by digest, because file names do not matter: a shard contains its tensors' names.
    whole = json.dumps([config, sorted(file_digests(files))], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode()).hexdigest()


def _code(folder: Path) -> dict[str, str]:
    """The digests of a folder's Python files by their paths in it, which they import each other by."""
    files = sorted(folder.rglob("*.py"))
    return {file.relative_to(folder).as_posix(): each for file, each in zip(files, file_digests(files), strict=True)}


def _config(path: Path) -> dict[str, Any]:
    try:
        config = _without_provenance(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(
            "The model folder has no configuration.",
            found=f"no {path.name}",
            where=str(path.parent),
            fix="Give a folder written by `save_pretrained`, or a Hub name.",
        ) from None
    except ValueError as error:
        raise InputError(
            "The model's configuration is not valid JSON.",
            found=str(error),
            where=str(path),
            fix="Restore the file, or save the model again.",
        ) from None
    if not isinstance(config, dict):
        raise InputError(
            "The model's configuration is not a JSON object.",
            found=f"a {type(config).__name__}",
            where=str(path),
            fix="Restore the file, or save the model again.",
        )
    return config


def _without_provenance(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_provenance(inner) for key, inner in value.items() if key not in PROVENANCE_KEYS}
    return [_without_provenance(inner) for inner in value] if isinstance(value, list) else value


def _weight_files(folder: Path, names: Iterable[str]) -> list[Path]:
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        raise InputError(
            "The model folder has no weights.",
            found=f"none of {', '.join(names)}",
            where=str(folder),
            fix="Give a folder written by `save_pretrained`, or a Hub name.",
        )
    if first.suffix != ".json":
        return [first]
    try:
        files = sorted({folder / name for name in parse_json(first.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            "The index of the model's shards cannot be read.",
            found=repr(error),
            where=str(first),
            fix="Download or save the model again.",
        ) from None
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            "The model folder is incomplete.",
            found=f"no {', '.join(missing)}",
            where=str(folder),
            fix=f"Download or save the model again: {first.name} lists these files.",
        )
    return files
