"""The completions that are missing, written in batches by a loaded model. No tables here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from scoreonce.pipeline.batches.microbatches import microbatches
from scoreonce.pipeline.forward.architecture import causal_lm
from scoreonce.pipeline.generation import decoding
from scoreonce.pipeline.generation.noise import noise_seed
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.common.gpu_memory import enough_gpu_memory
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.models.loading import load_reference, require_fit, resolve_device
from scoreonce.stages.sample.parts import Parts, Written
from scoreonce.stages.sample.prompts import Prompt


@dataclass(frozen=True)
class Wanted:
    """A completion to write: the number of it among those of its prompt."""

    prompt: Prompt
    sample: int


@dataclass(frozen=True)
class Sampler:
    """The model that writes, with the reference and the policy's weight where the two are mixed."""

    policy: Reference
    config: GenerationConfig
    reference: Reference | None = None
    weight: float | None = None


def write_completions(run: Run, sampler: Sampler, wanted: Sequence[Wanted], parts: Parts, label: str) -> None:
    """Write the completions as parts, batch by batch; what is finished when the process ends stays.

    Raises `InputError` where the model cannot be loaded, a prompt and `max_new_tokens` exceed its positions, two models
    that are mixed have not the same vocabulary, or GPU memory runs out.
    """
    device = resolve_device(run.compute.device)
    model, reference = _loaded(sampler, device)
    new, budget = run.sample.max_new_tokens, run.sample.budget(device.type)
    _require_fit(
        run, [(model, sampler.policy.model), *([(reference.model, "the reference")] if reference else [])], wanted
    )
    # What a completion takes is the positions of keys and values: those of its prompt, and of what is written.
    batches = microbatches([len(each.prompt.ids) + new for each in wanted], budget)
    enough = enough_gpu_memory(
        "finished batches stay",
        where=f"a batch of up to {budget:,} positions",
        fix=f"Run again with smaller batches, e.g. --set sample.tokens_per_batch={budget // 2}.",
    )
    with progress(len(wanted), "samples", label) as bar, enough:
        for batch in batches:
            chosen = [wanted[index] for index in batch]
            with _settings_taken(run):
                written = _written(model, reference, chosen, sampler.config, run.sample.seed)
            parts.add(written)
            bar.update(len(chosen))


@contextmanager
def _settings_taken(run: Run) -> Iterator[None]:
    """Some values of sample.generation are checked only when transformers makes something of them."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if not run.sample.generation:
            raise
        raise InputError(
            "transformers refuses a setting of generation.",
            found=first_line(error),
            where="sample.generation",
            fix="Correct it, or leave it out.",
        ) from None


def _written(
    model: PreTrainedModel,
    reference: decoding.Reference | None,
    chosen: Sequence[Wanted],
    config: GenerationConfig,
    seed: int,
) -> list[Written]:
    completions = decoding.complete(
        model,
        [each.prompt.ids for each in chosen],
        config,
        seeds=[noise_seed(seed, each.prompt.prompt_id, each.sample) for each in chosen],
        reference=reference,
    )
    return [
        Written(each.prompt.prompt_id, each.sample, made.ids.tolist(), made.finished, made.logps)
        for each, made in zip(chosen, completions, strict=True)
    ]


def _loaded(sampler: Sampler, device: torch.device) -> tuple[PreTrainedModel, decoding.Reference | None]:
    model = causal_lm(load_reference(sampler.policy, device))
    if sampler.reference is None or sampler.weight is None:
        return model, None
    reference = causal_lm(load_reference(sampler.reference, device))
    sizes = [each.get_output_embeddings().weight.shape[0] for each in (model, reference)]
    if sizes[0] != sizes[1]:
        raise InputError(
            "Two models of different vocabularies cannot be mixed.",
            found=f"{sizes[0]:,} tokens in {sampler.policy.model}, {sizes[1]:,} in {sampler.reference.model}",
            where="sample.realign, or --realign",
            fix="Realign policies that were trained from this reference.",
        )
    return model, decoding.Reference(reference, sampler.weight)


def _require_fit(run: Run, models: Sequence[tuple[PreTrainedModel, str]], wanted: Sequence[Wanted]) -> None:
    longest = max(len(each.prompt.ids) for each in wanted) + run.sample.max_new_tokens - 1
    largest = max(int(each.prompt.ids.max()) for each in wanted)
    for model, name in models:
        try:
            require_fit(model, name, largest_token=largest, longest_sequence=longest)
        except InputError as error:
            raise InputError(
                error.what,
                found=error.found,
                where=error.where,
                fix="Set sample.max_new_tokens to less, or cut prompts by data.max_prompt_length."
                if "longer" in error.what
                else error.fix,
            ) from None
