"""Rotary positions whose frequencies depend on a sequence's length: "dynamic" and "longrope" of transformers.

transformers takes them from the longest sequence of a batch, and "dynamic" ones from longer batches before as well, so
that log-probs would depend on what else a batch holds. Here each sequence gets the frequencies that it has alone in a
model just loaded. Its length counts all tokens of prompt and completion, the last one too.

Dimensions: sequences, length as in `prompt_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from scoreonce.pipeline.attention.language_model import language_model
from scoreonce.pipeline.batches.prompt_rows import PADDING, Batch, PromptRow


class _Limit(NamedTuple):
    """The longest sequence that has the usual frequencies, and whether each longer one has its own."""

    length: int
    grows: bool  # "dynamic"; with "longrope" all longer ones have the same


class _OwnLengths:
    """In the place of a rotary embedding's forward function: frequencies by `lengths`, not by the longest position."""

    # (sequences, length) int64, or PADDING; None: one sequence, or none that is longer than usual.
    lengths: Tensor | None = None

    def __init__(self, rotary: nn.Module) -> None:
        self.rotary = rotary
        self.plain = rotary.forward
        self.limits = list(_limits(rotary))

    def __call__(self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.lengths is None:
            self._forget()
            return self.plain(x, position_ids, *args, **kwargs)
        whole: tuple[Tensor, ...] | None = None
        made: Any = None
        for length in (each for each in self.lengths.unique().tolist() if each != PADDING):
            self._forget()
            own = self.lengths == length
            places = torch.where(own, position_ids, 0)
            # One more position, which has transformers see this length.
            last = places.new_full((*places.shape[:-1], 1), max(length - 1, 0))
            made = self.plain(x, torch.cat([places, last], dim=-1), *args, **kwargs)
            parts = tuple(part[..., :-1, :] for part in (made if isinstance(made, tuple) else (made,)))
            pairs = zip(parts, whole or parts, strict=True)
            whole = tuple(torch.where(own.unsqueeze(-1), part, other) for part, other in pairs)
        assert whole
        return whole if isinstance(made, tuple) else whole[0]

    def _forget(self) -> None:
        """Undo what "dynamic" frequencies keep of a longer batch."""
        rotary: Any = self.rotary
        for kind, rope in _kinds(rotary):
            if "dynamic" in rope:
                now, usual = getattr(rotary, f"{kind}inv_freq"), getattr(rotary, f"{kind}original_inv_freq")
                rotary.register_buffer(f"{kind}inv_freq", usual.to(now.device), persistent=False)
                setattr(rotary, f"{kind}max_seq_len_cached", rotary.original_max_seq_len)


def _kinds(rotary: nn.Module) -> list[tuple[str, str]]:
    """Kinds of a rotary embedding's frequencies, with the prefix of their attributes; one, or one per layer type."""
    rope: Any = vars(rotary).get("rope_type")
    if isinstance(rope, dict):
        return [(f"{layer_type}_", each) for layer_type, each in rope.items()]
    return [("", rope)] if isinstance(rope, str) else []


def _limits(rotary: Any) -> Iterator[_Limit]:
    for kind, rope in _kinds(rotary):
        if "dynamic" in rope:
            yield _Limit(rotary.original_max_seq_len, grows=True)
        elif rope == "longrope":
            settings = rotary.config.rope_parameters
            settings = settings[kind.removesuffix("_")] if kind else settings
            yield _Limit(settings["original_max_position_embeddings"], grows=False)


class RotaryLengths:
    """A model whose rotary frequencies depend on a sequence's length."""

    def __init__(self, embeddings: Sequence[_OwnLengths]) -> None:
        self.embeddings = embeddings
        self.limits = [limit for each in embeddings for limit in each.limits]

    @classmethod
    def of(cls, model: PreTrainedModel) -> RotaryLengths | None:
        """The model with its embeddings replaced, None where all lengths have the same frequencies.

        Calling it again on the same model changes nothing.
        """
        found: list[_OwnLengths] = []
        for module in language_model(model).modules():
            if isinstance(vars(module).get("forward"), _OwnLengths):
                found.append(vars(module)["forward"])
            elif any(True for _ in _limits(module)):
                replaced = _OwnLengths(module)
                module.forward = replaced
                found.append(replaced)
        return cls(found) if found else None

    def class_of(self, length: int) -> int:
        """A length that has the same frequencies; 0 for the usual ones."""
        passed = [limit for limit in self.limits if length > limit.length]
        return max((length if limit.grows else limit.length + 1 for limit in passed), default=0)

    def apart(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        """The rows, divided where completions need other frequencies of their prompt. Completions keep their order."""
        found: list[PromptRow] = []
        for row in rows:
            if len({self._class(row, completion) for completion in row.completions}) == 1:
                found.append(row)
            else:
                found += [PromptRow(row.prompt, (completion,)) for completion in row.completions]
        return found

    @contextmanager
    def set_for(self, rows: Sequence[PromptRow], batch: Batch) -> Iterator[None]:
        """In this block, the frequencies of `batch` are those of `rows`, which `apart` gave and `batch` was made of."""
        classes = [self._class(row, row.completions[0]) for row in rows]
        lengths = None
        if any(classes):
            # By segment: those of a row are its prompt's and its completions', and `prompts` names the first.
            table = torch.tensor(
                [part for own, row in zip(classes, rows, strict=True) for part in (own, *(0 for _ in row.completions))]
                + [PADDING],  # the last one: padding is segment -1
                device=batch.prompts.device,
            )
            lengths = table[batch.prompts]
        try:
            for each in self.embeddings:
                each.lengths = lengths
            yield
        finally:
            for each in self.embeddings:
                each.lengths = None

    def _class(self, row: PromptRow, completion: Any) -> int:
        return self.class_of(len(row.prompt) + len(completion))
