"""Which columns are the responses and what says how good they are, where the names are not those of the roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoreonce.pipeline.detection.codings import CODINGS, better, coding_of, counted, winner
from scoreonce.pipeline.detection.finding import Finding, column_value, mostly
from scoreonce.pipeline.text.dataset_columns import Made, Row, json_value, number_of
from scoreonce.pipeline.text.quarantine import RowError, kind_of
from scoreonce.schemas.errors import InputError

# Two responses, by their names in published datasets.
PAIRS = (
    ("response_0", "response_1"),  # before the next: there response_1 is the first
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("response_a", "response_b"),
    ("conversation_a", "conversation_b"),
    ("human_ref_A", "human_ref_B"),
    ("output_1", "output_2"),
    ("completion_a", "completion_b"),
)
# The preference by its names in published datasets, and its coding where the values alone do not tell it.
PREFERENCES: Mapping[str, str | None] = {
    "preference": None,
    "overall_preference": "signed",
    "preference_strength": "signed",
    "better_response_id": "0/1",
    "winner": "A/B",
}
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
# Lists of objects, and what in them is the response and its grade; of ranks the lowest is the best.
LISTS = ("answers", "responses", "completions", "candidates", "generations")
TEXTS = ("answer", "response", "text", "content", "completion", "output")
GRADES = {"score": 1, "overall_score": 1, "rating": 1, "reward": 1, "rank": -1}


def find_list(finding: Finding) -> None:
    """Give `responses` and `scores` the fields of a list of objects, and turn ranks into scores."""
    if finding.free("chosen", "scores", "ranks") and finding.renamed.get("responses") is None:
        for column in LISTS:
            items = next((item for item in map(json_value, finding.column(column)) if isinstance(item, list)), [])
            if items and isinstance(items[0], dict):
                text = next((key for key in TEXTS if key in items[0]), None)
                grade = next((key for key in GRADES if key in items[0]), None)
                if text and grade:
                    _take_list(finding, column, text, grade)
                    break
    if finding.has("ranks") and not finding.has("scores"):
        name = finding.names["ranks"]
        finding.make("scores", f"-{name}", _negated(finding.maker("ranks"), name))
        finding.notes.append(f"of {name!r} the lowest is the best")
    finding.leave_out("ranks")


def _take_list(finding: Finding, column: str, text: str, grade: str) -> None:
    def field(key: str) -> Made:
        def value(row: Row) -> Any:
            items = json_value(row.get(column))
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise RowError("wrong_type", f"{column!r} should be a list of objects, is {kind_of(items)}")
            return [item.get(key) for item in items]

        return Made((column,), value)

    finding.make("responses", f"{column}.{text}", field(text))
    finding.make("ranks" if GRADES[grade] < 0 else "scores", f"{column}.{grade}", field(grade))


def _negated(made: Made, name: str) -> Made:
    def value(row: Row) -> Any:
        ranks = json_value(made.value(row))
        if not isinstance(ranks, list):
            return ranks
        numbers = [None if rank is None else number_of(rank, repr(name)) for rank in ranks]
        return [None if number is None else -number for number in numbers]

    return Made(made.reads, value)


def find_two_responses(finding: Finding, coding: str | None) -> None:
    """Give the two responses and the preference their columns, and read the preference by its coding.

    Raises `InputError` where the values of the preference fit no coding, or not the one that the run file names.
    """
    if finding.has("chosen", "rejected"):
        return
    if "response_1" not in finding.renamed and "response_2" not in finding.renamed:
        pair = next((pair for pair in PAIRS if set(pair) <= set(finding.found)), None)
        for role, column in zip(("response_1", "response_2"), pair or (), strict=False):
            finding.take(role, column)
    if not finding.has("response_1", "response_2"):
        return
    known = _find_preference(finding)
    if finding.has("winner_1", "winner_2") and coding in (None, "winners") and not finding.has("preference"):
        _read_winners(finding)
    elif finding.has("preference"):
        _read_preference(finding, coding or known)


def _find_preference(finding: Finding) -> str | None:
    """Give the preference its column, perhaps those of the winner; returns the coding that goes with the name."""
    if "preference" not in finding.renamed:
        name = next((name for name in PREFERENCES if name in finding.found), None)
        if name is None and "labels" in finding.found and "human_ref_A" in finding.found:  # SHP
            finding.take("preference", "labels")
            return "1/0"
        if name is not None:
            finding.take("preference", name)
            return PREFERENCES[name]
    if not finding.has("preference") and finding.free("winner_1", "winner_2"):
        for role, column in zip(("winner_1", "winner_2", "winner_tie"), WINNERS, strict=True):
            if column in finding.found:
                finding.take(role, column)
    return PREFERENCES.get(finding.names.get("preference", ""))


def _read_winners(finding: Finding) -> None:
    roles = [role for role in ("winner_1", "winner_2", "winner_tie") if finding.has(role)]
    columns = [finding.names[role] for role in roles]
    finding.leave_out(*roles)

    def value(row: Row) -> float:
        return winner([row.get(column) for column in columns], columns)

    finding.make("preference", " / ".join(columns), Made(tuple(columns), value))
    finding.judged.update({column: column_value(column) for column in columns})
    won = [f"{column} {counted(finding.column(column))}" for column in columns]
    finding.notes.append(f"the winner is in {', '.join(columns)} ({'; '.join(won)} in the first rows)")


def _read_preference(finding: Finding, coding: str | None) -> None:
    name, made, values = finding.names["preference"], finding.maker("preference"), finding.values("preference")
    values = [value for value in values if value != ""]
    if coding == "winners":
        raise InputError(
            "The columns of the winner are not named.",
            found=f"columns {', '.join(finding.found)}",
            where='data.preference = "winners"',
            fix='Name them: data.columns = { winner_1 = "…", winner_2 = "…", winner_tie = "…" }. The last may be left '
            "out.",
        )
    if coding is None:
        coding = coding_of(values, name)
    elif values and not any(CODINGS[coding].read(value) is not None for value in values):
        raise InputError(
            f"No value of {name!r} is one of the coding {coding!r}.",
            found=f"{name}: {counted(values)}",
            where="data.preference",
            fix=f'"{coding}" means: {CODINGS[coding].meaning}. Name another: {", ".join(CODINGS)}.',
        )

    def value(row: Row) -> float | None:
        found = made.value(row)
        return None if found is None or found == "" else better(found, coding, name)

    finding.make("preference", name, Made(made.reads, value))
    finding.judged[name] = made
    finding.notes.append(
        f'{name!r} is read as "{coding}": {CODINGS[coding].meaning} ({counted(values)} in the first rows)'
    )


def read_turns(finding: Finding) -> None:
    """Arena's prompts and responses of several turns: each a list of texts, one for each turn."""
    if not finding.has("prompt", "response_1", "response_2"):
        return
    prompts = [json_value(value) for value in finding.values("prompt")]
    if not mostly([turns if _is_texts(turns) else None for turns in prompts], list):
        return
    prompt = finding.maker("prompt")
    for role in ("response_1", "response_2"):
        finding.make(role, finding.names[role], _conversation(prompt, finding.maker(role), finding.names[role]))

    def only(row: Row) -> Any:
        turns = json_value(prompt.value(row))
        return turns[0] if isinstance(turns, list) and len(turns) == 1 else turns if isinstance(turns, str) else None

    finding.make("prompt", finding.names["prompt"], Made(prompt.reads, only))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _conversation(prompt: Made, response: Made, name: str) -> Made:
    """The only response where there is one turn, otherwise the whole conversation."""

    def value(row: Row) -> Any:
        asked, answered = json_value(prompt.value(row)), json_value(response.value(row))
        if not isinstance(asked, list) or not isinstance(answered, list):
            return answered
        if len(asked) != len(answered) or not _is_texts(asked) or not _is_texts(answered):
            raise RowError("wrong_type", f"{name!r} should have one text for each of {len(asked)} prompts")
        if len(asked) == 1:
            return answered[0]
        turns = zip(asked, answered, strict=True)
        return [
            {"role": role, "content": text}
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]

    return Made((*prompt.reads, *response.reads), value)
