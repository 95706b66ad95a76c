"""The reference's whole next-token distributions, on disk: what methods of the whole vocabulary need of it.

    <store>/<key>/hidden/     the hidden state after the last norm of each completion token: exact, with the head
    <store>/<key>/topk-128/   the 128 largest log-probs and their tokens: approximate, and smaller
        <name>.safetensors    completion_ids (rows, 16) uint8, lengths (rows,), and the columns, (tokens, ...) each
        <name>.json           sidecar, written last: bytes, SHA-256, rows, tokens
        head.safetensors      the reference's output head, once: weight, bias, scale, soft-cap

A hidden state takes 2 d bytes a token in bfloat16, against 2 V for the logits. Blocks are read by memory map; a block
without its sidecar does not exist.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from scoreonce.pipeline.forward.head import Head
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import atomic, read_json, sha256, write_json


class _RowLocation(NamedTuple):
    block: int
    start: int
    stop: int


class VocabularyStore:
    """What one form keeps in a reference store. Reading takes no lock: blocks never change once they exist."""

    def __init__(self, store_folder: Path, form: str) -> None:
        self.form, self.folder = form, store_folder / form

    def blocks(self) -> list[Path]:
        """The blocks that exist, oldest first."""
        return sorted(sidecar.with_suffix(".safetensors") for sidecar in self.folder.glob("[!.]*.json"))

    def ids(self) -> list[str]:
        """`completion_id` of everything stored. Raises `InputError` at a damaged block."""
        return [name for block in self.blocks() for name in _ids(block)[0]]

    def append(self, ids: Sequence[str], lengths: Sequence[int], columns: Mapping[str, Tensor]) -> None:
        """Write one block: `columns` (tokens, ...) of the completions `ids`, `lengths` tokens each, and commit it."""
        block = self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(5)}.safetensors"
        raw = np.frombuffer(bytes.fromhex("".join(ids)), np.uint8).reshape(-1, 16).copy()
        tensors = {name: column.contiguous() for name, column in columns.items()}
        tensors |= {"completion_ids": torch.from_numpy(raw), "lengths": torch.tensor(list(lengths))}
        with atomic(block) as temporary:
            save_file(tensors, temporary)
        write_json(
            block.with_suffix(".json"),
            {
                "format": 1,
                "bytes": block.stat().st_size,
                "sha256": sha256(block),
                "rows": len(ids),
                "tokens": sum(lengths),
            },
        )

    def write_head(self, head: Head) -> None:
        """Keep the reference's head, once; a tied embedding is copied, because the policy's changes."""
        path = self.folder / "head.safetensors"
        if path.exists():
            return
        tensors = {"weight": head.weight.detach().cpu().contiguous()}
        if head.bias is not None:
            tensors["bias"] = head.bias.detach().cpu().contiguous()
        with atomic(path) as temporary:
            save_file(tensors, temporary, {"scale": json.dumps(head.scale), "softcap": json.dumps(head.softcap)})

    def head(self, device: torch.device) -> Head:
        """The reference's head on a device. Raises `InputError` where it is missing or damaged."""
        path = self.folder / "head.safetensors"
        try:
            tensors = load_file(path, device=str(device))
            with safe_open(path, "pt") as handle:
                stated = {name: json.loads(text) for name, text in handle.metadata().items()}
        except (OSError, SafetensorError, ValueError) as error:
            raise _missing(str(error), self.folder) from None
        return Head(tensors["weight"], tensors.get("bias"), stated["scale"], stated["softcap"])

    def damage(self) -> Iterator[tuple[Path, str]]:
        """Blocks that are not what their sidecar says, read whole, and what was found."""
        for block in self.blocks():
            stated = read_json(block.with_suffix(".json"))
            found = sha256(block) if block.exists() else "no file"
            if found != stated["sha256"]:
                yield block, f"SHA-256 {found[:12]} where {stated['sha256'][:12]} was written"

    def remove(self, block: Path) -> None:
        """Remove a block; its sidecar first, without which it does not exist."""
        block.with_suffix(".json").unlink(missing_ok=True)
        block.unlink(missing_ok=True)


class VocabularyStates:
    """The columns of one form by completion id, read by memory map as they are asked for."""

    def __init__(self, store: VocabularyStore) -> None:
        self._blocks = store.blocks()
        self._handles: dict[int, Any] = {}
        self._folder = store.folder
        self._places: dict[str, _RowLocation] = {}
        for number, block in enumerate(self._blocks):
            ids, lengths = _ids(block)
            ends = np.cumsum(lengths).tolist()
            for name, stop, length in zip(ids, ends, lengths, strict=True):
                self._places.setdefault(name, _RowLocation(number, stop - length, stop))

    def missing(self, ids: Sequence[str]) -> int:
        """How many of `ids` are not stored."""
        return sum(name not in self._places for name in ids)

    def read(self, ids: Sequence[str], column: str) -> Tensor:
        """`(tokens, ...)` values of a column for the completions `ids`, one after the other.

        Raises `InputError` where one is not stored.
        """
        try:
            places = [self._places[name] for name in ids]
        except KeyError as error:
            raise _missing(f"nothing of completion {error.args[0]}", self._folder) from None
        return torch.cat([self._slice(place.block, column)[place.start : place.stop] for place in places])

    def _slice(self, number: int, column: str) -> Any:
        if number not in self._handles:
            # The handle owns the map; slices are read from it on demand.
            self._handles[number] = safe_open(self._blocks[number], "pt").__enter__()
        return self._handles[number].get_slice(column)


def _ids(block: Path) -> tuple[list[str], list[int]]:
    stated = read_json(block.with_suffix(".json"))
    try:
        if block.stat().st_size != stated["bytes"]:
            raise _damaged(block, f"{block.stat().st_size:,} bytes where {stated['bytes']:,} were written")
        with safe_open(block, "np") as handle:
            return [row.tobytes().hex() for row in handle.get_tensor("completion_ids")], handle.get_tensor(
                "lengths"
            ).tolist()
    except (OSError, SafetensorError) as error:
        raise _damaged(block, str(error)) from None


def _damaged(block: Path, found: str) -> InputError:
    return InputError(
        "A block of reference distributions is damaged.",
        found=found,
        where=str(block),
        fix=f"Delete it and {block.with_suffix('.json').name}, then run `scoreonce score` again.",
    )


def _missing(found: str, folder: Path) -> InputError:
    fix = 'Set score.full_vocab = "hidden" and run `scoreonce score`, or set train.full_vocab = "live".'
    if folder.name.startswith("topk-"):
        k = folder.name.removeprefix("topk-")
        fix = f'Set score.full_vocab = "topk" and score.topk = {k}, and run `scoreonce score`.'
        stored = (other for other in sorted(folder.parent.glob("topk-*")) if other != folder)
        if others := ", ".join(other.name.removeprefix("topk-") for other in stored):
            fix += f" Stored with score.topk = {others}."
    return InputError(
        "The method needs the reference's whole next-token distributions, and they are not stored.",
        found=found,
        where=str(folder),
        fix=fix,
    )
