"""epsilon-DPO's decisions in the bfloat16 arithmetic of its authors' run, from logits to steps."""

import pytest
import torch

from scoreonce.pipeline import methods
from scoreonce.pipeline.head.log_probs import Head, ReferenceLogits, TopLogps, token_columns, top_k
from scoreonce.pipeline.head.token_scores import TokenScores
from scoreonce.pipeline.methods.papers.epsilon_dpo import epsilon_step
from scoreonce.pipeline.training.policy_columns import PolicyColumns

EPSILON = 0.01
VOCABULARY, HIDDEN, PAIRS = 31, 8, 24
SIDES = ("chosen", "rejected")
LENGTHS = torch.randint(60, 300, (2 * PAIRS,), generator=torch.Generator().manual_seed(5))
TOKENS = int(LENGTHS.sum())


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def policy_and_reference(drift):
    """Peaked distributions over 31 tokens, apart by `drift`, and sampled completions of 60 to 300 tokens."""
    hidden, weight = normal(TOKENS, HIDDEN, seed=0), 1.5 * normal(VOCABULARY, HIDDEN, seed=1)
    moved = hidden + drift * normal(TOKENS, HIDDEN, seed=2)
    probs = (hidden @ weight.T).softmax(1)
    targets = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(3)).squeeze(1)
    return moved, Head(weight, None), targets, ReferenceLogits(hidden, Head(weight, None))


def columns(method, hidden, head, targets, reference):
    rounded = method.hyperparameters["step_dtype"] == "bf16"
    given = reference._replace(perturbation=EPSILON, rounded=rounded)
    made = token_columns(hidden, head, targets, reference=given)
    scores = TokenScores(made.logps, LENGTHS, None, made.kl, None, made.perturbed)
    return PolicyColumns.of(method.reads).from_scores(scores)


def bfloat16_run(hidden, head, targets, reference_logits):
    """Steps (pairs,), written down as the authors' chain, with whole bfloat16 tensors: L_X as in the paper's code.

    CUDA's log_softmax of bfloat16 is float32 inside; so is torch's sum of bfloat16, on every device.
    """
    f, g = (hidden @ head.weight.T).to(torch.bfloat16), reference_logits.to(torch.bfloat16)
    scale = lambda factor, logits: (factor * logits.float()).to(torch.bfloat16)  # noqa: E731
    found = []
    for logits in (scale(1.01, f) - scale(0.01, g), f, scale(0.99, f) + scale(0.01, g)):
        token_logps = torch.log_softmax(logits, 1, dtype=torch.float32).to(torch.bfloat16)
        own = token_logps.gather(1, targets[:, None])[:, 0]
        sums = torch.stack([part.sum() for part in own.split(LENGTHS.tolist())])
        assert sums.dtype == torch.bfloat16
        found.append(sums[0::2] - sums[1::2])
    plus, here, minus = found
    return ((plus > here) & (here > minus)).double() - ((minus > here) & (here > plus)).double()


def steps(method, made):
    piece = {name: made[name] for name in made}
    return epsilon_step(**piece, dead_band=0.0, step_dtype=method.hyperparameters["step_dtype"])


@pytest.mark.parametrize("form", ["hidden", "topk"])
@pytest.mark.parametrize("drift", [0.01, 0.3, 1.0])
def test_steps_in_bfloat16_are_the_authors(form, drift):
    hidden, head, targets, reference = policy_and_reference(drift)
    if form == "topk":
        top = top_k(reference.hidden, reference.head, 8)
        reference = TopLogps(*top)
    method = methods.resolve("epsilon_dpo", {"step_dtype": "bf16"})
    ours = steps(method, columns(method, hidden, head, targets, reference))
    policy = (hidden @ head.weight.T).log_softmax(1)  # which shapes the tail of the largest log-probs
    ref_logits = reference.completed(0, TOKENS, policy) if form == "topk" else reference.logits(0, TOKENS)
    theirs = bfloat16_run(hidden, head, targets, ref_logits)
    assert ours.tolist() == theirs.tolist()
    if drift == 1.0:
        assert set(ours.tolist()) > {0.0}  # so that the comparison is not of zeros alone


def test_a_policy_near_its_reference_is_left_alone_in_bfloat16_and_not_in_float32():
    given = policy_and_reference(0.01)
    zeros = {}
    for dtype in ("fp32", "bf16"):
        method = methods.resolve("epsilon_dpo", {"step_dtype": dtype})
        zeros[dtype] = int((steps(method, columns(method, *given)) == 0).sum())
    assert zeros["bf16"] > 0.7 * PAIRS
    assert zeros["fp32"] < 0.1 * PAIRS


def test_float32_decides_as_before_and_reads_no_more():
    hidden, head, targets, reference = policy_and_reference(0.3)
    method = methods.METHODS["epsilon_dpo"]
    made = columns(method, hidden, head, targets, reference)
    assert not any("rounded" in name for name in method.reads)
    f, g = (hidden @ head.weight.T).double(), reference.logits(0, TOKENS).double()
    for name, logits in (("plus_logps", f + EPSILON * (f - g)), ("minus_logps", f - EPSILON * (f - g))):
        own = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
        for number, side in enumerate(SIDES):
            sums = torch.stack([part.sum() for part in own.split(LENGTHS.tolist())])[number::2]
            torch.testing.assert_close(made[f"policy_{side}_{name}"], sums, rtol=1e-6, atol=1e-4)


def test_the_loss_keeps_its_own_precision():
    """One decision each, and the loss is DPO's of the float32 columns at the beta decided on."""
    given = policy_and_reference(1.0)
    method = methods.resolve("epsilon_dpo", {"step_dtype": "bf16", "beta": 0.1})
    made = columns(method, *given)
    reference = {
        f"ref_{side}_logps": made[f"policy_{side}_logps"].detach() - 3 * number for number, side in enumerate(SIDES)
    }
    outcome = method.run({**made, **reference}, method.init_state())
    torch.testing.assert_close(outcome.margin, torch.full((PAIRS,), -3.0, dtype=torch.float64))
    expected = 0.1 / (1 + EPSILON * steps(method, made))
    torch.testing.assert_close(outcome.beta, expected)
    torch.testing.assert_close(outcome.losses, -torch.nn.functional.logsigmoid(-3 * expected))
