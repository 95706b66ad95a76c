"""Variable-length flash attention, with its kernel replaced by plain products: sequences, numbers, and the choice."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_models import SHARED, random_rows, tiny_model
from torch.nn.functional import scaled_dot_product_attention

from scoreonce.pipeline.attention import varlen as flash
from scoreonce.pipeline.attention.varlen import VarlenMask
from scoreonce.pipeline.batches.prompt_rows import PromptRow, collate
from scoreonce.pipeline.forward import layout_probe as probe
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError
from scoreonce.stages.scoring.model_scorer import ModelScorer

CPU = torch.device("cpu")


def ids(length):
    return np.arange(length, dtype=np.int32)


def plain_kernel(query, key, value, query_ends, key_ends, most_queries, most_keys, *, scale, window_size, **gqa):
    """What the kernel promises: each sequence by itself, its last query at its last key."""
    assert (most_queries, most_keys) == (int(query_ends.diff().max()), int(key_ends.diff().max()))
    assert int(query_ends[-1]) == len(query)
    outputs = []
    both = ((query, query_ends), (key, key_ends), (value, key_ends))
    for q, k, v in zip(*(side.tensor_split(ends[1:-1].long()) for side, ends in both), strict=True):
        sees = torch.arange(len(k) - len(q), len(k)).unsqueeze(1) - torch.arange(len(k))  # how far each key is behind
        mask = (sees >= 0) & ((window_size[0] < 0) | (sees <= window_size[0]))
        sides = [side.transpose(0, 1).unsqueeze(0) for side in (q, k, v)]
        grouped = query.shape[1] != key.shape[1]
        assert gqa == (flash.GROUPED if grouped else {})
        found = scaled_dot_product_attention(*sides, attn_mask=mask, scale=scale, enable_gqa=grouped)
        outputs.append(found[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def _kernel(monkeypatch):
    monkeypatch.setattr(flash, "varlen_attn", plain_kernel)


def test_sequences_by_hand():
    """A prompt of two with completions of three tokens, one and two: the positions fed are two, none and one.

    Then a prompt of one, whose completion's single token is only predicted.
    """
    rows = [PromptRow(ids(2), (ids(3), ids(1), ids(2))), PromptRow(ids(1), (ids(1),))]
    found = VarlenMask.of(rows, None, CPU)
    assert found.key_positions.tolist() == [0, 1, 2, 3, 0, 1, 4, 5]
    assert found.query_ends.tolist() == [0, 4, 5, 6]
    assert found.key_ends.tolist() == [0, 4, 7, 8]
    assert (found.most_queries, found.most_keys) == (4, 4)
    assert found.shape == (1, 1, 6, 6)
    assert found.shape[-1] == collate(rows, "flash").input_ids.shape[1]


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("name", [name for name in SHARED if "softcap" not in name])
def test_numbers_and_gradients_equal_the_padded_ones(name):
    """Past the sliding windows of 6 too: rows have up to some 70 positions."""
    made = {}
    for layout in ("padded", "flash"):
        model = tiny_model(name)
        if layout == "flash":
            flash.switch_on(model)
        logps = TokenScorer(model, layout)(random_rows(5)).token_logps
        logps.sum().backward()
        made[layout] = logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(made["flash"][0], made["padded"][0], rtol=0, atol=3e-5)
    assert (made["flash"][1] - made["padded"][1]).norm() < 1e-5 * made["padded"][1].norm()


@pytest.mark.usefixtures("_kernel")
def test_what_the_kernel_does_not_know_is_refused():
    for name, problem in (("gemma2_softcap_sliding", "soft-cap"), ("llama", "takes a VarlenMask only")):
        model = tiny_model(name)
        flash.switch_on(model)
        with pytest.raises(ValueError, match=problem):
            TokenScorer(model, "flash" if problem == "soft-cap" else "padded")(random_rows(2))


def test_where_there_is_no_kernel_the_probe_says_so():
    with pytest.raises(InputError) as caught:
        choose_layout(tiny_model("llama"), "flash", longest_row=60)
    assert "flash: no custom mask (NotImplementedError" in str(caught.value)


@pytest.fixture
def _rivals(monkeypatch, _kernel):
    monkeypatch.setattr(probe, "FORWARD_ONLY", ())
    monkeypatch.setattr(probe, "_candidates", lambda *_, **__: (("flash", "packed"), ("shared",)))


def clocked(monkeypatch, **seconds):
    """Each layout's passes take so long by the clock that the probe looks at; returns what was timed."""
    timed, honest = [], probe.TokenScorer.forward

    def forward(self, rows, **more):
        now[0] += seconds[self.layout] if sum(row.tokens for row in rows) > 500 else 0.0
        timed.append((self.layout, torch.is_inference_mode_enabled(), sum(row.tokens for row in rows)))
        return honest(self, rows, **more)

    now = [0.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(probe.TokenScorer, "forward", forward)
    return timed


@pytest.mark.usefixtures("_rivals")
@pytest.mark.parametrize("fastest", ["flash", "packed"])
@pytest.mark.parametrize("trains", [False, True])
def test_of_two_exact_layouts_the_faster_one_is_used(monkeypatch, fastest, trains):
    timed = clocked(monkeypatch, **{"flash": 2.0, "packed": 2.0, "padded": 0.0, fastest: 1.0})
    model = tiny_model("llama")
    found = choose_layout(model, "auto", longest_row=60, trains=trains)
    other = "packed" if fastest == "flash" else "flash"
    assert (found.layout, found.reason, dict(found.seconds)) == (fastest, "", {fastest: 1.0, other: 2.0})
    assert model.config._attn_implementation == (flash.NAME if fastest == "flash" else "sdpa")
    assert all(parameter.grad is None for parameter in model.parameters())
    # Four passes each over 34 rows of 15 + 2 * 6 positions: a line of 8 * 128 filled with rows half as long as 60.
    for layout in (fastest, other):
        assert [(name, still) for name, still, tokens in timed if name == layout and tokens == 34 * 27] == [
            (layout, not trains)
        ] * 4


@pytest.mark.usefixtures("_rivals")
@pytest.mark.parametrize("kernel", [plain_kernel, lambda *sides, **more: 1.1 * plain_kernel(*sides, **more)])
def test_no_gradient_is_left_of_a_single_layout_that_is_tried(monkeypatch, kernel):
    """The first step of training would add it to its own."""
    monkeypatch.setattr(flash, "varlen_attn", kernel)
    model = tiny_model("llama")
    exact = kernel is plain_kernel
    with nullcontext() if exact else pytest.raises(InputError, match="differs from padded rows"):
        choose_layout(model, "flash", longest_row=60, trains=True)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("_rivals")
def test_a_layout_that_is_wrong_is_not_timed(monkeypatch):
    honest = plain_kernel
    monkeypatch.setattr(flash, "varlen_attn", lambda *sides, **more: 1.1 * honest(*sides, **more))
    found = choose_layout(tiny_model("llama"), "auto", longest_row=60)
    assert (found.layout, found.reason, list(found.seconds)) == ("packed", "", ["packed"])


@pytest.mark.usefixtures("_rivals")
def test_the_layout_of_other_scores_goes_first_however_slow_it_is(monkeypatch):
    clocked(monkeypatch, flash=2.0, packed=1.0, shared=9.0, padded=9.0)
    for first in ("flash", "packed", "shared", "padded"):
        found = choose_layout(tiny_model("llama"), "auto", longest_row=60, first=first)
        assert (found.layout, dict(found.seconds)) == (first, {})
    assert choose_layout(tiny_model("llama"), "packed", longest_row=60, first="flash").layout == "packed"


@pytest.mark.usefixtures("_rivals")
def test_where_the_layout_of_other_scores_cannot_be_used_the_reason_comes_first(monkeypatch):
    """Flex attention is no candidate here; the flash kernel is off by a tenth and not tried twice."""
    clocked(monkeypatch, flash=1.0, packed=2.0, padded=0.0)
    found = choose_layout(tiny_model("llama"), "auto", longest_row=60, first="flex")
    assert (found.layout, found.reason) == ("flash", "flex: not for LlamaForCausalLM on cpu")
    honest = plain_kernel
    monkeypatch.setattr(flash, "varlen_attn", lambda *sides, **more: 1.1 * honest(*sides, **more))
    found = choose_layout(tiny_model("llama"), "auto", longest_row=60, first="flash")
    assert found.layout == "packed"
    assert found.reason.startswith("flash: differs from padded rows by")
    assert found.reason.count("flash") == 1


@pytest.mark.usefixtures("_rivals")
def test_memory_that_runs_out_is_the_slowest(monkeypatch):
    def forward(self, rows, **more):
        if self.layout == "flash" and len(rows) > 10:
            raise torch.OutOfMemoryError("no more")
        return honest(self, rows, **more)

    honest = probe.TokenScorer.forward
    monkeypatch.setattr(probe.TokenScorer, "forward", forward)
    found = choose_layout(tiny_model("llama"), "auto", longest_row=60)
    assert found.layout == "packed"
    assert found.seconds["flash"] == float("inf")
    model = tiny_model("llama")
    stated = ModelScorer(TokenScorer(model, "packed"), found, 1024).provenance()["probe_seconds"]
    assert stated == {"flash": None, "packed": found.seconds["packed"]}
