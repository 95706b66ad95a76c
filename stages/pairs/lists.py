"""Scored samples as graded lists: a row for each prompt, with its completions and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl


def candidates(samples: pl.DataFrame, scores: pl.DataFrame, label: str) -> pl.DataFrame:
    """The samples of a label with their scores, null where there is none."""
    own = scores.filter(pl.col("label") == label).select("prompt_id", "sample", "score")
    columns = ["prompt_id", "sample", "completion_id", "prompt", "conversation", "completion", "finished"]
    return samples.select(columns).join(own, on=["prompt_id", "sample"], how="left", maintain_order="left")


def graded(rows: pl.DataFrame, *, finished_only: bool) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of the format `graded` in the order of their prompts, and counts of what became lists and what did not.

    A completion that was sampled twice for a prompt, in tokens or in text alone, is in its list once. Unfinished
    completions are left out with `finished_only`. A prompt is left out where fewer than two scores of its completions
    differ: it has no pair.
    """
    counts = {"completions": rows.height, "without_score": rows["score"].null_count()}
    rows = rows.drop_nulls("score")
    counts["unfinished"] = rows.filter(~pl.col("finished")).height if finished_only else 0
    if finished_only:
        rows = rows.filter("finished")
    distinct = rows.unique(["prompt_id", "completion_id"], keep="first", maintain_order=True)
    distinct = distinct.unique(["prompt_id", "completion"], keep="first", maintain_order=True)
    counts["repeated"] = rows.height - distinct.height
    lists = list(_lists(distinct))
    counts["lists"] = len(lists)
    counts["listed"] = sum(len(row["responses"]) for row in lists)
    counts["without_pair"] = distinct["prompt_id"].n_unique() - len(lists)
    return lists, counts


def _lists(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    for _, group in rows.group_by("prompt_id", maintain_order=True):
        if group["score"].n_unique() > 1:
            conversation = group["conversation"][0]
            prompt = group["prompt"][0] if conversation is None else json.loads(conversation)
            yield {"prompt": prompt, "responses": group["completion"].to_list(), "scores": group["score"].to_list()}
