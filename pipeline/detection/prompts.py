"""Which column is the prompt, where its name is not that of the role."""

from __future__ import annotations

import re
from typing import Any

from scoreonce.pipeline.detection.finding import Finding, mostly
from scoreonce.pipeline.text.chat import ROLE_KEYS, ROLE_OF
from scoreonce.pipeline.text.dataset_columns import Made, Row, json_value
from scoreonce.schemas.errors import InputError

# The prompt by its names in published datasets; just one of them may hold text or messages.
NAMES = (
    "question",
    "instruction",
    "input",
    "query",
    "context",
    "history",
    "conversations",
    "conversation",
    "trajectory",
    "post",
)
# A column with one of these words in its name may be the prompt, unless the last word says that it is a mere attribute.
WORDS = {
    *NAMES,
    *("prompt", "problem", "dialogue", "dialog", "request", "human", "user", "passage", "article", "document"),
    *("message", "messages", "turns", "questions", "instructions", "inputs"),
}
ATTRIBUTES = {"id", "ids", "type", "source", "model", "length", "len", "tokens", "hash", "language", "category", "name"}


def find_prompt(finding: Finding) -> None:
    """Give the role `prompt` its column, where one is needed and named as in published datasets.

    Raises `InputError` where several columns may be the prompt, or one that is not known by its name.
    """
    if not finding.free("prompt") or finding.has("messages") or _holds_whole_conversations(finding):
        return
    candidates = [name for name in finding.found if name.lower() in NAMES and _is_text(finding, name)]
    lower = {name.lower(): name for name in candidates}
    if lower.keys() >= {"instruction", "input"}:
        _join(finding, lower["instruction"], lower["input"])
        candidates.remove(lower["input"])
    if len(candidates) == 1 and not finding.has("prompt"):
        finding.take("prompt", candidates[0])
    elif not candidates:
        candidates = [name for name in finding.found if _sounds_like_a_prompt(finding, name)]
    if candidates and (len(candidates) > 1 or not finding.has("prompt")):
        raise _unknown(finding, candidates)


def _holds_whole_conversations(finding: Finding) -> bool:
    """Whether the chosen conversations begin with a turn that is not an assistant's, so that they hold the prompt."""
    conversations = [json_value(value) for value in finding.values("chosen") or finding.values("response_1")]
    begins = [value[0] for value in conversations if isinstance(value, list) and value and isinstance(value[0], dict)]
    roles = [next((turn[key] for key in ROLE_KEYS if key in turn), None) for turn in begins]
    whole = [role for role in roles if ROLE_OF.get(str(role).strip().lower()) != "assistant"]
    return 2 * len(whole) >= len(conversations) > 0


def _is_text(finding: Finding, name: str) -> bool:
    return mostly(finding.column(name), str, list)


def _sounds_like_a_prompt(finding: Finding, name: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    taken = name in finding.columns.read
    return not taken and bool(WORDS & set(words)) and words[-1] not in ATTRIBUTES and _is_text(finding, name)


def _join(finding: Finding, instruction: str, given: str) -> None:
    """Alpaca's instruction and input: two lines of one prompt, as LLaMA-Factory joins them."""

    def value(row: Row) -> Any:
        parts = [row.get(instruction), row.get(given)]
        texts = [part for part in parts if isinstance(part, str) and part.strip()]
        return "\n".join(texts) if texts else None

    finding.make("prompt", f"{instruction} + {given}", Made((instruction, given), value))


def _unknown(finding: Finding, candidates: list[str]) -> InputError:
    several = len(candidates) > 1
    return InputError(
        "Several columns may be the prompt." if several else f"The column {candidates[0]!r} may be the prompt.",
        found=f"{', '.join(candidates)}, among the columns {', '.join(finding.found)}",
        where="data.source",
        fix=f'Write which one: data.columns = {{ prompt = "{candidates[0]}" }}. '
        + (
            "If the prompt is made of several, join them in the data first."
            if several
            else 'If the texts hold their prompt themselves, set data.format = "implicit".'
        ),
    )
