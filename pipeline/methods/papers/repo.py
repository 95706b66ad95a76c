"""RePO: Wu et al. 2025, "RePO: ReLU-based Preference Optimization"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn


@rewards("chosen_rewards", "rejected_rewards")
def average_logps(
    normalised_policy_chosen_logps: StepColumn, normalised_policy_rejected_logps: StepColumn
) -> tuple[StepColumn, StepColumn]:
    """log pi(y) / |y| of each side: RePO's reward, which has no beta."""
    return normalised_policy_chosen_logps, normalised_policy_rejected_logps


@objective(rewards=average_logps, gamma_beta_ratio=0.6)
def repo(normalised_policy_margin: StepColumn, target_margin: StepColumn) -> StepColumn:
    """max(0, gamma - (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|)), per pair (pairs,): SimPO for beta -> infinity.

    gamma = `gamma_beta_ratio`, nats per token, as in the authors' code, where beta does not enter the loss. A pair
    beyond gamma has no gradient. No reference is read.
    """
    return (target_margin - normalised_policy_margin).relu()


method(
    "repo",
    "Reference-free hinge on per-token log-probs",
    paper=Paper("RePO: ReLU-based Preference Optimization", "2503.07426", "arXiv 2025"),
    objective=repo,
    synonyms={"gamma": "gamma_beta_ratio"},
    learning_rate="8e-7 (Gemma-2-9B, gamma 0.4), 1e-6 (Llama-3-8B, gamma 0.6), 6e-7 (Mistral-7B, gamma 0.4)",
)
