"""The columns and state given to a method: checked, moved to one device, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

from scoreonce.schemas import columns as c
from scoreonce.schemas.columns import Column, Kept
from scoreonce.schemas.errors import InputError, did_you_mean

_DISTRIBUTIONS = (
    "a forward pass with the reference's logits makes it: `full_vocab` under [train], after "
    "`scoreonce score` with the same setting"
)
# How to get what the forward pass makes only with more of the reference than its log-probs.
NEEDED: dict[Kept, str] = {
    "distributions": _DISTRIBUTIONS,
    "hidden states": _DISTRIBUTIONS,
    "token log-probs": "training makes it of the policy's log-probs of each token and those in the reference store; in "
    "a notebook, sum it over the completion's tokens",
    "mismatched completion": "score the policy on each prompt with another prompt's completion, the same one at every "
    "step",
}
ORIGINS: dict[Column, str] = {
    **dict.fromkeys(
        (c.POLICY_CHOSEN_COLLISION_LOGPS, c.POLICY_REJECTED_COLLISION_LOGPS),
        "the policy's forward pass makes it: sum log sum_v p(v)^2 over the completion's positions",
    ),
    **dict.fromkeys(
        (c.CHOSEN_LEN, c.REJECTED_LEN),
        "the pairs have it: run `scoreonce prepare`, or count the completion's tokens, EOS included",
    ),
    **dict.fromkeys(
        (c.CHOSEN_SCORE, c.REJECTED_SCORE),
        "the dataset must have it: name its column under [data.columns], and run `scoreonce prepare`",
    ),
    c.CHOSEN_PREFERENCE: "the dataset must have it: P(chosen beats one of the reference's own completions), e.g. from "
    "a pairwise reward model",
    c.REJECTED_PREFERENCE: "the dataset must have it: P(rejected beats one of the reference's own completions)",
    c.REF_KL_LOGPS: "the reference store has it where score.mismatched = true: set that and run `scoreonce score`",
    c.EXPONENTIAL_DRAWS: "draw it with methods.exponential_draws(pairs, generator), or use methods.apply",
}
BY_MODEL = {  # prefix of a column
    "policy_": "the policy's forward pass makes it: `scoreonce train` does so itself; in a notebook, sum the policy's "
    "log-probs over the completion's tokens",
    "ref_": "the reference store has it: run `scoreonce score`, and take it from the Parquet per pair that it writes",
}


def checked(
    method: str,
    columns: Mapping[str, Tensor],
    needed: Sequence[str],
    optional: Set[str],
    state: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The needed columns, the optional ones that are there, and the state; float64, on the columns' device.

    A needed column that is not there and has a default is that number for all pairs.

    Raises `InputError` naming a missing column and where it comes from, a column that is not (pairs,) or 0-d, or a
    missing state entry.
    """
    defaults = {name: c.COLUMNS[name].default for name in needed if name not in columns}
    columns = {**columns, **{name: torch.tensor(value) for name, value in defaults.items() if value is not None}}
    for name in needed:
        if name not in columns:
            raise _missing(method, name, list(columns))
    used = {name: columns[name] for name in (*needed, *sorted(optional & set(columns)))}
    _check_shapes(method, used)
    device = used["policy_chosen_logps"].device
    return (
        {name: column.to(device, torch.float64) for name, column in used.items()},
        {name: _entry(method, name, state).to(device, torch.float64) for name in initial},
    )


def _missing(method: str, name: str, given: list[str]) -> InputError:
    column = c.COLUMNS[name]
    by_model = next((text for prefix, text in BY_MODEL.items() if name.startswith(prefix)), "add it to the columns")
    if column.others and not column.needs:
        by_model = f"score it: name the model under [reference.other.{column.others[0]}], and run `scoreonce score`"
    origin = NEEDED[column.needs] if column.needs else ORIGINS.get(column, by_model)
    return InputError(
        f"Method {method} needs a column that is not there: {name}.",
        found=f"columns {', '.join(given) or '(none)'}.{did_you_mean(name, given)}",
        where="the columns given to the method",
        fix=f"{origin[0].upper()}{origin[1:]}.",
    )


def _check_shapes(method: str, used: Mapping[str, Tensor]) -> None:
    pairs = used["policy_chosen_logps"].shape
    for name, column in used.items():
        if len(pairs) != 1 or not pairs[0] or (column.ndim and column.shape != pairs):
            raise InputError(
                f"The columns of method {method} are not one number per pair.",
                found=f"shapes {tuple(pairs)} of policy_chosen_logps, {tuple(column.shape)} of {name}",
                where="the columns given to the method",
                fix="Give every column the shape (pairs,), at least one pair; "
                "sum token log-probs per completion first.",
            )


def _entry(method: str, name: str, state: Mapping[str, Tensor]) -> Tensor:
    if name not in state:
        raise InputError(
            f"Method {method} keeps a state, and {name} is not in the one given.",
            found=f"state {', '.join(state) or '(empty)'}",
            where="the state given to the method",
            fix="Start with method.init_state(), and hand each step the state that the last one returned.",
        )
    return state[name]
