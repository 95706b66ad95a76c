"""Score the reference model once; train every preference-optimisation method from the cached columns.

    from scoreonce import Run, evaluate, prepare, score, train

    run = Run.load("run.toml", {"train.beta": 0.05})
    prepare(run)
    score(run)
    policy = train(run)
    print(policy.metrics["loss"], evaluate(run).summary["accuracy"])

Stages are functions of a `Run` and return what they made: paths, manifests, polars frames. They print nothing;
`verbose()` shows what they say and their progress bars. What a user can put right is raised as `InputError`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scoreonce.pipeline import methods
    from scoreonce.schemas.errors import InputError
    from scoreonce.stages.audit.stage import audit
    from scoreonce.stages.common.messages import verbose
    from scoreonce.stages.compare.stage import compare
    from scoreonce.stages.config import Run
    from scoreonce.stages.estimate.stage import estimate
    from scoreonce.stages.evaluate.stage import evaluate
    from scoreonce.stages.judge.stage import judge
    from scoreonce.stages.pairs.stage import pairs
    from scoreonce.stages.prepare.stage import prepare
    from scoreonce.stages.push.stage import push
    from scoreonce.stages.report.stage import report
    from scoreonce.stages.sample.stage import sample
    from scoreonce.stages.score.stage import score
    from scoreonce.stages.store.store import ReferenceStore
    from scoreonce.stages.train.merge import merge
    from scoreonce.stages.train.stage import train

    __version__: str

__all__ = [
    "InputError",
    "ReferenceStore",
    "Run",
    "__version__",
    "audit",
    "compare",
    "estimate",
    "evaluate",
    "judge",
    "merge",
    "methods",
    "pairs",
    "prepare",
    "push",
    "report",
    "sample",
    "score",
    "train",
    "verbose",
]

STAGES = (
    "audit",
    "compare",
    "estimate",
    "evaluate",
    "judge",
    "pairs",
    "prepare",
    "push",
    "report",
    "sample",
    "score",
    "train",
)
# Imported when first used: torch alone takes seconds, and `scoreonce --help` comes through here too.
_MODULES = {
    "InputError": "schemas.errors",
    "ReferenceStore": "stages.store.store",
    "Run": "stages.config",
    "merge": "stages.train.merge",
    "verbose": "stages.common.messages",
    **{stage: f"stages.{stage}.stage" for stage in STAGES},
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("scoreonce")
    if name == "methods":
        return import_module("scoreonce.pipeline.methods")
    if name not in _MODULES:
        raise AttributeError(f"module 'scoreonce' has no attribute {name!r}")
    return getattr(import_module(f"scoreonce.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
