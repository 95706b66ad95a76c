"""Which prompts are held out: a function of prompt and seed alone, so that a new row never moves another."""

from __future__ import annotations

import hashlib


def is_held_out(prompt_id: str, share: float, seed: int) -> bool:
    """Whether a prompt belongs to the test split; `share` of all prompts do, whatever else is in the dataset.

    Raising `share` keeps the prompts that are already held out.
    """
    digest = hashlib.blake2b(f"{seed}:{prompt_id}".encode(), digest_size=8, person=b"split").digest()
    return int.from_bytes(digest, "big") < share * 2**64
