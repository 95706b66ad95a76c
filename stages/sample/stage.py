"""Completions from the reference and from policies, to read side by side, to judge, and to measure how far they moved.

    scoreonce sample configs/x.toml --label reference --label dpo     the reference, and what `train` wrote as dpo
    scoreonce sample configs/x.toml --label dpo --realign 0.5,2       decoding-time realignment of one policy
    scoreonce sample configs/x.toml --model org/other                 any other model of the same tokenizer

Writes <out>/samples/<label>/: samples.parquet, and manifest.json, last. A sample depends on the model, the settings,
the seed, its prompt and its number, not on what else is sampled with it: an interrupted command goes on, and more
prompts or more completions of each add to those that are there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from scoreonce.pipeline.pages.numbers import fixed, percent
from scoreonce.pipeline.samples.figures import SampleFigures, figures
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.names import require_name
from scoreonce.schemas.samples import REFERENCE, realigned_label
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import SampleResult
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.data.dataset import tokenizer_of
from scoreonce.stages.data.encoding import Encoding, encoding_of
from scoreonce.stages.data.samples import read_samples
from scoreonce.stages.models.named_policy import label_of, policy_of, require_own_label
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.sample.generation import Sampler, Wanted, write_completions
from scoreonce.stages.sample.parts import Parts, what_decides
from scoreonce.stages.sample.prompts import Prompts, read_prompts
from scoreonce.stages.sample.settings import generation_config, is_whole_distribution, recorded
from scoreonce.stages.sample.table import Made, write_samples
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)


def sample(
    run: Run,
    *,
    labels: Sequence[str] | None = None,
    model: str | None = None,
    restart: bool = False,
    lock_timeout: float | None = None,
) -> list[SampleResult]:
    """Sample completions, from each label in turn, and score them under their model and the reference.

    A label is "reference", or that of a training run; by default both the reference and this run. `model` is a folder
    or Hub name to sample in their place, whose results stand under the label, by default its last name. With
    sample.realign each policy is mixed with the reference, and each mixture has a label of its own, dpo-realign-0.5.
    `restart` deletes what the labels have. Another process that writes the same samples is waited for, at most
    `lock_timeout` seconds. Raises `InputError` where there is no policy, no prompt, a setting cannot be used, or there
    are samples that were made otherwise.
    """
    _require_one_process()
    inputs = Inputs(run)
    made = []
    for target in _targets(run, labels, model):
        own = run if target.model or target.label is None else run.replace({"train.label": target.label})
        made.append(_sample_one(own, target=target, inputs=inputs, restart=restart, lock_timeout=lock_timeout))
    return made


@dataclass(frozen=True)
class Target:
    """What is sampled: a label, or a model by name, and the weight of the policy where it is mixed."""

    label: str | None
    model: str | None
    weight: float | None

    def name(self, paths: RunPaths) -> str:
        """The label of its samples."""
        assert self.label or self.model
        own = self.label or label_of(paths, Reference(model=self.model or ""))
        return require_name(own if self.weight is None else realigned_label(own, self.weight), "--label")

    def policy(self, run: Run, paths: RunPaths) -> Reference:
        """The model. Raises `InputError` where there is none."""
        if self.label == REFERENCE and self.model is None:
            return run.reference
        return policy_of(run, paths, self.model, to="sample")


class Inputs:
    """What the samples of all labels share, read when it is first needed."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The run's tokenizer."""
        return tokenizer_of(self._run)

    @cached_property
    def encoding(self) -> Encoding:
        """How texts become token ids."""
        return encoding_of(self.tokenizer, self._run)

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts that are answered."""
        return read_prompts(self._run, self.encoding)


def _written_unit(run: Run, *, target: Target, **_: object) -> str:
    return f"samples/{target.name(RunPaths.of(run))}"


@at_address("pairs/*", "train/*/lineage.json", "train/{label}/model/*", writes=_written_unit)
def _sample_one(run: Run, *, target: Target, inputs: Inputs, restart: bool, lock_timeout: float | None) -> SampleResult:
    paths = RunPaths.of(run)
    label, policy = target.name(paths), target.policy(run, paths)
    if target.model is not None:
        require_own_label(replace(paths, label=label), policy, keys="--label")
    store, reference = ReferenceStore.of(run, policy), ReferenceStore.of(run)
    ends = sorted(set(inputs.encoding.encoder.ends.values()))
    config = generation_config(run.sample, ends)
    folder = paths.samples(label)
    with locked(paths, folder, f"the samples {label}", timeout=lock_timeout, restart=restart):
        parts = Parts(
            folder,
            what_decides(
                store_key=store.identity.key,
                reference_key=reference.identity.key,
                realigned=target.weight,
                generation=recorded(config),
                ends=ends,
                seed=run.sample.seed,
            ),
        )
        there = {(prompt_id, number) for prompt_id, number in parts.written().select("prompt_id", "sample").iter_rows()}
        wanted = [
            Wanted(prompt, number)
            for prompt in inputs.prompts.each
            for number in range(run.sample.n)
            if (prompt.prompt_id, number) not in there
        ]
        if wanted:
            mixed = None if target.weight is None else run.reference
            write_completions(run, Sampler(policy, config, mixed, target.weight), wanted, parts, label)
        made = Made(label, policy, target.weight, config, ends, is_whole_distribution(config), store, reference)
        write_samples(run, made, inputs.prompts, parts, inputs.tokenizer, lock_timeout=lock_timeout)
    found = figures(read_samples(paths, label))
    logger.info("\n".join(_lines(label, found, len(wanted), made.whole, paths)))
    return SampleResult(paths, label, len(wanted), found)


def _targets(run: Run, labels: Sequence[str] | None, model: str | None) -> Iterator[Target]:
    weights: list[float | None] = [*run.sample.realign] or [None]
    if model is not None:
        if labels and len(labels) > 1:
            raise InputError(
                "One model has one label.",
                found=f"{len(labels)} labels: {', '.join(labels)}",
                where="--label",
                fix="Give --model with one --label, or with none.",
            )
        yield from (Target(labels[0] if labels else None, model, weight) for weight in weights)
        return
    for label in dict.fromkeys(labels or (REFERENCE, RunPaths.of(run).label)):
        yield from (Target(label, None, weight) for weight in ([None] if label == REFERENCE else weights))


def _require_one_process() -> None:
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise InputError(
            "Sampling runs in one process.",
            found=f"a launch of {count}",
            where="torchrun, accelerate",
            fix="Run `scoreonce sample` without a launcher; labels can be sampled by commands beside each other.",
        )


def _lines(label: str, found: SampleFigures, sampled: int, whole: bool, paths: RunPaths) -> Iterator[str]:
    yield (
        f"{label}: {found.samples:,} completions of {found.prompts:,} prompts ({sampled:,} sampled now, "
        f"{found.samples - sampled:,} there before)"
    )
    yield (
        f"  length                {fixed(found.length, 1)} tokens, median {found.length_median:g}; "
        f"{percent(found.finished)} ended by the model"
    )
    yield f"  repetition            {percent(found.repetition)} of 4-grams; distinct-2 {fixed(found.distinct_2)}"
    if found.kl is not None and found.kl_per_token is not None and label != REFERENCE:
        error = "" if found.kl.error is None else f" ± {fixed(found.kl.error)}"
        per_token = fixed(found.kl_per_token.mean, 4)
        yield f"  KL to the reference   {fixed(found.kl.mean)}{error} nats, {per_token} per token"
        if not whole:
            yield "    of samples that are not of the whole distribution: no estimate of the KL divergence"
    yield f"  results in {paths.samples(label)}"
