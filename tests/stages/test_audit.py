"""audit from prepared (and scored) files to its table and audit.json."""

import polars as pl
import pytest

from scoreonce.pipeline.errors import InputError
from scoreonce.stages import audit
from scoreonce.stages.files import read_json, write_json, write_parquet


def found(world) -> dict[str, int]:
    written = read_json(world.layout.out / "audit.json")
    return {finding["name"]: finding["rows"] for finding in written["findings"] if finding["rows"]}


def counted(world) -> None:
    """Add the counts that `prepare` writes and the fixture leaves out."""
    manifest = read_json(world.layout.pairs_manifest)
    write_json(
        world.layout.pairs_manifest, {**manifest, "counts": {**manifest["counts"], "by_reason": {"chosen_is_blank": 2}}}
    )


def test_planted_flaws_are_written_and_printed(world, capsys):
    pairs = world.random_pairs(20)
    prompt, chosen, rejected = pairs[4]
    world.prepare([*pairs[:12], pairs[4], (prompt, rejected, chosen)], pairs[12:])
    counted(world)
    audit.run(world.run())
    # random_pairs gives every fourth pair the prompt of the one before; 12 starts the test split, so none is shared.
    assert found(world) == {"contradictory_pair": 3, "duplicate_pair": 1}
    printed = capsys.readouterr().out
    assert "14 train pairs, 8 test pairs" in printed
    assert "chosen_is_blank" in printed
    assert "the same pair stands elsewhere with the opposite label (row 4, 12, 13)" in printed
    assert "longer_side_wins" in printed
    assert "reference" not in printed


def test_leakage_between_the_splits_fails(world, capsys):
    pairs = world.random_pairs(8)
    world.prepare(pairs[:3], pairs[3:])
    counted(world)
    audit.run(world.run())
    assert found(world)["prompt_in_both_splits"] == 2
    assert "FAIL" in capsys.readouterr().out


def test_reference_columns_are_audited_where_they_are(world):
    world.prepare(world.random_pairs(4))
    counted(world)
    layout = world.layout
    ids = pl.read_parquet(layout.pairs("train"))["pair_id"]
    scores = pl.DataFrame(
        {"pair_id": ids[:3], "ref_chosen_logps": [-1.0, -2.0, -3.0], "ref_rejected_logps": [-2.0, -2.5, -1.0]}
    )
    scores = scores.with_columns(ref_margin=pl.col("ref_chosen_logps") - pl.col("ref_rejected_logps"))
    for split, rows in (("train", scores), ("test", scores.clear())):
        write_parquet(layout.reference(split), rows.to_arrow())
    write_json(layout.reference_manifest, {})
    audit.run(world.run())
    assert found(world)["reference_missing"] == 1
    measures = {measure["name"]: measure["value"] for measure in read_json(layout.out / "audit.json")["measures"]}
    assert measures["reference_accuracy_sum"] == pytest.approx(2 / 3)


def test_nothing_prepared(world):
    with pytest.raises(InputError, match="not prepared"):
        audit.run(world.run())
