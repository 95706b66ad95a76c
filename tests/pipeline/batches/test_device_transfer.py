"""Nothing in a micro-batch waits for the device: shown on the device "meta", whose values cannot be read back."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from scoreonce.pipeline.attention import flex
from scoreonce.pipeline.batches import prompt_rows as rows
from scoreonce.pipeline.batches.device_transfer import index_tensor, moved, read_later
from scoreonce.pipeline.batches.prompt_rows import PromptRow, attention_mask, collate
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.forward.token_masks import activation_masks
from scoreonce.pipeline.head import kernels as fused
from scoreonce.pipeline.head.token_scores import TokenScores
from scoreonce.pipeline.training.policy_columns import PolicyColumns

META = torch.device("meta")


def ids(length):
    return np.arange(3, 3 + length, dtype=np.int32)


ROWS = [PromptRow(ids(9), (ids(4), ids(2))), PromptRow(ids(2), (ids(1), ids(5)))]
PREFIXES = ["policy_chosen_prefix_logps", "policy_rejected_prefix_logps"]


def test_a_read_back_would_be_seen():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(2, device="meta").tolist()


@pytest.mark.parametrize("window", [None, 4])
def test_masks_do_not_wait(window):
    batch = collate(ROWS, "flex").to(META)
    assert flex.block_mask(batch, window).shape == (1, 1, 128, 128)
    assert attention_mask(batch, window).is_meta


def test_columns_do_not_wait():
    lengths, logps = torch.zeros(4, dtype=torch.int64, device="meta"), torch.zeros(12, device="meta")
    columns = PolicyColumns.of([*PREFIXES, "policy_chosen_logps"]).from_scores(TokenScores(logps, lengths))
    assert {column.device.type for column in columns.values()} == {"meta"}
    assert activation_masks(torch.zeros(12, 3, device="meta"), lengths).reward.is_meta


def test_the_forward_pass_does_not_wait(monkeypatch):
    """Masks, body and head, forward and backward; values cannot be read on meta, so a wait would be an error."""
    monkeypatch.setattr(fused, "is_worth_compiling", lambda logits: True)
    monkeypatch.setattr(fused, "compiled", lambda function: function)
    scored = TokenScorer(tiny_model("llama").to(META), "packed")(ROWS, statistics=True)
    scored.sums().sum().backward()
    assert scored.token_logps.is_meta


def test_prefixes_by_hand():
    """Completions of 4 and 2 tokens: the first 2 of each count. Of 1 and 5: the first of each."""
    logps = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0])
    scored = TokenScores(logps, torch.tensor([4, 2, 1, 5]))
    columns = PolicyColumns.of(PREFIXES).from_scores(scored)
    assert columns["policy_chosen_prefix_logps"].tolist() == [1 + 2, 64]
    assert columns["policy_rejected_prefix_logps"].tolist() == [16 + 32, 128]


def test_on_a_cpu_there_and_back_is_the_same():
    tensor, cpu = torch.arange(3), torch.device("cpu")
    assert moved(tensor, cpu).tolist() == [0, 1, 2]
    assert index_tensor((2, 0), cpu).tolist() == [2, 0]
    assert [copy.tolist() for copy in read_later([tensor])()] == [[0, 1, 2]]
    assert rows.collate(ROWS, "packed").to(cpu).lengths.tolist() == [4, 2, 1, 5]
