"""SimPO: Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Beta, LabelSmoothing
from scoreonce.pipeline.methods.pieces.logistic import smoothed_logistic
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn


@rewards("chosen_rewards", "rejected_rewards")
def policy_rewards(
    normalised_policy_chosen_logps: StepColumn, normalised_policy_rejected_logps: StepColumn, *, beta: Beta
) -> tuple[StepColumn, StepColumn]:
    """(beta / |y|) log pi(y) of each side: SimPO's length-normalised reward, without the target margin."""
    return beta * normalised_policy_chosen_logps, beta * normalised_policy_rejected_logps


@objective(rewards=policy_rewards, beta=2.0)
def simpo(
    normalised_policy_margin: StepColumn,
    beta: StepColumn,
    target_margin: StepColumn,
    *,
    label_smoothing: LabelSmoothing = 0.0,
) -> StepColumn:
    """-(1 - e) log sigmoid(h) - e log sigmoid(-h), h = beta (u - target_margin), per pair; e: `label_smoothing`.

    u = log pi(y_w) / |y_w| - log pi(y_l) / |y_l|, nats per token (SimPO's objective, Eq. 6). The paper writes
    beta u - gamma: here, as in its code, `gamma_beta_ratio` = gamma / beta is the setting, in the units of u; some
    libraries name gamma itself. Defaults are the paper's recipe for Llama-3-Base (2.0, 0.5). No reference is read.
    `normalisation = "sum"` leaves out the division by the length.
    """
    logits = beta * (normalised_policy_margin - target_margin)
    return smoothed_logistic(logits, label_smoothing)


method(
    "simpo",
    "Reference-free, per-token log-probs, constant target margin",
    paper=Paper("SimPO: Simple Preference Optimization with a Reference-Free Reward", "2405.14734", "NeurIPS 2024"),
    objective=simpo,
    learning_rate="3e-7 (Mistral-Base), 5e-7 (Mistral-Instruct), 6e-7 (Llama-3-Base), 1e-6 (Llama-3-Instruct), "
    "8e-7 (Gemma-2-9B-it); batch 128",
)
