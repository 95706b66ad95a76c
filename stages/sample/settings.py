"""The settings of generation: [sample] of the run file as transformers' GenerationConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig

from scoreonce.schemas.errors import InputError, did_you_mean, first_line
from scoreonce.schemas.manifests import Settings
from scoreonce.schemas.samples import WHOLE
from scoreonce.stages.config import Sample

# Those that [sample] has keys for, and those that would change what a sample is, or that samples are kept by.
OWN = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
REFUSED = (
    "bos_token_id",
    "eos_token_id",
    "guidance_scale",
    "max_length",
    "max_time",
    "min_length",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "stop_strings",
    "token_healing",
    "transformers_version",
)
# How it is computed, not what.
EXECUTION = ("cache_config", "cache_implementation", "compile_config", "disable_compile", "prefill_chunk_size")
MODES = ("greedy_search", "sample")


def generation_config(sample: Sample, ends: Sequence[int]) -> GenerationConfig:
    """The settings, with `ends` as the tokens that end a completion.

    Raises `InputError` for a setting that transformers does not have or refuses, and for searches other than sampling
    and taking the most likely token.
    """
    _require_known(sample)
    own: dict[str, Any] = {"do_sample": sample.temperature > 0, "max_new_tokens": sample.max_new_tokens}
    if sample.temperature > 0:
        own |= {"temperature": sample.temperature, "top_p": sample.top_p, "top_k": sample.top_k}
    if sample.repetition_penalty != 1:
        own["repetition_penalty"] = sample.repetition_penalty
    try:
        made = GenerationConfig(**own, **sample.generation, eos_token_id=list(ends), pad_token_id=ends[0])
        made.validate(strict=True)
        mode = made.get_generation_mode().value
    except Exception as error:  # of any kind, for a value of another type than it expects
        raise InputError(
            "transformers refuses a setting of generation.",
            found=first_line(error),
            where="[sample], and sample.generation, of the run file",
            fix="Correct it, or leave it out.",
        ) from None
    if mode not in MODES:
        raise InputError(
            "Only samples and the most likely tokens are written, one sequence at a time.",
            found=f"the settings ask for {mode.replace('_', ' ')}",
            where="sample.generation",
            fix="Leave out num_beams and what belongs to other searches.",
        )
    if sample.temperature == 0 and sample.n > 1:
        raise InputError(
            "Without randomness all completions of a prompt are the same.",
            found=f"temperature = 0, n = {sample.n}",
            where="sample.n",
            fix="Set sample.n = 1, or a temperature above 0.",
        )
    return made


def recorded(config: GenerationConfig) -> Settings:
    """The settings that decide what is written, as a manifest keeps them; end tokens stand apart."""
    left_out = {*EXECUTION, "transformers_version", "eos_token_id", "pad_token_id"}
    return {name: value for name, value in config.to_diff_dict().items() if name not in left_out}


def is_whole_distribution(config: GenerationConfig) -> bool:
    """Whether completions are samples of the model as it is: temperature 1, nothing cut off, penalised or forced."""
    settings = recorded(config)
    return {name: settings[name] for name in settings if name != "max_new_tokens"} == WHOLE


def _require_known(sample: Sample) -> None:
    known = [name for name in GenerationConfig().to_dict() if not name.startswith("_")]
    for name, value in sample.generation.items():
        if name in OWN or name in REFUSED or name not in known:
            allowed = [each for each in known if each not in (*OWN, *REFUSED)]
            raise InputError(
                f"sample.generation cannot have {name!r}.",
                found=f"{name} = {value!r}.{'' if name in known else did_you_mean(name, allowed)}",
                where="sample.generation",
                fix=f"Set sample.{name} instead."
                if name in OWN and name != "do_sample"
                else "Use a setting of transformers' GenerationConfig that acts on each next token, such as min_p.",
            )
