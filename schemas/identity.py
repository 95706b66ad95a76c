"""Identities by content: what a completion, a pair or a prompt is, in 128 bits.

The log-prob of a completion depends on the model, the numerics, the prompt's token ids and its own, on nothing else;
so a digest of the token ids is all the address that a cached score needs.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Ids = npt.ArrayLike


def _bytes(ids: Ids) -> bytes:
    # Little-endian int32 on every machine, so that a store can move between them.
    return np.ascontiguousarray(ids, dtype="<i4").tobytes()


def prompt_id(prompt_ids: Ids) -> str:
    """Digest of a prompt's token ids, 32 hex digits."""
    return hashlib.blake2b(_bytes(prompt_ids), digest_size=16, person=b"prompt").hexdigest()


def completion_id(prompt_ids: Ids, completion_ids: Ids) -> str:
    """Digest of `(prompt_ids, completion_ids)`, 32 hex digits.

    The prompt's length goes in first: the same tokens split elsewhere are another completion.
    """
    prompt = _bytes(prompt_ids)
    digest = hashlib.blake2b((len(prompt) // 4).to_bytes(8, "little"), digest_size=16, person=b"completion")
    digest.update(prompt)
    digest.update(_bytes(completion_ids))
    return digest.hexdigest()


def pair_id(chosen_id: str | None, rejected_id: str | None) -> str:
    """Digest of the two completion ids, chosen first; of the only one where a row has one completion."""
    sides = f"{chosen_id or ''}>{rejected_id or ''}"
    return hashlib.blake2b(sides.encode(), digest_size=16, person=b"pair").hexdigest()
