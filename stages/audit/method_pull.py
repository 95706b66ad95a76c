"""Which pairs a method would down-weight, before any training: its gradient at policy = reference.

The method runs on the cached columns with the reference in the policy's place, as in the first step, all pairs in one
batch. A pair's pull is the size of the loss's gradient by its log-probs; below half of the median pull it counts as
down-weighted. Plain DPO pulls every pair the same. Methods with statistics over a batch see all pairs here, not a step.
"""

from __future__ import annotations

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.pipeline.audit.checks.distributions import Distribution
from scoreonce.pipeline.audit.checks.layer import Layer
from scoreonce.pipeline.audit.checks.training_dynamics import slug
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run

LITTLE = 0.5  # of the median pull


def methods_layer(run: Run, scored: pl.LazyFrame) -> Layer | None:
    """The pull of every method in `audit.methods` on each scored pair; None if none is named.

    Raises `InputError` for a method that does not exist.
    """
    if not run.audit.methods:
        return None
    found = {name: pull(run, name, scored) for name in run.audit.methods}
    columns = [values.alias(_column(name)) for name, values in found.items() if isinstance(values, pl.Series)]
    names = [name for name, values in found.items() if isinstance(values, pl.Series)]
    absent = [f"what {name} down-weights: {why}" for name, why in found.items() if isinstance(why, str)]

    def join(pairs: pl.LazyFrame) -> pl.LazyFrame:
        return pl.concat([pairs, pl.DataFrame(columns).lazy()], how="horizontal") if columns else pairs

    return Layer(
        join,
        tuple(_check(name) for name in names),
        tuple(
            Distribution(_column(name), name, "of the median", pl.col(_column(name)), "first pull on a pair")
            for name in names
        ),
        absent=tuple(absent),
    )


def _column(name: str) -> str:
    return f"{slug(name)}_pull"


def _check(name: str) -> Check:
    column = pl.col(_column(name))
    return Check(
        f"{slug(name)}_down_weighted",
        "info",
        f"Small gradient under {name}",
        f"At the first step its gradient is below {LITTLE:.0%} of the median pair's.",
        column < LITTLE,
        "Nothing if the method is meant to do that; otherwise check what these pairs have in common.",
        note=pl.format("{} of the median", column.round(2)),
    )


def pull(run: Run, name: str, scored: pl.LazyFrame) -> pl.Series | str:
    """Each pair's gradient norm over the median one, null for pairs without scores; or why there is none."""
    import torch

    from scoreonce.pipeline import methods

    settings = run.train.hyperparameters if name == run.train.method else {}
    method = methods.resolve(name, settings)
    have = scored.collect_schema().names()
    stands_for = {column: column.replace("policy_", "ref_", 1) for column in method.reads}
    lacking = [column for column, stand_in in stands_for.items() if stand_in not in have]
    if lacking or method.random:
        return f"needs {', '.join(lacking)}" if lacking else "selects at random"
    table = scored.select(pl.col(stand_in).cast(pl.Float64).alias(column) for column, stand_in in stands_for.items())
    numbers = table.collect(engine="streaming").with_row_index()
    finite = numbers.filter(pl.all_horizontal(pl.all().is_finite()))
    if finite.is_empty():
        return "no pair has all of its columns"
    columns = {column: torch.tensor(finite[column].to_numpy()) for column in stands_for}
    policy = [tensor.requires_grad_() for column, tensor in columns.items() if column.startswith("policy_")]
    try:
        outcome = method.run(columns, method.init_state())
    except InputError as error:
        return error.what
    gradients = torch.autograd.grad(outcome.total, policy, allow_unused=True)
    sizes = sum((gradient.abs() for gradient in gradients if gradient is not None), torch.zeros(finite.height))
    middle = sizes.median()
    if not middle > 0:
        return "no pair moves it at the first step"
    relative = finite.select("index").with_columns(pull=pl.Series((sizes / middle).numpy()))
    return numbers.select("index").join(relative, on="index", how="left", maintain_order="left")["pull"]
