"""Reference sums of TRL in the place of scores: what is taken, compared, refused, and how `train` uses it."""

import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreonce.pipeline.pages.report.lineage import reference_facts
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.schemas.tables import ReferencePair
from scoreonce.stages.common import manifests
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.exchange.export import export_reference
from scoreonce.stages.exchange.import_scores import import_reference
from scoreonce.stages.score.stage import score
from scoreonce.stages.train.stage import train

FAST = {"learning_rate": 1e-3, "batch_pairs": 4, "max_steps": 2, "method": "dpo"}


KNOWN = []  # scored once: model and pairs are the same in every test


@pytest.fixture
def pairs(world):
    """Prepared pairs without scores, and what the scores of each are."""
    pairs, held_out = world.random_pairs(10), world.random_pairs(3, seed=1)
    world.prepare(pairs, held_out)
    if not KNOWN:
        score(world.run())
        KNOWN.extend(row for split in ("train", "test") for row in scores_of(world, split).iter_rows(named=True))
        world.paths.reference_manifest.unlink()
    world.model()
    return [*zip([*pairs, *held_out], KNOWN, strict=True)]


def scores_of(world, split="train"):
    return pl.read_parquet(world.paths.reference(split))


def rows_of(pairs):
    """Rows as TRL's trainer keeps them: float32 sums."""
    return [
        {
            "prompt": "text",
            "prompt_ids": prompt,
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            "ref_chosen_logps": known["ref_chosen_logps"],
            "ref_rejected_logps": known["ref_rejected_logps"],
        }
        for (prompt, chosen, rejected), known in pairs
    ]


def written(path, rows):
    table = pa.Table.from_pylist(rows)
    places = [table.schema.get_field_index(f"ref_{side}_logps") for side in ("chosen", "rejected")]
    for place in places:
        table = table.set_column(place, table.schema.names[place], table.column(place).cast(pa.float32()))
    pq.write_table(table, path)
    return path


def test_the_tables_are_those_of_score_and_say_where_they_come_from(world, pairs, tmp_path, capsys):
    path = written(tmp_path / "trl.parquet", rows_of(pairs)[::-1])  # in any order
    manifest = import_reference(world.run(train={"verify_pairs": 4}), [path])
    for split, known in (("train", pairs[:10]), ("test", pairs[10:])):
        table = scores_of(world, split)
        assert ReferencePair.is_valid(table)
        assert table["pair_id"].to_list() == [row["pair_id"] for _, row in known]
        for name in ("ref_chosen_logps", "ref_rejected_logps", "ref_margin"):
            assert table[name].to_list() == pytest.approx([row[name] for _, row in known], rel=1e-6, abs=1e-4)
        assert table["ref_chosen_entropy"].null_count() == len(known)
    assert manifest == manifests.read(ReferenceManifest, world.paths.reference_manifest)
    assert manifest.imported.source == "TRL"
    assert list(manifest.imported.files) == [str(path)]
    assert manifest.imported.verified == 4
    assert manifest.imported.worst < 1e-5
    assert manifest.store_key.startswith("imported-")
    facts = dict(reference_facts(manifest.model_dump(mode="json")))
    assert facts["forward pass"] == "another trainer's: imported from TRL, 4 pairs scored again"
    assert "verified   4 pairs scored again" in capsys.readouterr().out


def test_training_and_evaluation_use_it(world, pairs, tmp_path, capsys):
    import_reference(world.run(), [written(tmp_path / "trl.parquet", rows_of(pairs))])
    run = world.run(train=FAST)
    train(run)
    said = capsys.readouterr().out
    assert "policy equals the cached reference" in said
    assert "note: the reference" not in said, "no layout is known of imported scores"
    assert "when scored" not in said
    assert evaluate(run).summary["pairs"] == 3
    assert json.loads(world.paths.lineage.read_text())["reference"]["store_key"].startswith("imported-")


@pytest.mark.parametrize("method", ["ld_dpo", "tdpo", "epsilon_dpo", "kto", "humanline"])
def test_methods_that_read_more_are_refused(world, pairs, tmp_path, method):
    import_reference(world.run(), [written(tmp_path / "trl.parquet", rows_of(pairs))])
    with pytest.raises(InputError, match="needs more of the reference than was imported") as raised:
        train(world.run(train={**FAST, "method": method}))
    assert "scoreonce score" in raised.value.fix


def test_score_takes_its_place(world, pairs, tmp_path):
    import_reference(world.run(), [written(tmp_path / "trl.parquet", rows_of(pairs))])
    score(world.run())
    manifest = manifests.read(ReferenceManifest, world.paths.reference_manifest)
    assert manifest.imported is None
    assert scores_of(world)["ref_chosen_entropy"].null_count() == 0


def test_scores_are_not_replaced(world, pairs, tmp_path):
    score(world.run())
    before = world.paths.reference_manifest.read_bytes()
    with pytest.raises(InputError, match="have reference scores already"):
        import_reference(world.run(), [written(tmp_path / "trl.parquet", rows_of(pairs))])
    assert world.paths.reference_manifest.read_bytes() == before


def test_values_of_another_model_are_refused_and_nothing_is_written(world, pairs, tmp_path):
    """All but one pair are right; every pair is scored again."""
    rows = rows_of(pairs)
    rows[7]["ref_rejected_logps"] -= 0.1
    with pytest.raises(InputError, match="are not those of the run's reference") as raised:
        import_reference(world.run(), [written(tmp_path / "trl.parquet", rows)])
    assert "of 10 pairs" in raised.value.found
    assert not world.paths.reference_manifest.exists()


def test_the_longest_pair_is_among_those_that_are_scored_again(world, pairs, tmp_path):
    rows = rows_of(pairs)
    longest = max(range(10), key=lambda place: max(len(rows[place][f"{side}_ids"]) for side in ("chosen", "rejected"))
                  + len(rows[place]["prompt_ids"]))  # fmt: skip
    rows[longest]["ref_chosen_logps"] *= 0.5
    with pytest.raises(InputError, match="are not those of the run's reference"):
        import_reference(world.run(train={"verify_pairs": 1}), [written(tmp_path / "trl.parquet", rows)])


def test_a_model_that_is_not_here_is_said(world, pairs, tmp_path, capsys):
    run = world.run(reference={"model": "nobody/nothing"})
    manifests_of_pairs = json.loads(world.paths.pairs_manifest.read_text())
    assert manifests_of_pairs["tokenizer"]["name"] != "nobody/nothing"
    manifest = import_reference(run, [written(tmp_path / "trl.parquet", rows_of(pairs))])
    assert (manifest.imported.verified, manifest.imported.worst, manifest.weights) == (0, None, "unknown")
    assert "not verified: nobody/nothing is not on this machine" in capsys.readouterr().out


def test_a_pair_without_a_value_is_refused(world, pairs, tmp_path):
    rows = rows_of(pairs)
    with pytest.raises(InputError, match="Pairs have no value") as raised:
        import_reference(world.run(), [written(tmp_path / "trl.parquet", rows[:4] + rows[5:])])
    assert "1 of 10 pairs of train, the first of row 4" in raised.value.found
    with pytest.raises(InputError, match="Pairs have no value") as raised:
        import_reference(world.run(), [written(tmp_path / "train.parquet", rows[:10])])
    assert "3 of 3 pairs of test" in raised.value.found
    files = [written(tmp_path / f"{name}.parquet", part) for name, part in (("a", rows[:10]), ("b", rows[10:]))]
    assert import_reference(world.run(), files).pairs == {"train": 10, "test": 3}


def test_sequences_are_cut_as_trl_cut_them(world, pairs, tmp_path):
    """TRL keeps ids as they were before its collator cut them to 40 tokens: the sum is of the first 40."""
    rows = rows_of(pairs)
    for row in rows:
        for side in ("chosen", "rejected"):
            row[f"{side}_ids"] = row[f"{side}_ids"] + [5] * 100
    path = written(tmp_path / "trl.parquet", rows)
    with pytest.raises(InputError, match="Pairs have no value"):
        import_reference(world.run(), [path])
    limit = 40
    cut = [(prompt, *((side + [5] * 100)[: limit - len(prompt)] for side in sides)) for (prompt, *sides), _ in pairs]
    world.prepare(cut[:10], cut[10:])
    score(world.run())
    known = pl.concat([scores_of(world, split) for split in ("train", "test")])
    world.paths.reference_manifest.unlink()
    for row, scores in zip(rows, known.iter_rows(named=True), strict=True):
        row |= {name: scores[name] for name in ("ref_chosen_logps", "ref_rejected_logps")}
    import_reference(world.run(), [written(tmp_path / "trl.parquet", rows)], max_length=limit)
    assert scores_of(world)["chosen_len"].max() > 20


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        ({"ref_chosen_logps": 0.5}, "A reference log-prob is not one", "ref_chosen_logps, row 2"),
        ({"ref_chosen_logps": float("nan")}, "A reference log-prob is not one", "ref_chosen_logps, row 2"),
        ({"ref_rejected_logps": None}, "These are not reference log-probs of TRL", "row 2"),
        ({"prompt_ids": None}, "These are not reference log-probs of TRL", "row 2"),
    ],
)
def test_rows_that_cannot_be_used_are_named(world, pairs, tmp_path, change, what, where):
    rows = rows_of(pairs)
    rows[2] |= change
    with pytest.raises(InputError, match=what) as raised:
        import_reference(world.run(), [written(tmp_path / "trl.parquet", rows)])
    assert where in raised.value.where


def test_two_values_of_one_completion_are_refused(world, pairs, tmp_path):
    rows = rows_of(pairs)
    with pytest.raises(InputError, match="One completion has two reference log-probs"):
        import_reference(
            world.run(),
            [written(tmp_path / "a.parquet", [*rows, rows[0] | {"ref_chosen_logps": rows[0]["ref_chosen_logps"] - 1}])],
        )


def test_what_is_no_dataset_is_refused(world, pairs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no rows")
    for source in ("empty", "absent"):
        with pytest.raises(InputError, match="There is no dataset of TRL to import"):
            import_reference(world.run(), [tmp_path / source])
    with pytest.raises(InputError, match="These are not reference log-probs of TRL"):
        import_reference(world.run(), [tmp_path / "notes.txt"])


def test_an_export_comes_back(world, pairs):
    """The folder that is written for TRL has the columns that are read from TRL."""
    score(world.run())
    folder = export_reference(world.run(), "trl")
    known = scores_of(world)
    world.paths.reference_manifest.unlink()
    import_reference(world.run(), [folder])
    back = scores_of(world)
    assert back["ref_margin"].to_list() == known["ref_margin"].to_list()


def test_tokens_of_imported_scores_are_not_exported(world, pairs, tmp_path):
    import_reference(world.run(), [written(tmp_path / "trl.parquet", rows_of(pairs))])
    with pytest.raises(InputError, match="--tokens needs more of the reference than was imported"):
        export_reference(world.run(), "jsonl", tokens=True)
    assert (export_reference(world.run(), "jsonl") / "train.jsonl").exists()
