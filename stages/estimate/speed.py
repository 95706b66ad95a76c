"""Time of an epoch, from a share of the GPU's peak or from an earlier run."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from scoreonce.pipeline.memory.sizes import forward_operations
from scoreonce.schemas.metrics import TOKENS_PER_SECOND
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.memory.peaks import Counted

# Of the peak; docs/benchmarks.md has what was reached on an H100.
USUAL_MFU = 0.35
TERA = 1e12


@dataclass(frozen=True)
class Speed:
    """What all GPUs do in a second: operations, or positions of prompt rows."""

    per_second: float
    counts_positions: bool
    source: str

    def seconds(self, operations: float, positions: int) -> float:
        """For so many operations at so many positions."""
        return (positions if self.counts_positions else operations) / self.per_second


def given(tflops: float | None, mfu: float | None, gpus: int) -> Speed | None:
    """From the peak of a GPU and the share of it that is reached."""
    if tflops is None:
        return None
    share = mfu or USUAL_MFU
    return Speed(share * tflops * TERA * gpus, False, f"{share:.0%} of {tflops:g} TFLOP/s on each of {gpus:,}")


def measured(run: Run) -> Speed | None:
    """The median rate of the steps of a finished training run under the run file's label; None where there is none."""
    paths = RunPaths.of(run)
    log = paths.training / "metrics.parquet"
    try:
        rates = read_frame(log, [TOKENS_PER_SECOND])[TOKENS_PER_SECOND].drop_nulls()
    except (OSError, pa.ArrowException):
        return None
    # The first step compiles kernels and starts threads.
    median = (rates[1:] if len(rates) > 1 else rates).median()
    if not isinstance(median, float) or median <= 0:
        return None
    return Speed(median, True, f"{median:,.0f} tokens/s, measured by the run {paths.label}")


def operations(counted: Counted) -> float:
    """Those of a forward pass over an epoch."""
    work = counted.workload
    return forward_operations(counted.sizes, work.positions, work.predicted, work.visible)
