"""The command line: `scoreonce STAGE RUN.toml`. Each command loads the run file and calls its stage, nothing more.

Stages are imported inside the commands, after the run file was checked, because torch alone takes seconds and neither
`scoreonce --help` nor a misspelt key may.

Exit codes: 0 done; 1 our own fault, with a traceback; 2 something given cannot be used, in four parts; 3 an audit found
what it was to fail on; 130 interrupted.
"""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scoreonce.schemas.errors import InputError

if TYPE_CHECKING:
    from scoreonce.stages.config import Run

INTERRUPTED = 130

app = typer.Typer(
    name="scoreonce",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Score the reference model once; train every preference-optimisation method from the cached columns. "
    "Stages run in the order prepare, audit, score, train, evaluate, report; each does only what is not done yet.",
    epilog="Start with a copy of configs/example.toml. `scoreonce COMMAND --help` says more.",
)
store_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look after what is cached of the references."
)
demo_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The steps of `make demo`.")
app.add_typer(store_app, name="store")
app.add_typer(demo_app, name="demo")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"scoreonce {version('scoreonce')}")
        raise typer.Exit


def _trust_remote_code(wanted: bool) -> None:
    if wanted:
        from scoreonce.stages.models import loading

        loading.trust_remote_code = True


RunFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file; see configs/example.toml.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key of the run file; may be given again."),
]
Method = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another method than the run file's; `scoreonce methods` lists them.")
]
Label = Annotated[
    str | None, typer.Option(metavar="NAME", help="Folder name of this training run; defaults to the method.")
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME", help="Only these training runs; may be given again.")
]
Model = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Folder or Hub name of another policy than the trained one.")
]
FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="FINDINGS",
        help="Leave with exit code 3 where these were found, e.g. "
        "duplicate_pair,contradictory_pair>0.01: any pair, or more than that share or number.",
    ),
]
NearDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--near-duplicates/--no-near-duplicates", help="Compare texts by their words; as the run file says by default."
    ),
]
Contamination = Annotated[
    list[str] | None,
    typer.Option(
        "--contamination", metavar="FILE", help="Evaluation prompts that no pair should overlap; may be given again."
    ),
]
Query = Annotated[
    str, typer.Argument(metavar="SQL", help="For example: SELECT source, avg(ref_margin) FROM pairs GROUP BY source")
]
Restart = Annotated[bool, typer.Option("--restart", help="Throw this label's outputs away and train anew.")]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="A store to remove whole, as `store list` names it; may be given again."),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Also remove, from every layer, completions that are not in this run's pairs.")
]
FullVocab = Annotated[
    str | None,
    typer.Option(
        metavar="FORM", help="Keep whole next-token distributions too: none, hidden or topk (score.full_vocab)."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Only say how long it takes and how big it gets, measured with the model for a few seconds."
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        callback=_trust_remote_code,
        help="Run the Python code that a model's folder brings along.",
    ),
]
Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
]


@app.callback()
def _options(version: Version = False) -> None:
    pass


def _load(path: Path, sets: list[str] | None, *, method: str | None = None, label: str | None = None) -> Run:
    """The run file with its overrides; a method given by name replaces the file's, its pieces and its label."""
    from scoreonce.stages import config

    sets = list(sets or [])
    run = config.load(
        path, [*sets, *([f'train.method="{method}"'] if method else []), *([f'train.label="{label}"'] if label else [])]
    )
    if method is None:
        return run
    given = {entry.split("=")[0].strip() for entry in sets} | ({"train.label"} if label else set())
    reset = {key: None for key in ("label", "objective", "calibration", "selection") if f"train.{key}" not in given}
    return run.model_copy(update={"train": run.train.model_copy(update=reset)})


@app.command()
def prepare(run: RunFile, sets: Sets = None, trust: Trust = False) -> None:
    """Turn a preference dataset into token pairs.

    Rows that cannot be used go to quarantine, with the reason.
    """
    settings = _load(run, sets)
    from scoreonce.stages.prepare import stage

    stage.run(settings)


@app.command()
def audit(
    run: RunFile,
    sets: Sets = None,
    fail_on: FailOn = None,
    near_duplicates: NearDuplicates = None,
    contamination: Contamination = None,
) -> None:
    """Say what is wrong with the pairs.

    Again after score and after train, it also says what these made of them. Leaves with exit code 3 where something
    that --fail-on names was found.
    """
    settings = _load(run, sets)
    given = {"near_duplicates": near_duplicates, "contamination": contamination}
    changed = {name: value for name, value in given.items() if value is not None}
    settings = settings.model_copy(update={"audit": settings.audit.model_copy(update=changed)})
    from scoreonce.stages.audit import stage

    if code := stage.run(settings, fail_on=fail_on):
        raise typer.Exit(code)


@app.command()
def sql(run: RunFile, query: Query, sets: Sets = None) -> None:
    """Ask the pairs anything, in SQL.

    Tables: pairs (with the columns of score and audit), evaluation, steps, quarantine.
    """
    settings = _load(run, sets)
    from scoreonce.stages.commands import sql

    print(sql.answer(settings, query))


@app.command()
def score(
    run: RunFile,
    sets: Sets = None,
    dry_run: DryRun = False,
    full_vocab: FullVocab = None,
    trust: Trust = False,
) -> None:
    """Score the pairs under the reference, once.

    What the store holds already is never scored again.
    """
    settings = _load(run, [*(sets or []), *([f'score.full_vocab="{full_vocab}"'] if full_vocab else [])])
    from scoreonce.stages.score import stage

    stage.run(settings, dry_run=dry_run)


@app.command()
def train(
    run: RunFile,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
    restart: Restart = False,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Train a policy from the cached columns.

    The reference model is not loaded. A killed run goes on from its last checkpoint.
    """
    settings = _load(run, sets, method=method, label=label)
    from scoreonce.stages.train import stage

    stage.run(settings, restart=restart, dry_run=dry_run)


@app.command()
def evaluate(
    run: RunFile,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
    model: Model = None,
    trust: Trust = False,
) -> None:
    """Score a policy on the held-out pairs."""
    settings = _load(run, sets, method=method, label=label)
    from scoreonce.stages.evaluate import stage

    stage.run(settings, model=model, label=label)


@app.command()
def report(run: RunFile, sets: Sets = None, labels: Labels = None) -> None:
    """Write one HTML page about all training runs."""
    settings = _load(run, sets)
    from scoreonce.stages.report import stage

    stage.run(settings, labels=labels)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one method in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that a program needs to call them.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The README's table.")] = False,
    method_file: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="A file of your own that registers methods; its code is run.")
    ] = None,
) -> None:
    """List the methods and what each one needs."""
    from scoreonce.stages.commands import listing

    print(listing.methods(name, "json" if as_json else "markdown" if as_markdown else "text", method_file))


@app.command()
def path(
    run: RunFile,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="What to locate; an unknown word lists them all.")],
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
) -> None:
    """Print where a run keeps something.

    `inputs` are the local files that it reads, the rest is what it writes; one path a line.
    """
    from scoreonce.stages.commands import listing

    for found in listing.paths(_load(run, sets, method=method, label=label), what):
        print(found)


@store_app.command("list")
def store_list(run: RunFile, sets: Sets = None) -> None:
    """List what is cached, reference by reference and layer by layer."""
    from scoreonce.stages.common.paths import RunPaths
    from scoreonce.stages.store import maintenance

    maintenance.list_stores(RunPaths.of(_load(run, sets)).store)


@store_app.command("verify")
def store_verify(run: RunFile, sets: Sets = None) -> None:
    """Read every byte of every layer and check it against its digest.

    Names files without a digest too. Leaves with exit code 2 where something is damaged.
    """
    from scoreonce.stages.common.paths import RunPaths
    from scoreonce.stages.store import maintenance

    if maintenance.verify(RunPaths.of(_load(run, sets)).store):
        raise typer.Exit(2)


@store_app.command("gc")
def store_gc(run: RunFile, sets: Sets = None, prune: Prune = False, drop: Drop = None) -> None:
    """Remove what killed commands left behind, and what you name, from every layer."""
    from scoreonce.stages.common.paths import SPLITS, RunPaths
    from scoreonce.stages.store import maintenance

    paths = RunPaths.of(_load(run, sets))
    keep = [paths.pairs(split) for split in SPLITS] if prune else []
    maintenance.gc(paths.store, keep=keep, drop=drop or [])


@store_app.command("compact")
def store_compact(run: RunFile, sets: Sets = None) -> None:
    """Merge small files of every layer into larger ones.

    Run it while no other command uses the store.
    """
    from scoreonce.stages.common.paths import RunPaths
    from scoreonce.stages.store.compact import compact

    compact(RunPaths.of(_load(run, sets)).store)


@demo_app.command("world")
def demo_world(run: RunFile, sets: Sets = None) -> None:
    """Write texts, a tokenizer and an untrained model."""
    settings = _load(run, sets)
    from scoreonce.stages.demo import stage as demo

    demo.world(settings)


@demo_app.command("pairs")
def demo_pairs(run: RunFile, sets: Sets = None) -> None:
    """Sample and label pairs.

    Two texts per prompt come from the reference model; the true reward, with noise, says which is preferred.
    """
    settings = _load(run, sets)
    from scoreonce.stages.demo import stage as demo

    demo.pairs(settings)


@demo_app.command("judge")
def demo_judge(run: RunFile, sets: Sets = None) -> None:
    """Measure true reward and KL of every policy."""
    settings = _load(run, sets)
    from scoreonce.stages.demo import stage as demo

    demo.judge(settings)


def _say(kind: str, text: str) -> None:
    colour = typer.colors.YELLOW if kind == "interrupted" else typer.colors.RED
    head = typer.style(f"{kind}:", fg=colour, bold=True) if sys.stderr.isatty() else f"{kind}:"
    print(f"{head} {text}", file=sys.stderr)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_the_machine(error: BaseException) -> InputError | None:
    """What the user can mend though no stage foresaw it: a full disk, a folder without permission."""
    for cause in _causes(error):
        # Only some libraries pass the errno on; all of them pass on its sentence.
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause):
            return InputError(
                "The disk is full; what was being written was given up, finished files stay.",
                found=str(cause),
                where="the folder `out` or `score.store` of the run file",
                fix="Free some space, or set another folder, and give the same command again.",
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return InputError(
                "A file or folder may not be read or written.",
                found=str(cause),
                where="the path named above",
                fix="Change its permissions, or set another folder.",
            )
    return None


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error is said on stderr."""
    try:
        app(args=arguments, prog_name="scoreonce")
    except InputError as error:
        _say("error", str(error))
        return 2
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
        if code != INTERRUPTED:
            return code
    except KeyboardInterrupt:
        pass  # said below: older typer lets it through, newer leaves with 130
    except Exception as error:
        if known := _of_the_machine(error):
            _say("error", str(known))
            return 2
        traceback.print_exc()
        _say(
            "fault",
            "this is a mistake in scoreonce, not in what you gave it. Please report it with the lines above "
            f"and the command: {shlex.join(['scoreonce', *arguments])}",
        )
        return 1
    else:
        return 0
    _say(
        "interrupted",
        f"finished shards and the last checkpoint stay. To go on from there: {shlex.join(['scoreonce', *arguments])}",
    )
    return INTERRUPTED


def main() -> None:
    """The console script."""
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
