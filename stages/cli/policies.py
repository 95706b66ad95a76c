"""Commands that make policies and pass them on."""

from __future__ import annotations

import logging

from scoreonce.stages.cli.loading import load, load_each
from scoreonce.stages.cli.options import (
    AllowMethodFile,
    BaseModel,
    Branch,
    Compared,
    DryRun,
    Jobs,
    Label,
    ListOnly,
    LockTimeout,
    Merged,
    Message,
    Method,
    Methods,
    Once,
    Public,
    Rehash,
    Repository,
    Restart,
    RunFile,
    Search,
    Seeds,
    Sets,
    TimeOnly,
    TrainAgain,
    Trials,
    Trust,
    Varied,
    WatchedLabels,
)

logger = logging.getLogger(__name__)


def train(
    run: RunFile,
    sets: Sets = None,
    methods: Methods = None,
    label: Label = None,
    restart: Restart = False,
    dry_run: DryRun = False,
    allow_method_file: AllowMethodFile = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Train a policy from the cached columns, or one for each --method.

    The reference model is not loaded. An interrupted run continues from its last checkpoint.
    """
    runs = load_each(run, sets, methods, label)
    from scoreonce.stages.train import stage

    own = load(run, sets).train
    for settings in runs:
        if left := sorted(own.hyperparameters.keys() - settings.train.hyperparameters.keys()):
            logger.info(
                f"{', '.join(left)} of the run file: for {own.method} alone; {settings.train.method} has its own "
                "defaults, or what --set train.KEY=VALUE gives"
            )
        if dry_run:
            stage.estimate(settings, allow_method_file=allow_method_file)
        else:
            stage.train(settings, restart=restart, allow_method_file=allow_method_file, lock_timeout=lock_timeout)


def watch(run: RunFile, sets: Sets = None, labels: WatchedLabels = None, once: Once = False) -> None:
    """Show the curves of training runs in the terminal, until they end.

    Run it beside train. Ctrl-C ends only the watching.
    """
    settings = load(run, sets)
    from scoreonce.stages.watch import watching

    watching.watch(settings, labels=[each for given in labels or [] for each in given.split(",")], once=once)


def merge(
    run: RunFile,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Merge a LoRA policy into its base model.

    Writes a whole model beside the adapter, for tools that load no adapters.
    """
    settings = load(run, sets, method=method, label=label)
    from scoreonce.stages.train import merge

    merge.merge(settings, lock_timeout=lock_timeout)


def push(
    run: RunFile,
    repository: Repository,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
    merged: Merged = False,
    base: BaseModel = None,
    public: Public = False,
    revision: Branch = None,
    message: Message = None,
    dry_run: ListOnly = False,
    rehash: Rehash = False,
) -> None:
    """Send a policy to a repository of the Hugging Face Hub, with a model card.

    The card has the lineage, the held-out figures and what the audit found. HF_TOKEN or `hf auth login` gives access.
    """
    settings = load(run, sets, method=method, label=label)
    from scoreonce.stages.push import stage

    stage.push(
        settings,
        repository,
        merged=merged,
        base=base,
        public=public,
        revision=revision,
        message=message,
        dry_run=dry_run,
    )


def compare(
    run: RunFile,
    sets: Varied = None,
    methods: Compared = None,
    seeds: Seeds = None,
    search: Search = None,
    trials: Trials = None,
    jobs: Jobs = None,
    dry_run: TimeOnly = False,
    restart: TrainAgain = False,
    allow_method_file: AllowMethodFile = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Train several methods and settings, and say which to take.

    Prepares and scores what is not done yet, once; each training goes on where it was interrupted. Ranks on the same
    held-out pairs.
    """
    from scoreonce.stages.compare.options import settings_of, varied

    fixed, vary = varied(sets or [])
    given = {"methods": methods, "seeds": seeds, "search": search, "trials": trials}
    settings = settings_of(load(run, fixed), vary, given)
    from scoreonce.stages.compare import estimate, stage

    if dry_run:
        estimate.estimate(settings, restart=restart, allow_method_file=allow_method_file)
        return
    stage.compare(settings, jobs=jobs, restart=restart, allow_method_file=allow_method_file, lock_timeout=lock_timeout)
