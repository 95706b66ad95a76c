"""The demo: a synthetic task with a known reward, so that every policy's true reward can be measured (`make demo`).

    scoreonce demo task configs/demo_sft.toml      texts of the task, a tokenizer, an untrained model
    scoreonce demo pairs configs/demo.toml         pairs sampled from the reference, labelled by the true reward
    scoreonce demo judge configs/demo.toml         true reward and KL of the reference and of every policy, also at the
                                                   steps of training that `train` kept checkpoints of

Between these steps run the ordinary stages. Each step writes the input that the run file names: `task` writes
`data.source` and `reference.model`, `pairs` writes `data.source`, `judge` writes <out>/demo.json for the report.
`data.seed` determines the prompts, and must be the same in both run files.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.demo.reward import prefers_first, reward
from scoreonce.pipeline.demo.task import Prompt, Prompts, card
from scoreonce.pipeline.demo.task import prompts as draw_prompts
from scoreonce.pipeline.evaluation.intervals import mean_interval
from scoreonce.pipeline.forward.architecture import causal_lm
from scoreonce.pipeline.samples import best_of_n
from scoreonce.schemas.addresses import is_address
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.schemas.samples import REFERENCE
from scoreonce.stages.common import files, manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.demo import model as demo_model
from scoreonce.stages.demo import sampling
from scoreonce.stages.demo.along import earlier_steps
from scoreonce.stages.models import loading, tokenizers
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.scoring.model_scorer import ModelScorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Size:
    """Size of the demo; the defaults take about five minutes of one core, a third of it to start ten commands."""

    texts: int = 3200
    pairs: int = 800
    judged: int = 192
    hidden: int = 128
    layers: int = 4
    max_new_tokens: int = 96
    batch: int = 256
    shown: int = 8
    best_of: int = 8  # completions of the reference to choose from
    best_of_prompts: int = 32


def task(run: Run, size: Size = Size()) -> None:
    """Write the task's texts as completion-only data, and a tokenizer and an untrained model for them."""
    prompts, draw = _prompts(run, size).texts, random.Random(run.data.seed)
    _require_own(run, prompts, [Path(run.data.source), Path(run.reference.model)])
    texts = [card(prompt, draw) for prompt in prompts]
    _write_jsonl(
        Path(run.data.source),
        ({"prompt": prompt.text, "completion": text} for prompt, text in zip(prompts, texts, strict=True)),
    )
    parameters = demo_model.write(
        Path(run.reference.model),
        [prompt.text + text for prompt, text in zip(prompts, texts, strict=True)],
        hidden=size.hidden,
        layers=size.layers,
        seed=run.data.seed,
    )
    logger.info(f"{len(texts):,} texts in {run.data.source}; {_mean([*map(reward, prompts, texts)])}")
    logger.info(f"an untrained Llama with {parameters:,} parameters in {run.reference.model}")


def pairs(run: Run, size: Size = Size()) -> None:
    """Sample two completions per prompt from the reference; the true reward labels them, with noise."""
    prompts, draw = _prompts(run, size).pairs, random.Random(run.data.seed)
    _require_own(run, prompts, [Path(run.data.source)])
    tokenizer = tokenizers.load_tokenizer(run.reference.model)
    model = loading.load_model(
        run.reference.model, dtype=run.reference.dtype, device=loading.resolve_device(run.compute.device)
    )
    rows = _sample(model, tokenizer, prompts * 2, run.data.seed, size, "pairs")
    texts = _texts(rows, tokenizer)
    rewards = [reward(prompt, text) for prompt, text in zip(prompts * 2, texts, strict=True)]
    sides = list(zip(texts, rewards, strict=True))
    first, second = sides[: len(prompts)], sides[len(prompts) :]
    records = [_labelled(*sampled, draw) for sampled in zip(prompts, first, second, strict=True)]
    _write_jsonl(Path(run.data.source), records)
    right = sum(record["chosen_score"] > record["rejected_score"] for record in records)
    differ = sum(record["chosen_score"] != record["rejected_score"] for record in records)
    logger.info(f"{len(records):,} pairs in {run.data.source}; {_mean(rewards)}")
    logger.info(
        f"the noisy labels agree with the true reward on {right / max(differ, 1):.0%} of the pairs with unequal rewards"
    )


@at_address("train/*/model/*", "train/*/lineage.json", "train/*/checkpoints/*", writes="demo.json")
def judge(run: Run, size: Size = Size()) -> None:
    """Sample from the reference and from every trained policy; write and print true reward and KL.

    Of a policy also at the steps that have a checkpoint, for the same prompts with the same noise.

    Raises `InputError` if no policy has been trained.
    """
    paths = RunPaths.of(run)
    policies = {folder.parent.name: str(folder) for folder in sorted((paths.out / "train").glob("[!.]*/model"))}
    if not policies:
        raise InputError(
            "There is no policy to judge.",
            found=f"no model in {paths.out / 'train'}",
            where="`out` of the run file",
            fix="Run `scoreonce train` first.",
        )
    prompts = _prompts(run, size).judged
    tokenizer, reference = tokenizers.load_tokenizer(run.reference.model), _load(run.reference, run)
    entries = []

    def judged(policy: ModelScorer, what: str) -> tuple[list[str], dict[str, Any]]:
        rows = _sample(causal_lm(policy.scorer.model), tokenizer, prompts, run.data.seed + 1, size, what)
        texts = _texts(rows, tokenizer)
        return texts, _figures(prompts, texts, _log_ratios(rows, policy, reference))

    for label, folder in {REFERENCE: run.reference.model, **policies}.items():
        policy = reference if label == REFERENCE else _load(Reference(model=folder, dtype=run.reference.dtype), run)
        texts, figures = judged(policy, label)
        entry = {"label": label, **figures, "samples": _shown(prompts[: size.shown], texts[: size.shown])}
        if label != REFERENCE:
            own = replace(paths, label=label)
            entry["training_identity"] = manifests.read(Lineage, own.lineage).identity
            kept = earlier_steps(own.checkpoints, policy)
            entry["along"] = [{"step": step, **judged(policy, f"{label}, step {step}")[1]} for step in kept]
        entries.append(entry)
    best = _best_of_n(prompts[: size.best_of_prompts], tokenizer, causal_lm(reference.scorer.model), run, size)
    files.write_json(paths.out / "demo.json", {"policies": entries, "best_of_n": best})
    logger.info("\n".join([*_standings(entries), f"written to {paths.out / 'demo.json'}"]))


def _prompts(run: Run, size: Size) -> Prompts:
    return draw_prompts(run.data.seed, texts=size.texts, pairs=size.pairs, judged=size.judged)


def _require_own(run: Run, prompts: Sequence[Prompt], written: Sequence[Path]) -> None:
    """Raise `InputError` where data or a model would be replaced that the demo has not written.

    Its data begin with its first prompt, which `data.seed` determines; its model stands beside such data.
    """
    if is_address(run.data.source):
        raise InputError(
            "The demo writes its data into a local file.",
            found=f"data.source = {run.data.source!r}",
            where="data.source of the run file",
            fix="Give a local file.",
        )
    there = [path for path in written if path.exists()]
    if there and _first_prompt(Path(run.data.source)) != prompts[0].text:
        raise InputError(
            "The demo would replace files that it has not written.",
            found=f"{' and '.join(map(str, there))}; the data do not begin with the demo's first prompt",
            where="data.source and reference.model of the run file",
            fix="Use configs/demo_sft.toml and configs/demo.toml. If these files are of a demo with another "
            "data.seed, delete them.",
        )


def _first_prompt(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as lines:
            return json.loads(lines.readline())["prompt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(model: Reference, run: Run) -> ModelScorer:
    return ModelScorer.load(
        model, run.compute, longest_row=demo_model.LONGEST, longest_sequence=demo_model.LONGEST, largest_token=0
    )


def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    seed: int,
    size: Size,
    description: str,
) -> list[PromptRow]:
    return sampling.sample(
        model,
        tokenizer,
        [prompt.text for prompt in prompts],
        seed=seed,
        max_new_tokens=size.max_new_tokens,
        batch=size.batch,
        description=description,
    )


def _texts(rows: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    texts: list[str] = tokenizer.batch_decode([row.completions[0] for row in rows], skip_special_tokens=True)
    return texts


def _labelled(
    prompt: Prompt, first: tuple[str, float], second: tuple[str, float], draw: random.Random
) -> dict[str, Any]:
    chosen, rejected = (first, second) if prefers_first(first[1], second[1], draw) else (second, first)
    return {
        "prompt": prompt.text,
        "chosen": chosen[0],
        "rejected": rejected[0],
        "chosen_score": chosen[1],
        "rejected_score": rejected[1],
    }


def _log_ratios(rows: Sequence[PromptRow], policy: ModelScorer, reference: ModelScorer) -> npt.NDArray[np.float64]:
    """log pi(y) - log ref(y) of each sample y of the policy (samples,); their mean estimates KL(pi || ref)."""
    own, other = (model.score(rows, lambda completions, tokens: None).scores.logps for model in (policy, reference))
    return own - other


def _best_of_n(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, reference: PreTrainedModel, run: Run, size: Size
) -> list[dict[str, Any]]:
    """True reward of the best of 1, 2, 4, ... completions of the reference, with the most that its KL can be.

    What choosing among its completions reaches is what a policy is measured by.
    """
    repeated = [*prompts] * size.best_of
    rows = _sample(reference, tokenizer, repeated, run.data.seed + 1, size, f"best of {size.best_of}")
    rewards: dict[str, list[float]] = {prompt.text: [] for prompt in prompts}
    for prompt, text in zip(repeated, _texts(rows, tokenizer), strict=True):
        rewards[prompt.text].append(reward(prompt, text))
    return [point.row() for point in best_of_n.curve(rewards)]


def _figures(prompts: Sequence[Prompt], texts: Sequence[str], log_ratios: npt.NDArray[np.float64]) -> dict[str, float]:
    mean, low, high = mean_interval([reward(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])
    return {
        "true_reward_mean": mean,
        "true_reward_low": low,
        "true_reward_high": high,
        "kl_mean": float(log_ratios.mean()),
    }


def _shown(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt.text, "text": text, "reward": reward(prompt, text)}
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _standings(entries: Sequence[dict[str, Any]]) -> list[str]:
    """One line per policy, best first."""
    order = sorted(entries, key=lambda entry: entry["true_reward_mean"], reverse=True)
    return [
        f"{'':<12}{'true reward':>12}  {'95 % interval':<18}{'KL, nats':>8}",
        *(
            f"{entry['label']:<12}{entry['true_reward_mean']:>12.2f}  "
            f"{entry['true_reward_low']:.2f} to {entry['true_reward_high']:<9.2f}{entry['kl_mean']:>8.2f}"
            for entry in order
        ),
    ]


def _mean(rewards: Sequence[float]) -> str:
    mean, low, high = mean_interval(rewards)
    return f"mean true reward {mean:.2f} ({low:.2f} to {high:.2f})"


def _write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with files.atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
