"""SFT on the chosen completions, the supervised step of InstructGPT: Ouyang et al. 2022."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective, selection
from scoreonce.pipeline.methods.pieces.shapes import StepColumn


@objective()
def sft(policy_chosen_logps: StepColumn, chosen_len: StepColumn) -> StepColumn:
    """-log pi(y_w) / |y_w|, per pair (pairs,): cross-entropy in nats per completion token, the prompt left out."""
    return -policy_chosen_logps / chosen_len


@objective(batch_coupled=True)
def sft_tokens(policy_chosen_logps: StepColumn, chosen_len: StepColumn) -> StepColumn:
    """-log pi(y_w) / (mean length of the step), per pair (pairs,): its mean is the cross-entropy per token of the step.

    What `sft` with `token_count` gives, for a weighted sum with objectives that count pairs: TRL's `sft` term.
    """
    return -policy_chosen_logps / chosen_len.mean()


@selection(batch_coupled=False)
def token_count(chosen_len: StepColumn) -> StepColumn:
    """weight = |y_w|: the step's loss of `sft` is the mean over its tokens, not over its completions."""
    return chosen_len


method(
    "sft",
    "Supervised fine-tuning on the chosen completions, mean over tokens",
    paper=Paper("Training language models to follow instructions with human feedback", "2203.02155", "NeurIPS 2022"),
    objective=sft,
    selection=token_count,
)
