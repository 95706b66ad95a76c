"""Which prompts are held out: decided by the prompt and the seed alone, so no row that comes later moves another."""

from __future__ import annotations

import hashlib


def is_held_out(prompt_id: str, share: float, seed: int) -> bool:
    """Whether a prompt belongs to the test split; `share` of all prompts do, whatever else is in the dataset.

    Raising `share` keeps the prompts that are held out already.
    """
    digest = hashlib.blake2b(f"{seed}:{prompt_id}".encode(), digest_size=8, person=b"split").digest()
    return int.from_bytes(digest, "big") < share * 2**64
