"""Commands on reference scores: made once, taken from or given to others, and the store that keeps them."""

from __future__ import annotations

import typer

from scoreonce.stages.cli.loading import load
from scoreonce.stages.cli.options import (
    CutTo,
    Datasets,
    Drop,
    DryRun,
    Engine,
    FullVocab,
    GroupSize,
    LeaveOutDiffering,
    LockTimeout,
    Part,
    Prune,
    Rehash,
    RunFile,
    Sets,
    To,
    Tokens,
    Trust,
)


def score(
    run: RunFile,
    sets: Sets = None,
    part: Part = None,
    engine: Engine = None,
    group_size: GroupSize = None,
    dry_run: DryRun = False,
    full_vocab: FullVocab = None,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Score the pairs with the reference model, once.

    Completions that the store already holds are not scored again.
    """
    given = {"score.full_vocab": full_vocab, "score.engine": engine, "score.group_size": group_size}
    settings = load(run, sets).replace({key: value for key, value in given.items() if value is not None})
    from scoreonce.stages.score import stage

    if dry_run:
        stage.estimate(settings, part=part)
    else:
        stage.score(settings, part=part, lock_timeout=lock_timeout)


def export_reference(
    run: RunFile,
    to: To,
    sets: Sets = None,
    tokens: Tokens = False,
    leave_out_differing: LeaveOutDiffering = False,
    lock_timeout: LockTimeout = None,
    trust: Trust = False,
) -> None:
    """Write the scored pairs for another trainer.

    Under <out>/export: for TRL a dataset with its reference columns, for fairseq2 JSON lines with its scores.
    """
    settings = load(run, sets)
    from scoreonce.stages.exchange import export

    export.export_reference(
        settings, to, tokens=tokens, leave_out_differing=leave_out_differing, lock_timeout=lock_timeout
    )


def import_reference(
    run: RunFile,
    datasets: Datasets,
    sets: Sets = None,
    max_length: CutTo = 1024,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Take reference log-probs that TRL has precomputed.

    In place of score, for methods that read sums alone. Some pairs are scored again, if the model is on this machine.
    """
    settings = load(run, sets)
    from scoreonce.stages.exchange import import_scores

    import_scores.import_reference(settings, datasets, max_length=max_length or None, lock_timeout=lock_timeout)


def store_list(run: RunFile, sets: Sets = None) -> None:
    """List the stores, one per reference model, and the layers of each."""
    from scoreonce.stages.commands import stores

    stores.list_stores(load(run, sets))


def store_verify(run: RunFile, sets: Sets = None) -> None:
    """Check every file of every layer against its digest.

    Files without a digest are named too. Exits with code 2 if something is damaged.
    """
    from scoreonce.stages.commands import stores

    if stores.verify(load(run, sets)):
        raise typer.Exit(2)


def store_gc(run: RunFile, sets: Sets = None, prune: Prune = False, drop: Drop = None) -> None:
    """Delete leftovers of killed commands, and what you name, from every layer."""
    from scoreonce.stages.commands import stores

    stores.gc(load(run, sets), prune=prune, drop=drop or [])


def store_compact(run: RunFile, sets: Sets = None) -> None:
    """Merge small files of every layer into larger ones.

    Run it while no other command uses the store.
    """
    from scoreonce.stages.commands import stores

    stores.compact(load(run, sets))
