"""The last block answers only where it is read: which parts of it are cut, when, and that no number changes."""

import pytest
import torch
from tiny_models import PADDED_ONLY, SHARED, random_rows, tiny_model

from scoreonce.pipeline.attention import cpu_rows, row_groups, row_products
from scoreonce.pipeline.attention import last_layer as blocks
from scoreonce.pipeline.batches import prompt_rows as rows_module
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.stages.models.loading import recompute_activations

# Gemma 2 caps its attention logits, which needs eager attention and a dense mask. The others attend by rows.
BY_ROWS = [name for name in SHARED if not name.startswith("gemma2")]


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST_SHARE", 1.0)
    for module in (rows_module, cpu_rows, row_groups, row_products):  # no rounding
        monkeypatch.setattr(module, "CPU_MULTIPLE", 1)


def cut_parts(model):
    """The names of the last block's children that are cut."""
    return [name for name, part in blocks.blocks(model)[-1].named_children() if part._forward_hooks]


@pytest.mark.parametrize("name", [*SHARED, *PADDED_ONLY])
def test_the_feed_forward_of_the_last_block_is_cut_and_nothing_else(name):
    model = tiny_model(name)
    blocks.skip_unused_output(model)
    blocks.skip_unused_output(model)  # once per model
    assert cut_parts(model) == ([] if name in PADDED_ONLY else ["mlp"])
    hooked = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert len(hooked) <= 2


@pytest.mark.parametrize("name", BY_ROWS)
def test_scores_equal_those_of_the_whole_block(name, monkeypatch):
    model, rows = tiny_model(name), random_rows(6)
    scorer = TokenScorer(model, "packed")
    seen = widths_of_feed_forward(model)
    with torch.no_grad():
        ours = scorer(rows).token_logps
        monkeypatch.setattr(blocks, "LARGEST_SHARE", 0.0)
        torch.testing.assert_close(ours, scorer(rows).token_logps, rtol=0, atol=1e-5)
    del seen[len(seen) // 2 :]
    # Read is the last position of each prompt and each completion's but its last: by hand, from the rows.
    read = sum(1 + sum(len(completion) - 1 for completion in row.completions) for row in rows)
    assert seen == [*[sum(row.tokens for row in rows)] * (len(seen) - 1), read]


def widths_of_feed_forward(model):
    """How many positions each block's feed-forward gets, written down as it runs."""
    seen = []
    for block in blocks.blocks(model):
        first = next(module for module in block.mlp.modules() if not list(module.children()))
        first.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    return seen


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "olmo2", "gemma3_sliding"])
def test_gradients_equal_those_of_the_whole_block(name, recompute):
    """Two batches are under way before the first goes back: what is recomputed must not see the other's."""
    gradients = {}
    for layout in ("padded", "packed"):
        model = tiny_model(name)
        if recompute:
            recompute_activations(model)
        scorer = TokenScorer(model, layout)
        losses = [(scorer(random_rows(4, seed)).sums() ** 2).sum() for seed in (1, 2)]
        for loss in losses:
            loss.backward()
        gradients[layout] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (gradients["packed"] - gradients["padded"]).norm() < 1e-5 * gradients["padded"].norm()


def test_what_is_recomputed_is_cut_too():
    """Positions of the last feed-forward: as few in the backward pass, after another batch, as in the forward pass."""
    model, (first, second) = tiny_model("llama"), (random_rows(4, seed) for seed in (1, 2))
    recompute_activations(model)
    scorer, seen = TokenScorer(model, "packed"), widths_of_feed_forward(model)
    loss = scorer(first).sums().sum()
    last = seen[-1]
    scorer(second)
    assert last == sum(1 + sum(len(c) - 1 for c in row.completions) for row in first)
    seen.clear()
    loss.backward()
    assert seen[0] == last  # the last block is recomputed first
    assert set(seen[1:]) == {sum(row.tokens for row in first)}


def test_a_block_that_is_mostly_read_stays_whole(monkeypatch):
    model, rows = tiny_model("llama"), random_rows(6)
    total = sum(row.tokens for row in rows)
    read = sum(row.tokens - len(row.prompt) + 1 for row in rows)
    scorer = TokenScorer(model, "packed")
    seen = widths_of_feed_forward(model)
    for share, last in (((read + 0.5) / total, read), ((read - 0.5) / total, total)):
        monkeypatch.setattr(blocks, "LARGEST_SHARE", share)
        seen.clear()
        with torch.no_grad():
            scorer(rows)
        assert seen == [total, total, total, last]


def test_the_model_itself_still_answers_everywhere():
    """Called by others, or by another layout after a packed one, nothing is cut."""
    model, rows = tiny_model("llama"), random_rows(3)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        before = model(ids).logits
        TokenScorer(model, "packed")(rows)
        assert torch.equal(model(ids).logits, before)
