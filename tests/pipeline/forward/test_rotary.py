"""Rotary frequencies by the length of each sequence. The oracle is a model just made, with one sequence at a time."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import transformers as tr
from tiny_models import SHAPE, VOCABULARY, plain_token_logps

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.layout_probe import choose_layout
from scoreonce.pipeline.forward.rotary import RotaryLengths
from scoreonce.pipeline.forward.scorer import TokenScorer

USUAL = 40  # tokens of the longest sequence of usual frequencies
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.0, 1.0, 1.0],
    "long_factor": [1.5, 3.0, 6.0, 12.0],
    "original_max_position_embeddings": USUAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
CONFIGS = {
    "longrope": lambda: tr.Phi3Config(
        **SHAPE | {"rope_parameters": LONGROPE, "original_max_position_embeddings": USUAL}
    ),
    "dynamic": lambda: tr.LlamaConfig(**SHAPE | {"max_position_embeddings": USUAL, "rope_parameters": DYNAMIC}),
}


def made(kind):
    torch.manual_seed(0)
    return tr.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()


def rows_of(*lengths):
    """Rows of a prompt and completions of these lengths."""
    random = np.random.default_rng(0)

    def ids(length):
        return random.integers(3, VOCABULARY, length, dtype=np.int32)

    return [PromptRow(ids(prompt), tuple(map(ids, completions))) for prompt, *completions in lengths]


# Of usual length, longer, with completions on both sides of the limit, just at it, just above it, and usual again.
ROWS = rows_of((12, 10, 16), (28, 20, 32), (24, 6, 40), (32, 8, 9), (40, 60), (4, 6))


def alone(model, rows):
    """Each sequence in a copy of its own, which has seen none before."""
    return torch.cat(
        [
            plain_token_logps(deepcopy(model), [PromptRow(row.prompt, (each,))])
            for row in rows
            for each in row.completions
        ]
    )


@pytest.mark.parametrize("layout", ["padded", "shared", "packed"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_each_sequence_has_the_frequencies_that_it_has_alone(kind, layout):
    scorer = TokenScorer(made(kind), layout)
    for rows in (ROWS, ROWS[1:2], ROWS[::-1]):  # a batch of longer ones leaves nothing behind
        with torch.inference_mode():
            found = scorer(rows).token_logps
        torch.testing.assert_close(found.double(), alone(made(kind), rows), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_effect_is_not_small(kind):
    """Plain transformers, in one padded batch: a token of a short sequence is off by more than 0.01 nats."""
    model = made(kind)
    short, long = ROWS[0].prompt, np.concatenate([ROWS[4].prompt, *ROWS[4].completions])
    together = torch.zeros(2, len(long), dtype=torch.long)
    together[0, : len(short)] = torch.from_numpy(short.astype(np.int64))
    together[1, : len(long)] = torch.from_numpy(long.astype(np.int64))
    mask = (torch.arange(len(long)) < torch.tensor([[len(short)], [len(long)]])).long()
    with torch.inference_mode():
        beside = model(input_ids=together, attention_mask=mask).logits[0, : len(short)].log_softmax(-1)
        single = made(kind)(input_ids=together[:1, : len(short)]).logits[0].log_softmax(-1)
    assert (beside - single).abs().max() > 0.01


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradients_are_those_of_sequences_alone(kind):
    model, plain = made(kind), made(kind)
    TokenScorer(model, choose_layout(model, "auto", 100).layout)(ROWS).sums().sum().backward()
    for row in ROWS:
        for completion in row.completions:
            ids = torch.tensor(np.concatenate([row.prompt, completion]), dtype=torch.long)
            plain.model.rotary_emb = made(kind).model.rotary_emb
            logps = plain(input_ids=ids[None]).logits[0].log_softmax(-1)[len(row.prompt) - 1 : -1]
            logps.gather(1, ids[len(row.prompt) :, None]).sum().backward()
    for (name, mine), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_classes_of_length():
    """longrope: two, on both sides of 40. dynamic: each length above 40 is one of its own."""
    longrope, dynamic = (RotaryLengths.of(made(kind)) for kind in ("longrope", "dynamic"))
    assert [longrope.class_of(length) for length in (1, 40, 41, 50)] == [0, 0, 41, 41]
    assert [dynamic.class_of(length) for length in (1, 40, 41, 50)] == [0, 0, 41, 50]
    assert RotaryLengths.of(tr.AutoModelForCausalLM.from_config(tr.LlamaConfig(**SHAPE))) is None


def test_only_rows_on_both_sides_of_a_limit_are_divided():
    longrope, dynamic = (RotaryLengths.of(made(kind)) for kind in ("longrope", "dynamic"))
    assert [len(row.completions) for row in longrope.apart(ROWS)] == [2, 2, 1, 1, 1, 1, 1, 1]
    assert [len(row.completions) for row in dynamic.apart(ROWS)] == [2, 1, 1, 1, 1, 1, 1, 1, 1]


def test_calling_it_again_changes_nothing():
    model = made("dynamic")
    first = RotaryLengths.of(model).embeddings
    assert RotaryLengths.of(model).embeddings == first
