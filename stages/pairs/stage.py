"""Graded lists of scored samples, which `prepare` reads.

    scoreonce pairs configs/x.toml --judgement dpo                          the lists of one judgement
    scoreonce pairs configs/x.toml --judgement dpo --judgement reference    of several, by the same judge, together

Writes <out>/graded/<name>/: pairs.jsonl, a line {"prompt", "responses", "scores"} for each prompt, and manifest.json,
last. Which pairs they become is data.pairing of the run that reads them: best_worst, rso, or any with data.min_gap.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import GradedManifest, JudgementManifest
from scoreonce.schemas.names import require_name
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import atomic, sha256
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import MANIFEST, SAMPLES, SCORES, RunPaths
from scoreonce.stages.common.removal import remove
from scoreonce.stages.common.results import PairsResult
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import read_samples, samples_manifest
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.pairs.lists import candidates, graded

logger = logging.getLogger(__name__)

FILE = "pairs.jsonl"


def name_of(judgements: Sequence[str], name: str | None) -> str:
    """The name of the lists, by default those of their judgements. Raises `InputError` for no name of a folder."""
    return require_name(name or "+".join(judgements), "--name")


def written_unit(run: Run, judgements: Sequence[str], *, name: str | None = None, **_: object) -> str:
    """What `pairs` with these arguments writes, as a unit of `stages.outputs`."""
    return f"graded/{name_of(judgements, name)}"


@at_address("samples/*", "judge/*", writes=written_unit)
def pairs(
    run: Run, judgements: Sequence[str], *, name: str | None = None, lock_timeout: float | None = None
) -> PairsResult:
    """Write the graded lists of some judgements, those of one prompt together, and return the file.

    Another process that writes the same lists is waited for, at most `lock_timeout` seconds. Raises `InputError` where
    a judgement is absent, has no scores or is of another judge, where samples have changed since, and where no prompt
    has a pair.
    """
    paths = RunPaths.of(run)
    called = name_of(judgements, name)
    found = {each: _judgement(paths, require_name(each, "--judgement")) for each in dict.fromkeys(judgements)}
    _require_one_judge(found)
    folder = paths.graded(called)
    path = folder / FILE
    wanted = {
        "judgements": {each: sha256(paths.judgement(each) / MANIFEST) for each in found},
        "finished_only": run.pairs.finished_only,
    }
    with locked(paths, folder, f"the graded lists {called}", timeout=lock_timeout):
        changed = manifests.changes(GradedManifest, folder / MANIFEST, wanted)
        if not changed:
            logger.info("%s: up to date", path)
            return PairsResult(path, manifests.read(GradedManifest, folder / MANIFEST).counts)
        if (folder / MANIFEST).exists():
            logger.info(manifests.again("Making the lists", changed, "made"))
        rows = pl.concat([part for each, manifest in found.items() for part in _scored(paths, each, manifest)])
        lists, counts = graded(rows, finished_only=run.pairs.finished_only)
        if not lists:
            raise _no_pair(counts, called)
        remove(folder / MANIFEST, inside=paths.out)
        with atomic(path) as temporary:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lists)
            temporary.write_text(text, encoding="utf-8")
        manifest = GradedManifest(name=called, counts=counts, files={FILE: sha256(path)}, **wanted)
        manifests.write(folder / MANIFEST, manifest)
    logger.info("\n".join(_summary(path, counts)))
    return PairsResult(path, counts)


def _judgement(paths: RunPaths, name: str) -> JudgementManifest:
    folder = paths.judgement(name)
    manifest = manifests.read(JudgementManifest, folder / MANIFEST)
    manifests.require_files(manifest, folder)
    if SCORES not in manifest.files:
        raise InputError(
            "The judgement has no score of each completion.",
            found=f"{name}: its judge compares two completions",
            where="--judgement",
            fix="Judge the samples with a reward model, or with a function (prompt, completion).",
        )
    for label, digest in manifest.samples.items():
        if samples_manifest(paths, label).files[SAMPLES] != digest:
            raise InputError(
                "The samples are not those that were judged.",
                found=f"label {label} was sampled again since",
                where=str(folder),
                fix="Run `scoreonce judge` again.",
            )
    return manifest


def _require_one_judge(found: dict[str, JudgementManifest]) -> None:
    """Scores of different judges have different scales."""
    first, *others = found.items()
    for name, manifest in others:
        if manifest.judge != first[1].judge:
            raise InputError(
                "The judgements are not of the same judge, so their scores cannot be in one list.",
                found=f"{first[0]} and {name} differ in "
                + ", ".join(each.key for each in manifests.differences("", first[1].judge, manifest.judge)),
                where="--judgement",
                fix="Judge all samples with the same [judge].",
            )


def _scored(paths: RunPaths, name: str, manifest: JudgementManifest) -> list[pl.DataFrame]:
    scores = read_frame(paths.judgement(name) / SCORES)
    return [candidates(read_samples(paths, label), scores, label) for label in manifest.samples]


def _no_pair(counts: dict[str, int], name: str) -> InputError:
    return InputError(
        "No prompt has two completions of different scores.",
        found=f"{counts['completions']:,} completions: {counts['without_score']:,} without a score, "
        f"{counts['unfinished']:,} unfinished, {counts['repeated']:,} repeated",
        where=name,
        fix="Sample more completions for each prompt, at a higher temperature or with more new tokens; --set "
        "pairs.finished_only=false keeps unfinished ones.",
    )


def _summary(path: object, counts: dict[str, int]) -> list[str]:
    reasons = {
        "without_score": "without a score",
        "unfinished": "unfinished",
        "repeated": "repeated",
    }
    left = [f"{counts[key]:,} {words}" for key, words in reasons.items() if counts[key]]
    return [
        f"{path}: {counts['lists']:,} prompts with {counts['listed']:,} completions",
        *([f"  left out: {', '.join(left)}"] if left else []),
        *([f"  {counts['without_pair']:,} prompts have no two different scores"] if counts["without_pair"] else []),
        f'  next: a run file with data.source = "{path}", data.format = "graded" and data.pairing',
    ]
