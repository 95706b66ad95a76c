"""docs/formats.md: its examples have the formats that it says, and its run files read rows of the published sets."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from scoreonce.pipeline.detection.codings import CODINGS
from scoreonce.pipeline.detection.roles import recognise
from scoreonce.pipeline.text.chat import Message
from scoreonce.pipeline.text.formats import FORMATS, Example, read_row
from scoreonce.pipeline.text.graded import read_list
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.stages.config import Run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SNIPPETS = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
BY_SOURCE = {snippet["data"]["source"]: snippet for snippet in SNIPPETS}


def turns(*texts: str) -> list[dict[str, str]]:
    """A conversation; user and assistant take turns."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ARENA = {"model_a": "m", "model_b": "n"}
BETTER_RATED = {"chosen_rating": 5.0, "rejected_rating": 2.0}
# A made-up row with the columns of each set. The question is always Q, the better answer G, the worse one B.
ROWS: dict[str, dict[str, Any]] = {
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "Q",
        "prompt_id": "0f",
        "chosen": turns("Q", "G"),
        "rejected": turns("Q", "B"),
        "messages": turns("Q", "G"),
        "score_chosen": 8.0,
        "score_rejected": 3.5,
    },
    "argilla/ultrafeedback-binarized-preferences-cleaned": {
        "source": "sharegpt",
        "prompt": "Q",
        "chosen": turns("Q", "G"),
        "chosen-rating": 5.0,
        "chosen-model": "m",
        "rejected": turns("Q", "B"),
        "rejected-rating": 2.0,
        "rejected-model": "n",
    },
    "Anthropic/hh-rlhf": {"chosen": "\n\nHuman: Q\n\nAssistant: G", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
    "Intel/orca_dpo_pairs": {"system": "S", "question": "Q", "chosen": "G", "rejected": "B"},
    "argilla/distilabel-intel-orca-dpo-pairs": {
        "system": "S",
        "input": "Q",
        "chosen": "G",
        "rejected": "B",
        "generations": ["G", "B"],
        "order": ["chosen", "rejected"],
        "labelling_model": "m",
        "labelling_prompt": turns("Compare."),
        "raw_labelling_response": "9 2",
        "rating": [9.0, 2.0],
        "rationale": "r",
        "status": "unchanged",
        "original_chosen": "G",
        "original_rejected": "B",
        "chosen_score": 9.0,
        "in_gsm8k_train": False,
    },
    "argilla/distilabel-capybara-dpo-7k-binarized": {
        "source": "Airoboros",
        "conversation": [{"input": "Q", "output": "G"}],
        "original_response": "G",
        "generation_prompt": ["Q"],
        "raw_generation_responses": ["B"],
        "chosen": turns("Q", "G"),
        "rejected": turns("Q", "B"),
        "rating_chosen": 5,
        "rating_rejected": 2,
        "chosen_model": "m",
        "rejected_model": "n",
    },
    "argilla/dpo-mix-7k": {"dataset": "d", "chosen": turns("Q", "G"), "rejected": turns("Q", "B"), **BETTER_RATED},
    "data/HelpSteer2/preference/preference.jsonl.gz": {
        "split": "train",
        "prompt": "Q",
        "response_1": "B",
        "response_2": "G",
        "preference_strength": 2,
        "preference_statement": "s",
        "preference_elaboration": "e",
        "three_most_similar_preferences": [{"statement": "s"}],
        "all_preferences_unprocessed": [{"strength": 2}],
    },
    "nvidia/HelpSteer3": {
        "domain": "code",
        "language": "python",
        "context": turns("Q"),
        "response1": "G",
        "response2": "B",
        "overall_preference": -1,
        "individual_preference": [{"score": -1, "reasoning": "r", "feedback1": "f", "feedback2": "f"}],
    },
    "Skywork/Skywork-Reward-Preference-80K-v0.2": {
        "chosen": turns("Q", "G"),
        "rejected": turns("Q", "B"),
        "source": "magpie",
    },
    "allenai/llama-3.1-tulu-3-8b-preference-mixture": {
        "id": "7",
        "source": "if",
        "prompt": "Q",
        "chosen": turns("Q", "G"),
        "rejected": turns("Q", "B"),
    },
    "allenai/Dolci-Instruct-DPO": {
        "chosen": turns("Q", "G"),
        "rejected": turns("Q", "B"),
        "chosen_model": "m",
        "rejected_model": "n",
        "prompt_id": "7",
    },
    "berkeley-nest/Nectar": {
        "prompt": "\n\nHuman: Q\n\nAssistant: ",
        "answers": [
            {"answer": "B", "model": "m", "rank": 7.0},
            {"answer": "G", "model": "n", "rank": 1.0},
            {"answer": "C", "model": "o", "rank": 3.0},
        ],
        "turns": 1,
        "num_responses": 7,
        "source": ["lmsys-chat-1m"],
        "good_natured": True,
    },
    "stanfordnlp/SHP": {
        "post_id": "p",
        "domain": "askbaking_train",
        "upvote_ratio": 0.9,
        "history": "Q",
        "c_root_id_A": "a",
        "c_root_id_B": "b",
        "created_at_utc_A": 1,
        "created_at_utc_B": 2,
        "score_A": 2,
        "score_B": 20,
        "human_ref_A": "B",
        "human_ref_B": "G",
        "labels": 0,
        "seconds_difference": 1.0,
        "score_ratio": 10.0,
    },
    "trl-lib/kto-mix-14k": {"prompt": turns("Q"), "completion": answer("G"), "label": True},
    "lmsys/lmsys-arena-human-preference-55k": {
        "id": 1,
        **ARENA,
        "prompt": '["Q"]',
        "response_a": '["B"]',
        "response_b": '["G"]',
        "winner_model_a": 0,
        "winner_model_b": 1,
        "winner_tie": 0,
    },
    "lmsys/chatbot_arena_conversations": {
        "question_id": "q",
        **ARENA,
        "winner": "model_b",
        "judge": "j",
        "conversation_a": turns("Q", "B"),
        "conversation_b": turns("Q", "G"),
        "turn": 1,
        "anony": True,
        "language": "English",
        "tstamp": 1.0,
        "openai_moderation": {"flagged": False},
        "toxic_chat_tag": {"flagged": False},
    },
    "jondurbin/truthy-dpo-v0.1": {
        "id": "0",
        "source": "truthy_dpo",
        "system": "S",
        "prompt": "Q",
        "chosen": "G",
        "rejected": "B",
    },
    "jondurbin/py-dpo-v0.1": {"prompt": "Q", "chosen": "G", "rejected": "B", "id": "0"},
    "PKU-Alignment/PKU-SafeRLHF": {
        "prompt": "Q",
        "response_0": "B",
        "response_1": "G",
        "prompt_source": "human",
        "response_0_source": "m",
        "response_1_source": "n",
        "is_response_0_safe": True,
        "is_response_1_safe": True,
        "response_0_harm_category": {"Violence": False},
        "response_0_severity_level": 0,
        "better_response_id": 1,
        "safer_response_id": 0,
        "response_0_sha256": "a",
        "response_1_sha256": "b",
    },
    "openbmb/UltraInteract_pair": {
        "task": "Coding",
        "dataset": "apps",
        "trajectory": [{"from": "user", "value": "Q"}],
        "chosen": "G",
        "rejected": "B",
        "id": "1",
        "parent_id": "0",
    },
}
SCORES = {
    "HuggingFaceH4/ultrafeedback_binarized": (8.0, 3.5),
    "argilla/ultrafeedback-binarized-preferences-cleaned": (5.0, 2.0),
    "argilla/distilabel-capybara-dpo-7k-binarized": (5.0, 2.0),
    "argilla/distilabel-intel-orca-dpo-pairs": (9.0, None),
    "argilla/dpo-mix-7k": (5.0, 2.0),
    "berkeley-nest/Nectar": (-1.0, -7.0),
}
SOURCES = {
    "argilla/ultrafeedback-binarized-preferences-cleaned": "sharegpt",
    "argilla/distilabel-capybara-dpo-7k-binarized": "Airoboros",
    "argilla/dpo-mix-7k": "d",
    "nvidia/HelpSteer3": "code",
    "stanfordnlp/SHP": "askbaking_train",
    "lmsys/chatbot_arena_conversations": "English",
    "PKU-Alignment/PKU-SafeRLHF": "human",
    "openbmb/UltraInteract_pair": "apps",
}
# How the prompt is written where it is text; otherwise the template below renders it.
TEXT = {
    "Anthropic/hh-rlhf": ("\n\nHuman: Q\n\nAssistant:", " "),
    "berkeley-nest/Nectar": ("\n\nHuman: Q\n\nAssistant: ", ""),
    **dict.fromkeys(
        (
            "data/HelpSteer2/preference/preference.jsonl.gz",
            "stanfordnlp/SHP",
            "lmsys/lmsys-arena-human-preference-55k",
            "jondurbin/py-dpo-v0.1",
            "PKU-Alignment/PKU-SafeRLHF",
        ),
        ("Q", ""),
    ),
}


def render(messages: list[Message], add_generation_prompt: bool) -> str:
    text = "".join(f"<{message['role']}>{message['content']}|" for message in messages)
    return text + "<assistant>" * add_generation_prompt


def read(rows: list[dict[str, Any]], source: str) -> Example:
    """The first row, as the page's section for `source` reads it."""
    run = Run.model_validate({"out": "runs/x", "reference": {"model": "m"}, **BY_SOURCE[source]})
    format = None if run.data.format == "auto" else run.data.format
    found = recognise(list(rows[0]), rows, run.data.columns, format=format, coding=run.data.preference)
    if found.format != "graded":
        return read_row(found.format, rows[0], found.columns, render)
    (example,) = read_list(rows[0], found.columns, render, Pairing(run.data.pairing), None)
    assert isinstance(example, Example)
    return example


def test_every_section_has_a_row_here_and_every_row_a_section():
    assert BY_SOURCE.keys() == ROWS.keys()
    assert len(SNIPPETS) == len(BY_SOURCE) >= 20


@pytest.mark.parametrize("source", ROWS)
def test_a_row_of_a_published_set(source):
    example = read([ROWS[source]], source)
    if source in TEXT:
        prompt, before = TEXT[source]
        expected = (prompt, f"{before}G", f"{before}B")
    else:
        system = "<system>S|" if "system" in ROWS[source] else ""
        expected = (f"{system}<user>Q|<assistant>", "G|", "B|")
    rejected = None if source == "trl-lib/kto-mix-14k" else expected[2]
    assert (example.prompt, example.chosen, example.rejected) == (*expected[:2], rejected)
    assert (example.chosen_score, example.rejected_score) == SCORES.get(source, (None, None))
    if source in SOURCES:
        assert example.source == SOURCES[source]


@pytest.mark.parametrize(
    ("source", "tie"),
    [
        ("lmsys/lmsys-arena-human-preference-55k", {"winner_model_b": 0, "winner_tie": 1}),
        ("lmsys/chatbot_arena_conversations", {"winner": "tie (bothbad)"}),
        ("data/HelpSteer2/preference/preference.jsonl.gz", {"preference_strength": 0}),
        ("nvidia/HelpSteer3", {"overall_preference": 0}),
    ],
)
def test_a_tie_of_a_published_set(source, tie):
    with pytest.raises(RowError, match=r"no_preference.*a tie"):
        read([{**ROWS[source], **tie}, ROWS[source]], source)


def test_a_bad_completion_of_kto_mix():
    source = "trl-lib/kto-mix-14k"
    assert read([ROWS[source]], source).label is True
    assert read([{**ROWS[source], "label": False}], source).label is False


def test_the_examples_have_the_formats_of_the_table():
    table = PAGE.partition("| format | columns |")[2].partition("One row")[0]
    lines = PAGE.partition("<!-- examples -->")[2].partition("<!-- /examples -->")[0].strip().splitlines()[1:-1]
    rows = [json.loads(line) for line in lines]
    formats = [recognise(list(row), [row], {}).format for row in rows]
    assert formats == re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(formats) == FORMATS.keys()


def test_every_coding_is_in_the_table():
    for name in [*CODINGS, "winners"]:
        assert f'| `"{name}"` |' in PAGE
