"""Commands that need no data: what a machine can do, and what there is."""

from __future__ import annotations

import json

import typer

from scoreonce.schemas.errors import printable
from scoreonce.stages.cli.failures import FINDINGS_EXCEEDED
from scoreonce.stages.cli.loading import load, load_optional
from scoreonce.stages.cli.options import (
    AsJson,
    AsMarkdown,
    AsOneJson,
    Gpus,
    Label,
    Memory,
    Method,
    MethodFile,
    MethodName,
    Mfu,
    OptionalRunFile,
    PerMachine,
    RunFile,
    Sets,
    Shard,
    Tflops,
    Trust,
    What,
)


def estimate(
    run: RunFile,
    sets: Sets = None,
    gpus: Gpus = 1,
    memory: Memory = None,
    shard: Shard = None,
    per_machine: PerMachine = None,
    tflops: Tflops = None,
    mfu: Mfu = None,
    method: Method = None,
    label: Label = None,
    as_json: AsOneJson = False,
    trust: Trust = False,
) -> None:
    """Work out memory and time before there is a GPU.

    Needs no weights, only the model's config.json: bytes per GPU by part for train and score, whether they fit, and
    which setting to change if not. Where weights and a device are there, --dry-run of train and score measures instead.
    """
    settings = load(run, sets, method=method, label=label)
    from scoreonce.stages.estimate import stage, text

    found = stage.estimate(
        settings, gpus=gpus, memory=memory, shard=shard, per_machine=per_machine, tflops=tflops, mfu=mfu
    )
    print(json.dumps(found.document(), indent=2) if as_json else printable("\n".join(text.lines(found))))


def doctor(run: OptionalRunFile = None, sets: Sets = None, as_json: AsOneJson = False) -> None:
    """Say what on this machine would stop a stage or make it slow, and what to do.

    Loads no model and uses no network. Exits with code 3 if something would stop a stage.
    """
    settings = load_optional(run, sets)
    from scoreonce.stages.doctor import examination, text

    found = examination.examine(settings)
    print(json.dumps(found.document(), indent=2) if as_json else printable("\n".join(text.lines(found))))
    if found.stops:
        raise typer.Exit(FINDINGS_EXCEEDED)


def methods(
    name: MethodName = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    method_file: MethodFile = None,
) -> None:
    """List the methods, or explain one."""
    from scoreonce.stages.commands import listing

    print(listing.methods(name, "json" if as_json else "markdown" if as_markdown else "text", method_file))


def path(
    run: RunFile,
    what: What,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
) -> None:
    """Print where a run keeps a file or folder.

    `inputs` are the local files that the run reads; everything else is written by it. One path per line.
    """
    from scoreonce.stages.commands import listing

    for found in listing.paths(load(run, sets, method=method, label=label), what):
        print(found)
