"""The stages as readers: each returns the numbers that it makes or shows of the files that are there, as one digest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from scoreonce.stages.audit.stage import audit
from scoreonce.stages.commands import sql
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.compare.stage import compare
from scoreonce.stages.data.json_lines import read_lines
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.exchange.export import export_reference
from scoreonce.stages.judge.stage import judge
from scoreonce.stages.pairs.stage import pairs
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.report import stage as reporting
from scoreonce.stages.sample.stage import sample
from scoreonce.stages.score.stage import score
from scoreonce.stages.store import maintenance
from scoreonce.stages.train.merge import merge
from scoreonce.stages.train.stage import train
from tortured.world import JUDGED, JUDGEMENT, SAMPLED, compared_run, lora_run, run_file

Reader = Callable[[], str]
QUERIES = ("SELECT * FROM pairs", "SELECT * FROM quarantine", "SELECT * FROM steps", "SELECT * FROM evaluation")


def prepared() -> str:
    prepare(run_file())
    return _digest(*(path.read_bytes() for path in sorted(Path("out/pairs").iterdir())))


def scored() -> str:
    """Whatever is in the store: every layer is asked for."""
    score(run_file(score__full_vocab="topk", score__topk=8))
    result = score(run_file())
    return _digest(*(result.paths.reference(split).read_bytes() for split in SPLITS))


def verified() -> str:
    """Nothing is computed: what `store verify` has to say, it says."""
    maintenance.verify(RunPaths.of(run_file()).store)
    return _digest()


def audited() -> str:
    return _digest(audit(run_file()).document)


def finished() -> str:
    """A finished training run, asked for again."""
    return _trained(run_file())


def finished_on_hidden() -> str:
    """A training run from stored hidden states and the stored head."""
    return _trained(run_file(train__label="tdpo", train__method="tdpo"))


def finished_lora() -> str:
    return _trained(lora_run())


def merged() -> str:
    """The adapter of `finished_lora`, merged into the model."""
    folder = merge(lora_run()).paths.merged
    return _digest(*(path.read_bytes() for path in sorted(folder.glob("*.safetensors"))))


def resumed() -> str:
    """The unfinished run goes on."""
    return _trained(run_file(train__label="half"))


def trained() -> str:
    """A new run from the cached columns."""
    return _new(run_file(train__label="new", train__max_steps=1))


def trained_on_hidden() -> str:
    """A new run from stored hidden states and the stored head."""
    return _new(run_file(train__label="new", train__max_steps=1, train__method="tdpo"))


def trained_on_top_k() -> str:
    """A new run from the stored largest log-probs."""
    run = run_file(
        train__label="new", train__max_steps=1, train__method="tdpo", train__full_vocab="topk", score__topk=8
    )
    return _new(run)


def evaluated() -> str:
    result = evaluate(run_file())
    return _digest(result.summary, result.paths.evaluation_pairs.read_bytes())


def sampled() -> str:
    """Completions of the reference and of the finished run."""
    return _digest(*(made.samples().to_dicts() for made in sample(run_file(), labels=SAMPLED)))


def judged() -> str:
    """What a reward model says of them."""
    result = judge(run_file(), **JUDGED)
    return _digest(result.summary, result.scores().to_dicts(), result.judgements().to_dicts())


def graded() -> str:
    """The lists that are made of them."""
    result = pairs(run_file(), [JUDGEMENT])
    return _digest(result.counts, result.path.read_bytes())


def exported() -> str:
    """The scored pairs for TRL."""
    folder = export_reference(run_file(), "trl")
    return _digest(*(path.read_bytes() for path in sorted(folder.glob("*.parquet"))))


def compared() -> str:
    """Two trainings, ranked, without the time and memory that they took."""
    found = compare(compared_run())
    policies = [folder for row in found.standings.rows for folder in found.policies(row.name).values()]
    weights = [path.read_bytes() for folder in policies for path in sorted(folder.glob("*.safetensors"))]
    return _digest(found.standings, found.reason, found.trials().drop("seconds", "peak_memory").to_dicts(), *weights)


def reported() -> str:
    """What the page is made of, without the seconds that the steps took."""
    with mock.patch.object(reporting, "render", return_value="") as render:
        reporting.report(run_file(), labels=["dpo"])
        dpo = _page(render)
        reporting.report(run_file(), labels=["half"])
    return _digest(dpo, _page(render))


def written_report() -> str:
    """The page of all runs is written, and what it is made of."""
    with mock.patch.object(reporting, "render", wraps=reporting.render) as render:
        written = reporting.report(run_file()).page
    return _digest(_page(render), written.read_text(encoding="utf-8").rstrip().endswith("</html>"))


def queried() -> str:
    return _digest(*(sql.answer(run_file(), query) for query in QUERIES))


def _page(render: mock.MagicMock) -> list[Any]:
    data = render.call_args.args[0]
    runs = []
    for run in data.runs:
        bands, pairs = run.bands.to_dicts(), run.pairs.to_dicts() if run.pairs is not None else None
        metrics = run.metrics.select(name for name in run.metrics.columns if not name.startswith("perf/")).to_dicts()
        runs.append([run.label, metrics, bands, run.lineage, run.settings, run.summary, pairs, run.finished])
    return [runs, data.pairs_manifest, data.reference_manifest, data.demo]


def _new(run: Any) -> str:
    shutil.rmtree("out/train/new", ignore_errors=True)
    try:
        return _trained(run)
    finally:
        shutil.rmtree("out/train/new", ignore_errors=True)


def _trained(run: Any) -> str:
    paths = train(run).paths
    metrics = _without_time(paths.training / "metrics.jsonl")
    held_out = _without_time(paths.held_out_log) if paths.held_out_log.is_file() else []
    lineage = {name: part for name, part in read_json(paths.lineage).items() if name != "versions"}
    steps = (paths.training / "steps.parquet").read_bytes()
    weights = [path.read_bytes() for path in sorted(paths.policy.glob("*.safetensors"))]
    return _digest(*weights, metrics, held_out, steps, lineage)


def _without_time(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path)
    return [{name: line[name] for name in line if not name.startswith("perf/") and name != "seconds"} for line in lines]


def _digest(*parts: Any) -> str:
    whole = hashlib.sha256()
    for part in parts:
        # As JSON: figures that are read back have other types and another order than those that were just made.
        whole.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=repr).encode())
    return whole.hexdigest()
