"""What a frame keeps in memory."""

import polars as pl

from scoreonce.stages.common.frames import without_others


def held(frame: pl.DataFrame) -> int:
    """Bytes of the buffers that a frame holds."""
    return frame["text"].to_arrow(compat_level=pl.CompatLevel.newest()).get_total_buffer_size()


def test_a_filtered_frame_without_the_text_of_other_rows():
    every = pl.DataFrame({"text": [f"{number:040}" for number in range(10_000)]})
    some = every.filter(pl.col("text").str.ends_with("000"))
    assert some.height == 10
    assert held(some) > 40 * 5_000  # what polars keeps; if it no longer does, `without_others` can go
    assert held(without_others(some)) < 40 * 100
    assert without_others(some).equals(some)
