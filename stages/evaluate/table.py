"""The columns of policy and reference side by side, a row per held-out pair."""

from __future__ import annotations

import polars as pl

from scoreonce.schemas import margins
from scoreonce.schemas.tables import EvaluationPair
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.scoring.pair_view import pair_view
from scoreonce.stages.store.store import ReferenceStore


def evaluation_pairs(paths: RunPaths, store: ReferenceStore) -> pl.DataFrame:
    """One row of `EvaluationPair` per distinct held-out pair, the policy's log-probs from its `store`.

    The manifests vouch that pairs and reference scores hold all of them. Raises `InputError` where the store is
    damaged, or lacks a completion.
    """
    policy = pair_view(paths, "test", store).rename(
        {f"ref_{side}_logps": f"policy_{side}_logps" for side in ("chosen", "rejected")}
    )
    scores = read_frame(paths.reference("test"), ["pair_id", "ref_chosen_logps", "ref_rejected_logps"])
    sources = read_frame(paths.pairs("test"), ["pair_id", "source"]).unique(
        "pair_id", keep="first", maintain_order=True
    )
    joined = policy.join(sources, on="pair_id", maintain_order="left").join(scores, on="pair_id", maintain_order="left")
    table = joined.with_columns(**margins.differences())
    return EvaluationPair.validate(table.select(EvaluationPair.column_names()))
