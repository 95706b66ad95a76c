"""What a model cannot have to be in parts. Loads no library, so that it is known before any work."""

from __future__ import annotations

from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Reference


def require_all_bits(reference: Reference, asked: str, *, section: str = "reference") -> None:
    """Raise `InputError` for a model in 4 bits. `asked`: the setting that puts it in parts; `section`: the model's."""
    if reference.quantization:
        raise InputError(
            "A model in 4 bits is not sharded.",
            found=f"{section}.quantization = {reference.quantization!r}, {asked}",
            where="[compute] of the run file",
            fix=f'Leave out {section}.quantization, or keep the whole model in each process: compute.shard = "none", '
            "and neither compute.offload nor score.group_size.",
        )


def require_no_adapter(adapter: str | None) -> None:
    """Raise `InputError` where LoRA would be trained on a model with an adapter."""
    if adapter:
        raise InputError(
            "LoRA on a model with an adapter is not sharded.",
            found=f"an adapter at {adapter}",
            where="compute.shard",
            fix='Merge the adapter first (`scoreonce merge`), or set compute.shard = "none".',
        )
