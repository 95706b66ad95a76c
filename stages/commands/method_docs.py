"""docs/methods.md, made from the methods' own docstrings and signatures.

Run it as `python -m scoreonce.stages.commands.method_docs > docs/methods.md`; a test holds the file to it.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from scoreonce.pipeline.methods import METHODS, REFUSED, table
from scoreonce.pipeline.methods.chain import Method
from scoreonce.pipeline.methods.papers import exo, nca
from scoreonce.pipeline.methods.pieces.registry import PIECES, Piece
from scoreonce.pipeline.methods.pieces.standard import constant, every_pair
from scoreonce.pipeline.methods.table import TableRow
from scoreonce.schemas.columns import COLUMNS
from scoreonce.stages.commands.listing import cached

HEAD = """# Methods

One section per method: its formula, the conventions chosen, and where paper, the authors' code and TRL differ. Made
from the code by `python -m scoreonce.stages.commands.method_docs`; do not edit it by hand.

- Log-probs are **sums** over the completion's tokens, EOS included, in nats, unless a formula divides by a length.
  `w` is chosen, `l` rejected; `a`, `c` are the log-ratios log pi - log ref of chosen and rejected; Delta = a - c.
- A step's loss is sum(weight * loss) / sum(weight) over the pairs of the **global optimizer step**. Running statistics,
  means, sorts and random selections are over that step too: the same pairs give the same numbers for any number of
  processes and any micro-batches. The papers' code takes them over each micro-batch, so that its numbers depend on the
  accumulation: `scope = "microbatch"` does that.
- Everything is computed in float64, whatever the columns' dtype. Evaluation reads the state and never moves it.
- Rewards are for logging, without gradient, and with the beta that was set unless said otherwise.
- `method = "name"` takes a row of this page or an alias of it. `objective`, `calibration` and `selection` replace its
  pieces. `objective` may be a weighted sum, `"0.8*dpo + 0.2*sft"`. Combinations that make no sense are refused with
  the reason.
- `divergence` ("reverse_kl", "forward_kl", "js", "alpha") replaces the log-ratio by f'(pi / ref) in every objective
  that sees the difference of two of them; others have no such setting, since their log Z does not cancel. TRL's
  `f_alpha_divergence_coef` is 1 - `divergence_alpha`.
"""


def markdown() -> str:
    """The page."""
    rows = table()
    sections = [
        HEAD,
        "\n".join(["## Contents\n", *(f"- [`{row['name']}`](#{row['name']}): {row['title']}" for row in rows)]) + "\n",
        *("\n".join(_section(row, METHODS[row["name"]])) for row in rows),
        "\n".join(_pieces()),
        "\n".join(_lists()),
        "\n".join(_refused()),
    ]
    return "\n".join(sections)


def _section(row: TableRow, method: Method) -> Iterator[str]:
    yield f"## {row['name']}\n"
    yield f"{row['title']}.\n"
    link = f"[arXiv {row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})"
    yield f"{row['paper']}. {row['venue']}, {link}.\n"
    if row["aliases"]:
        yield f"Also called {', '.join(_alias(name, settings) for name, settings in row['aliases'].items())}.\n"
    named = (method.selection, method.calibrations[-1])
    for piece in (
        method.objective,
        *(each for each in named if each.function not in (constant, every_pair)),
        *method.statistics,
    ):
        yield from _documented(f"{piece.kind.capitalize()} `{piece.name}`", piece.function)
    yield f"Reads {', '.join(f'`{name}`' for name in row['reads'])}. From the cache: {cached(row)}.{_state(row)}\n"
    if row["learning_rate"]:
        yield f"Learning rate: {row['learning_rate']}.\n"
    if row["hyperparameters"]:
        yield "| hyperparameter | default | meaning |\n|---|---|---|"
        for name, value in row["hyperparameters"].items():
            others = [f"`{other}`" for other, ours in row["synonyms"].items() if ours == name]
            also = f" Also {', '.join(others)}." if others else ""
            yield _cells(f"`{name}`", json.dumps(value), f"{row['meanings'][name]}.{also}")
        yield ""


def _cells(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _alias(name: str, settings: dict[str, Any]) -> str:
    given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return f"`{name}`" + (f" ({given})" if given else "")


def _state(row: TableRow) -> str:
    kept = ", ".join(f"`{name}`, from {value:g}" for name, value in row["state"].items())
    coupled = " A pair's loss depends on the other pairs of the step." if row["batch_coupled"] else ""
    return coupled + (f" State: {kept}." if kept else "")


def _documented(heading: str, function: Callable[..., Any]) -> Iterator[str]:
    formula, _, rest = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
    yield f"{heading}:\n\n```text\n{formula}\n```\n"
    if rest:
        yield f"{rest}\n"


def _pieces() -> Iterator[str]:
    yield "## Pieces to compose\n"
    for kind in ("objective", "calibration", "selection"):
        yield f"- {kind}: {', '.join(f'`{name}`' for name, piece in PIECES[kind].items() if _offered(piece))}"
    yield "\nColumns that a piece may read besides those derived from others:\n\n| column | meaning |\n|---|---|"
    read = sorted({name for method in METHODS.values() for name in method.reads})
    yield from (_cells(f"`{name}`", COLUMNS[name].meaning) for name in read)
    yield ""


def _offered(piece: Piece) -> bool:
    return piece.name not in ("constant_beta", "constant_margin")


def _lists() -> Iterator[str]:
    yield "## More than two completions\n\nPlain functions on (prompts, K) columns, not methods of a run file.\n"
    for function in (exo.exo_list, nca.nca_list, nca.infonca_list):
        name = f"{function.__module__.removeprefix('scoreonce.')}.{function.__name__}"
        yield from _documented(f"`{name}`", function)


def _refused() -> Iterator[str]:
    yield "## Not here\n\n| method | why |\n|---|---|"
    yield from (_cells(title, reason) for title, reason in REFUSED.values())
    yield ""


if __name__ == "__main__":
    sys.stdout.write(markdown())
