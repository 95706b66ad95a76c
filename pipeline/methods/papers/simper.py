"""SimPER: Xiao et al. 2025, "SimPER: A Minimalist Approach to Preference Alignment without Hyperparameters"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn


@rewards("chosen_rewards", "rejected_rewards")
def average_rewards(
    policy_chosen_logps: StepColumn, chosen_len: StepColumn, policy_rejected_logps: StepColumn, rejected_len: StepColumn
) -> tuple[StepColumn, StepColumn]:
    """log pi(y) / |y| of each side, nats per token, as SimPER's code logs it."""
    return policy_chosen_logps / chosen_len, policy_rejected_logps / rejected_len


@objective(rewards=average_rewards)
def simper(
    policy_chosen_logps: StepColumn, chosen_len: StepColumn, policy_rejected_logps: StepColumn, rejected_len: StepColumn
) -> StepColumn:
    """exp(log pi(y_l) / |y_l|) - exp(log pi(y_w) / |y_w|), per pair (pairs,): the difference of inverse perplexities.

    In (-1, 1); negative values are normal. No reference and no hyperparameter: log-probs are per token, since the
    exponential of a sum, and its gradient, would be 0. Both gradients fade as a completion becomes improbable.
    """
    chosen, rejected = policy_chosen_logps / chosen_len, policy_rejected_logps / rejected_len
    return rejected.clamp(max=0).exp() - chosen.clamp(max=0).exp()


method(
    "simper",
    "Reference-free difference of inverse perplexities, without hyperparameters",
    paper=Paper(
        "SimPER: A Minimalist Approach to Preference Alignment without Hyperparameters", "2502.00883", "ICLR 2025"
    ),
    objective=simper,
    learning_rate="3e-7 (Mistral-Base), 5e-7 (Mistral-Instruct), 6e-7 (Llama-3-Base), 1e-6 (Llama-3-Instruct); "
    "batch 128",
)
