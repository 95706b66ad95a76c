"""The columns of sampled completions and of judgements: a row per completion, or per comparison of two.

Apart from `columns.py`, whose columns hold a number per pair or completion and may be named by a method.
"""

from __future__ import annotations

from typing import Any

from scoreonce.schemas.columns import Column

REFERENCE = "reference"  # the label of what the reference writes
# Settings of generation under which a completion is a sample of the model's whole distribution.
WHOLE: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
_REALIGNED = "-realign-"


def realigned_label(label: str, weight: float) -> str:
    """The label of the samples of a policy that is mixed with the reference, the policy with this weight."""
    return f"{label}{_REALIGNED}{weight:g}"


def policy_label(label: str) -> str:
    """The label of the policy of which a label's samples are, realigned or not."""
    return label.partition(_REALIGNED)[0]


SAMPLE = Column("sample", "int32", "number of the completion among those of its prompt, from 0", minimum=0)
CONVERSATION = Column(
    "conversation",
    "string",
    "messages of the prompt, as JSON with role and content; null where the prompt is plain text",
    nullable=True,
)
COMPLETION = Column("completion", "string", "the completion as text, without special tokens")
COMPLETION_IDS = Column("completion_ids", "list[int32]", "token ids of the completion, EOS last if it came", minimum=0)
COMPLETION_LEN = Column("completion_len", "int32", "tokens of the completion, EOS included", minimum=1)
FINISHED = Column("finished", "bool", "the model ended the completion; else max_new_tokens cut it")
SAMPLER_LOGPS = Column(
    "sampler_logps",
    "float64",
    "log-prob of the completion under the model that sampled it, at temperature 1, summed over its tokens",
    "nats",
    maximum=0,
)
REF_LOGPS = Column(
    "ref_logps",
    "float64",
    "log-prob of the completion under the reference, summed over its tokens; null where it was not scored",
    "nats",
    maximum=0,
    nullable=True,
)

# Judgements

LABEL = Column("label", "string", "label of the samples that the completion is one of")
SCORE = Column(
    "score", "float64", "what the judge gave the completion, higher is better; null where it gave none", nullable=True
)
OTHER_ID = Column("other_id", "string", "completion_id of the completion that it was compared with", "128-bit hex")
PREFERENCE_FIRST = Column(
    "preference_first",
    "float64",
    "the judge's answer with the completion shown first: 1 it is better, 0 the other is, 0.5 a tie; null: none",
    minimum=0,
    maximum=1,
    nullable=True,
)
PREFERENCE_SECOND = Column(
    "preference_second",
    "float64",
    "the same with the completion shown second; 1 is still that it is better; null also where nothing has an order",
    minimum=0,
    maximum=1,
    nullable=True,
)
PREFERENCE = Column(
    "preference",
    "float64",
    "mean of both orders, or of two scores: 1 the higher is its own, 0 the other's, 0.5 equal; null without an answer",
    minimum=0,
    maximum=1,
    nullable=True,
)
COMPLETION_CHARS = Column("completion_chars", "int32", "characters of the completion", minimum=0)
OTHER_CHARS = Column("other_chars", "int32", "characters of the other completion", minimum=0)
