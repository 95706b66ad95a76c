"""NCA and InfoNCA: Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards"."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Temperature = Annotated[float, Allowed("the temperature of the scores; the label hardens towards 0", above=0)]


@objective(rewards=logratio_rewards, beta=0.01)
def nca_pair(chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn) -> StepColumn:
    """-log sigmoid(beta a) - (log sigmoid(-beta a) + log sigmoid(-beta c)) / 2, per pair (pairs,).

    a, c the summed log-ratios. Keeps the chosen completion's likelihood up, while DPO only sees the difference.
    """
    return (
        -logsigmoid(beta * chosen_logratios)
        - 0.5 * logsigmoid(-beta * chosen_logratios)
        - 0.5 * logsigmoid(-beta * rejected_logratios)
    )


@objective(rewards=logratio_rewards, beta=0.01)
def infonca(
    margin: StepColumn,
    chosen_score: StepColumn,
    rejected_score: StepColumn,
    beta: StepColumn,
    *,
    temperature: Temperature = 1.0,
) -> StepColumn:
    """-p log sigmoid(beta Delta) - (1 - p) log sigmoid(-beta Delta), p = sigmoid((r_w - r_l) / temperature).

    InfoNCA for two completions with scores r; with hard labels (p = 1) it is DPO. `temperature` is the paper's alpha.
    """
    wins = ((chosen_score - rejected_score) / temperature).sigmoid()
    return -wins * logsigmoid(beta * margin) - (1 - wins) * logsigmoid(-beta * margin)


def nca_list(
    logratios: Float[Tensor, "prompts completions"],
    scores: Float[Tensor, "prompts completions"],
    *,
    beta: float = 0.01,
    temperature: float = 1.0,
) -> Float[Tensor, "prompts"]:
    """NCA for K completions a prompt, (prompts,): -sum_k [p_k log sigmoid(r_k) + log sigmoid(-r_k) / K].

    `logratios`, `scores` (prompts, K); r = beta log-ratios, p = softmax(scores / temperature).
    """
    rewards = beta * logratios
    target = (scores / temperature).softmax(-1)
    return -(target * logsigmoid(rewards) + logsigmoid(-rewards) / rewards.shape[-1]).sum(-1)


def infonca_list(
    logratios: Float[Tensor, "prompts completions"],
    scores: Float[Tensor, "prompts completions"],
    *,
    beta: float = 0.01,
    temperature: float = 1.0,
) -> Float[Tensor, "prompts"]:
    """InfoNCA for K completions a prompt, (prompts,): cross-entropy of softmax(beta log-ratios) to the scores'."""
    return -((scores / temperature).softmax(-1) * (beta * logratios).log_softmax(-1)).sum(-1)


NCA = Paper("Noise Contrastive Alignment of Language Models with Explicit Rewards", "2402.05369", "NeurIPS 2024")
method(
    "nca_pair",
    "Noise-contrastive loss on each log-ratio separately",
    paper=NCA,
    objective=nca_pair,
    aliases={"nca": {}},
    learning_rate="5e-6 (QLoRA)",
)
method(
    "infonca",
    "DPO with soft labels from the difference of the scores",
    paper=NCA,
    objective=infonca,
    synonyms={"alpha": "temperature"},
    learning_rate="5e-6 (QLoRA)",
)
