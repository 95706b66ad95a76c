"""All commands in the order of `scoreonce --help`, and how one is run."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Callable

import typer

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cli import data, demo, machine, policies, results, scores
from scoreonce.stages.cli.failures import INTERRUPTED, environment_error, print_error
from scoreonce.stages.cli.options import Version
from scoreonce.stages.common.messages import quiet_imports, verbose

app = typer.Typer(
    name="scoreonce",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Score the reference model once; train every preference-optimisation method from the cached columns. "
    "The stages, in order: prepare, audit, score, train, evaluate, sample, report. Each does only what is not done "
    "yet.",
    epilog="`scoreonce init` writes a first run file. `scoreonce COMMAND --help` has the options of a command.",
)
store_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Inspect, verify and clean the reference store."
)
demo_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Steps of `make demo` and `make demo-chat`.")

COMMANDS: tuple[Callable[..., None], ...] = (
    data.init,
    data.prepare,
    data.audit,
    data.sql,
    scores.score,
    policies.train,
    policies.watch,
    machine.estimate,
    policies.merge,
    policies.push,
    results.evaluate,
    results.judge,
    results.pairs,
    results.sample,
    policies.compare,
    results.report,
    machine.doctor,
    machine.methods,
    machine.path,
    scores.export_reference,
    scores.import_reference,
)
STORE_COMMANDS = {
    "list": scores.store_list,
    "verify": scores.store_verify,
    "gc": scores.store_gc,
    "compact": scores.store_compact,
}
DEMO_COMMANDS: tuple[Callable[..., None], ...] = (demo.task, demo.pairs, demo.judge, demo.chat)
for command in COMMANDS:
    app.command()(command)
for name, store_command in STORE_COMMANDS.items():
    store_app.command(name)(store_command)
for command in DEMO_COMMANDS:
    demo_app.command()(command)
app.add_typer(store_app, name="store")
app.add_typer(demo_app, name="demo")


@app.callback()
def _options(version: Version = False) -> None:
    pass


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code. Errors are printed to stderr."""
    verbose()
    quiet_imports()
    try:
        app(args=arguments, prog_name="scoreonce")
    except InputError as error:
        print_error("error", str(error))
        return 2
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code != INTERRUPTED:
            return code
    except KeyboardInterrupt:
        pass  # older typer lets it through, newer exits with 130; both are reported below
    except Exception as error:
        if known := environment_error(error):
            print_error("error", str(known))
            return 2
        traceback.print_exc()
        print_error(
            "fault",
            "this is a bug in scoreonce, not in your input. Please report it with the lines above and the command: "
            f"{shlex.join(['scoreonce', *arguments])}",
        )
        return 1
    else:
        return 0
    print_error(
        "interrupted",
        f"finished shards and the last checkpoint stay. To continue: {shlex.join(['scoreonce', *arguments])}",
    )
    return INTERRUPTED


def main() -> None:
    """The console script."""
    sys.exit(run_command(sys.argv[1:]))
