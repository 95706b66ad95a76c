"""prepare from a run file to the files of a run."""

import functools
import gzip
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from scoreonce.pipeline.text.quarantine import REASONS
from scoreonce.schemas import identity
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Pair, Quarantine
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json, sha256
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data import dataset
from scoreonce.stages.data.prepared_pairs import read_pairs
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.models.tokenizers import load_tokenizer
from scoreonce.stages.prepare import pair_files
from scoreonce.stages.prepare import stage as prepare

CHATML = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = ["<unk>", "</s>", "<user>", "<assistant>", "yes", "no", "maybe", *(f"p{number}" for number in range(200))]
YES, NO, EOS = WORDS.index("yes"), WORDS.index("no"), 1


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    """One token per word; no BOS; a chat template that ends a turn with EOS."""
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = CHATML
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


class Workplace:
    """A folder with raw data, and the run that prepares it."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self.folder, self.tokenizer = folder, tokenizer

    def write(self, rows: list[Any], name: str = "raw.jsonl") -> Path:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (self.folder / name).write_bytes(b"\n".join(lines) + b"\n")
        return self.folder / name

    def prepare(self, out: str = "out", source: Path | None = None, **data: Any) -> RunPaths:
        run = Run.model_validate(
            {
                "out": str(self.folder / out),
                "reference": {"model": str(self.tokenizer)},
                "data": {"source": str(source or self.folder / "raw.jsonl"), **data},
            }
        )
        prepare.prepare(run)
        return RunPaths.of(run)


@pytest.fixture
def workplace(tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    return Workplace(tmp_path, tokenizer_folder)


def row(number: int, **change: Any) -> dict[str, Any]:
    return {"prompt": f"p{number}", "chosen": " yes", "rejected": " no", **change}


def pairs(paths: RunPaths, *splits: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(paths.pairs(split)) for split in splits or SPLITS]).sort("row")


def quarantine(paths: RunPaths) -> dict[int, str]:
    return dict(pl.read_parquet(paths.quarantine).select("row", "reason").iter_rows())


def digests(paths: RunPaths) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(paths.quarantine.parent.iterdir()) if path.suffix != ".json"}


def test_text_pairs_become_tokens_with_identities(workplace):
    workplace.write([row(number, chosen_score=2, source="here") for number in range(60)])
    paths = workplace.prepare(test_share=0.3)
    found = Pair.validate(pairs(paths), cast=False)
    assert found["row"].to_list() == list(range(60))
    for split in SPLITS:
        table, tokens = pairs(paths, split), TokenFile(paths.tokens(split))
        assert len(tokens) == len(table) > 0
        for index, pair in enumerate(table.iter_rows(named=True)):
            prompt, chosen, rejected = (tokens.row(index, f"{side}_ids") for side in ("prompt", "chosen", "rejected"))
            assert (prompt.tolist(), chosen.tolist(), rejected.tolist()) == ([7 + pair["row"]], [YES, EOS], [NO, EOS])
            assert pair["chosen_id"] == identity.completion_id(prompt, chosen)
            assert pair["pair_id"] == identity.pair_id(pair["chosen_id"], identity.completion_id(prompt, rejected))
            assert pair["prompt_id"] == identity.prompt_id(prompt)
            assert (pair["chosen_len"], pair["chosen_score"], pair["source"]) == (2, 2.0, "here")


def test_a_tokenizer_with_other_rules_than_its_file_is_said(workplace, monkeypatch, caplog):
    """Loaded with the file's rules, but the file then has others."""
    folder = workplace.folder / "tokenizer"
    shutil.copytree(workplace.tokenizer, folder)
    tokenizer = load_tokenizer(str(folder))
    stated = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stated.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    stated.save(str(folder / "tokenizer.json"))
    monkeypatch.setattr(prepare, "tokenizer_of", lambda run: tokenizer)
    workplace.write([row(0), row(1)])
    workplace.prepare(test_share=0)
    assert "does not follow its tokenizer.json" in caplog.text
    caplog.clear()
    workplace.prepare(test_share=0)
    assert "does not follow" not in caplog.text  # nothing is made


def test_manifest_says_what_was_read_and_made(workplace):
    source = workplace.write([row(0), row(1), row(2, chosen="")])
    paths = workplace.prepare(test_share=0)
    manifest = read_json(paths.pairs_manifest)
    assert manifest["inputs"][str(source)]["sha256"] == sha256(source)
    assert manifest["counts"] == {
        "raw": 3,
        "train": 2,
        "test": 0,
        "quarantined": 1,
        "by_reason": {"chosen_is_blank": 1},
    }
    assert manifest["files"] == digests(paths)
    assert manifest["tokenizer"]["vocab_size"] == len(WORDS)
    assert manifest["tokenizer"]["special"] == {"bos": None, "ends": [EOS], "every": [0, EOS]}
    assert len(TokenFile(paths.tokens("test"))) == 0


PLANTED = [
    (b'{"prompt": "p1", ', "invalid_json"),
    (b'{"prompt": "p1", "chosen": "\xff", "rejected": " no"}', "invalid_utf8"),
    (row(1, chosen="\ud800"), "invalid_utf8"),
    ({"prompt": "p1", "chosen": " yes"}, "missing_value"),
    (row(1, rejected=None), "missing_value"),
    (row(1, chosen=5), "wrong_type"),
    (row(1, chosen=" "), "chosen_is_blank"),
    (row(1, chosen="</s>"), "chosen_is_blank"),
    (row(1, rejected="\n"), "rejected_is_blank"),
    (row(1, rejected=" yes"), "sides_are_identical"),
    (row(1, chosen=" yes unknown", rejected=" yes unheard"), "sides_are_identical"),
    (row(1, chosen=" no no no no yes", rejected=" no no no no no"), "sides_are_identical"),
    (row(1, prompt=" "), "prompt_has_no_tokens"),
    (row(1, prompt="p1 p2 p3 p4 p5"), "prompt_fills_max_length"),
]


def test_each_unusable_row_is_quarantined_for_its_own_reason(workplace, capsys):
    """Good rows stand between the planted ones; every row of the file is in exactly one table."""
    workplace.write([planted for raw, _ in PLANTED for planted in (raw, row(100))])
    paths = workplace.prepare(max_length=5, test_share=0)
    assert list(quarantine(paths).items()) == [(2 * index, reason) for index, (_, reason) in enumerate(PLANTED)]
    assert pairs(paths)["row"].to_list() == [2 * index + 1 for index in range(len(PLANTED))]
    table = Quarantine.validate(pl.read_parquet(paths.quarantine), cast=False)
    assert table["detail"].str.len_chars().min() >= 3
    assert {reason for _, reason in PLANTED} <= REASONS.keys()
    printed = capsys.readouterr().out
    assert "28 rows: 14 train pairs, 0 test pairs, 14 quarantined" in printed
    assert all(reason in printed for _, reason in PLANTED)


def test_truncation_by_side(workplace):
    workplace.write([row(1, chosen=" yes no yes no yes", rejected=" no"), row(2, prompt="p1 p2 p3 p4")])
    paths = workplace.prepare(max_length=4, max_prompt_length=2, test_share=0)
    first, second = pairs(paths).iter_rows(named=True)
    assert (first["chosen_len"], first["chosen_truncated"], first["rejected_truncated"]) == (3, True, False)
    assert (second["prompt_len"], second["prompt_truncated"], second["chosen_len"]) == (2, True, 2)
    tokens = TokenFile(paths.tokens("train"))
    assert tokens.row(0, "chosen_ids").tolist() == [YES, NO, YES]
    assert tokens.row(1, "prompt_ids").tolist() == [WORDS.index("p3"), WORDS.index("p4")]
    assert read_json(paths.pairs_manifest)["truncated"] == {"prompt": 1, "chosen": 1, "rejected": 0}


def test_pairs_over_the_length_are_dropped_where_that_is_asked_for(workplace):
    workplace.write([row(0), row(1, chosen=" yes no yes no yes"), row(2, prompt="p1 p2 p3")])
    paths = workplace.prepare(max_length=4, max_prompt_length=2, truncation="drop", test_share=0)
    assert quarantine(paths) == {1: "pair_over_max_length", 2: "prompt_over_max_prompt_length"}


def test_messages_are_rendered_with_the_tokenizers_template(workplace):
    user = {"role": "user", "content": "p1"}
    sides = [[user, {"role": "assistant", "content": content}] for content in ("yes", "no")]
    workplace.write([{"chosen": sides[0], "rejected": sides[1]}])
    paths = workplace.prepare(test_share=0)
    tokens = TokenFile(paths.tokens("train"))
    user_id, assistant_id = WORDS.index("<user>"), WORDS.index("<assistant>")
    assert tokens.row(0, "prompt_ids").tolist() == [user_id, WORDS.index("p1"), EOS, assistant_id]
    assert tokens.row(0, "chosen_ids").tolist() == [YES, EOS]
    assert pairs(paths)["prompt"].to_list() == ["<user> p1 </s>\n<assistant> "]


def test_completion_only_data(workplace):
    workplace.write([{"prompt": "p1", "completion": " yes"}])
    paths = workplace.prepare(test_share=0)
    [pair] = Pair.validate(pairs(paths), cast=False).iter_rows(named=True)
    assert (pair["rejected"], pair["rejected_id"], pair["rejected_len"]) == (None, None, 0)
    assert TokenFile(paths.tokens("train")).row(0, "rejected_ids").tolist() == []


def test_no_prompt_is_on_both_sides_and_rows_that_come_later_move_none(workplace):
    rows = [row(number, chosen=side) for number in range(80) for side in (" yes", " maybe")]
    workplace.write(rows)
    before = workplace.prepare(test_share=0.3)
    sides = {split: set(pairs(before, split)["prompt_id"]) for split in SPLITS}
    assert sides["train"]
    assert sides["test"]
    assert not sides["train"] & sides["test"]
    workplace.write([row(number) for number in range(80, 160)] + rows)
    after = workplace.prepare("later", test_share=0.3)
    for split in SPLITS:
        assert sides[split] <= set(pairs(after, split)["prompt_id"])


def test_given_held_out_data_keep_their_prompts_from_training(workplace):
    workplace.write([row(0), row(1), row(2), row(1, chosen=" maybe")])
    held_out = workplace.write([row(1, chosen=" maybe"), row(9), row(1, chosen="")], "held_out.jsonl")
    paths = workplace.prepare(test_source=str(held_out), test_share=0.9)
    assert pairs(paths, "train")["prompt"].to_list() == ["p0", "p2"]
    assert pairs(paths, "test")["prompt"].to_list() == ["p1", "p9"]
    found = pl.read_parquet(paths.quarantine)
    assert found.select("row", "reason").rows() == [
        (2, "chosen_is_blank"),
        (1, "prompt_is_in_test_set"),
        (3, "prompt_is_in_test_set"),
    ]
    assert found["detail"][0].startswith("test data: ")


def test_held_out_split_of_a_folder(workplace):
    folder = workplace.folder / "data"
    folder.mkdir()
    workplace.write([row(0), row(1)], "data/train.jsonl")
    workplace.write([row(2)], "data/test.jsonl")
    paths = workplace.prepare(source=folder, test_split="test")
    assert [len(pairs(paths, split)) for split in SPLITS] == [2, 1]


def test_a_second_run_does_nothing_until_something_that_matters_changes(workplace, capsys):
    source = workplace.write([row(number) for number in range(30)])
    paths = workplace.prepare()
    made = paths.pairs_manifest.stat().st_mtime_ns
    capsys.readouterr()
    os.utime(source, (1, 1))
    workplace.prepare(workers=1)
    assert "up to date" in capsys.readouterr().out
    assert paths.pairs_manifest.stat().st_mtime_ns == made
    for change in ({"seed": 1}, {"seed": 1, "max_length": 9}, {"seed": 1, "max_length": 9, "limit": 20}):
        workplace.prepare(**change)
        assert "up to date" not in capsys.readouterr().out
    assert len(pairs(paths)) == 20


def test_contents_that_changed_under_the_same_time_and_size_are_seen(workplace):
    source = workplace.write([row(number) for number in range(10)])
    status = source.stat()
    paths = workplace.prepare(test_share=0)
    workplace.write([row(9 - number) for number in range(10)])
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    workplace.prepare(test_share=0)
    assert pairs(paths)["prompt"][0] == "p9"


def test_a_damaged_output_is_made_anew(workplace):
    workplace.write([row(number) for number in range(10)])
    paths = workplace.prepare()
    good = digests(paths)
    paths.pairs("train").write_bytes(b"damaged")
    workplace.prepare()
    assert digests(paths) == good


def test_batches_and_pieces_of_any_size_give_the_same_files(workplace, monkeypatch):
    """Text pairs with quarantined rows between them, read in batches of 3 and of all."""
    workplace.write([row(number, chosen=" yes" if number % 7 else "") for number in range(50)])
    monkeypatch.setattr(pair_files, "ROWS_PER_PIECE", 8)
    whole = digests(workplace.prepare(test_share=0.3))
    monkeypatch.setattr(dataset, "open_data", functools.partial(dataset.open_data, batch_rows=3))
    assert digests(workplace.prepare("in_batches", test_share=0.3)) == whole


def test_an_error_on_the_way_leaves_what_was_there(workplace):
    workplace.write([row(number) for number in range(20)])
    paths = workplace.prepare()
    before = {path.name: sha256(path) for path in paths.quarantine.parent.iterdir()}
    lines = b"".join(json.dumps(row(number)).encode() + b"\n" for number in range(5000))
    damaged = workplace.folder / "damaged.jsonl.gz"
    damaged.write_bytes(gzip.compress(lines)[:-500])
    with pytest.raises(InputError, match="cannot be read"):
        workplace.prepare(source=damaged)
    assert {path.name: sha256(path) for path in paths.quarantine.parent.iterdir()} == before


def test_an_interruption_between_the_files_and_the_manifest_leaves_no_manifest(workplace, monkeypatch):
    """New files under the old manifest would be taken for the old ones."""
    workplace.write([row(number) for number in range(20)])
    paths = workplace.prepare()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifests, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        workplace.prepare(seed=1)
    assert not paths.pairs_manifest.exists()


def test_rows_are_said_by_format_and_length(workplace, capsys):
    workplace.write([row(number) for number in range(4)])
    workplace.prepare(test_share=0)
    printed = capsys.readouterr().out
    assert "pairs (prompt, chosen and rejected as text), from columns prompt, chosen, rejected" in printed
    assert "4 rows: 4 train pairs, 0 test pairs, 0 quarantined" in printed


def test_where_no_row_can_be_used_the_message_shows_the_first_and_the_quarantine_stays(workplace):
    workplace.write([row(0, chosen=""), row(1, rejected=" "), row(2, chosen=5), row(3, chosen="")])
    with pytest.raises(InputError, match="Not one row can be used in the train split") as caught:
        workplace.prepare()
    folder = workplace.folder / "out" / "pairs"
    assert [path.name for path in folder.iterdir()] == ["quarantine.parquet"]
    assert Quarantine.validate(pl.read_parquet(folder / "quarantine.parquet"), cast=False)["row"].to_list() == [
        0,
        1,
        2,
        3,
    ]
    assert caught.value.found == "chosen_is_blank: 2; rejected_is_blank: 1; wrong_type: 1"
    assert caught.value.where.splitlines()[1:] == [
        "         row 0: chosen_is_blank, ''",
        "         row 1: rejected_is_blank, ' '",
        "         row 2: wrong_type, 'chosen' should be text, is a number: 5",
    ]
    assert str(folder / "quarantine.parquet") in caught.value.fix


def test_where_no_row_of_other_data_can_be_used_the_pairs_that_are_there_stay_whole(workplace):
    workplace.write([row(0), row(1)])
    paths = workplace.prepare(test_share=0)
    workplace.write([row(0, chosen="")])
    with pytest.raises(InputError, match="Not one row"):
        workplace.prepare(test_share=0)
    assert read_pairs(paths).counts.train == 2
    assert pl.read_parquet(paths.failed_quarantine)["reason"].to_list() == ["chosen_is_blank"]


def test_rows_that_cannot_be_read_are_shown_by_line(workplace):
    workplace.write([b"[1]", b"{"])
    with pytest.raises(InputError, match="no row to read") as caught:
        workplace.prepare()
    assert caught.value.found.startswith("invalid_json, line 1 of raw.jsonl should be an object and is a list")


def test_one_list_among_rows_of_text_and_a_number_out_of_range_go_to_quarantine(workplace):
    odd = [row(0, chosen=[{"role": "assistant", "content": "yes"}]), row(1, chosen_score=10**400)]
    workplace.write([*odd, *(row(number % 20) for number in range(2, 32))])
    paths = workplace.prepare(test_share=0)
    assert quarantine(paths) == {0: "wrong_type", 1: "wrong_type"}
    assert len(pairs(paths)) == 30


def test_a_table_of_text_gives_the_pairs_and_scores_that_json_lines_give(workplace):
    lines = "".join(f"p{number}, yes, no,{number}.5\n" for number in range(4))
    (workplace.folder / "raw.csv").write_text(f"prompt,chosen,rejected,chosen_score\n{lines}")
    workplace.write([row(number, chosen_score=number + 0.5) for number in range(4)])
    from_table = workplace.prepare("table", workplace.folder / "raw.csv", test_share=0)
    assert pairs(from_table).equals(pairs(workplace.prepare("lines", test_share=0)))


def test_the_coding_of_a_preference_is_set_and_said(workplace, capsys):
    responses = {"chosen": None, "response_1": " yes", "response_2": " no"}
    workplace.write([row(number, **responses, rejected=None, preference=number % 2) for number in range(4)])
    paths = workplace.prepare(test_share=0, preference="1/0", format="labelled")
    assert pairs(paths)["chosen"].to_list() == [" no", " yes", " no", " yes"]
    assert "'preference' is read as \"1/0\": 1: the first is better" in capsys.readouterr().out


def test_the_values_of_a_preference_are_counted_in_all_rows(workplace, capsys):
    """2,500 rows: the coding is told from the first 2,048, the ties at the end are counted too."""
    responses = {"chosen": None, "response_1": " yes", "response_2": " no", "rejected": None}
    values = [1 + number % 2 for number in range(2_400)] + [1.5] * 100
    workplace.write([row(number, **responses, preference=value) for number, value in enumerate(values)])
    workplace.prepare(test_share=0, format="labelled")
    out = capsys.readouterr().out
    assert "(1: 1,024, 2: 1,024 in the first rows)" in out
    assert "'preference' in all rows: 1: 1,200, 2: 1,200, 1.5: 100" in out


@pytest.mark.parametrize(
    ("rows", "data", "what"),
    [
        ([], {}, "no row to read"),
        ([b"[1]", b"{"], {}, "no row to read"),
        ([row(0)], {"source": "absent.jsonl"}, "No such dataset"),
        ([{"promt": "p", "chosen": "c", "rejected": "r"}], {"format": "pairs"}, "lacks a column: prompt"),
        ([{"text": "p"}], {}, "lacks a column"),
        ([row(0)], {"columns": {"prompt": "promptt"}}, "no column 'promptt'"),
        ([row(0)], {"test_share": 0.999}, "Not one row can be used in the train split"),
        ([row(0)], {"max_length": 8, "max_prompt_length": 8}, "leaves no room"),
        ([row(0)], {"test_split": "test"}, "A file has no splits"),
        ([row(0)], {"tokenizer": "no/such/folder"}, "No such model"),
    ],
)
def test_bad_input_is_an_error_that_leaves_nothing(workplace, rows, data, what):
    workplace.write(rows)
    with pytest.raises(InputError, match=what) as caught:
        workplace.prepare(**data)
    assert all(part for part in (caught.value.found, caught.value.where, caught.value.fix))
    folder = workplace.folder / "out" / "pairs"
    assert not folder.exists() or not list(folder.iterdir())


def test_nothing_usable_counts_the_reasons(workplace):
    workplace.write([row(0, chosen=""), row(1, chosen=""), row(2, rejected="")])
    with pytest.raises(InputError) as caught:
        workplace.prepare()
    assert caught.value.found == "chosen_is_blank: 2; rejected_is_blank: 1"


def test_messages_need_a_chat_template(workplace, tmp_path):
    backend = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>").save_pretrained(
        tmp_path / "plain"
    )
    workplace.write([{"prompt": [{"role": "user", "content": "p1"}], "chosen": " yes", "rejected": " no"}])
    with pytest.raises(InputError, match="no chat template"):
        workplace.prepare(tokenizer=str(tmp_path / "plain"))


def test_real_transcripts_give_the_pairs_of_the_real_pairs_file(shared, workplace):
    """HH as two whole transcripts against the same data as prompt, chosen, rejected, from other hands."""
    kept = []
    for name in ("hh_rlhf_test", "hh_rlhf_test_raw"):
        paths = workplace.prepare(
            name,
            shared / f"data/prefs/{name}.jsonl.gz",
            test_share=0,
            limit=600,
            tokenizer=str(shared / "data/models/hh-llama-2.8M"),
        )
        kept.append(pairs(paths))
    columns = ["prompt", "chosen", "rejected", "pair_id"]
    # The transcripts hold one pair with an empty side among the first 600, so they end a row earlier.
    assert len(kept[1]) == 598
    assert kept[0].select(columns).head(598).equals(kept[1].select(columns))


def graded(number: int, *scores: float, **change: Any) -> dict[str, Any]:
    return {
        "prompt": f"p{number}",
        "responses": [f" p{place + 100}" for place in range(len(scores))],
        "scores": list(scores),
        **change,
    }


def test_graded_lists_become_pairs_with_scores_and_preferences(workplace, capsys):
    """Scores 0, 1, 1 and scale log 3: preferences 1/3 and 7/12, worked out in test_pairing."""
    workplace.write([graded(0, 0, 1, 1), graded(1, 5, 5), graded(2, 1, 2, responses=[" yes", " "])])
    paths = workplace.prepare(test_share=0, pairing="all_pairs", preference_from_scores=math.log(3))
    found = Pair.validate(pairs(paths), cast=False)
    assert found.select("row", "chosen", "rejected", "chosen_score", "rejected_score").rows() == [
        (0, " p101", " p100", 1, 0),
        (0, " p102", " p100", 1, 0),
    ]
    assert found["chosen_preference"].to_list() == pytest.approx([7 / 12] * 2)
    assert found["rejected_preference"].to_list() == pytest.approx([1 / 3] * 2)
    assert quarantine(paths) == {1: "no_preference", 2: "no_preference"}
    assert read_json(paths.pairs_manifest)["counts"]["raw"] == 3
    assert "3 rows: 2 train pairs, 0 test pairs, 2 quarantined" in capsys.readouterr().out


def test_rows_that_come_later_move_no_pair_of_a_graded_list(workplace):
    rows = [graded(number, *range(8)) for number in range(20)]
    workplace.write(rows)
    for settings in ({"pairing": "random", "pairs_per_prompt": 3}, {"pairing": "rso", "rso_samples": 4}):
        before = pairs(workplace.prepare(settings["pairing"], **settings))
        more = workplace.write([graded(number, *range(8)) for number in range(50, 90)] + rows, "more.jsonl")
        after = pairs(workplace.prepare("more" + settings["pairing"], more, **settings))
        assert after.filter(pl.col("row") >= 40).select("pair_id").equals(before.select("pair_id"))


def test_another_pairing_makes_the_pairs_anew(workplace, capsys):
    workplace.write([graded(0, 1, 2, 3)])
    for way, made in (("best_worst", 1), ("all_pairs", 3), ("best_of_n", 2)):
        assert len(pairs(workplace.prepare(test_share=0, pairing=way))) == made


def test_preferences_are_read_or_made_of_two_scores(workplace):
    """sigmoid(log 3) = 3/4 and the completion itself 1/2: (3/4 + 1/2) / 2 and (1/4 + 1/2) / 2."""
    stated = {"chosen_score": 2, "rejected_score": 1, "chosen_probs_win": 0.9, "chosen_probs_lose": 0.2}
    columns = ["chosen_preference", "rejected_preference"]
    workplace.write([row(0, **stated), row(1, **{**stated, "chosen_probs_win": 1.5})])
    paths = workplace.prepare(test_share=0)
    assert pairs(paths).select(columns).rows() == [(0.9, 0.2)]
    assert quarantine(paths) == {1: "not_a_probability"}
    workplace.write([row(0, chosen_score=2, rejected_score=1)])
    paths = workplace.prepare(test_share=0, preference_from_scores=math.log(3))
    assert pairs(paths).select(columns).rows()[0] == pytest.approx((0.625, 0.375))


def test_all_pairs_of_the_summaries(shared, workplace):
    """10,097 strict pairs, 24 of them of one text with two scores; no prompt is on both sides."""
    paths = workplace.prepare(
        source=shared / "data/prefs/tldr_graded_lists.jsonl.gz",
        pairing="all_pairs",
        tokenizer=str(shared / "data/models/hh-llama-2.8M"),
    )
    found = pairs(paths)
    refused = pl.read_parquet(paths.quarantine)
    assert len(found) + refused.filter(pl.col("reason") == "sides_are_identical").height == 10_097
    assert read_json(paths.pairs_manifest)["counts"]["raw"] == 572
    assert (found["chosen_score"] > found["rejected_score"]).all()
    assert not set(pairs(paths, "train")["prompt_id"]) & set(pairs(paths, "test")["prompt_id"])
