"""Identities against the bytes that they are said to be digests of."""

import hashlib
import struct

import numpy as np
import pytest

from scoreonce.schemas.identity import completion_id, pair_id, prompt_id


def digest(kind, message):
    return hashlib.blake2b(message, digest_size=16, person=kind).hexdigest()


def test_the_bytes_by_hand():
    """The number of prompt tokens in 8 bytes, then each token in 4, the lowest byte first: 258 is 02 01 00 00."""
    assert struct.pack("<Qiii", 2, 7, 258, 9).hex() == "0200000000000000" + "07000000" + "02010000" + "09000000"
    assert completion_id([7, 258], [9]) == digest(b"completion", struct.pack("<Qiii", 2, 7, 258, 9))
    assert prompt_id([7, 258]) == digest(b"prompt", struct.pack("<ii", 7, 258))
    assert pair_id("a", "b") == digest(b"pair", b"a>b")


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<i8", ">i8", "u2"])
def test_the_type_that_ids_are_held_in_does_not_matter(dtype):
    ids = np.array([1, 300, 2], dtype)
    assert completion_id(ids[:2], ids[2:]) == completion_id([1, 300], [2])


def test_no_two_divisions_of_tokens_are_one_completion():
    """All ways to divide up to four tokens of three kinds into prompt and completion: 1 + 3*2 + 9*3 + 27*4 + 81*5."""
    sequences = [[]]
    for _ in range(4):
        sequences += [[*ids, token] for ids in sequences if len(ids) == len(sequences[-1]) for token in range(3)]
    divided = [(ids[:cut], ids[cut:]) for ids in sequences for cut in range(len(ids) + 1)]
    assert len(divided) == 547
    assert len({completion_id(prompt, completion) for prompt, completion in divided}) == 547


def test_the_label_and_a_missing_side_are_part_of_a_pair():
    assert len({pair_id("a", "b"), pair_id("b", "a"), pair_id("a", None), pair_id(None, "a")}) == 4
