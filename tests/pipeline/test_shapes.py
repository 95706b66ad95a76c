"""A wrong shape is caught while the tests run, and checked by nothing else."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from method_batches import batch

from scoreonce.pipeline import methods
from scoreonce.pipeline.head.log_probs import Head, token_logps
from scoreonce.pipeline.head.token_scores import sum_per_completion
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.papers.exo import exo_list
from scoreonce.pipeline.methods.pieces.logistic import smoothed_logistic


def test_in_the_forward_pass():
    with pytest.raises(TypeCheckError):
        token_logps(torch.zeros(3, 4), Head(torch.zeros(7, 4), None), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        sum_per_completion(torch.zeros(3, 1), torch.tensor([3]))


def test_in_methods():
    """(pairs,) and (pairs, 1) would quietly make (pairs, pairs)."""
    three = torch.zeros(3, dtype=torch.float64)
    assert dpo(three, three, three[0]).shape == (3,)
    with pytest.raises(TypeCheckError):
        dpo(three, three[:, None], three)
    with pytest.raises(TypeCheckError):
        dpo(three, three[:2], three)
    with pytest.raises(TypeCheckError):
        smoothed_logistic(three[:, None], 0.0)
    with pytest.raises(TypeCheckError):
        exo_list(three, three)
    outcome = methods.apply("dpo", batch())
    with pytest.raises(TypeCheckError):
        replace(outcome, beta=outcome.beta[:3])


def test_nothing_is_checked_otherwise():
    code = (
        "from scoreonce.pipeline.head.token_scores import sum_per_completion; "
        "from scoreonce.pipeline.methods.papers.dpo import dpo; import sys; "
        "print(hasattr(dpo, '__wrapped__'), hasattr(sum_per_completion, '__wrapped__'), 'beartype' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False False\n"
