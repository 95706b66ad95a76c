"""humanline: Liu et al. 2025, "Humanline: Online Alignment as Perceptual Loss"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Lower = Annotated[float, Allowed("the least log-ratio of a token, log epsilon_P, in nats", below=0)]
Upper = Annotated[float, Allowed("the largest log-ratio of a token, log epsilon_R, in nats", above=0)]


@objective(rewards=logratio_rewards)
def humanline(
    policy_chosen_clamped_logratios: StepColumn,
    policy_rejected_clamped_logratios: StepColumn,
    beta: StepColumn,
    *,
    log_eps_p: Lower = -1.0,  # these two reach the forward pass, which makes the columns
    log_eps_r: Upper = 1.5,
) -> StepColumn:
    """-log sigmoid(beta (S_w - S_l)), S = sum_t clamp(log pi(y_t) - log ref(y_t), log_eps_p, log_eps_r), per pair.

    Log-ratios are clamped token by token, of the policy against the log-probs that the reference store has of each
    token; a clamped token has no gradient. The paper's default over tasks is -1.5 and 1.5, its code's -1 and 1.5. **The
    clamp alone**: the other half of humanline overwrites the reference with the policy every k steps, which log-probs
    that were scored once do not follow. In the paper most of the gain comes from that half; with the clamp alone
    results improve on offline ones and fall short of it. Rewards are logged without the clamp.
    """
    return -logsigmoid(beta * (policy_chosen_clamped_logratios - policy_rejected_clamped_logratios))


method(
    "humanline",
    "DPO on token log-ratios that are clamped; the clamp alone, with a reference that stays",
    paper=Paper("Humanline: Online Alignment as Perceptual Loss", "2509.24207", "arXiv 2025"),
    objective=humanline,
    synonyms={
        "log_epsilon_P": "log_eps_p",
        "log_epsilon_R": "log_eps_r",
        "log_eps_P": "log_eps_p",
        "log_eps_R": "log_eps_r",
    },
)
