"""What is written for other trainers, what is left out of it, and what is refused."""

import json
import re
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from chat_tokenizers import LLAMA_3, MISTRAL
from text_runs import PAIRS, scored_text_run

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.exchange.export import export_reference
from scoreonce.stages.exchange.trl_format import TRAINER
from scoreonce.stages.score.stage import score
from scoreonce.stages.store.store import ReferenceStore

ROOT = Path(__file__).resolve().parents[3]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_have_the_text_and_the_sums(scored):
    folder = export_reference(scored, "jsonl")
    rows, reference = lines(folder / "train.jsonl"), pl.read_parquet(RunPaths.of(scored).reference("train"))
    assert [row["prompt"] for row in rows] == [pair["prompt"] for pair in PAIRS]
    assert [row["chosen"] for row in rows] == [pair["chosen"] for pair in PAIRS]
    assert [row["pair_id"] for row in rows] == reference["pair_id"].to_list()
    assert [row["ref_rejected_logps"] for row in rows] == reference["ref_rejected_logps"].to_list()
    assert not (folder / "test.jsonl").exists(), "there are no held-out pairs"
    assert "ref_chosen_token_logps" not in rows[0]


def test_json_lines_have_tokens_on_request(scored):
    for row in lines(export_reference(scored, "jsonl", tokens=True) / "train.jsonl"):
        for side in ("chosen", "rejected"):
            assert len(row[f"ref_{side}_token_logps"]) == len(row[f"{side}_ids"]) == row[f"{side}_len"]
            assert sum(row[f"ref_{side}_token_logps"]) == pytest.approx(row[f"ref_{side}_logps"], rel=1e-6)


def test_both_splits_and_pairs_that_are_there_twice(world):
    """The reference table has a pair once; a trainer is given it as often as the data have it."""
    pairs, held_out = world.random_pairs(5), world.random_pairs(2, seed=1)
    world.prepare([*pairs, pairs[0]], held_out)
    score(world.run())
    folder = export_reference(world.run(), "jsonl")
    rows = lines(folder / "train.jsonl")
    assert len(rows) == 6
    assert rows[5] == rows[0] | {"row": 5}
    assert len(lines(folder / "test.jsonl")) == 2


def test_trl_is_given_the_tokens_that_were_scored(world):
    pairs = world.random_pairs(6)
    world.prepare(pairs)
    score(world.run())
    folder = export_reference(world.run(), "trl")
    table = pl.read_parquet(folder / "train.parquet")
    assert [tuple(row) for row in table.select("prompt_ids", "chosen_ids", "rejected_ids").rows()] == pairs
    reference = pl.read_parquet(world.paths.reference("train"))
    assert table["ref_chosen_logps"].to_list() == reference["ref_chosen_logps"].to_list()
    assert table["ref_rejected_logps"].to_list() == reference["ref_rejected_logps"].to_list()


def test_trls_trainer_is_in_the_folder_and_in_the_documentation(scored):
    page = (export_reference(scored, "trl") / "README.md").read_text(encoding="utf-8")
    assert TRAINER in page
    assert TRAINER in (ROOT / "docs" / "exchange.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        compile(block, "README.md", "exec")


def test_rows_with_one_completion_are_left_out_and_counted(world, capsys):
    pairs = world.random_pairs(6)
    world.prepare(
        [(prompt, chosen, None if place < 2 else other) for place, (prompt, chosen, other) in enumerate(pairs)]
    )
    score(world.run())
    folder = export_reference(world.run(), "trl")
    assert pl.read_parquet(folder / "train.parquet").height == 4
    assert json.loads((folder / "manifest.json").read_text())["left_out"] == {"has one completion": 2}
    assert "left out   2: each has one completion" in capsys.readouterr().out
    assert [row["rejected_ids"] for row in lines(export_reference(world.run(), "jsonl", tokens=True) / "train.jsonl")][
        :2
    ] == [[], []]


def test_data_without_a_pair_are_refused(world):
    world.prepare([(prompt, chosen, None) for prompt, chosen, _ in world.random_pairs(3)])
    score(world.run())
    with pytest.raises(InputError, match="No pair of train can be exported for trl") as raised:
        export_reference(world.run(), "trl")
    assert raised.value.found == "3 rows, of which each has one completion"
    assert not world.paths.export("trl").exists() or not list(world.paths.export("trl").glob("*"))


@pytest.mark.parametrize(
    ("to", "what", "found"),
    [
        ("nemo-rl", "cannot be exported for this trainer", "reads no reference log-probs from data"),
        ("megatron-bridge", "cannot be exported for this trainer", "no release that reads them"),
        ("fairseq", "There is no such target", "Did you mean 'fairseq2'?"),
    ],
)
def test_other_trainers_are_refused_with_the_reason(world, to, what, found):
    with pytest.raises(InputError, match=what) as raised:
        export_reference(world.run(), to)
    assert found in raised.value.found


@pytest.mark.parametrize(("to", "option"), [("trl", "tokens"), ("jsonl", "leave_out_differing")])
def test_options_of_other_formats_are_refused(world, to, option):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} is for"):
        export_reference(world.run(), to, **{option: True})


def test_a_second_time_nothing_is_written_until_the_scores_are_others(world, capsys):
    pairs = world.random_pairs(8)
    world.prepare(pairs)
    score(world.run())
    folder = export_reference(world.run(), "trl")
    before = (folder / "train.parquet").stat().st_mtime_ns
    export_reference(world.run(), "trl")
    assert (folder / "train.parquet").stat().st_mtime_ns == before
    assert "up to date" in capsys.readouterr().out
    world.prepare(pairs[:5])
    with pytest.raises(InputError, match="scores are those of other pairs"):
        export_reference(world.run(), "trl")
    score(world.run())
    export_reference(world.run(), "trl")
    assert pl.read_parquet(folder / "train.parquet").height == 5
    said = capsys.readouterr().out
    assert "Exporting again:" in said
    assert "pairs_manifest_sha256: exported with " in said
    (folder / "manifest.json").write_text("{")
    export_reference(world.run(), "trl")
    assert "Exporting again:\n  manifest.json cannot be read\n" in capsys.readouterr().out


def test_a_damaged_store_ends_an_export_of_tokens_and_leaves_nothing(world):
    world.prepare(world.random_pairs(6))
    score(world.run())
    shard = ReferenceStore.of(world.run()).shards()[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError):
        export_reference(world.run(), "jsonl", tokens=True)
    assert not (world.paths.export("jsonl") / "manifest.json").exists()
    assert not list(world.paths.export("jsonl").glob("*.jsonl"))


def test_fairseq2_reads_text_and_scores(scored):
    folder = export_reference(scored, "fairseq2")
    rows, reference = lines(folder / "train" / "pairs.jsonl"), pl.read_parquet(RunPaths.of(scored).reference("train"))
    assert rows[3] == {
        "id": reference["pair_id"][3],
        "src": PAIRS[3]["prompt"],
        "tgt_chosen": PAIRS[3]["chosen"],
        "tgt_rejected": PAIRS[3]["rejected"],
        "reference_score_chosen": reference["ref_chosen_logps"][3],
        "reference_score_rejected": reference["ref_rejected_logps"][3],
    }
    assert len(rows) == 12


def test_pairs_that_fairseq2_would_tokenise_otherwise_are_named_or_left_out(tmp_path, capsys):
    """Row 1 has a completion of 120 letters behind a prompt of 26: it was cut to 128 - 26 tokens, and has no EOS."""
    long = {"prompt": PAIRS[1]["prompt"], "chosen": "x" * 120, "rejected": " no"}
    run = scored_text_run(tmp_path, [PAIRS[0], long, PAIRS[2]])
    assert len(TokenFile(RunPaths.of(run).tokens("train")).row(1, "chosen_ids")) == 128 - len(long["prompt"])
    with pytest.raises(InputError, match="fairseq2 would give pairs other tokens than were scored") as raised:
        export_reference(run, "fairseq2")
    assert "1 of 3 pairs of train" in raised.value.found
    assert "of row 1, its chosen, which was cut to fit the limits of length" in raised.value.found
    folder = export_reference(run, "fairseq2", leave_out_differing=True)
    rows = lines(folder / "train" / "pairs.jsonl")
    assert [row["src"] for row in rows] == [PAIRS[0]["prompt"], PAIRS[2]["prompt"]]
    assert "left out   1: each has other tokens than were scored" in capsys.readouterr().out


CONVERSATION = {
    "prompt": [{"role": "user", "content": "2 + 2?"}],
    "chosen": [{"role": "assistant", "content": "4"}],
    "rejected": [{"role": "assistant", "content": "5"}],
}


def test_fairseq2_adds_bos_itself(tmp_path):
    """The template writes BOS, which was scored, and ends a turn in EOS."""
    run = scored_text_run(tmp_path, [CONVERSATION], MISTRAL)
    (row,) = lines(export_reference(run, "fairseq2") / "train" / "pairs.jsonl")
    assert (row["src"], row["tgt_chosen"], row["tgt_rejected"]) == ("[INST] 2 + 2? [/INST]", " 4", " 5")
    (row,) = lines(export_reference(run, "jsonl") / "train.jsonl")
    assert row["prompt"] == "<s>[INST] 2 + 2? [/INST]"


def test_a_turn_that_does_not_end_in_eos_has_other_tokens_for_fairseq2_and_not_for_trl(tmp_path):
    run = scored_text_run(tmp_path, [CONVERSATION], LLAMA_3)
    with pytest.raises(InputError, match="other tokens than were scored") as raised:
        export_reference(run, "fairseq2")
    assert raised.value.found.endswith("of row 0, its chosen")
    with pytest.raises(InputError, match="No pair of train can be exported for fairseq2"):
        export_reference(run, "fairseq2", leave_out_differing=True)
    table = pl.read_parquet(export_reference(run, "trl") / "train.parquet")
    assert table["chosen_ids"][0].to_list() == TokenFile(RunPaths.of(run).tokens("train")).row(0, "chosen_ids").tolist()


def test_the_files_are_parquet_with_checksums(scored):
    """A reader that verifies them finds a flipped bit."""
    path = export_reference(scored, "trl") / "train.parquet"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 1
    path.write_bytes(whole)
    with (
        pytest.raises((OSError, pa.ArrowException)),
        pa.parquet.ParquetFile(path, page_checksum_verification=True) as f,
    ):
        f.read()
