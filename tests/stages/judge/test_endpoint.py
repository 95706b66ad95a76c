"""A judge behind an OpenAI-compatible endpoint: a real server on this machine, and its faults."""

import threading

import pytest
from judge_server import judge_server
from judged_samples import OTHER, OWN
from sample_tables import as_conversations, sample_rows, write_samples

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.judge import endpoint
from scoreonce.stages.judge.stage import judge

pytest.importorskip("openai")
SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(endpoint, "_pause", lambda stopping, seconds: None)
    monkeypatch.setenv(endpoint.KEY, SECRET)


def shown(question: str) -> tuple[str, str]:
    """The two responses in a question."""
    first = question.partition("<response_a>\n")[2].partition("\n</response_a>")[0]
    return first, question.partition("<response_b>\n")[2].partition("\n</response_b>")[0]


def longer(question: str, number: int) -> str:
    first, second = shown(question)
    return "[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]"


def test_both_orders_are_asked_and_agree(judged, caplog):
    """Longer wins: of one? 1 and 0, of two? 0 and a tie of one text, of three? two ties: (1 + 3 · ½) / 6."""
    with judge_server(longer) as server:
        result = judge(judged(endpoint=server.url, model="m"), label="dpo", against="reference")
    table = result.judgements()
    assert table["preference"].to_list() == [1, 0, 0, 0.5, 0.5, 0.5]
    assert table["preference_first"].to_list() == table["preference_second"].to_list() == [1, 0, 0, None, None, 0.5]
    figures = result.summary["comparison"]
    assert figures["win_rate"]["rate"] == pytest.approx(2.5 / 6)
    assert figures["position"]["changed"]["rate"] == 0
    assert len(server.questions) == 2 * 4  # two comparisons are of the same text, and are not asked
    assert {frozenset(shown(each)) for each in server.questions} == {
        frozenset(pair) for prompt in OWN for pair in zip(OWN[prompt], OTHER[prompt], strict=True) if pair[0] != pair[1]
    }
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert {request["temperature"] for request in server.requests} == {0.0}
    assert "first shown wins" in caplog.text


def test_a_judge_that_takes_the_first_has_no_preference_and_is_named(judged, caplog):
    with judge_server(lambda *_: "[[A]]") as server:
        run = judged(endpoint=server.url, model="m")
        prompts = {f"{number}?": [f"own {number}"] for number in range(20)}
        write_samples(RunPaths.of(run), "dpo", sample_rows(prompts))
        write_samples(RunPaths.of(run), "reference", sample_rows({each: ["other"] for each in prompts}))
        figures = judge(run, label="dpo", against="reference").summary["comparison"]
    assert figures["win_rate"]["rate"] == 0.5
    assert figures["position"]["first_wins"]["rate"] == figures["position"]["changed"]["rate"] == 1
    assert "the judge prefers what it sees first" in caplog.text


def test_the_key_goes_to_the_server_and_nowhere_else(judged, tmp_path, caplog):
    with judge_server(longer) as server:
        judge(judged(endpoint=server.url, model="m"), label="dpo", against="reference")
    assert server.keys == {f"Bearer {SECRET}"}
    assert SECRET not in caplog.text
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_answers_are_asked_for_once(judged):
    with judge_server(longer) as server:
        run = judged(endpoint=server.url, model="m")
        first = judge(run, label="dpo", against="reference")
        assert judge(run, label="dpo", against="reference").summary == first.summary
        assert len(server.questions) == 8
        (first.folder / "manifest.json").unlink()  # an interrupted judgement
        assert judge(run, label="dpo", against="reference").summary == first.summary
        assert len(server.questions) == 8
        judge(run.replace({"judge.temperature": 0.5}), label="dpo", against="reference")
        assert len(server.questions) == 16  # another judge
        write_samples(RunPaths.of(run), "dpo", sample_rows({**OWN, "two?": ["yes", "never"]}))
        judge(run, label="dpo", against="reference")
        assert len(server.questions) == 18  # one new completion, in both orders


def test_a_judgement_that_was_killed_goes_on(judged):
    """The server is gone after three answers; a line that was cut short is asked again."""
    with judge_server(lambda text, number: longer(text, number) if number < 3 else 401) as server:
        run = judged(endpoint=server.url, model="m", concurrency=1)
        with pytest.raises(InputError, match="refuses") as refused:
            judge(run, label="dpo", against="reference")
        assert refused.value.found == "HTTP 401"
        assert SECRET not in str(refused.value)
        answers = RunPaths.of(run).judgement("dpo-against-reference") / "answers.jsonl"
        kept = answers.read_text().splitlines(keepends=True)
        answers.write_text("".join(kept[:-1]) + kept[-1][:20])
        server.answer = longer
        before = len(server.questions)
        result = judge(run, label="dpo", against="reference")
        assert len(server.questions) - before == 8 - 2
        (answers.parent / "manifest.json").unlink()
        judge(run, label="dpo", against="reference")
        assert len(server.questions) - before == 8 - 2  # what came after the cut line is read too
    assert result.judgements()["preference"].to_list() == [1, 0, 0, 0.5, 0.5, 0.5]


def test_a_busy_server_is_asked_again(judged):
    failed = threading.Event()

    def answer(text, number):
        if number in (0, 2):
            failed.set()
            return 500 if number else 429
        return longer(text, number)

    with judge_server(answer) as server:
        result = judge(judged(endpoint=server.url, model="m"), label="dpo", against="reference")
    assert failed.is_set()
    assert result.summary["failures"] == {}
    assert result.summary["comparison"]["unanswered"] == 0
    assert len(server.questions) == 10


def test_what_is_never_answered_is_counted_and_asked_again_later(judged, caplog):
    """The server breaks on one question for good, and gives a response that is no JSON to another."""

    def answer(text, number):
        broken = {("a long answer", "brief"): 500, ("yes", "yes, of course"): b"<html>busy"}
        return broken.get(shown(text)) or longer(text, number)

    with judge_server(answer) as server:
        run = judged(endpoint=server.url, model="m", tries=2)
        result = judge(run, label="dpo", against="reference")
        assert result.summary["failures"] == {"HTTP 500": 1, "malformed response": 1}
        assert result.summary["comparison"]["unanswered"] == 2
        assert result.judgements()["preference"].to_list() == [None, 0, None, 0.5, 0.5, 0.5]
        assert len(server.questions) == 6 + 2 * 2
        assert "1 HTTP 500, 1 malformed response" in caplog.text
        server.answer = longer
        after = judge(run, label="dpo", against="reference")
        assert len(server.questions) == 12
    assert after.summary["failures"] == {}
    assert after.judgements()["preference"].to_list() == [1, 0, 0, 0.5, 0.5, 0.5]


def test_an_answer_without_a_verdict_is_counted_and_not_guessed(judged, caplog):
    with judge_server(lambda text, number: "Both are good." if "brief" in text else longer(text, number)) as server:
        run = judged(endpoint=server.url, model="m")
        result = judge(run, label="dpo", against="reference")
        assert result.summary["failures"] == {"no one verdict": 2}
        caplog.set_level("INFO", logger="scoreonce")
        judge(run, label="dpo", against="reference")
        assert len(server.questions) == 8  # it was answered, and is paid
    assert "up to date" in caplog.text
    assert result.judgements()["preference"].to_list() == [None, 0, 0, 0.5, 0.5, 0.5]


def test_a_slow_answer_is_counted(judged):
    release = threading.Event()

    def answer(text, number):
        if shown(text) == ("a long answer", "brief"):
            release.wait(20)
        return longer(text, number)

    with judge_server(answer) as server:
        try:
            run = judged(endpoint=server.url, model="m", timeout=5, tries=1)
            result = judge(run, label="dpo", against="reference")
        finally:
            release.set()
    assert result.summary["failures"] == {"timed out": 1}
    assert result.judgements()["preference"].to_list()[0] is None


def test_a_server_that_is_not_there_is_said(judged):
    with judge_server(longer) as server:
        url = server.url
    with pytest.raises(InputError, match="cannot be reached"):
        judge(judged(endpoint=url, model="m", tries=2), label="dpo", against="reference")


def test_one_label_alone_cannot_be_compared(judged):
    with pytest.raises(InputError, match="compares two completions"):
        judge(judged(endpoint="http://127.0.0.1:9/v1", model="m"), label="dpo")


def test_the_template_is_the_users(judged, tmp_path):
    template = tmp_path / "question.txt"
    template.write_text("P {{ prompt }}\n1 {{ first }}\n2 {{ second }}\n[[A]]?")
    with judge_server(lambda *_: "[[B]]") as server:
        run = judged(endpoint=server.url, model="m", template=str(template))
        write_samples(RunPaths.of(run), "chat", as_conversations(sample_rows({"one?": ["x"]})))
        write_samples(RunPaths.of(run), "other", as_conversations(sample_rows({"one?": ["y"]})))
        judge(run, label="chat", against="other")
    assert set(server.questions) == {"P one?\n1 x\n2 y\n[[A]]?", "P one?\n1 y\n2 x\n[[A]]?"}


def test_a_model_that_says_nothing_is_paid_once(judged):
    silent = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}'
    with judge_server(lambda *_: silent) as server:
        run = judged(endpoint=server.url, model="m")
        assert judge(run, label="dpo", against="reference").summary["failures"] == {"no one verdict": 8}
        judge(run, label="dpo", against="reference")
    assert len(server.questions) == 8


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://me:secret@host/v1", "https://host/v1?key=secret", "http://"]
)
def test_an_endpoint_has_no_secret_in_it(judged, url):
    with pytest.raises(InputError, match="not a plain URL") as refused:
        judge(judged(endpoint=url, model="m"), label="dpo", against="reference")
    assert "secret" not in str(refused.value)
