"""One batch of completions by transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from scoreonce.pipeline.generation.noise import GumbelNoise
from scoreonce.pipeline.generation.realignment import Realignment

Ids = npt.NDArray[np.int32]
Processor = Callable[[Tensor, Tensor], Tensor]  # (input_ids, scores) -> scores, as transformers calls them


class Reference(NamedTuple):
    """The model that is mixed with the policy, and the policy's weight λ."""

    model: PreTrainedModel
    weight: float


class Completion(NamedTuple):
    """What was written to one prompt.

    `logps` is its log-prob in nats under a mixture of two models, at temperature 1; None where one model wrote it.
    """

    ids: Ids  # an end token last, if it came
    finished: bool
    logps: float | None


class _Chosen:
    """A logits processor that changes nothing, and notes the log-prob of each token that is about to be chosen."""

    def __init__(self, source: Realignment) -> None:
        self._source = source
        self.steps: list[Tensor] = []  # of (rows,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        assert self._source.logps is not None
        self.steps.append(self._source.logps.gather(1, scores.argmax(-1, keepdim=True))[:, 0])
        return scores


@torch.inference_mode()
def complete(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    config: GenerationConfig,
    *,
    seeds: Sequence[int],
    reference: Reference | None = None,
) -> list[Completion]:
    """A completion of each prompt. `seeds` decide the noise of each row; they are not used with `do_sample` off.

    What transformers' settings do to a distribution (temperature, top-p, penalties) is done by its own processors, to
    the mixture where there is a `reference`. The model's own generation settings play no part.
    """
    # Padding goes to the left: a completion has to follow its prompt.
    width, ends = max(map(len, prompts)), _ends(config)
    padded = np.stack([np.pad(ids, (width - len(ids), 0), constant_values=ends[0]) for ids in prompts])
    mask = np.stack([np.arange(width) >= width - len(ids) for ids in prompts])
    attention_mask = torch.from_numpy(mask).long().to(model.device)
    mixing = None if reference is None else Realignment(*reference, attention_mask)
    noise = [GumbelNoise(seeds, model.device)] if config.do_sample else []
    chosen = None if mixing is None else _Chosen(mixing)
    # What a folder's generation_config.json says would fill in whatever is not set here.
    model.generation_config = GenerationConfig()
    generated: Tensor = model.generate(
        torch.from_numpy(padded).long().to(model.device),
        attention_mask=attention_mask,
        generation_config=config,
        custom_generate=_decoding([mixing] if mixing else [], [*noise, *([chosen] if chosen else [])]),
    )
    written = [_until_end(ids, ends) for ids in generated[:, width:].cpu().numpy().astype(np.int32)]
    sums = [None] * len(prompts) if chosen is None else _sums(chosen.steps, list(map(len, written)))
    return [Completion(ids, bool(ids[-1] in ends), logps) for ids, logps in zip(written, sums, strict=True)]


def _decoding(first: Sequence[Processor], last: Sequence[Processor]) -> Callable[..., Any]:
    """transformers' decoding loop with processors before and after those that it made of the settings.

    Its argument `logits_processor` would put them between penalties and temperature.
    """

    def decode(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **rest: Any,
    ) -> Any:
        generation_config.do_sample = False  # with noise, the largest score is the sample
        processors = LogitsProcessorList([*first, *logits_processor, *last])
        return type(model)._sample(model, input_ids, processors, stopping_criteria, generation_config, **rest)

    return decode


def _ends(config: GenerationConfig) -> list[int]:
    found = config.eos_token_id
    return list(found) if isinstance(found, list) else [found]


def _until_end(ids: Ids, ends: Sequence[int]) -> Ids:
    places = np.flatnonzero(np.isin(ids, ends))
    return ids[: places[0] + 1] if len(places) else ids


def _sums(steps: Sequence[Tensor], lengths: Sequence[int]) -> list[float | None]:
    logps = torch.stack(list(steps), 1).double().cpu().numpy()  # (rows, steps)
    return [float(row[:length].sum()) for row, length in zip(logps, lengths, strict=True)]
