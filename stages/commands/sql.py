"""`scoreonce sql`: questions about pairs, training and evaluation in SQL, answered by polars on the run's own files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

import polars as pl

from scoreonce.pipeline.audit.checks.sql_reads import refuse_files
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data import training_runs
from scoreonce.stages.data.pair_tables import joined_pairs, with_others
from scoreonce.stages.data.prepared_pairs import read_pairs
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.outputs.units import LOGS

ROWS_SHOWN = 200
TEXT_SHOWN = 80


@at_address("pairs/*", "reference/*", "audit/pairs.parquet", *LOGS, "evaluate/*")
def answer(run: Run, query: str) -> str:
    """The answer as a table of at most `ROWS_SHOWN` rows.

    Raises `InputError` where nothing is prepared, the query reads a file, or it cannot be answered; the last names the
    tables and columns.
    """
    refuse_files(query, "scoreonce sql")
    paths = RunPaths.of(run)
    read_pairs(paths)
    frames = tables(paths)
    try:
        found = pl.SQLContext(frames).execute(query).collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        columns = (f"{name}: {', '.join(frame.collect_schema().names())}" for name, frame in frames.items())
        raise InputError(
            "The query cannot be answered.",
            where="scoreonce sql",
            found=str(error).strip().splitlines()[0].split("; valid columns")[0],
            fix="Write one SELECT over these tables and columns, text in single quotes.\n  " + "\n  ".join(columns),
        ) from None
    return shown(found)


def tables(paths: RunPaths) -> dict[str, pl.LazyFrame]:
    """The tables that are there: pairs (with the columns of the reference, further scored models and the audit),
    quarantine; with a label steps, held-out figures while training, and evaluation.

    Raises `InputError` where a file is damaged.
    """
    found = {
        "pairs": with_others(joined_pairs(paths), paths),
        "quarantine": scan_frame(paths.quarantine) if paths.quarantine.is_file() else None,
        "steps": _labelled(training_runs.trained(paths), _steps),
        "held_out": _labelled(training_runs.watched(paths), _held_out),
        "evaluation": _labelled(training_runs.evaluated(paths), _evaluation),
    }
    return {name: frame for name, frame in found.items() if frame is not None}


def _labelled(runs: Mapping[str, RunPaths], scan: Callable[[RunPaths], pl.LazyFrame]) -> pl.LazyFrame | None:
    frames = [scan(run).with_columns(label=pl.lit(label)) for label, run in runs.items()]
    return pl.concat(frames, how="diagonal_relaxed") if frames else None


def _steps(run: RunPaths) -> pl.LazyFrame:
    return scan_frame(training_runs.step_tables(run))


def _held_out(run: RunPaths) -> pl.LazyFrame:
    training_runs.held_out_rows(run)
    return scan_frame(run.held_out)


def _evaluation(run: RunPaths) -> pl.LazyFrame:
    training_runs.read_evaluation(run)
    return scan_frame(run.evaluation_pairs)


def shown(table: pl.DataFrame) -> str:
    """The table for a terminal."""
    settings = pl.Config(
        tbl_rows=ROWS_SHOWN,
        tbl_cols=-1,
        fmt_str_lengths=TEXT_SHOWN,
        tbl_formatting="NOTHING",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_width_chars=max(80, shutil.get_terminal_size().columns),
    )
    with settings:
        text = str(table)
    hidden = max(table.height - ROWS_SHOWN, 0)
    return f"{text}\n({table.height:,} rows{f', {hidden:,} in the middle not shown' if hidden else ''})"
