"""The reference's output head, stored once beside the layer that needs it.

    <layer>/head.safetensors   weight (vocabulary, hidden), bias (vocabulary,), and in its header scale and soft-cap
    <layer>/head.json          sidecar: SHA-256, bytes, rows = vocabulary

Version 0.1 wrote no sidecar. Such a head is used as it is, training compares what it gives with the cached
log-probs, and the next `scoreonce score` records its digest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from scoreonce.schemas.errors import InputError
from scoreonce.stages.store.layer import HEAD
from scoreonce.stages.store.mirror import Mirror
from scoreonce.stages.store.sidecar import Damage, commit, file_damage, record, sidecar_of, writable

if TYPE_CHECKING:
    import torch

    from scoreonce.pipeline.head.log_probs import Head


class StoredHead:
    """The head in the folder of one layer."""

    def __init__(self, folder: Path, setting: str = "", mirror: Mirror | None = None) -> None:
        self.path, self.setting, self._mirror = folder / HEAD, setting, mirror

    def exists(self) -> bool:
        """Whether there is a head, whatever its state."""
        return self.path.exists() or sidecar_of(self.path).exists()

    def lacks_digest(self) -> bool:
        """Whether nothing says what the head's contents should be."""
        return self.path.exists() and not sidecar_of(self.path).exists()

    def damage(self) -> list[Damage]:
        """The head, where it is not what its sidecar says."""
        if not self.exists() or self.lacks_digest():
            return []
        reason = file_damage(self.path)
        return [] if reason is None else [Damage(self.path, reason, self.setting)]

    def record_digest(self) -> None:
        """Write the sidecar that version 0.1 did not write. For a writer."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "np") as handle:
                rows = handle.get_slice("weight").get_shape()[0]
        except (OSError, SafetensorError):
            rows = 0  # its digest is wrong too, then: reading it fails and names the file
        with writable(self.path.parent.parent):
            record(self.path, rows=rows, tokens=0, provenance={"digest": "recorded after the head was written"})
        self._publish()

    def write(self, head: Head) -> None:
        """Store a head, unless there is one. A tied embedding is copied, because the policy's changes."""
        from scoreonce.stages.store.codecs import save_tensors

        if self.exists():
            return
        tensors = {"weight": head.weight.detach().cpu().contiguous()}
        if head.bias is not None:
            tensors["bias"] = head.bias.detach().cpu().contiguous()
        stated = {"scale": json.dumps(head.scale), "softcap": json.dumps(head.softcap)}
        with writable(self.path.parent.parent):
            commit(
                self.path, lambda temporary: save_tensors(tensors, temporary, stated), rows=head.weight.shape[0],
                tokens=0, provenance={},
            )  # fmt: skip
        self._publish()

    def read(self, device: torch.device) -> Head:
        """The head on a device. Raises `InputError` where it is missing or damaged."""
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        from scoreonce.pipeline.head.log_probs import Head

        if not self.path.exists():
            raise not_stored(f"no file {self.path}", self.path.parent)
        for damage in self.damage():
            raise damage.error()
        try:
            # By way of the CPU: safetensors knows no "cpu:0", which is where processes under DDP run.
            tensors = {name: tensor.to(device) for name, tensor in load_file(self.path).items()}
            with safe_open(self.path, "pt") as handle:
                stated = {name: json.loads(text) for name, text in handle.metadata().items()}
            return Head(tensors["weight"], tensors.get("bias"), stated["scale"], stated["softcap"])
        except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
            raise Damage(self.path, str(error), self.setting).error() from None

    def _publish(self) -> None:
        if self._mirror is not None:
            self._mirror.publish(self.path)

    def bytes(self) -> int:
        """Size on disk."""
        return self.path.stat().st_size if self.path.exists() else 0


def not_stored(found: str, folder: Path) -> InputError:
    """What is said where a method needs next-token distributions that `score` was not asked to keep."""
    fix = 'Set score.full_vocab = "hidden" and run `scoreonce score`, or set train.full_vocab = "live".'
    if folder.name == "hidden" and (folder.parent / "hidden-int8").is_dir():
        fix += ' Stored in 8 bits: to train from these, set score.hidden = "int8".'
    if folder.name == "hidden-int8":
        fix = 'Set score.full_vocab = "hidden" and score.hidden = "int8", and run `scoreonce score`.'
        if (folder.parent / "hidden").is_dir():
            fix += ' Stored exactly: to train from these, set score.hidden = "exact".'
    if folder.name.startswith("topk-tail-"):
        k = folder.name.removeprefix("topk-tail-")
        fix = f'Set score.full_vocab = "topk" and score.topk = {k}, and run `scoreonce score`.'
        stored = (other for other in sorted(folder.parent.glob("topk-tail-*")) if other != folder)
        if others := ", ".join(other.name.removeprefix("topk-tail-") for other in stored):
            fix += f" Stored with score.topk = {others}."
    return InputError(
        "The method needs the reference's whole next-token distributions, and they are not stored.",
        found=found,
        where=str(folder),
        fix=fix,
    )
