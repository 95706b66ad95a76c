"""Graded lists of scored samples, and that `prepare` and `score` read them without doing anything twice."""

import json
from pathlib import Path

import pytest
from chat_tokenizers import CHATML
from sample_tables import sample_rows, write_samples, written_by
from text_runs import text_run

from scoreonce.schemas.errors import InputError
from scoreonce.stages import cli
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import read_samples
from scoreonce.stages.judge.stage import judge
from scoreonce.stages.pairs.stage import pairs
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.score.stage import score

LENGTH = "def score(prompt, completion):\n    return len(completion)\n"


def run_of(folder: Path, **judge_settings) -> Run:
    (folder / "length.py").write_text(LENGTH)
    settings = {"function": f"{folder / 'length.py'}:score", **judge_settings}
    return Run.model_validate(
        {"out": str(folder / "out"), "data": {"source": "none"}, "reference": {"model": "none"}, "judge": settings}
    )


def listed(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def judged(run: Run, label: str, texts: dict, **options) -> None:
    write_samples(RunPaths.of(run), label, sample_rows(texts, **options))
    judge(run, label=label, allow_judge_function=True)


def test_a_list_for_each_prompt(tmp_path, caplog):
    run = run_of(tmp_path)
    judged(run, "dpo", {"a?": ["x", "yyy", "zz"], "b?": ["same", "same"], "c?": ["one", "two"]})
    made = pairs(run, ["dpo"])
    assert listed(made.path) == [{"prompt": "a?", "responses": ["x", "yyy", "zz"], "scores": [1, 3, 2]}]
    assert made.counts["repeated"] == 1
    assert made.counts["without_pair"] == 2
    assert made.path == tmp_path / "out" / "graded" / "dpo" / "pairs.jsonl"
    assert 'data.format = "graded"' in caplog.text


def test_a_text_that_was_written_in_two_ways_is_listed_once(tmp_path):
    run = run_of(tmp_path)
    rows = sample_rows({"a?": ["x", "yyy", "yyy"]})
    rows[2]["completion_id"] = "other tokens"
    write_samples(RunPaths.of(run), "dpo", rows)
    judge(run, label="dpo", allow_judge_function=True)
    assert listed(pairs(run, ["dpo"]).path)[0]["responses"] == ["x", "yyy"]


def test_judgements_of_one_judge_are_listed_together(tmp_path):
    run = run_of(tmp_path)
    judged(run, "reference", {"a?": ["x", "yyy"]})
    judged(run, "dpo", {"a?": ["zz", "x"], "b?": ["1", "22"]})
    made = pairs(run, ["reference", "dpo"], name="both")
    assert listed(made.path) == [
        {"prompt": "a?", "responses": ["x", "yyy", "zz"], "scores": [1, 3, 2]},
        {"prompt": "b?", "responses": ["1", "22"], "scores": [1, 2]},
    ]


def test_unfinished_completions_are_left_out_unless_asked_for(tmp_path):
    run = run_of(tmp_path)
    rows = sample_rows({"a?": ["x", "yyy", "zz"]})
    rows[1]["finished"] = False
    write_samples(RunPaths.of(run), "dpo", rows)
    judge(run, label="dpo", allow_judge_function=True)
    assert listed(pairs(run, ["dpo"]).path)[0]["responses"] == ["x", "zz"]
    every = pairs(run.replace({"pairs.finished_only": False}), ["dpo"])
    assert listed(every.path)[0]["responses"] == ["x", "yyy", "zz"]


def test_made_once_it_is_up_to_date_until_something_changes(tmp_path, caplog):
    caplog.set_level("INFO", logger="scoreonce")
    run = run_of(tmp_path)
    judged(run, "dpo", {"a?": ["x", "yyy"]})
    before = pairs(run, ["dpo"])
    assert pairs(run, ["dpo"]) == before
    assert "up to date" in caplog.text
    write_samples(RunPaths.of(run), "dpo", sample_rows({"a?": ["x", "y"]}))
    with pytest.raises(InputError, match="not those that were judged"):
        pairs(run, ["dpo"])
    judge(run, label="dpo", allow_judge_function=True)
    assert "Judging again:\n  samples.dpo: judged with " in caplog.text
    with pytest.raises(InputError, match="No prompt has two completions of different scores"):
        pairs(run, ["dpo"])
    assert "Making the lists again:\n  judgements.dpo: made with " in caplog.text


def test_what_has_no_scores_is_refused(tmp_path):
    run = run_of(tmp_path)
    (tmp_path / "prefer.py").write_text("def prefer(prompt, a, b):\n    return 0.5\n")
    compared = run_of(tmp_path, function=f"{tmp_path / 'prefer.py'}:prefer")
    for label in ("dpo", "reference"):
        write_samples(RunPaths.of(run), label, sample_rows({"a?": [label, "x"]}))
    judge(compared, label="dpo", against="reference", name="compared", allow_judge_function=True)
    with pytest.raises(InputError, match="no score of each completion"):
        pairs(run, ["compared"])
    with pytest.raises(InputError, match="no judgement of this name"):
        pairs(run, ["absent"])


def test_scores_of_two_judges_are_not_mixed(tmp_path):
    run = run_of(tmp_path)
    judged(run, "reference", {"a?": ["x", "yyy"]})
    (tmp_path / "length.py").write_text(LENGTH.replace("len", "10 * len"))
    judged(run, "dpo", {"a?": ["zz", "x"]})
    with pytest.raises(InputError, match="not of the same judge") as refused:
        pairs(run, ["reference", "dpo"])
    assert "file" in refused.value.found


def graded_run(run: Run, path: Path, out: Path, **data) -> Run:
    """A run on graded lists, with the reference, its store and the limits of another."""
    store = str(RunPaths.of(run).store)
    settings = {"source": str(path), "format": "graded", "max_length": 128, "test_share": 0, **data}
    return Run.model_validate(run.model_dump() | {"out": str(out), "data": settings, "score": {"store": store}})


@pytest.mark.parametrize("template", [None, CHATML], ids=["plain", "chat"])
def test_the_loop_keeps_prompts_and_scores_new_completions_alone(tmp_path, template):
    """Round 1: 3 samples of each of 4 prompts, all pairs. Round 2: the same and 2 more of each. RSO: nothing new."""
    run = text_run(tmp_path, template=template)
    (tmp_path / "length.py").write_text(LENGTH)
    run = run.replace({"judge.function": f"{tmp_path / 'length.py'}:score", "pairs.finished_only": False})
    questions = [f"What is {number}?" for number in range(4)]
    prompts = [[{"role": "user", "content": each}] for each in questions] if template else questions
    paths = RunPaths.of(run)

    def sampled(label: str, count: int, seed: int) -> set[str]:
        write_samples(paths, label, written_by(run.reference.model, prompts, count, seed=seed))
        judge(run, label=label, allow_judge_function=True)
        return {row["completion"] for row in read_samples(paths, label).iter_rows(named=True)}

    sampled("reference", 3, seed=1)
    first = graded_run(run, pairs(run, ["reference"]).path, tmp_path / "round1", pairing="all_pairs")
    made = prepare(first)
    assert set(made.pairs("train")["prompt_id"]) == set(read_samples(paths, "reference")["prompt_id"])
    done = score(first)
    known = set(made.pairs("train")["chosen_id"]) | set(made.pairs("train")["rejected_id"])
    assert done.scored == len(known)

    sampled("dpo", 2, seed=2)
    both = pairs(run, ["reference", "dpo"]).path
    second = graded_run(run, both, tmp_path / "round2", pairing="all_pairs")
    ids = prepare(second).pairs("train")
    every = set(ids["chosen_id"]) | set(ids["rejected_id"])
    assert known < every
    again = score(second)
    assert (again.scored, again.reused) == (len(every - known), len(known))

    third = graded_run(run, both, tmp_path / "round3", pairing="rso", rso_beta=5.0)
    assert prepare(third).pairs("train").height > 0
    assert score(third).scored == 0


def test_ids_are_those_of_the_samples_where_the_text_has_them(tmp_path):
    """A tokenizer of one token per byte has one reading of a text, so finished completions keep their ids."""
    run = text_run(tmp_path)
    run = run.replace({"judge.function": f"{tmp_path / 'length.py'}:score"})
    (tmp_path / "length.py").write_text(LENGTH)
    from scoreonce.schemas import identity
    from scoreonce.stages.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(run.reference.model)
    rows = sample_rows({"a?": [" no", " yes!"]})
    for row in rows:
        row["prompt_ids"] = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        row["completion_ids"] = [*ids, tokenizer.eos_token_id]
        row["prompt_id"] = identity.prompt_id(row["prompt_ids"])
        row["completion_id"] = identity.completion_id(row["prompt_ids"], row["completion_ids"])
        row["completion_len"] = len(row["completion_ids"])
    write_samples(RunPaths.of(run), "dpo", rows)
    judge(run, label="dpo", allow_judge_function=True)
    made = prepare(graded_run(run, pairs(run, ["dpo"]).path, tmp_path / "next")).pairs("train")
    assert made["prompt_id"].to_list() == [rows[0]["prompt_id"]]
    assert made["chosen_id"].to_list() == [rows[1]["completion_id"]]
    assert made["rejected_id"].to_list() == [rows[0]["completion_id"]]


def test_the_command(tmp_path, capsys):
    import tomli_w

    run = run_of(tmp_path)
    judged(run, "dpo", {"a?": ["x", "yyy"]})
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(run.model_dump(exclude_unset=True)))
    assert cli.run_command(["pairs", str(file), "--judgement", "dpo"]) == 0
    assert (tmp_path / "out" / "graded" / "dpo" / "pairs.jsonl").is_file()
    assert cli.run_command(["pairs", str(file), "--judgement", "none"]) == 2
    assert "scoreonce judge" in capsys.readouterr().err
