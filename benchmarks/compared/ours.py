"""scoreonce's side, through its stages: `prepare`, `score`, `train`, and a sweep of trainings on one scoring.

Each function imports its own stage, as each command does: what a process loads counts in its start-up and memory.
"""

from __future__ import annotations

import json
import time
from typing import Any

import child

from scoreonce.stages import config
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run


def settings(order: dict[str, Any], **changes: Any) -> Run:
    """The run file of an order, with other keys of [train] where they are given."""
    run = config.load(order["run"])
    return run.model_copy(update={"train": run.train.model_copy(update=changes)})


def prepared(order: dict[str, Any]) -> dict[str, Any]:
    from compared.world import digest
    from scoreonce.stages.data.token_file import TokenFile
    from scoreonce.stages.prepare import stage as prepare

    run = settings(order)
    prepare.prepare(run)
    tokens = TokenFile(RunPaths.of(run).tokens("train"))
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return {"digest": digest([[tokens.row(row, name) for name in names] for row in range(len(tokens))])}


def scored(order: dict[str, Any]) -> dict[str, Any]:
    from scoreonce.stages.score import stage as score
    from scoreonce.stages.scoring.job import ScoringJob
    from scoreonce.stages.scoring.model_scorer import ModelScorer
    from scoreonce.stages.scoring.run import score_completions

    run, batches, honest = settings(order), [], ModelScorer.score

    def noted(self: ModelScorer, rows: Any, advance: Any, **more: Any) -> Any:
        def note(completions: int, positions: int) -> None:
            batches.append((completions, time.time()))
            advance(completions, positions)

        return honest(self, rows, note, **more)

    ModelScorer.score = noted  # type: ignore[method-assign]
    done = score_completions(ScoringJob.of(run))
    ended = time.time()
    score.score(run)  # nothing is left to score: it writes the pair tables
    # As on the other side, all but the first batch; what is written at the end counts.
    return {
        "pairs": sum(completions for completions, _ in batches[1:]) / 2,
        "seconds": ended - batches[0][1],
        "completions": done.scored,
        "positions": done.tokens,
    }


def trained(order: dict[str, Any]) -> dict[str, Any]:
    from scoreonce.stages.train import stage as train

    run, ends = settings(order), child.step_ends()
    train.train(run)
    lines = (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()
    return {
        "losses": [json.loads(line)["loss"] for line in lines],
        "step ends, s": [end - order["started"] for end in ends],
    }


def swept(order: dict[str, Any]) -> dict[str, Any]:
    """One scoring, then every training; loading of libraries left out, as on the other side."""
    from scoreonce.stages.prepare import stage as prepare
    from scoreonce.stages.train import stage as train

    prepare.prepare(settings(order))
    started = time.time()
    completions = scored(order)["completions"]
    for method, beta in order["runs"]:
        given = {"label_smoothing": order["smoothing"]} if method in order["smoothed"] else {}
        train.train(settings(order, method=method, beta=beta, label=f"{method}-{beta}", **given))
    return {"seconds": time.time() - started, "reference passes": completions / 2 / order["pairs"]}


if __name__ == "__main__":
    WHAT = {"prepare": prepared, "score": scored, "train": trained, "sweep": swept}
    child.answer(lambda order: WHAT[order["do"]](order))
