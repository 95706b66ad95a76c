"""Every kind of file of a run, and the stages that read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tortured import readers as r
from tortured.readers import Reader


@dataclass(frozen=True)
class Kind:
    """Files by pattern, in the folder of the run; `own` are the user's files, which no command can write again.

    `left_out`: a stage may go on without what is in them, where it says so.
    """

    name: str
    patterns: tuple[str, ...]
    readers: tuple[Reader, ...]
    own: bool = False
    left_out: bool = False

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for pattern in self.patterns for path in folder.glob(pattern) if path.is_file())


def _of_runs(*names: str) -> tuple[str, ...]:
    """Files of the finished and the unfinished training run."""
    return tuple(f"out/train/{label}/{name}" for label in ("dpo", "half") for name in names)


def _all_of(run: str) -> tuple[str, ...]:
    """Files of a training run but its checkpoints."""
    return tuple(f"{run}/{name}" for name in ("*", "steps/*", "model/*", "merged/*"))


OF_PAIRS = (r.scored, r.trained, r.evaluated, r.queried)
OF_STORE = (r.scored, r.trained_on_hidden, r.trained_on_top_k, r.verified)

KINDS = (
    Kind("raw data", ("pairs.jsonl",), (r.scored, r.trained, r.prepared), own=True),
    Kind("reference model", ("model/*",), (r.trained, r.scored, r.evaluated, r.prepared), own=True),
    Kind("prepared pairs", ("out/pairs/t*.parquet",), (*OF_PAIRS, r.audited)),
    Kind("token ids", ("out/pairs/*.arrow",), (*OF_PAIRS, r.audited)),
    Kind("quarantine", ("out/pairs/quarantine.parquet",), OF_PAIRS),
    Kind("manifest of the pairs", ("out/pairs/manifest.json",), (*OF_PAIRS, r.reported)),
    Kind("reference columns", ("out/reference/*.parquet",), (r.trained, r.evaluated, r.queried, r.audited)),
    Kind("manifest of the reference", ("out/reference/manifest.json",), (r.trained, r.evaluated, r.reported)),
    Kind("store: scores", ("out/store/*/shards/*.parquet",), (*OF_STORE, r.evaluated)),
    Kind("store: hidden states", ("out/store/*/hidden/2*.safetensors",), OF_STORE),
    Kind("store: top-k", ("out/store/*/topk-tail-8/2*.safetensors",), OF_STORE),
    Kind("store: pooled states", ("out/store/*/pooled/*.safetensors",), OF_STORE),
    Kind("store: head", ("out/store/*/*/head.safetensors",), OF_STORE),
    Kind("store: sidecars", ("out/store/*/[sht]*/*.json", "out/store/*/pooled/*.json"), OF_STORE),
    Kind("store: identity", ("out/store/*/identity.json",), OF_STORE),
    Kind("store: index", ("out/store/*/index/*",), (*OF_STORE, r.evaluated)),
    Kind("checkpoint: weights", ("out/train/half/checkpoints/*/weights.safetensors",), (r.resumed,)),
    Kind("checkpoint: optimizer", ("out/train/half/checkpoints/*/optimizer.safetensors",), (r.resumed,)),
    Kind("checkpoint: the rest", ("out/train/half/checkpoints/*/[!wo]*",), (r.resumed,)),
    Kind("metrics.jsonl", _of_runs("metrics.jsonl", "metrics.crc32"), (r.reported, r.finished, r.resumed)),
    Kind("held-out figures", _of_runs("held_out.jsonl", "held_out.crc32", "held_out.parquet"),
         (r.reported, r.finished, r.resumed)),
    Kind("step log", _of_runs("steps.parquet", "steps/*", "log.json"),
         (r.reported, r.queried, r.audited, r.finished, r.resumed)),
    Kind("metrics.parquet", ("out/train/dpo/metrics.parquet",), (r.finished,)),
    Kind("lineage and settings", _of_runs("lineage.json", "run.toml"),
         (r.reported, r.evaluated, r.finished, r.resumed)),
    Kind("trained model", ("out/train/dpo/model/*",), (r.evaluated, r.finished)),
    Kind("adapter, merged, and its log", _all_of("out/train/lora"), (r.finished_lora, r.merged)),
    Kind("evaluation", ("out/evaluate/dpo/*",), (r.reported, r.queried, r.audited)),
    Kind("measures of the audit", ("out/audit/measures.*", "out/audit/relations.*"), (r.audited,)),
    Kind("audit", ("out/audit/audit.json", "out/audit/pairs.parquet"), (r.queried, r.audited), left_out=True),
    Kind("samples", ("out/samples/*/*",), (r.judged, r.graded, r.reported, r.sampled)),
    Kind("reward model", ("reward/*",), (r.graded, r.judged), own=True),
    Kind("judgement", ("out/judge/*/*",), (r.graded, r.reported, r.judged)),
    Kind("graded lists", ("out/graded/*/*",), (r.graded,)),
    Kind("export", ("out/export/*/*",), (r.exported,)),
    Kind("comparison", ("compared/compare/*.json", "compared/compare/*.parquet"), (r.compared,)),
    Kind("what is compared", ("compared/pairs/*", "compared/reference/*", *_all_of("compared/train/*"),
         "compared/evaluate/*/*"), (r.compared,)),
    Kind("demo.json", ("out/demo.json",), (r.reported,)),
)  # fmt: skip
