"""Log-probs of completions, by the scoring code and through the store of each model: nothing is scored twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from scoreonce.schemas import identity
from scoreonce.schemas.tables import PairTokens, arrow_schema
from scoreonce.stages.common.files import write_parquet
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import score_completions
from scoreonce.stages.store.store import ReferenceStore

if TYPE_CHECKING:
    from scoreonce.pipeline.batches.prompt_rows import RowLayout


def completion_logps(
    run: Run,
    label: str,
    completions: pl.DataFrame,
    model: Reference,
    store: ReferenceStore,
    *,
    layout: RowLayout | None,
    lock_timeout: float | None,
) -> pl.Series:
    """`(completions,)` the log-prob of each under a model, in nats.

    `completions` has prompt_id, completion_id, prompt_ids and completion_ids. What its store lacks is scored and added
    to it. Raises `InputError` as scoring does.
    """
    folder = RunPaths.of(run).samples(label)
    paths = replace(RunPaths.of(run), out=folder / "scoring")
    _write_as_pairs(paths, completions)
    bare = run.score.model_copy(update={"full_vocab": "none", "mismatched": False, "embeddings": False})
    job = ScoringJob(paths, ("test",), model, store, run.compute, bare, layout=layout)
    score_completions(job, lock_timeout=lock_timeout)
    remove(paths.out, inside=folder)
    ids = completions["completion_id"]
    scores = store.read(ids, ["logps"]).rename({"logps": "ref_logps"})
    return completions.select("completion_id").join(scores, on="completion_id", how="left", maintain_order="left")[
        "ref_logps"
    ]


def _write_as_pairs(paths: RunPaths, completions: pl.DataFrame) -> None:
    """The completions as unpaired data, which is what scoring reads."""
    chosen_id = completions["completion_id"]
    pair_id = pl.Series([identity.pair_id(each, None) for each in chosen_id], dtype=pl.String)
    table = completions.select(
        pair_id=pair_id,
        chosen_id=chosen_id,
        rejected_id=pl.lit(None, pl.String),
        prompt_id="prompt_id",
        row=pl.int_range(pl.len(), dtype=pl.Int64),
        prompt_len=pl.col("prompt_ids").list.len().cast(pl.Int32),
        chosen_len=pl.col("completion_ids").list.len().cast(pl.Int32),
        rejected_len=pl.lit(0, pl.Int32),
    )
    write_parquet(paths.pairs("test"), table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    schema = arrow_schema(PairTokens)
    tokens = pa.table(
        {
            "pair_id": pair_id.to_list(),
            "prompt_ids": completions["prompt_ids"].to_list(),
            "chosen_ids": completions["completion_ids"].to_list(),
            "rejected_ids": [[] for _ in range(completions.height)],
        },
        schema=schema,
    )
    with pa.OSFile(str(paths.tokens("test")), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(tokens, max_chunksize=4096)
