"""Samples as `sample` writes them, made by hand or by a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from scoreonce.schemas import identity
from scoreonce.schemas.manifests import EvaluatedReference, SampledPrompts, SamplesManifest
from scoreonce.schemas.tables import Sample
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.paths import RunPaths

NO_DIGEST = "0" * 64

Message = dict[str, str]


def sample_rows(texts: dict[str, Sequence[str]], *, finished: bool = True) -> list[dict[str, Any]]:
    """Rows of plain prompts with their completions; token ids are the bytes of the text."""
    rows = []
    for prompt, completions in texts.items():
        for number, completion in enumerate(completions):
            prompt_ids, ids = list(prompt.encode()), [*completion.encode(), 2]
            rows.append(
                {
                    "prompt_id": identity.prompt_id(prompt_ids),
                    "sample": number,
                    "completion_id": identity.completion_id(prompt_ids, ids),
                    "prompt": prompt,
                    "conversation": None,
                    "completion": completion,
                    "prompt_ids": prompt_ids,
                    "completion_ids": ids,
                    "completion_len": len(ids),
                    "finished": finished,
                    "sampler_logps": -1.0,
                    "ref_logps": None,
                }
            )
    return rows


def as_conversations(rows: list[dict[str, Any]], *more: Message) -> list[dict[str, Any]]:
    """The same rows as conversations of one user message, after `more` messages."""
    return [{**row, "conversation": json.dumps([*more, {"role": "user", "content": row["prompt"]}])} for row in rows]


def write_samples(
    paths: RunPaths, label: str, rows: list[dict[str, Any]], training_identity: str | None = None
) -> pl.DataFrame:
    """Write the table of a label, of a policy of that training, and its manifest last."""
    table = Sample.validate(pl.DataFrame(rows, schema=Sample.create_empty().schema), cast=True)
    path = paths.samples(label) / "samples.parquet"
    write_parquet(path, table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    manifest = SamplesManifest(
        label=label,
        model="m",
        revision=None,
        adapter=None,
        dtype="float32",
        weights="w",
        store_key="k",
        method=None,
        training_identity=training_identity,
        realigned=None,
        reference=EvaluatedReference(model="m", weights="w", store_key="k", dtype="float32"),
        prompts=SampledPrompts(source="p.jsonl", prompts=len(table), prompt_ids=NO_DIGEST, pairs_manifest_sha256=None),
        generation={},
        ends=[2],
        seed=0,
        n=1,
        whole_distribution=True,
        computed={},
        files={path.name: sha256(path)},
    )
    manifests.write(path.with_name("manifest.json"), manifest)
    return table


def written_by(
    model: str, prompts: Sequence[str | list[Message]], count: int, *, seed: int, new_tokens: int = 12
) -> list[dict[str, Any]]:
    """Rows of what a model writes to prompts, `count` each, at temperature 1: stands for `scoreonce sample`."""
    import torch

    from scoreonce.stages.models.loading import load_model
    from scoreonce.stages.models.tokenizers import load_tokenizer

    tokenizer, policy = load_tokenizer(model), load_model(model, dtype="float32", device="cpu")
    torch.manual_seed(seed)
    rows = []
    for prompt in prompts:
        chat = not isinstance(prompt, str)
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) if chat else prompt
        prompt_ids = tokenizer(text, add_special_tokens=not chat)["input_ids"]
        made = policy.generate(
            torch.tensor([prompt_ids]),
            attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
            do_sample=True,
            top_k=0,
            num_return_sequences=count,
            max_new_tokens=new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        for number, whole in enumerate(made.tolist()):
            ids = whole[len(prompt_ids) :]
            finished = tokenizer.eos_token_id in ids
            ids = ids[: ids.index(tokenizer.eos_token_id) + 1] if finished else ids
            rows.append(
                {
                    "prompt_id": identity.prompt_id(prompt_ids),
                    "sample": number,
                    "completion_id": identity.completion_id(prompt_ids, ids),
                    "prompt": text,
                    "conversation": json.dumps(prompt) if chat else None,
                    "completion": tokenizer.decode(ids, skip_special_tokens=True),
                    "prompt_ids": prompt_ids,
                    "completion_ids": ids,
                    "completion_len": len(ids),
                    "finished": finished,
                    "sampler_logps": -1.0,
                    "ref_logps": None,
                }
            )
    return rows
