"""Every column that a table or a method may name, declared once: dtype, bounds, unit and meaning.

Plain data, so that tensor code can read it without polars. `tables.py` composes these into dataframely schemas.

Naming: `policy_` / `ref_` say whose log-probs; `*_token_logps` are nats per completion token; `*_logps` are their
sum over the completion (never a mean); `*_len` counts completion tokens, EOS included.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import Literal

# What `score` keeps of the reference beside log-probs, without which the policy's forward pass cannot make a column:
# its next-token distributions (hidden states, or the largest log-probs), the hidden states themselves, the
# completion of another prompt that it scored behind each prompt, or the log-prob of each token.
Kept = Literal["distributions", "hidden states", "mismatched completion", "token log-probs"]
Dtype = Literal["string", "bool", "int32", "int64", "float32", "float64", "list[int32]", "list[float32]"]


@dataclass(frozen=True)
class Column:
    """One column: its name is the word for it everywhere, in files, tensors and signatures."""

    name: str
    dtype: Dtype
    meaning: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    nullable: bool = False
    differentiable: bool = False  # made by the policy's forward pass, and a method's gradient may flow through it
    needs: Kept | None = None
    default: float | None = None  # what a method takes where the column is not given
    others: tuple[str, ...] = ()  # further scored models without which it cannot be made: [reference.other.NAME]


def _logps(name: str, whose: str, side: str) -> Column:
    return Column(
        name,
        "float64",
        f"{whose} log-prob of the {side} completion, summed over its tokens",
        "nats",
        maximum=0,
        nullable=True,  # without that completion
        differentiable=whose == "policy",
    )


def _sum(
    name: str,
    meaning: str,
    *,
    most: float | None = None,
    least: float | None = None,
    flows: bool,
    needs: Kept | None = None,
    others: tuple[str, ...] = (),
) -> Column:
    return Column(
        name, "float64", meaning, "nats", minimum=least, maximum=most, differentiable=flows, needs=needs, others=others
    )


# Identity and origin
PAIR_ID = Column("pair_id", "string", "digest of the two completion ids, chosen first", "128-bit hex")
COMPLETION_ID = Column("completion_id", "string", "digest of (prompt_ids, completion_ids)", "128-bit hex")
CHOSEN_ID = Column(
    "chosen_id",
    "string",
    "completion_id of the chosen side; null for a bad completion of unpaired data",
    "128-bit hex",
    nullable=True,
)
REJECTED_ID = Column(
    "rejected_id",
    "string",
    "completion_id of the rejected side; null in completion-only data and for a good completion of unpaired data",
    "128-bit hex",
    nullable=True,
)
PROMPT_ID = Column("prompt_id", "string", "digest of prompt_ids", "128-bit hex")
ROW = Column("row", "int64", "row of the raw dataset, from 0", minimum=0)
SOURCE = Column("source", "string", "where the pair comes from, as the dataset says", nullable=True)
REASON = Column("reason", "string", "why the row cannot be used, as a name")
DETAIL = Column("detail", "string", "what was found in this row", nullable=True)

# Text
PROMPT = Column("prompt", "string", "what the completions answer, special tokens of the template included")
CHOSEN = Column("chosen", "string", "the preferred completion; in unpaired data a good one, else null", nullable=True)
REJECTED = Column(
    "rejected", "string", "the other completion, null without one; in unpaired data a bad one", nullable=True
)
CHOSEN_SCORE = Column("chosen_score", "float64", "the dataset's own score of the chosen completion", nullable=True)
REJECTED_SCORE = Column(
    "rejected_score", "float64", "the dataset's own score of the rejected completion", nullable=True
)
CHOSEN_PREFERENCE = Column(
    "chosen_preference",
    "float64",
    "probability that the chosen completion is preferred to one of the reference's own (SPPO)",
    minimum=0,
    maximum=1,
    nullable=True,
)
REJECTED_PREFERENCE = Column(
    "rejected_preference",
    "float64",
    "probability that the rejected completion is preferred to one of the reference's own (SPPO)",
    minimum=0,
    maximum=1,
    nullable=True,
)

# Tokens
PROMPT_IDS = Column("prompt_ids", "list[int32]", "token ids of the prompt, BOS as the tokenizer puts it", minimum=0)
CHOSEN_IDS = Column(
    "chosen_ids",
    "list[int32]",
    "token ids of the chosen completion, EOS last unless truncated; empty without one",
    minimum=0,
)
REJECTED_IDS = Column(
    "rejected_ids", "list[int32]", "token ids of the rejected completion; empty without one", minimum=0
)
PROMPT_LEN = Column("prompt_len", "int32", "prompt tokens", "tokens", minimum=1)
CHOSEN_LEN = Column(
    "chosen_len", "int32", "tokens of the chosen completion, EOS included; 0 without one", "tokens", minimum=0
)
REJECTED_LEN = Column(
    "rejected_len",
    "int32",
    "tokens of the rejected completion, EOS included; 0 without one",
    "tokens",
    minimum=0,
)
COMPLETION_LEN = Column("completion_len", "int32", "tokens of the completion, EOS included", "tokens", minimum=1)
PROMPT_TRUNCATED = Column("prompt_truncated", "bool", "the start of the prompt was cut to fit max_prompt_length")
CHOSEN_TRUNCATED = Column(
    "chosen_truncated", "bool", "the end of the chosen completion was cut to fit max_length; it has no EOS"
)
REJECTED_TRUNCATED = Column(
    "rejected_truncated", "bool", "the end of the rejected completion was cut to fit max_length; it has no EOS"
)
BOUNDARY_MERGED = Column(
    "boundary_merged", "bool", "tokenised whole, a token would span the end of the prompt on one side or both"
)

# One completion under one model (the store)
TOKEN_LOGPS = Column("token_logps", "list[float32]", "log-prob of each completion token", "nats", maximum=0)
LOGPS = Column("logps", "float64", "sum of token_logps, accumulated in float64", "nats", maximum=0)
ENTROPY = Column(
    "entropy", "float64", "entropy of the next-token distribution, summed over completion positions", "nats", minimum=0
)
COLLISION_LOGPS = Column(
    "collision_logps", "float64", "log sum_v p(v)^2, summed over completion positions", "nats", maximum=0
)
TOP1_HITS = Column("top1_hits", "int32", "completion tokens that were the most likely next token", "tokens", minimum=0)

# One pair under the reference and the policy
REF_CHOSEN_LOGPS = _logps("ref_chosen_logps", "reference", "chosen")
REF_REJECTED_LOGPS = _logps("ref_rejected_logps", "reference", "rejected")
REF_MARGIN = Column("ref_margin", "float64", "ref_chosen_logps - ref_rejected_logps", "nats", nullable=True)
REF_CHOSEN_ENTROPY = Column(
    "ref_chosen_entropy",
    "float64",
    "reference entropy summed over the chosen completion",
    "nats",
    minimum=0,
    nullable=True,
)
REF_REJECTED_ENTROPY = Column(
    "ref_rejected_entropy",
    "float64",
    "reference entropy summed over the rejected completion",
    "nats",
    minimum=0,
    nullable=True,
)
REF_CHOSEN_TOP1_HITS = Column(
    "ref_chosen_top1_hits", "int32", "chosen tokens that the reference ranked first", "tokens", minimum=0, nullable=True
)
REF_REJECTED_TOP1_HITS = Column(
    "ref_rejected_top1_hits",
    "int32",
    "rejected tokens that the reference ranked first",
    "tokens",
    minimum=0,
    nullable=True,
)
REF_EMBEDDING_SIMILARITY = Column(
    "ref_embedding_similarity",
    "float64",
    "cosine of the mean hidden states that predict the chosen and the rejected completion's tokens (REAL)",
    minimum=-1,
    maximum=1,
    nullable=True,
)
REF_CHES = Column(
    "ref_ches",
    "float64",
    "CHES score: S+ . S- - |S+|^2, S the sum of the hidden states that predict a completion's tokens",
    nullable=True,
)
REF_LN_CHES = Column(
    "ref_ln_ches", "float64", "length-normalised CHES score: the same of the means of the hidden states", nullable=True
)
POLICY_CHOSEN_LOGPS = _logps("policy_chosen_logps", "policy", "chosen")
POLICY_REJECTED_LOGPS = _logps("policy_rejected_logps", "policy", "rejected")
CHOSEN_LOGRATIOS = Column(
    "chosen_logratios", "float64", "policy_chosen_logps - ref_chosen_logps", "nats", nullable=True
)
REJECTED_LOGRATIOS = Column(
    "rejected_logratios", "float64", "policy_rejected_logps - ref_rejected_logps", "nats", nullable=True
)
MARGIN = Column("margin", "float64", "chosen_logratios - rejected_logratios, without beta", "nats", nullable=True)
LINKED_MARGIN = Column(
    "linked_margin",
    "float64",
    "the margin that the loss saw where the divergence is not the reverse KL: f'(pi / ref) in the place of each "
    "log-ratio; null where that is `margin` itself",
    nullable=True,
)

# What single methods need of a forward pass besides
_PREFIX = "the first min(chosen_len, rejected_len) tokens of the"
_COLLISION = "log sum_v p(v)^2 under the policy, summed over the completion positions of the"
_ENTROPY = "policy entropy summed over the"
_PLUS = "log-prob under the logits f + epsilon (f - f_ref), summed over the tokens of the"
_MINUS = "log-prob under the logits f - epsilon (f - f_ref), summed over the tokens of the"
_ROUNDED = "policy log-prob in bfloat16 arithmetic (epsilon-DPO with step_dtype = bf16), summed over the tokens of the"
_FORWARD_KL = "KL(reference || policy) of the next token, summed over the completion positions of the"
_MASKED_LOGRATIOS = "token log-ratio times the reward mask, summed over the tokens of the"
_CLAMPED_LOGRATIOS = "token log-ratio clamped to [log_eps_p, log_eps_r] (humanline), summed over the tokens of the"
_WEIGHTED_LOGRATIOS = "token log-ratio times the token's weight (TIS-DPO), summed over the tokens of the"
_MASKED_FORWARD_KL = "KL(reference || policy) times the KL mask, summed over the completion positions of the"

POLICY_CHOSEN_PREFIX_LOGPS = _sum(
    "policy_chosen_prefix_logps", f"policy log-prob of {_PREFIX} chosen completion", most=0, flows=True
)
POLICY_REJECTED_PREFIX_LOGPS = _sum(
    "policy_rejected_prefix_logps", f"policy log-prob of {_PREFIX} rejected completion", most=0, flows=True
)
REF_CHOSEN_PREFIX_LOGPS = _sum(
    "ref_chosen_prefix_logps", f"reference log-prob of {_PREFIX} chosen completion", most=0, flows=False
)
REF_REJECTED_PREFIX_LOGPS = _sum(
    "ref_rejected_prefix_logps", f"reference log-prob of {_PREFIX} rejected completion", most=0, flows=False
)
POLICY_KL_LOGPS = _sum(
    "policy_kl_logps",
    "policy log-prob of the mismatched completion: another prompt's (KTO)",
    most=0,
    flows=False,
    needs="mismatched completion",
)
REF_KL_LOGPS = Column(
    "ref_kl_logps",
    "float64",
    "reference log-prob of the mismatched completion: another prompt's (KTO)",
    "nats",
    maximum=0,
    nullable=True,
)
KL_ID = Column(
    "kl_id",
    "string",
    "completion_id of the prompt with another prompt's completion (KTO)",
    "128-bit hex",
    nullable=True,
)
KL_LEN = Column(
    "kl_len",
    "int32",
    "tokens of the mismatched completion, cut so that it fits behind the prompt",
    "tokens",
    minimum=1,
    nullable=True,
)
POLICY_CHOSEN_COLLISION_LOGPS = _sum("policy_chosen_collision_logps", f"{_COLLISION} chosen one", most=0, flows=False)
POLICY_REJECTED_COLLISION_LOGPS = _sum(
    "policy_rejected_collision_logps", f"{_COLLISION} rejected one", most=0, flows=False
)
POLICY_CHOSEN_ENTROPY = _sum("policy_chosen_entropy", f"{_ENTROPY} chosen completion", least=0, flows=False)
POLICY_REJECTED_ENTROPY = _sum("policy_rejected_entropy", f"{_ENTROPY} rejected completion", least=0, flows=False)
POLICY_CHOSEN_PLUS_LOGPS = _sum(
    "policy_chosen_plus_logps", f"{_PLUS} chosen completion", most=0, flows=False, needs="distributions"
)
POLICY_REJECTED_PLUS_LOGPS = _sum(
    "policy_rejected_plus_logps", f"{_PLUS} rejected completion", most=0, flows=False, needs="distributions"
)
POLICY_CHOSEN_MINUS_LOGPS = _sum(
    "policy_chosen_minus_logps", f"{_MINUS} chosen completion", most=0, flows=False, needs="distributions"
)
POLICY_REJECTED_MINUS_LOGPS = _sum(
    "policy_rejected_minus_logps", f"{_MINUS} rejected completion", most=0, flows=False, needs="distributions"
)
POLICY_CHOSEN_ROUNDED_LOGPS = _sum(
    "policy_chosen_rounded_logps", f"{_ROUNDED} chosen completion", most=0, flows=False, needs="distributions"
)
POLICY_REJECTED_ROUNDED_LOGPS = _sum(
    "policy_rejected_rounded_logps", f"{_ROUNDED} rejected completion", most=0, flows=False, needs="distributions"
)
POLICY_CHOSEN_FORWARD_KL = _sum(
    "policy_chosen_forward_kl", f"{_FORWARD_KL} chosen one", least=0, flows=True, needs="distributions"
)
POLICY_REJECTED_FORWARD_KL = _sum(
    "policy_rejected_forward_kl", f"{_FORWARD_KL} rejected one", least=0, flows=True, needs="distributions"
)
POLICY_CHOSEN_MASKED_LOGRATIOS = _sum(
    "policy_chosen_masked_logratios", f"{_MASKED_LOGRATIOS} chosen completion", flows=True, needs="hidden states"
)
POLICY_REJECTED_MASKED_LOGRATIOS = _sum(
    "policy_rejected_masked_logratios", f"{_MASKED_LOGRATIOS} rejected completion", flows=True, needs="hidden states"
)
POLICY_CHOSEN_MASKED_FORWARD_KL = _sum(
    "policy_chosen_masked_forward_kl", f"{_MASKED_FORWARD_KL} chosen one", least=0, flows=True, needs="hidden states"
)
POLICY_REJECTED_MASKED_FORWARD_KL = _sum(
    "policy_rejected_masked_forward_kl",
    f"{_MASKED_FORWARD_KL} rejected one",
    least=0,
    flows=True,
    needs="hidden states",
)
POLICY_CHOSEN_CLAMPED_LOGRATIOS = _sum(
    "policy_chosen_clamped_logratios", f"{_CLAMPED_LOGRATIOS} chosen completion", flows=True, needs="token log-probs"
)
POLICY_REJECTED_CLAMPED_LOGRATIOS = _sum(
    "policy_rejected_clamped_logratios",
    f"{_CLAMPED_LOGRATIOS} rejected completion",
    flows=True,
    needs="token log-probs",
)
POLICY_CHOSEN_WEIGHTED_LOGRATIOS = _sum(
    "policy_chosen_weighted_logratios",
    f"{_WEIGHTED_LOGRATIOS} chosen completion",
    flows=True,
    needs="token log-probs",
    others=("plus", "minus"),
)
POLICY_REJECTED_WEIGHTED_LOGRATIOS = _sum(
    "policy_rejected_weighted_logratios",
    f"{_WEIGHTED_LOGRATIOS} rejected completion",
    flows=True,
    needs="token log-probs",
    others=("plus", "minus"),
)
POLICY_REWARD_MASK_L1 = Column(
    "policy_reward_mask_l1",
    "float64",
    "L1 norm of the reward masks of both completions",
    minimum=0,
    differentiable=True,
    needs="hidden states",
)
POLICY_KL_MASK_L1 = Column(
    "policy_kl_mask_l1",
    "float64",
    "L1 norm of the KL masks of both completions",
    minimum=0,
    differentiable=True,
    needs="hidden states",
)

# Which completions a row has: a pair both, a row of unpaired data one
HAS_CHOSEN = Column("has_chosen", "float64", "1 with a chosen completion, 0 without", minimum=0, maximum=1, default=1)
HAS_REJECTED = Column(
    "has_rejected", "float64", "1 with a rejected completion, 0 without", minimum=0, maximum=1, default=1
)

# What a method makes of a pair in one step
STEP = Column("step", "int64", "optimizer step, from 1", minimum=1)
EPOCH = Column("epoch", "int64", "pass over the training pairs, from 0", minimum=0)
BETA = Column("beta", "float64", "strength of the KL constraint used for this pair in this step", nullable=True)
TARGET_MARGIN = Column(
    "target_margin",
    "float64",
    "target margin of this pair, in the units of the objective's log-ratio difference",
    nullable=True,
)
WEIGHT = Column("weight", "float64", "weight of the pair's loss; 0 means filtered out", minimum=0)
LOSS = Column("loss", "float64", "loss of the pair, before its weight")
PROGRESS = Column(
    "progress",
    "float64",
    "optimizer steps already taken, over those of the whole run (schedules)",
    minimum=0,
    maximum=1,
    default=0,
)
EXPONENTIAL_DRAWS = Column("exponential_draws", "float64", "Exp(1) draws that decide a random selection", minimum=0)

_RESERVED = ("policy", "ref")  # beginnings of the names of other columns
_OF_ANOTHER = re.compile(r"(?P<name>[a-z][a-z0-9_]*)_(?P<side>chosen|rejected)_logps")


def is_prefix(name: str) -> bool:
    """Whether a further scored model can have this name, with which the names of its columns begin."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and not name.startswith(_RESERVED)


def of_another(name: str) -> Column | None:
    """The column `NAME_chosen_logps` or `NAME_rejected_logps` of a further scored model; None for any other name.

    A name that is nearly that of the policy or the reference is taken for a mistake.
    """
    found = _OF_ANOTHER.fullmatch(name)
    if (
        name in COLUMNS
        or not found
        or not is_prefix(found["name"])
        or difflib.get_close_matches(found["name"], _RESERVED)
    ):
        return None
    return replace(_logps(name, f"[reference.other.{found['name']}]'s", found["side"]), others=(found["name"],))


COLUMNS: dict[str, Column] = {value.name: value for value in list(globals().values()) if isinstance(value, Column)}
