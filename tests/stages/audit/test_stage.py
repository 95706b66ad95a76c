"""audit from prepared (and scored, trained, evaluated) files to its table, audit.json, pairs.parquet and exit code."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tomli_w
from written import write_reference_manifest

from scoreonce.pipeline import methods
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import EvaluationPair, ReferencePair, StepPair
from scoreonce.stages.audit import measures as audit_measures
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.audit.inputs import evaluation_prompts
from scoreonce.stages.cli import run_command
from scoreonce.stages.commands import sql as sql_command
from scoreonce.stages.common.files import read_json, sha256, write_json, write_parquet
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.train import data as training_data

EACH = 3
READS = frozenset({"policy_chosen_logps", "policy_rejected_logps"})


def found(paths: RunPaths) -> dict[str, int]:
    written = read_json(paths.audit_summary)
    return {finding["name"]: finding["rows"] for finding in written["findings"] if finding["rows"]}


@pytest.fixture(scope="module")
def audited(tmp_path_factory, planted):
    """A generated world with every kind of flaw, audited."""
    folder = tmp_path_factory.mktemp("planted")
    planted.write_tokenizer(folder / "tokenizer")
    world = planted.write(
        RunPaths(folder / "out", folder / "store", "x"), 150, each=EACH, tokenizer=str(folder / "tokenizer")
    )
    run = Run.model_validate(
        {
            "out": str(folder / "out"),
            "data": {"source": "none", "tokenizer": str(folder / "tokenizer")},
            "reference": {"model": "none"},
            "audit": {"contamination": [str(world.evaluation)]},
        }
    )
    assert not audit.audit(run).exceeded
    return world, run


def test_every_planted_flaw_is_found_and_nothing_else(audited):
    """Of each kind all rows that were planted, and no other row: 100 % with no false hit, near-duplicates too."""
    world, _ = audited
    table = pl.read_parquet(world.paths.audit_pairs)
    columns = {finding["name"]: finding["column"] for finding in read_json(world.paths.audit_summary)["findings"]}
    hits = {name: set(table.filter(column).select("split", "row").iter_rows()) for name, column in columns.items()}
    assert {name: rows for name, rows in hits.items() if rows} == dict(world.expected)
    assert len(world.expected) >= 29
    assert min(map(len, world.expected.values())) >= EACH


def test_pairs_stand_in_the_order_of_the_prepared_files(audited):
    world, _ = audited
    table = pl.read_parquet(world.paths.audit_pairs)
    for split in SPLITS:
        prepared = pl.read_parquet(world.paths.pairs(split), columns=["pair_id"])
        assert table.filter(pl.col("split") == split)["pair_id"].equals(prepared["pair_id"])


def test_the_document_has_what_the_page_needs(audited):
    world, run = audited
    document = read_json(world.paths.audit_summary)
    assert document["manifest"]["format"] == 2
    assert document["data"]["source"] == run.data.source
    assert document["reference"] is None
    assert {row["source"] for row in document["sources"]} == {"source 0", "source 1", "source 2"}
    assert {entry["name"] for entry in document["shortcuts"]} >= {"length", "markdown", "refusal", "list"}
    assert document["measures"]["longer_side_wins"] == pytest.approx(0.5, abs=0.15)
    assert document["worst"][0]["score"] >= document["worst"][-1]["score"]
    assert {part["name"] for part in document["distributions"]} >= {"chosen_len", "similarity"}
    assert (world.paths.audit / "index.html").is_file()


def test_measures_are_made_once_and_anew_for_other_settings(audited, monkeypatch):
    _, run = audited
    made = []
    measure = audit_measures._measure
    monkeypatch.setattr(audit_measures, "_measure", lambda *given: made.append(1) or measure(*given))
    audit.audit(run)
    assert made == []
    audit.audit(run.model_copy(update={"audit": run.audit.model_copy(update={"near_duplicates": False})}))
    assert made == [1]
    audit.audit(run)
    assert made == [1, 1]


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [
        ("contradictory_pair>0.5", 0),
        ("tokens_disagree", 0),
        ("duplicate_pair,tokens_disagree", 3),
        ("duplicate_pair>2", 3),
    ],
)
def test_exit_code_of_fail_on(audited, fail_on, code, capsys):
    _, run = audited
    assert bool(audit.audit(run, fail_on=fail_on).exceeded) is bool(code)
    assert ("Met --fail-on" in capsys.readouterr().out) is bool(code)


def test_fail_on_names_nothing(audited):
    _, run = audited
    with pytest.raises(InputError, match="does not have"):
        audit.audit(run, fail_on="duplicate_pears")


def test_sql_over_pairs_and_findings(audited):
    _, run = audited
    said = sql_command.answer(
        run,
        "SELECT source, sum(CAST(duplicate_pair AS int)) AS copies, min(prompt) FROM pairs "
        "GROUP BY source ORDER BY source",
    )
    assert said.splitlines()[0].split()[:2] == ["source", "copies"]
    assert said.splitlines()[-1] == "(3 rows)"


@pytest.mark.parametrize(
    "query", ["SELEC", "SELECT nothing FROM pairs", "SELECT 1 FROM nowhere", "SELECT lower(row) FROM pairs"]
)
def test_sql_that_cannot_be_answered(audited, query):
    _, run = audited
    with pytest.raises(InputError, match="cannot be answered") as error:
        sql_command.answer(run, query)
    assert "pairs: pair_id" in str(error.value)


def test_training_pairs_are_selected_by_a_condition(audited):
    world, _ = audited
    everything = training_data.load_training_data(world.paths, READS)
    assert everything.places is None
    chosen = training_data.load_training_data(world.paths, READS, "NOT duplicate_pair AND prompt_len < 60")
    table = pl.read_parquet(world.paths.audit_pairs).filter(pl.col("split") == "train").with_row_index()
    expected = table.filter(~pl.col("duplicate_pair") & (pl.col("prompt_len") < 60))
    assert 0 < expected.height < table.height
    assert list(chosen.pair_ids) == expected["pair_id"].to_list()
    assert [chosen.pair_ids[pair] for pair in range(len(chosen))] == expected["pair_id"].to_list()
    first = int(expected["index"][0])
    assert chosen.row(0).prompt.tolist() == everything.row(first).prompt.tolist()
    assert chosen.longest_sequence <= everything.longest_sequence


def test_training_pairs_are_dropped_by_the_names_of_findings(audited):
    """Copies go but for the first of each, contradictions on both sides; `where` holds as well."""
    world, _ = audited
    drop = ["duplicate_pair", "contradictory_pair"]
    table = pl.read_parquet(world.paths.audit_pairs).filter(pl.col("split") == "train")
    expected = table.filter(~pl.col("duplicate_pair") & ~pl.col("contradictory_pair"))
    assert table.height - expected.height == EACH + 2 * EACH
    found = training_data.load_training_data(world.paths, READS, drop=drop)
    assert list(found.pair_ids) == expected["pair_id"].to_list()
    short = expected.filter(pl.col("prompt_len") < 60)
    assert 0 < short.height < expected.height
    both = training_data.load_training_data(world.paths, READS, "prompt_len < 60", drop)
    assert list(both.pair_ids) == short["pair_id"].to_list()


@pytest.mark.parametrize(
    ("where", "drop", "says"),
    [
        (None, ["duplicate_pear"], "Did you mean 'duplicate_pair'"),
        (None, ["copies"], "no finding named copies"),
        ("duplicate_pair", ["duplicate_pair"], "only for pairs that are dropped"),
    ],
)
def test_pairs_that_cannot_be_dropped(audited, where, drop, says):
    world, _ = audited
    with pytest.raises(InputError) as error:
        training_data.load_training_data(world.paths, READS, where, drop)
    assert says in str(error.value)
    assert "train.drop" in error.value.where


def test_dropping_needs_an_audit_of_these_pairs(world):
    world.prepare(world.random_pairs(8))
    with pytest.raises(InputError, match="no audit of these pairs") as error:
        training_data.load_training_data(world.paths, READS, drop=["duplicate_pair"])
    assert "scoreonce audit" in error.value.fix
    audit.audit(world.run())
    assert len(training_data.load_training_data(world.paths, READS, drop=["duplicate_pair"])) == 8
    world.prepare(world.random_pairs(9))
    with pytest.raises(InputError, match="no audit of these pairs"):
        training_data.load_training_data(world.paths, READS, drop=["duplicate_pair"])


def test_an_audit_of_the_version_before_is_named_and_made_anew(world):
    """Dropping by it is refused with its version; its measures, format 3, are not taken for those of now."""
    paths = world.prepare(world.random_pairs(8))
    audit.audit(world.run())
    document = read_json(paths.audit_summary)
    assert document["manifest"]["pairs_manifest_sha256"] == sha256(paths.pairs_manifest)
    assert document["manifest"]["files"] == {"pairs.parquet": sha256(paths.audit_pairs)}
    assert document["manifest"]["settings"]["ngram"] == 8
    del document["manifest"]
    write_json(paths.audit_summary, document | {"format": 1})
    write_json(paths.measures_manifest, {"format": 3, "pairs": sha256(paths.pairs_manifest)})
    with pytest.raises(InputError, match=r"(?s)another version.*format 1;.*scoreonce audit"):
        training_data.load_training_data(paths, READS, drop=["duplicate_pair"])
    audit.audit(world.run())
    assert read_json(paths.measures_manifest)["format"] == 6
    assert len(training_data.load_training_data(paths, READS, drop=["duplicate_pair"])) == 8


def test_two_audits_do_not_write_one_folder_and_none_writes_through_a_link(world, tmp_path):
    paths = world.prepare(world.random_pairs(8))
    with (
        locked(paths, paths.audit, f"the folder {paths.audit}"),
        pytest.raises(InputError, match="audit is in use by another process"),
    ):
        audit.audit(world.run(), lock_timeout=0)
    assert not paths.audit.exists()
    (tmp_path / "mine").mkdir()
    paths.audit.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="Nothing outside the folder of a run"):
        audit.audit(world.run())
    assert not list((tmp_path / "mine").iterdir())


def test_an_audit_whose_table_changed_is_no_audit(world):
    paths = world.prepare(world.random_pairs(8))
    audit.audit(world.run())
    table = pl.read_parquet(paths.audit_pairs).with_columns(duplicate_pair=True)
    write_parquet(paths.audit_pairs, table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    with pytest.raises(InputError, match="no audit of these pairs"):
        training_data.load_training_data(paths, READS, drop=["duplicate_pair"])


def test_scores_since_the_audit_come_before_its_own(world):
    """The audit holds the reference columns that it saw; scored anew, the pairs have the new ones."""
    paths = world.prepare(world.random_pairs(8))
    scored(world)
    audit.audit(world.run())
    query = "SELECT max(ref_chosen_logps) AS top, count(prompt_truncated) AS rows FROM pairs WHERE split = 'train'"
    assert "-10.0" in sql_command.answer(world.run(), query)
    table = pl.read_parquet(paths.reference("train")).with_columns(ref_chosen_logps=pl.lit(-7.5))
    write_parquet(paths.reference("train"), table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    write_reference_manifest(paths)
    assert "-7.5" in sql_command.answer(world.run(), query)


def test_a_condition_needs_an_audit_of_these_pairs(world):
    world.prepare(world.random_pairs(8))
    with pytest.raises(InputError, match="no column named duplicate_pair"):
        training_data.load_training_data(world.paths, READS, "NOT duplicate_pair")
    assert len(training_data.load_training_data(world.paths, READS, "row <> 3")) == 7


def scored(world) -> None:
    """Reference scores of all pairs but the last: the first is far off, margins are −1, 0, 1 otherwise."""
    for split in SPLITS:
        pairs = pl.read_parquet(world.paths.pairs(split)).unique("pair_id", maintain_order=True)
        number = pl.int_range(pl.len())
        table = pairs.with_columns(
            ref_chosen_logps=pl.when(number == 0).then(-900.0).otherwise(-10.0 - number % 3),
            ref_rejected_logps=pl.lit(-11.0),
            ref_chosen_entropy=pl.lit(4.0),
            ref_rejected_entropy=pl.lit(3.0),
            ref_chosen_top1_hits=pl.lit(1),
            ref_rejected_top1_hits=pl.lit(0),
        ).with_columns(ref_margin=pl.col("ref_chosen_logps") - pl.col("ref_rejected_logps"))
        table = table.select(name for name in ReferencePair.columns() if name in table.columns)
        write_parquet(world.paths.reference(split), table[: max(len(table) - (split == "train"), 0)].to_arrow())
    write_reference_manifest(world.paths)


def test_reference_training_and_evaluation_are_audited_where_they_are(world):
    world.prepare(world.random_pairs(20), world.random_pairs(8, seed=1))
    scored(world)
    ids = pl.read_parquet(world.paths.pairs("train"))["pair_id"].to_list()
    rows = [
        {
            "step": epoch * 20 + i + 1,
            "epoch": epoch,
            "pair_id": name,
            "margin": float(i * epoch),
            "beta": 0.1,
            "target_margin": None,
            "weight": float(i > 1),
            "loss": 0.5,
        }
        for epoch in range(2)
        for i, name in enumerate(ids)
    ]
    steps = pl.DataFrame(rows, schema=StepPair.create_empty().schema)
    write_parquet(world.paths.out / "train" / "my run" / "steps.parquet", steps.to_arrow())
    held = pl.read_parquet(world.paths.pairs("test"), columns=["pair_id", "source", "chosen_len", "rejected_len"])
    held = held.with_columns(margin=pl.int_range(pl.len()).cast(pl.Float64) - 1.5)
    more = {name: pl.lit(-1.0) for name in EvaluationPair.columns() if name not in held.columns}
    write_parquet(world.paths.out / "evaluate" / "my run" / "pairs.parquet", held.with_columns(**more).to_arrow())
    assert audit.audit(world.run(audit={"methods": ["r_dpo"]}), fail_on="reference_missing").exceeded
    hits = found(world.paths)
    assert (hits["reference_missing"], hits["my_run_dropped"], hits["heldout_against_label"]) == (1, 2, 2)
    assert hits["reference_margin_outlier"] >= 1
    document = read_json(world.paths.audit_summary)
    assert document["reference"] == {
        "model": "m",
        "dtype": "float32",
        "layout": "packed",
        "store_key": "k",
        "pairs": {"train": 19, "test": 8},
    }
    assert document["training"] == ["my run"]
    assert document["maps"][0]["pairs"] == 20
    assert "reference_accuracy_sum" in document["measures"]
    assert {part["name"] for part in document["distributions"]} >= {"ref_margin", "my_run_margin_last", "r_dpo_pull"}
    query = (
        "SELECT s.label, avg(s.margin), avg(p.ref_margin) FROM steps s JOIN pairs p ON s.pair_id = p.pair_id "
        "GROUP BY s.label"
    )
    assert "my run" in sql_command.answer(world.run(), query)


def test_what_a_method_pulls_on_follows_its_formula(world):
    """R-DPO at policy = reference: loss −log σ(α Δlen), its gradient by the chosen log-prob −β σ(−α Δlen)."""
    world.prepare(world.random_pairs(30))
    scored(world)
    audit.audit(world.run(audit={"methods": ["dpo", "r_dpo", "kto"]}))
    table = pl.read_parquet(world.paths.audit_pairs)
    assert table["dpo_pull"].drop_nulls().unique().to_list() == [1.0]
    alpha = methods.resolve("r_dpo", {}).hyperparameters["alpha"]
    scored_pairs = table.drop_nulls("r_dpo_pull")
    size = (1 / (1 + (alpha * (scored_pairs["chosen_len"] - scored_pairs["rejected_len"])).exp())).to_numpy()
    assert scored_pairs["r_dpo_pull"].to_list() == pytest.approx((size / np.sort(size)[(len(size) - 1) // 2]).tolist())
    assert scored_pairs["r_dpo_pull"].n_unique() > 5
    assert any("kto" in what for what in read_json(world.paths.audit_summary)["not_judged"])


def test_unknown_method_and_unreadable_files(world):
    world.prepare(world.random_pairs(6))
    scored(world)
    with pytest.raises(InputError, match="no such method"):
        audit.audit(world.run(audit={"methods": ["depo"]}))
    manifest = read_json(world.paths.reference_manifest)
    world.paths.reference("train").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not what `scoreonce score` wrote"):
        audit.audit(world.run())
    manifest["files"]["train.parquet"] = sha256(world.paths.reference("train"))
    write_json(world.paths.reference_manifest, manifest)
    with pytest.raises(InputError, match="scores cannot be read"):
        audit.audit(world.run())
    world.paths.reference_manifest.write_text("{")
    with pytest.raises(InputError, match="manifest of the reference"):
        audit.audit(world.run())


def test_nothing_prepared(world):
    with pytest.raises(InputError, match="not prepared"):
        audit.audit(world.run())


def write_evaluation(folder: Path, name: str, text: str | bytes) -> str:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "one two three four five six seven eight\n\n"),
        ("a.jsonl", json.dumps({"question": "one two three four five six seven eight", "answer": "nine"})),
        ("a.json", json.dumps([{"turns": ["one two three four five six seven eight", "more"]}])),
        ("a.jsonl", json.dumps({"messages": [{"role": "user", "content": "one two three four five six seven eight"}]})),
        ("a.jsonl", json.dumps({"else": "one two three four five six seven eight"})),
    ],
)
def test_evaluation_prompts_in_any_common_file(tmp_path, name, text):
    prompts = evaluation_prompts([write_evaluation(tmp_path, name, text)])
    assert "one two three four five six seven eight" in next(iter(prompts.values())).to_list()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "\n\n", "no text"),
        ("a.txt", b"\xff\xfe\xfa", "not UTF-8"),
        ("a.jsonl", json.dumps({"n": 1}), "no text"),
        ("missing.txt", None, "no such file"),
    ],
)
def test_files_of_evaluation_prompts_that_cannot_be_used(tmp_path, name, text, says):
    path = str(tmp_path / name) if text is None else write_evaluation(tmp_path, name, text)
    with pytest.raises(InputError, match=says):
        evaluation_prompts([path])


def test_training_sees_the_selected_pairs_and_its_lineage_says_so(world):
    """Of 8 pairs those of rows 0 to 3; another condition under the same label is another run."""
    from scoreonce.stages.train import stage as train

    world.prepare(world.random_pairs(8))
    settings = {"method": "sft", "max_steps": 2, "batch_pairs": 4, "checkpoint_every": 2}
    train.train(world.run(train={**settings, "where": "row < 4"}))
    folder = world.paths.out / "train" / "sft"
    ids = pl.read_parquet(world.paths.pairs("train"))["pair_id"].to_list()
    assert set(pl.read_parquet(folder / "steps.parquet")["pair_id"]) == set(ids[:4])
    story = read_json(folder / "lineage.json")
    assert (story["data"]["pairs"], story["train"]["where"]) == (4, "row < 4")
    with pytest.raises(InputError, match="Another training run"):
        train.train(world.run(train={**settings, "where": "row < 5"}))


def test_what_was_dropped_is_in_the_lineage(world):
    """Pairs 0 and 1 once more: of ten pairs two are copies."""
    from scoreonce.stages.train import stage as train

    pairs = world.random_pairs(8)
    world.prepare([*pairs, *pairs[:2]])
    audit.audit(world.run())
    settings = {"method": "sft", "max_steps": 1, "batch_pairs": 4, "drop": ["duplicate_pair"]}
    train.train(world.run(train=settings))
    folder = world.paths.out / "train" / "sft"
    story = read_json(folder / "lineage.json")
    assert (story["data"]["pairs"], story["train"]["drop"]) == (8, ["duplicate_pair"])
    with pytest.raises(InputError, match="Another training run"):
        train.train(world.run(train={**settings, "drop": []}))


def test_the_command_leaves_with_three(audited, tmp_path):
    _, run = audited
    tree = {"out": run.out, "data": {"source": "none", "tokenizer": run.data.tokenizer}, "reference": {"model": "none"}}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
    command = ["audit", str(tmp_path / "run.toml"), "--no-near-duplicates", "--fail-on"]
    assert run_command([*command, "duplicate_pair"]) == 3
    assert run_command([*command, "tokens_disagree"]) == 0
    assert run_command([*command, "no_such"]) == 2
    contaminated = ["--contamination", str(Path(run.out) / "evaluation.jsonl"), "--fail-on", "contaminated_prompt"]
    assert run_command([*command[:2], *contaminated]) == 3


def test_reference_columns_come_to_their_pairs_in_any_order(world):
    """Row beside row where the order is the pairs', else joined: reversed, and with a row twice. The same comes out."""
    world.prepare(world.random_pairs(12))
    for split in SPLITS:
        table = pl.read_parquet(world.paths.pairs(split)).select(
            "pair_id", ref_chosen_logps=-pl.int_range(pl.len()).cast(pl.Float64), ref_rejected_logps=pl.lit(-3.0)
        )
        table = table.with_columns(ref_margin=pl.col("ref_chosen_logps") + 3)
        write_parquet(world.paths.reference(split), table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    write_reference_manifest(world.paths)
    table = pl.read_parquet(world.paths.reference("train"))
    for given in (table, table.reverse(), pl.concat([table, table.head(1)])):
        write_parquet(world.paths.reference("train"), given.to_arrow(compat_level=pl.CompatLevel.oldest()))
        write_reference_manifest(world.paths)
        audit.audit(world.run())
        found = pl.read_parquet(world.paths.audit_pairs).filter(pl.col("split") == "train").sort("row")
        assert found["ref_margin"].to_list() == [3.0 - number for number in range(12)]
