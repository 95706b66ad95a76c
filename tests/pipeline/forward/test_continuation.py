"""Completions of hybrids go on from the model's own cache of their prompt, and get the log-probs of plain sequences."""

import numpy as np
import pytest
import torch
from tiny_models import FORGETFUL, HYBRIDS, VOCABULARY, plain_token_logps, random_rows, tiny_model
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.continuation import copy_for
from scoreonce.pipeline.forward.layout_probe import NOT_CONTINUED, choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer


def row(prompt, *completions, seed=0):
    random = np.random.default_rng(seed)
    ids = [random.integers(3, VOCABULARY, length, dtype=np.int32) for length in (prompt, *completions)]
    return PromptRow(ids[0], tuple(ids[1:]))


# Prompts shorter and longer than a convolution's kernel and than a chunk of 16, one of one token, two of one length,
# completions of one token alone, prompts that are not shared.
MICROBATCHES = [
    [row(1, 5, 2)],
    [row(2, 1, 1)],
    [row(3, 20, 1, 7)],
    [row(40, 3, 18), row(38, 9, 1, 2, seed=1), row(40, 4, seed=2)],
    [row(20, 70, 3)],
    [row(9, 4), row(30, 7, seed=3)],
]


@pytest.mark.parametrize("name", HYBRIDS)
def test_token_logps_equal_plain_transformers(name):
    model = tiny_model(name)
    scorer = TokenScorer(model, "continued")
    rows = [each for batch in MICROBATCHES for each in batch]
    with torch.inference_mode():
        scored = [scorer(batch) for batch in MICROBATCHES]
    exact = plain_token_logps(tiny_model(name, torch.float64), rows)
    rounding = (plain_token_logps(model, rows).double() - exact).abs().max()
    ours = torch.cat([each.token_logps for each in scored]).double()
    assert (ours - exact).abs().max() < max(1e-5, 4 * rounding)
    lengths = torch.cat([each.lengths for each in scored]).tolist()
    assert lengths == [len(completion) for each in rows for completion in each.completions]


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in ("lfm2", "bamba") else pytest.mark.long) for each in HYBRIDS]
)
def test_the_probe_lets_completions_go_on(name):
    model = tiny_model(name)
    found = choose_layout(model, "auto", longest_row=60, continues=True)
    assert found.layout == "continued"
    assert found.deviation < 5e-5
    assert "shared: " in found.reason
    # Without the word of the caller, and for training with scores of that layout, rows are padded.
    assert choose_layout(model, "auto", longest_row=60).layout == "padded"
    trained = choose_layout(model, "auto", longest_row=60, trains=True, first="continued")
    assert (trained.layout, trained.reason) == ("padded", NOT_CONTINUED)


def test_what_was_scored_goes_first():
    """The rest of a store is scored in its layout: no other is tried."""
    model = tiny_model("lfm2")
    again = choose_layout(model, "auto", longest_row=60, continues=True, first="continued")
    assert (again.layout, again.reason) == ("continued", "")
    assert choose_layout(model, "auto", longest_row=60, continues=True, first="padded").layout == "padded"
    assert choose_layout(model, "padded", longest_row=60, continues=True).layout == "padded"


@pytest.mark.parametrize("name", FORGETFUL)
def test_models_that_do_not_go_on_stay_padded(name):
    """The probe sees it, and padded rows are exact."""
    model = tiny_model(name)
    found = choose_layout(model, "auto", longest_row=60, continues=True)
    assert found.layout == "padded"
    assert "continued: differs from padded rows by " in found.reason
    rows = random_rows(3)
    with torch.inference_mode():
        ours = TokenScorer(model, found.layout)(rows).token_logps.double()
    assert (ours - plain_token_logps(model, rows)).abs().max() < 1e-4


def test_models_without_a_cache_stay_padded(monkeypatch):
    model = tiny_model("lfm2")
    body = architecture.body_of(model)
    forward = body.forward

    def forgets(*args, **kwargs):
        return BaseModelOutputWithPast(last_hidden_state=forward(*args, **kwargs).last_hidden_state)

    monkeypatch.setattr(body, "forward", forgets)
    found = choose_layout(model, "auto", longest_row=60, continues=True)
    assert found.layout == "padded"
    assert "continued: its cache does not go on (ValueError: the model returns no cache)" in found.reason


def test_fewer_positions_are_computed():
    """Prompt 40, completions 9 and 5: padded 2 * (40 + 8) = 96 positions; now 39, then 2 * (1 + 8) = 18."""
    model, computed = tiny_model("falcon_h1"), []
    architecture.body_of(model).register_forward_pre_hook(
        lambda _, args, kwargs: computed.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    for layout, shapes in (("padded", [(2, 48)]), ("continued", [(1, 39), (2, 9)])):
        with torch.inference_mode():
            TokenScorer(model, layout)([row(40, 9, 5)])
        assert computed == shapes
        computed.clear()


def test_gradients_are_refused():
    with pytest.raises(ValueError, match="no gradients"):
        TokenScorer(tiny_model("lfm2"), "continued")([row(4, 2, 2)])


def test_hidden_states_are_those_of_padded_rows():
    rows = [row(12, 5, 40), row(11, 1, 3, seed=1)]
    states = {}
    for layout in ("padded", "continued"):
        with torch.inference_mode():
            states[layout] = TokenScorer(tiny_model("lfm2"), layout)(rows, keep_hidden=True).hidden
    torch.testing.assert_close(states["continued"], states["padded"], rtol=1e-4, atol=1e-4)


def test_copies_of_a_cache_are_its_own():
    """Of two sequences the second is taken twice, then the first; what goes on from it changes nothing in the cache."""
    cache = DynamicCache(config=tiny_model("falcon_h1").config)  # layers with attention and states
    keys = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 3, 1)
    cache.update(keys, keys, 0)
    cache.update_conv_state(torch.arange(2.0).view(2, 1, 1).expand(2, 5, 4), 0)
    cache.update_recurrent_state(torch.arange(2.0).view(2, 1).expand(2, 6).clone(), 0)
    copied = copy_for(cache, 2, torch.tensor([1, 1, 0]))
    layer = copied.layers[0]
    for state in (layer.keys, layer.values, layer.conv_states[0], layer.recurrent_states[0]):
        assert [float(each.max()) for each in state] == [1, 1, 0]
    copied.update_recurrent_state(torch.full((3, 6), 7.0), 0)
    copied.update(torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1, 1), 0)
    assert cache.layers[0].recurrent_states[0].max() == 1
    assert (cache.get_seq_length(), copied.get_seq_length()) == (3, 4)
