"""Commands on the data: a run file, pairs, and what is wrong with them."""

from __future__ import annotations

import typer

from scoreonce.schemas.errors import printable
from scoreonce.stages.cli.failures import FINDINGS_EXCEEDED
from scoreonce.stages.cli.loading import load
from scoreonce.stages.cli.options import (
    AuditEngine,
    Contamination,
    FailOn,
    FromAxolotl,
    FromLlamafactory,
    FromTrl,
    InitData,
    InitMethod,
    InitModel,
    LockTimeout,
    NearDuplicates,
    Overwrite,
    PrepareEngine,
    Preview,
    Processes,
    Query,
    Rehash,
    Replace,
    RunFile,
    RunOut,
    Sets,
    Trust,
)


def init(
    model: InitModel = None,
    data: InitData = None,
    method: InitMethod = None,
    out: RunOut = None,
    sets: Sets = None,
    replace: Overwrite = False,
    from_trl: FromTrl = None,
    from_axolotl: FromAxolotl = None,
    from_llamafactory: FromLlamafactory = None,
    processes: Processes = 1,
    trust: Trust = False,
) -> None:
    """Write a first run file.

    For a model and data, of which config.json, the tokenizer and some rows are read; or from a configuration of TRL,
    Axolotl or LLaMA-Factory. Each line has a comment that says why.
    """
    from scoreonce.stages.init import stage

    files = {"trl": from_trl, "axolotl": from_axolotl, "llamafactory": from_llamafactory}
    written = stage.init(
        model,
        data,
        method=method,
        out=out,
        sets=sets or [],
        replace=replace,
        configurations=files,
        processes=processes,
    )
    print(printable("\n".join(written.report)))


def prepare(
    run: RunFile,
    sets: Sets = None,
    preview: Preview = None,
    engine: PrepareEngine = None,
    restart: Replace = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Turn a preference dataset into token pairs.

    Rows that cannot be used are quarantined with the reason. Pairs of other data or settings are replaced only if no
    other stage has used them, or with --restart.
    """
    settings = load(run, sets).replace({} if engine is None else {"data.engine": engine})
    from scoreonce.stages.commands import previews
    from scoreonce.stages.prepare import stage

    if preview:
        lines = previews.of_dataset(stage.preview(settings, preview))
    else:
        made = stage.prepare(settings, restart=restart, lock_timeout=lock_timeout)
        lines = previews.of_pairs(made.preview if preview is None else ())
    for line in lines:
        print(line)


def audit(
    run: RunFile,
    sets: Sets = None,
    fail_on: FailOn = None,
    near_duplicates: NearDuplicates = None,
    contamination: Contamination = None,
    engine: AuditEngine = None,
    lock_timeout: LockTimeout = None,
    trust: Trust = False,
) -> None:
    """Find flaws in the pairs.

    Run it again after score and after train: it then uses their columns too. Exits with code 3 if it finds what
    --fail-on names.
    """
    settings = load(run, sets)
    given = {"near_duplicates": near_duplicates, "contamination": contamination, "engine": engine}
    settings = settings.replace({f"audit.{name}": value for name, value in given.items() if value is not None})
    from scoreonce.stages.audit import stage

    if stage.audit(settings, fail_on=fail_on, lock_timeout=lock_timeout).exceeded:
        raise typer.Exit(FINDINGS_EXCEEDED)


def sql(run: RunFile, query: Query, sets: Sets = None) -> None:
    """Query the pairs with SQL.

    Tables: pairs (with the columns of score and audit), evaluation, steps, quarantine.
    """
    settings = load(run, sets)
    from scoreonce.stages.commands import sql

    print(printable(sql.answer(settings, query)))
