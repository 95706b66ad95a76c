"""A reward model as the judge: a sequence classifier with one output, which is the score of a whole conversation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from scoreonce.pipeline.batches.microbatches import microbatches
from scoreonce.pipeline.text.tokenize import rules_of
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Compute, Judge
from scoreonce.stages.judge.answers import Answers, key_of
from scoreonce.stages.judge.questions import Completion, Settings
from scoreonce.stages.models import folders, loading, tokenizers
from scoreonce.stages.weights.finite import require_finite
from scoreonce.stages.weights.loading_report import require_whole, unlogged
from scoreonce.stages.weights.model_digests import model_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

UNBOUNDED = 1 << 24  # from here on, a tokenizer's model_max_length says only that it knows none


class RewardModel:
    """The model of judge.reward_model. Raises `InputError` where there is none that gives one number.

    It reads the prompt and the completion by its own tokenizer's chat template, or, where it has none, as text after
    each other. A text longer than it can read has no score.
    """

    kind: Literal["scores"] = "scores"

    def __init__(self, judge: Judge, compute: Compute, answers: Answers) -> None:
        assert judge.reward_model is not None
        self._name, self._dtype, self._answers = judge.reward_model, judge.dtype, answers
        self._folder = folders.folder_of(self._name)
        self._device = loading.resolve_device(compute.device)
        self._budget = compute.budget(self._device.type)
        self._tokenizer = tokenizers.load_tokenizer(self._name)
        if differs := tokenizers.other_rules(self._tokenizer):
            logger.warning(
                f"{differs} If the file is right, as it mostly is, the scores of {self._name} are not those of its "
                "authors: compare some with its model card."
            )
        self._weights = model_digest(self._folder)
        self._model: PreTrainedModel | None = None

    def settings(self) -> Settings:
        """Its weights, dtype, tokenizer and chat template."""
        tokenizer, template = self._tokenizer, self._tokenizer.chat_template
        return {
            "kind": "reward model",
            "model": self._name,
            "weights": self._weights,
            "dtype": self._dtype,
            "tokenizer": key_of(rules_of(tokenizer) if tokenizer.is_fast else tokenizer.get_vocab()),
            **({"template": key_of(template)} if template else {}),
        }

    def scores(self, completions: Sequence[Completion]) -> list[float | None]:
        """The model's output for each, in batches of texts of about the same length."""
        ids = [self._ids(each) for each in completions]
        keys = [key_of(self._weights, self._dtype, each) for each in ids]
        places = {key: place for place, key in enumerate(keys)}
        missing = [place for key, place in places.items() if key not in self._answers]
        if missing:
            longest = self._longest()
            missing = [place for place in missing if len(ids[place]) <= longest]
        with progress(len(missing), "completions", "judge") as bar:
            for batch in self._batches(missing, ids):
                for place, score in zip(batch, self._outputs([ids[place] for place in batch]), strict=True):
                    self._answers.add(keys[place], score)
                bar.update(len(batch))
        return [self._answers.get(key) for key in keys]

    def _ids(self, completion: Completion) -> list[int]:
        tokenizer, messages = self._tokenizer, completion.messages
        if tokenizer.chat_template is None and messages is not None:
            raise InputError(
                "The prompts are conversations, and the reward model has no chat template.",
                found=f"no chat_template in the tokenizer of {self._name}",
                where="judge.reward_model",
                fix="Use a reward model with a chat template, or put its template into its tokenizer's folder.",
            )
        if tokenizer.chat_template is None:
            return list(tokenizer(completion.prompt + completion.text)["input_ids"])
        whole = [
            *(messages or [{"role": "user", "content": completion.prompt}]),
            {"role": "assistant", "content": completion.text},
        ]
        try:
            found: Any = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
        except Exception as error:  # of any kind: the template is a program of the model's authors
            raise InputError(
                "The chat template of the reward model cannot write a conversation.",
                found=first_line(error),
                where=self._name,
                fix="Use another reward model, or correct its template.",
            ) from None
        return list(found)

    def _longest(self) -> int:
        model = self._loaded()
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        stated = (self._tokenizer.model_max_length, positions)
        return min(each for each in (*stated, UNBOUNDED) if each is not None)

    def _batches(self, places: Sequence[int], ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Micro-batches of places; one at a time for a model without padding."""
        if places and self._loaded().config.get_text_config().pad_token_id is None:
            return [[place] for place in places]
        groups = microbatches([len(ids[place]) for place in places], self._budget)
        return [[places[index] for index in group] for group in groups]

    def _outputs(self, rows: Sequence[Sequence[int]]) -> list[float | None]:
        model, longest = self._loaded(), max(map(len, rows))
        pad = model.config.get_text_config().pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            found = model(input_ids=ids, attention_mask=mask).logits[:, 0].double()  # (rows,)
        return [score if score == score and abs(score) != float("inf") else None for score in found.tolist()]

    def _loaded(self) -> PreTrainedModel:
        if self._model is None:
            self._model = _classifier(self._folder, self._dtype).to(self._device).eval()
        return self._model


def _classifier(folder: Path, dtype: str) -> PreTrainedModel:
    """The model. Raises `InputError` where it is no classifier of one output, or not exactly what its files hold."""
    from transformers import AutoModelForSequenceClassification

    try:
        with unlogged():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                trust_remote_code=folders.trust_remote_code,
                ignore_mismatched_sizes=True,  # the report has them, with their names
                output_loading_info=True,
            )
    except Exception as error:  # of any kind, where a file of the folder has another form than transformers expects
        raise _unusable(folder, first_line(error)) from None
    if model.config.num_labels != 1:
        raise _unusable(folder, f"{model.config.num_labels} outputs")
    body = f"{model.base_model_prefix}."
    if heads := [name for name in sorted(report["missing_keys"]) if not name.startswith(body)]:
        raise _unusable(folder, f"no weights for {', '.join(heads)}")
    # Its files may also have the head of the language model that it was made from, which it does not use.
    unexpected = [name for name in report["unexpected_keys"] if name.startswith(body)]
    require_whole(
        str(folder), missing=report["missing_keys"], unexpected=unexpected, mismatched=report["mismatched_keys"]
    )
    require_finite(model, folder)
    return model


def _unusable(folder: Path, found: str) -> InputError:
    return InputError(
        "The reward model cannot be used.",
        found=found,
        where=f"judge.reward_model, {folder}",
        fix="Give a folder that AutoModelForSequenceClassification loads, with one output (num_labels = 1).",
    )
