"""Every table, as a dataframely schema composed of the declared columns. A rule is named as the fact it states."""

from __future__ import annotations

from typing import Any

import dataframely as dy
import polars as pl
import pyarrow as pa

from scoreonce.schemas import columns as c
from scoreonce.schemas import held_out as h
from scoreonce.schemas import samples as s

ARROW_TYPES: dict[c.Dtype, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "list[int32]": pa.list_(pa.field("item", pa.int32(), nullable=False)),
    "list[float32]": pa.list_(pa.field("item", pa.float32(), nullable=False)),
}


def declared(column: c.Column, *, primary_key: bool = False) -> Any:
    """The dataframely column of a declared column."""
    common: dict[str, Any] = {"nullable": column.nullable and not primary_key, "primary_key": primary_key}
    bounds: dict[str, Any] = {"min": column.minimum, "max": column.maximum}
    match column.dtype:
        case "string":
            return dy.String(**common)
        case "bool":
            return dy.Bool(**common)
        case "int32":
            return dy.Int32(**common, **_whole(bounds))
        case "int64":
            return dy.Int64(**common, **_whole(bounds))
        case "float32":
            return dy.Float32(**common, **bounds)
        case "float64":
            return dy.Float64(**common, **bounds)
        case "list[int32]":
            return dy.List(dy.Int32(nullable=False), **common)
        case "list[float32]":
            return dy.List(dy.Float32(nullable=False), **common)


def _whole(bounds: dict[str, Any]) -> dict[str, Any]:
    return {name: None if bound is None else int(bound) for name, bound in bounds.items()}


def arrow_schema(table: type[dy.Schema]) -> pa.Schema:
    """The Arrow schema of a table, for files that are written in pieces: types and nullability as declared."""
    columns = [c.COLUMNS[name] for name in table.column_names()]
    return pa.schema([pa.field(column.name, ARROW_TYPES[column.dtype], nullable=column.nullable) for column in columns])


class Quarantine(dy.Schema):
    """A raw row that cannot be trained on, and why."""

    row = declared(c.ROW)
    reason = declared(c.REASON)
    detail = declared(c.DETAIL)
    source = declared(c.SOURCE)


class Pair(dy.Schema):
    """A tokenised preference pair: everything but the token ids, which stand row by row in the Arrow file beside it."""

    pair_id = declared(c.PAIR_ID)
    chosen_id = declared(c.CHOSEN_ID)
    rejected_id = declared(c.REJECTED_ID)
    prompt_id = declared(c.PROMPT_ID)
    row = declared(c.ROW)  # several pairs may come from one row: a graded list
    source = declared(c.SOURCE)
    prompt = declared(c.PROMPT)
    chosen = declared(c.CHOSEN)
    rejected = declared(c.REJECTED)
    chosen_score = declared(c.CHOSEN_SCORE)
    rejected_score = declared(c.REJECTED_SCORE)
    chosen_preference = declared(c.CHOSEN_PREFERENCE)
    rejected_preference = declared(c.REJECTED_PREFERENCE)
    prompt_len = declared(c.PROMPT_LEN)
    chosen_len = declared(c.CHOSEN_LEN)
    rejected_len = declared(c.REJECTED_LEN)
    prompt_truncated = declared(c.PROMPT_TRUNCATED)
    chosen_truncated = declared(c.CHOSEN_TRUNCATED)
    rejected_truncated = declared(c.REJECTED_TRUNCATED)
    boundary_merged = declared(c.BOUNDARY_MERGED)

    @dy.rule()
    def chosen_differs_from_rejected(cls) -> pl.Expr:
        either = pl.col("chosen_id").is_null() | pl.col("rejected_id").is_null()
        return either | (pl.col("chosen_id") != pl.col("rejected_id"))

    @dy.rule()
    def chosen_len_min(cls) -> pl.Expr:  # the minimum where there is a chosen side
        return pl.col("chosen_id").is_null() | (pl.col("chosen_len") > 0)

    @dy.rule()
    def has_a_completion(cls) -> pl.Expr:
        return pl.col("chosen_id").is_not_null() | pl.col("rejected_id").is_not_null()


class PairTokens(dy.Schema):
    """The token ids of a pair (the Arrow file beside `Pair`, same order)."""

    pair_id = declared(c.PAIR_ID)
    prompt_ids = declared(c.PROMPT_IDS)
    chosen_ids = declared(c.CHOSEN_IDS)
    rejected_ids = declared(c.REJECTED_IDS)


class CompletionScore(dy.Schema):
    """One completion under one model: a row of the store."""

    completion_id = declared(c.COMPLETION_ID, primary_key=True)
    token_logps = declared(c.TOKEN_LOGPS)
    logps = declared(c.LOGPS)
    completion_len = declared(c.COMPLETION_LEN)
    entropy = declared(c.ENTROPY)
    collision_logps = declared(c.COLLISION_LOGPS)
    top1_hits = declared(c.TOP1_HITS)

    @dy.rule()
    def one_logp_per_token(cls) -> pl.Expr:
        return pl.col("token_logps").list.len() == pl.col("completion_len")

    @dy.rule()
    def logps_are_finite(cls) -> pl.Expr:
        return pl.col("logps").is_finite()


class ReferencePair(dy.Schema):
    """One pair under the reference: what `train` joins and people query."""

    pair_id = declared(c.PAIR_ID, primary_key=True)
    chosen_id = declared(c.CHOSEN_ID)
    rejected_id = declared(c.REJECTED_ID)
    chosen_len = declared(c.CHOSEN_LEN)
    rejected_len = declared(c.REJECTED_LEN)
    ref_chosen_logps = declared(c.REF_CHOSEN_LOGPS)
    ref_rejected_logps = declared(c.REF_REJECTED_LOGPS)
    ref_margin = declared(c.REF_MARGIN)
    ref_chosen_entropy = declared(c.REF_CHOSEN_ENTROPY)
    ref_rejected_entropy = declared(c.REF_REJECTED_ENTROPY)
    ref_chosen_top1_hits = declared(c.REF_CHOSEN_TOP1_HITS)
    ref_rejected_top1_hits = declared(c.REF_REJECTED_TOP1_HITS)
    kl_id = declared(c.KL_ID)
    kl_len = declared(c.KL_LEN)
    ref_kl_logps = declared(c.REF_KL_LOGPS)
    ref_embedding_similarity = declared(c.REF_EMBEDDING_SIMILARITY)
    ref_ches = declared(c.REF_CHES)
    ref_ln_ches = declared(c.REF_LN_CHES)


class EvaluationPair(dy.Schema):
    """One held-out pair under policy and reference."""

    pair_id = declared(c.PAIR_ID, primary_key=True)
    source = declared(c.SOURCE)
    chosen_len = declared(c.CHOSEN_LEN)
    rejected_len = declared(c.REJECTED_LEN)
    policy_chosen_logps = declared(c.POLICY_CHOSEN_LOGPS)
    policy_rejected_logps = declared(c.POLICY_REJECTED_LOGPS)
    ref_chosen_logps = declared(c.REF_CHOSEN_LOGPS)
    ref_rejected_logps = declared(c.REF_REJECTED_LOGPS)
    chosen_logratios = declared(c.CHOSEN_LOGRATIOS)
    rejected_logratios = declared(c.REJECTED_LOGRATIOS)
    margin = declared(c.MARGIN)


class StepPair(dy.Schema):
    """What one optimizer step made of one pair: the per-pair step log."""

    step = declared(c.STEP)
    epoch = declared(c.EPOCH)
    pair_id = declared(c.PAIR_ID)
    margin = declared(c.MARGIN)
    linked_margin = declared(c.LINKED_MARGIN)
    beta = declared(c.BETA)
    target_margin = declared(c.TARGET_MARGIN)
    weight = declared(c.WEIGHT)
    loss = declared(c.LOSS)


class Sample(dy.Schema):
    """A completion that a model wrote to a prompt."""

    prompt_id = declared(c.PROMPT_ID, primary_key=True)
    sample = declared(s.SAMPLE, primary_key=True)
    completion_id = declared(c.COMPLETION_ID)
    prompt = declared(c.PROMPT)
    conversation = declared(s.CONVERSATION)
    completion = declared(s.COMPLETION)
    prompt_ids = declared(c.PROMPT_IDS)
    completion_ids = declared(s.COMPLETION_IDS)
    completion_len = declared(s.COMPLETION_LEN)
    finished = declared(s.FINISHED)
    sampler_logps = declared(s.SAMPLER_LOGPS)
    ref_logps = declared(s.REF_LOGPS)


class SampleScore(dy.Schema):
    """What a judge that scores each completion by itself gave a sample."""

    label = declared(s.LABEL, primary_key=True)
    prompt_id = declared(c.PROMPT_ID, primary_key=True)
    sample = declared(s.SAMPLE, primary_key=True)
    completion_id = declared(c.COMPLETION_ID)
    score = declared(s.SCORE)


class Judgement(dy.Schema):
    """What a judge said of a sample and the sample of the same number of another label."""

    prompt_id = declared(c.PROMPT_ID, primary_key=True)
    sample = declared(s.SAMPLE, primary_key=True)
    completion_id = declared(c.COMPLETION_ID)
    other_id = declared(s.OTHER_ID)
    preference_first = declared(s.PREFERENCE_FIRST)
    preference_second = declared(s.PREFERENCE_SECOND)
    preference = declared(s.PREFERENCE)
    completion_chars = declared(s.COMPLETION_CHARS)
    other_chars = declared(s.OTHER_CHARS)


class HeldOutStep(dy.Schema):
    """Held-out figures of the policy after a step of its training."""

    step = declared(h.STEP, primary_key=True)
    pairs = declared(h.PAIRS)
    loss = declared(h.LOSS)
    accuracy = declared(h.ACCURACY)
    margin = declared(h.MARGIN)
    chosen_logratio_per_token = declared(h.CHOSEN_LOGRATIO)
    rejected_logratio_per_token = declared(h.REJECTED_LOGRATIO)
    cross_entropy_increase = declared(h.CROSS_ENTROPY_INCREASE)
    entropy_per_token = declared(h.ENTROPY)
    seconds = declared(h.SECONDS)
    pair_losses = declared(h.PAIR_LOSSES)
