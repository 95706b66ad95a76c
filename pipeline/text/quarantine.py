"""Why a raw row is unusable: the reasons by name, and the exception that carries one."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "invalid_json": "the line is not a JSON object",
    "invalid_csv": "the row has another number of fields than the first line, or cannot be parsed",
    "line_too_long": "the line has more than 64 MiB",
    "invalid_utf8": "the text is not valid Unicode: broken UTF-8, or half of a surrogate pair",
    "missing_value": "a column that the format needs is missing or null",
    "wrong_type": "a value has the wrong type for the format",
    "no_preference": "no response is preferred, or no two scores are far enough apart",
    "no_shared_prompt": "the two transcripts have no common beginning to use as the prompt",
    "unknown_role": "the role of a message is not known",
    "not_only_text": "the row has an image, audio or video, and only text is read",
    "two_systems": "the system column differs from the conversation's own system turn",
    "template_refuses": "the chat template raises an error for these messages, or does not end",
    "template_omits": "the chat template leaves out the tools, the tool calls or the system turn",
    "template_rewrites_prompt": "the chat template renders the prompt differently once a completion follows",
    "not_a_probability": "a preference is not between 0 and 1",
    "lists_differ_in_length": "the lists of responses and of scores differ in length",
    "response_has_no_score": "one response of the list has no score; the others are used",
    "response_is_blank": "one response of the list is empty or only white space; the others are used",
    "chosen_is_blank": "the chosen completion is empty or only white space",
    "rejected_is_blank": "the rejected completion is empty or only white space",
    "sides_are_identical": "chosen and rejected are the same text, or the same tokens after truncation",
    "prompt_has_no_tokens": "the prompt is empty and the tokenizer adds no BOS, so the first token has no context",
    "boundary_cannot_be_split": "the tokens cannot be split at the end of the prompt without changing the text",
    "prompt_over_max_prompt_length": 'the prompt is longer than max_prompt_length and truncation is "drop"',
    "prompt_fills_max_length": "the prompt alone fills max_length",
    "pair_over_max_length": 'prompt and completion are longer than max_length and truncation is "drop"',
    "prompt_is_in_test_set": "the prompt is also in the given test set",
}
DETAIL_LENGTH = 300


class RowError(Exception):
    """A row that goes to quarantine. `reason` is a key of `REASONS`; `detail` says what was found in this row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        # Half a surrogate pair in the detail could not be written either.
        self.detail = detail[:DETAIL_LENGTH].encode("utf-8", "backslashreplace").decode("utf-8")


def kind_of(value: object) -> str:
    """The type of a JSON value in words, with the start of the value: `a number: 3`."""
    names: dict[type, str] = {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        bytes: "bytes",
        type(None): "null",
    }
    return f"{names.get(type(value), type(value).__name__)}: {value!r:.80}"
