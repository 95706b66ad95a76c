"""A Python function as the judge, and what of the stage belongs to no judge."""

import json

import pytest
from judged_samples import OWN
from sample_tables import as_conversations, sample_rows, write_samples

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import JudgementManifest
from scoreonce.stages import cli
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.judge.stage import judge

SCORE = "def score(prompt, completion):\n    return len(completion)\n"
PREFER = (
    "def prefer(prompt, first, second):\n    return 0.5 if len(first) == len(second) else len(first) > len(second)\n"
)


def written(tmp_path, text) -> str:
    (tmp_path / "mine.py").write_text(text)
    return str(tmp_path / "mine.py")


def test_a_function_of_one_completion_scores(judged, tmp_path):
    run = judged(function=f"{written(tmp_path, SCORE)}:score")
    result = judge(run, label="dpo", against="reference", allow_judge_function=True)
    assert result.scores()["score"].to_list()[:6] == [13, 5, 3, 2, 4, 1]
    assert result.judgements()["preference"].to_list() == [1, 0, 0, 0.5, 0.5, 0.5]


def test_samples_without_a_partner_are_counted(judged, tmp_path, caplog):
    caplog.set_level("INFO", logger="scoreonce")
    run = judged(function=f"{written(tmp_path, SCORE)}:score")
    some = dict(list(OWN.items())[:1])
    write_samples(RunPaths.of(run), "some", sample_rows(some))
    result = judge(run, label="dpo", against="some", allow_judge_function=True)
    compared = result.judgements().height
    assert 0 < compared < 6
    assert result.summary["unmatched"] == {"dpo": 6 - compared, "some": 0}
    assert f"no sample of that prompt and number: {6 - compared} of dpo" in caplog.text


def test_a_function_of_two_completions_compares_in_both_orders(judged, tmp_path):
    run = judged(function=f"{written(tmp_path, PREFER)}:prefer")
    result = judge(run, label="dpo", against="reference", allow_judge_function=True)
    assert result.judgements()["preference"].to_list() == [1, 0, 0, 0.5, 0.5, 0.5]
    assert result.summary["comparison"]["position"]["changed"]["rate"] == 0


def test_a_function_of_a_module(judged, tmp_path, monkeypatch):
    written(tmp_path, SCORE)
    monkeypatch.syspath_prepend(tmp_path)
    assert judge(judged(function="mine:score"), label="dpo", allow_judge_function=True).scores().height == 6


def test_its_code_runs_only_where_that_is_allowed(judged, tmp_path):
    path = written(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\n{SCORE}")
    with pytest.raises(InputError, match="code would be run"):
        judge(judged(function=f"{path}:score"), label="dpo")
    assert not (tmp_path / "ran").exists()


def test_it_is_given_messages_and_may_have_no_answer(judged, tmp_path):
    text = "def score(prompt, completion):\n    return None if completion == 'b' else len(prompt[-1]['content'])\n"
    run = judged(function=f"{written(tmp_path, text)}:score")
    write_samples(RunPaths.of(run), "chat", as_conversations(sample_rows(OWN)))
    found = judge(run, label="chat", allow_judge_function=True).scores()["score"].to_list()
    assert found == [4, 4, 4, 4, 6, None]


@pytest.mark.parametrize(
    ("text", "name", "what", "found"),
    [
        ("x = 1", "score", "cannot be used", "no function score"),
        ("def score(prompt):\n    return 1", "score", "cannot be used", "takes 1 positional"),
        ("import nothing_of_that_name", "score", "cannot be used", "ModuleNotFoundError"),
        ("def score(p, c):\n    return 1 / 0", "score", "raised an error", "ZeroDivisionError"),
        ("def score(p, c):\n    return 'good'", "score", "cannot be used", "'good'"),
        ("def score(p, c):\n    return float('nan')", "score", "cannot be used", "nan"),
        ("def score(p, a, b):\n    return 2", "score", "cannot be used", "2"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused(judged, tmp_path, text, name, what, found):
    run = judged(function=f"{written(tmp_path, text)}:{name}")
    with pytest.raises(InputError, match=what) as refused:
        judge(run, label="dpo", against="reference", allow_judge_function=True)
    assert found in refused.value.found
    assert not (RunPaths.of(run).judgement("dpo-against-reference") / "manifest.json").exists()


def test_the_manifest_vouches_and_changed_code_is_run_again(judged, tmp_path):
    run = judged(function=f"{written(tmp_path, SCORE)}:score")
    folder = judge(run, label="dpo", name="mine", allow_judge_function=True).folder
    assert folder == RunPaths.of(run).judgement("mine")
    manifest = manifests.read(JudgementManifest, folder / "manifest.json")
    manifests.require_files(manifest, folder)
    assert (manifest.label, manifest.against, set(manifest.files)) == ("dpo", None, {"scores.parquet"})
    written(tmp_path, SCORE.replace("len(completion)", "-len(completion)"))
    assert judge(run, label="dpo", name="mine", allow_judge_function=True).scores()["score"].max() == -1


@pytest.mark.parametrize(
    ("settings", "options", "what"),
    [
        ({}, {"label": "dpo"}, "has to be one judge"),
        ({"function": "a.py:b", "endpoint": "http://x/v1"}, {"label": "dpo"}, "has to be one judge"),
        ({"endpoint": "http://x/v1"}, {"label": "dpo", "against": "reference"}, "needs the name of a model"),
        ({"reward_model": "none"}, {"label": "nobody"}, "no samples of this label"),
        ({"reward_model": "none"}, {"label": "dpo", "against": "dpo"}, "compared with itself"),
        ({"reward_model": "none"}, {"label": "../dpo"}, "name of a folder"),
    ],
)
def test_what_cannot_be_judged_is_refused(judged, settings, options, what):
    with pytest.raises(InputError, match=what):
        judge(judged(**settings), **options)


def test_prompts_that_differ_cannot_be_compared(judged, tmp_path):
    run = judged(function=f"{written(tmp_path, SCORE)}:score")
    write_samples(RunPaths.of(run), "else", sample_rows({"else?": ["x"]}))
    with pytest.raises(InputError, match="no sample in common"):
        judge(run, label="dpo", against="else", allow_judge_function=True)


def run_file(run, tmp_path) -> str:
    import tomli_w

    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(run.model_dump(exclude_unset=True)))
    return str(path)


def test_the_command_judges(judged, tmp_path, capsys):
    file = run_file(judged(function=f"{written(tmp_path, SCORE)}:score"), tmp_path)
    arguments = ["judge", file, "--label", "dpo", "--against", "reference"]
    assert cli.run_command(arguments) == 2
    assert "--allow-judge-function" in capsys.readouterr().err
    assert cli.run_command([*arguments, "--allow-judge-function"]) == 0
    printed = capsys.readouterr()
    assert "win rate" in printed.out + printed.err


def test_samples_as_alpaca_eval_reads_them(judged, tmp_path):
    run = judged()
    chat = as_conversations(sample_rows({"two turns?": ["x"]}), {"role": "user", "content": "before"})
    write_samples(RunPaths.of(run), "dpo", [*as_conversations(sample_rows(OWN)), *chat])
    to = tmp_path / "answers.json"
    arguments = ["judge", run_file(run, tmp_path), "--label", "dpo", "--format", "alpaca-eval", "--to", str(to)]
    assert cli.run_command(arguments) == 0
    assert json.loads(to.read_text()) == [
        {"instruction": prompt, "output": texts[0], "generator": "dpo", "dataset": "none"}
        for prompt, texts in OWN.items()
    ]


def test_samples_as_arena_hard_reads_them(judged, tmp_path):
    run, to, questions = judged(), tmp_path / "dpo.jsonl", tmp_path / "question.jsonl"
    asked = [{"question_id": "q2", "category": "c", "turns": [{"content": "two?"}]}]
    questions.write_text("".join(json.dumps(each) + "\n" for each in asked))
    arguments = ["judge", run_file(run, tmp_path), "--label", "dpo", "--format", "arena-hard", "--to", str(to)]
    assert cli.run_command([*arguments, "--questions", str(questions)]) == 0
    (row,) = map(json.loads, to.read_text().splitlines())
    assert (row["question_id"], row["model_id"]) == ("q2", "dpo")
    assert row["choices"] == [{"index": 0, "turns": [{"content": "yes"}]}]
    assert row.keys() == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert cli.run_command(arguments) == 0
    assert len(to.read_text().splitlines()) == 3


def test_a_format_needs_a_file_and_answers(judged, tmp_path, capsys):
    file = run_file(judged(), tmp_path)
    assert cli.run_command(["judge", file, "--label", "dpo", "--format", "alpaca-eval"]) == 2
    questions = tmp_path / "question.jsonl"
    questions.write_text("{}")
    options = ["--format", "arena-hard", "--to", str(tmp_path / "x"), "--questions", str(questions)]
    assert cli.run_command(["judge", file, "--label", "dpo", *options]) == 2
    assert "questions cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
