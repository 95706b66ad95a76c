"""Completions that have the prompt in them: transcripts with an implicit prompt, and prompts that are repeated.

The implicit prompt of two transcripts is their longest common prefix, cut back to a boundary, so that no completion
starts inside a word that both happen to begin with:

- after the last shared marker that opens an assistant's turn (HH's "\\n\\nAssistant:", the usual templates), if any;
- otherwise after the last white space. A single space goes to the completions, as tokenizers join it to the word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ASSISTANT_TURN = re.compile(
    r"(?:^|\n)(?:Assistant|ASSISTANT|AI|A):"  # HH-RLHF, Vicuna, plain transcripts
    r"|<\|im_start\|>assistant\n"  # ChatML
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"  # Llama 3
    r"|<start_of_turn>model\n"  # Gemma
    r"|<\|assistant\|>\n?"  # Zephyr, Phi-3
    r"|\[/INST\]"  # Llama 2, Mistral
    r"|### (?:Response|Assistant):\n?"  # Alpaca
)


def shared_prefix(first: str, second: str) -> int:
    """Length of the common prefix of two texts, in characters."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def prompt_end(chosen: str, rejected: str) -> int:
    """Where the prompt of two whole transcripts ends, in characters; 0 if they have no common prefix."""
    shared = chosen[: shared_prefix(chosen, rejected)]
    markers = [match.end() for match in ASSISTANT_TURN.finditer(shared)]
    if markers:
        return markers[-1]
    word = re.search(r"\S*\Z", shared)
    end = word.start() if word else 0
    return end - 1 if shared[:end].endswith(" ") else end


def shares_a_turn(first: str, second: str) -> bool:
    """Whether the common prefix of two texts opens an assistant's turn, so that a prompt certainly ends there."""
    return ASSISTANT_TURN.search(first[: shared_prefix(first, second)]) is not None


def split_transcripts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt, chosen and rejected completion of two whole transcripts; the prompt is empty if nothing is shared."""
    end = prompt_end(chosen, rejected)
    return chosen[:end], chosen[end:], rejected[end:]


def after_prompt(prompt: str, completion: str) -> str | None:
    """The completion without the prompt that it begins with; None if it begins otherwise, or is the prompt alone.

    A prompt of one word is no repetition, because a completion may well begin with that word.
    """
    text, repeated = completion.lstrip(), prompt.strip()
    rest = completion.removeprefix(prompt) if completion.startswith(prompt) else text.removeprefix(repeated)
    if len(repeated.split()) < 2 or not text.startswith(repeated) or not rest.strip():
        return None
    # "a red" is not repeated in "a reddish apple".
    return None if repeated[-1].isalnum() and rest[0].isalnum() else rest


def repeats_prompt(rows: Iterable[tuple[str, str]]) -> bool:
    """Whether most of these completions, each given with its prompt, begin with the prompt."""
    found = [after_prompt(prompt, completion) is not None for prompt, completion in rows]
    return 2 * sum(found) > len(found)
