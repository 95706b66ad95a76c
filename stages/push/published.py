"""What of a policy's folder is published: no path of this machine, and a base model that others can load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage

ADAPTER_CONFIG = "adapter_config.json"
_BASE = "base_model_name_or_path"


def without_local_paths(lineage: Lineage, base: str | None) -> Lineage:
    """The lineage with `base` as the name of the base model, and `x (local)` for each local path `.../x`."""
    tree = _shortened(lineage.model_dump(mode="json"))
    if base is not None:
        tree["policy"]["model"] = base
    return Lineage.model_validate(tree)


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    return f"{Path(value).name} (local)" if isinstance(value, str) and is_local(value) else value


def is_local(name: str) -> bool:
    """Whether a name is a path of this machine, and not that of a repository or an address."""
    if "\n" in name or not name or "://" in name:
        return False
    return Path(name).expanduser().is_absolute() or ("/" in name and Path(name).exists())


def adapter_config(folder: Path, base: str | None) -> bytes | None:
    """The adapter's config with a base model that others can load; None where the folder has a whole model.

    Raises `InputError` where the base model is a local folder and `base` names no other.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    named = str(config.get(_BASE) or "")
    if base is None and (is_local(named) or Path(named).exists()):
        raise InputError(
            "The base model of the adapter is a folder of this machine, which nobody else can load.",
            found=f"{_BASE} = {named!r}",
            where=str(path),
            fix="Name the same model on the Hub with --base ORG/NAME, or push a whole model: `scoreonce merge`, then "
            "push with --merged.",
        )
    config[_BASE] = base or named
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
