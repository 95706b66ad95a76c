"""Completions of the demo's prompts, drawn as `scoreonce sample` draws them: each from noise of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.generation.decoding import complete
from scoreonce.pipeline.generation.noise import noise_seed
from scoreonce.schemas.identity import prompt_id
from scoreonce.stages.common.progress import progress


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    seed: int,
    max_new_tokens: int,
    batch: int,
    description: str,
) -> list[PromptRow]:
    """One completion per prompt, at temperature 1 from the whole distribution: token ids, EOS included where it came.

    Prompts of similar length share a batch. The same seed and prompts give the same samples on one machine; a prompt
    that stands there twice gives two.
    """
    prompt_ids = [np.array(ids, np.int32) for ids in tokenizer(list(prompts))["input_ids"]]
    seeds, met = [], Counter[str]()
    for ids in prompt_ids:
        name = prompt_id(ids)
        seeds.append(noise_seed(seed, name, met[name]))
        met[name] += 1
    end = tokenizer.eos_token_id
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=[end],
        pad_token_id=end,
    )
    order = sorted(range(len(prompts)), key=lambda index: len(prompt_ids[index]))
    rows: dict[int, PromptRow] = {}
    with progress(len(prompts), "samples", description) as bar:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            written = complete(
                model, [prompt_ids[index] for index in chosen], config, seeds=[seeds[index] for index in chosen]
            )
            for index, made in zip(chosen, written, strict=True):
                rows[index] = PromptRow(prompt_ids[index], (made.ids,))
            bar.update(len(chosen))
    return [rows[index] for index in range(len(prompts))]
