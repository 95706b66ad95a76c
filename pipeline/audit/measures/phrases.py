"""Patterns to search texts for: control tokens, refusals, names of models, markup, scripts."""

from __future__ import annotations

# What the usual tokenizers treat as a control token in a text.
SPECIAL_TOKENS = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
)

REFUSAL_CHARACTERS = 200  # from the start of a text
_UNWILLING = (
    "i can't",
    "i cannot",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i won't",
    "i will not",
    "i'm not going to",
)
_DEEDS = (
    "help",
    "assist",
    "provide",
    "answer",
    "fulfill",
    "comply",
    "do that",
    "give you",
    "tell you",
    "support",
    "discuss",
    "engage",
)
_REFUSALS = (
    *(f"{unwilling} {deed}" for unwilling in _UNWILLING for deed in _DEEDS),
    "i'm sorry, but i",
    "i am sorry, but i",
    "i apologize, but i",
    "sorry, but i can",
    "i don't feel comfortable",
    "i must decline",
    "i have to decline",
    "as an ai language model",
    "against my programming",
    "i'm not programmed to",
)
_IDENTITY = (
    "as an ai language model",
    "as an ai model",
    "as an ai assistant",
    "as an ai,",
    "as an artificial intelligence",
    "as a language model",
    "i'm an ai",
    "i am an ai",
    "i'm just an ai",
    "i am a language model",
    "i'm a language model",
    "i'm chatgpt",
    "i am chatgpt",
    "i'm claude",
    "i am claude",
    "trained by openai",
    "developed by openai",
    "created by openai",
    "made by openai",
    "created by anthropic",
    "made by anthropic",
    "developed by anthropic",
    "trained by google",
    "created by meta",
    "developed by alibaba",
    "my knowledge cutoff",
)


def _both_apostrophes(phrases: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(form for phrase in phrases for form in (phrase, phrase.replace("'", "’"))))


REFUSALS = _both_apostrophes(_REFUSALS)
IDENTITY = _both_apostrophes(_IDENTITY)

MARKDOWN = r"\*\*|```|(?m:^#{1,6} )"  # bold (both ends), code fences (both ends), headings
LIST_ITEMS = r"(?m)^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]"
# C0 controls but tab and line ends, the replacement character, and marks that change the writing direction.
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F\x{FFFD}\x{202A}-\x{202E}\x{2066}-\x{2069}]"

SCRIPTS = (
    "Latin",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Cyrillic",
    "Arabic",
    "Devanagari",
    "Greek",
    "Hebrew",
    "Thai",
    "Bengali",
    "Tamil",
)
SCRIPT_CHARACTERS = 400  # at the start of a text, of which the letters are counted
SCRIPT_LETTERS = 10  # a text of fewer letters has no script
TEN_LATIN_LETTERS = r"(?:[A-Za-z][^A-Za-z]*){10}"
