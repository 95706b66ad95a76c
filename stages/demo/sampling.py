"""Sampling completions from a causal language model, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.stages.common.progress import progress

Ids = npt.NDArray[np.int32]


@torch.inference_mode()
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

    Prompts of similar length share a batch; the same seed, prompts and batch give the same samples on one machine.
    """
    prompt_ids = [np.array(ids, np.int32) for ids in tokenizer(list(prompts))["input_ids"]]
    order = sorted(range(len(prompts)), key=lambda index: len(prompt_ids[index]))
    completions: dict[int, Ids] = {}
    torch.manual_seed(seed)
    with progress(len(prompts), "samples", description) as bar:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            generated = _generate(model, tokenizer, [prompt_ids[index] for index in chosen], max_new_tokens)
            completions |= dict(zip(chosen, generated, strict=True))
            bar.update(len(chosen))
    return [PromptRow(prompt_ids[index], (completions[index],)) for index in range(len(prompts))]


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids], max_new_tokens: int
) -> list[Ids]:
    # Padding goes to the left: the completion has to follow its prompt.
    width, end = max(map(len, prompts)), tokenizer.eos_token_id
    padded = np.stack([np.pad(ids, (width - len(ids), 0), constant_values=end) for ids in prompts])
    mask = np.stack([np.arange(width) >= width - len(ids) for ids in prompts])
    generated = model.generate(
        torch.from_numpy(padded).long().to(model.device),
        attention_mask=torch.from_numpy(mask).long().to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=end,
        pad_token_id=end,
    )
    return [_until_end(ids, end) for ids in generated[:, width:].cpu().numpy().astype(np.int32)]


def _until_end(ids: Ids, end: int) -> Ids:
    ends = np.flatnonzero(ids == end)
    return ids[: ends[0] + 1] if len(ends) else ids
