"""Measures of texts and token ids, each with a text that has it and one that has not."""

import numpy as np
import polars as pl
import pytest

from scoreonce.pipeline.audit.measures import text, tokens
from scoreonce.pipeline.audit.measures.contamination import evaluation_grams


def measured(chosen: str, rejected: str | None = "no", prompt: str = "hi", **options) -> dict:
    frame = pl.DataFrame(
        {"prompt": [prompt], "chosen": [chosen], "rejected": [rejected]}, schema=dict.fromkeys(text.SIDES, pl.String)
    )
    return text.measure(frame, 0, **{"sketch": False, "evaluation": None, **options}).frame.row(0, named=True)


@pytest.mark.parametrize(
    ("column", "has", "has_not"),
    [
        ("chosen_refuses", "I’m sorry, but I can’t help with that.", "Yes. " * 60 + "I can't help"),
        ("chosen_names_itself", "Well, as a LANGUAGE model I do not eat.", "A language is a model of thought."),
        ("control_token_in_completion", "yes<|im_end|>", "yes <im_end>"),
        ("control_character", "a\u202eb", "a\tb\r\n"),
        ("control_character", "a\x00b", "naïve 🙂 \u200d עברית"),
        ("control_character", "caf\ufffd", "café"),
    ],
)
def test_a_fact_holds_for_one_text_and_not_for_another(column, has, has_not):
    assert measured(has)[column] is True
    assert measured(has_not)[column] is False


def test_markup_is_counted():
    """Two bold ends, one heading, two code fences; three list items, not the minus inside a line."""
    found = measured("# Title\n**bold** 3 - 2\n```\nx\n```\n- one\n  2. two\n* three\n-none")
    assert (found["chosen_markdown"], found["chosen_list_items"]) == (5, 3)
    assert (found["rejected_markdown"], found["rejected_list_items"]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("a plain English sentence", "Latin"),
        ("Überall schöne Wörter hier", "Latin"),
        ("Съешь же ещё этих мягких", "Cyrillic"),
        ("多くの漢字漢字漢字漢字漢字漢字", "Han"),
        ("short", None),
        ("12345 67890 12345", None),
        ("🙂" * 30, None),
        ("abc Съешь же ещё этих мягких", "Cyrillic"),
    ],
)
def test_script_is_that_of_most_letters(words, script):
    assert measured(words)["chosen_script"] == script


def test_similarity_is_the_jaccard_index_of_shingles():
    """abcde has abc, bcd, cde; abcdx has abc, bcd, cdx: 2 of 4."""
    assert measured("a b c d e", "A b, c d x")["similarity"] == pytest.approx(0.5)
    assert measured("same words", "Same words!")["similarity"] == 1.0


def test_completion_only_rows_have_no_rejected_measures():
    found = measured("yes", None)
    assert found["similarity"] is None
    assert all(value is None for name, value in found.items() if name.startswith("rejected_"))
    assert found["chosen_refuses"] is False


def test_a_megabyte_in_one_completion():
    found = measured("word " * 200_000)
    assert found["chosen_characters"] == 1_000_000


EVALUATION = {
    "one.txt": pl.Series(["the quick brown fox jumps over the lazy dog today"]),
    "two.txt": pl.Series(["What is two plus two?", "..."]),
}


@pytest.mark.parametrize(
    ("prompt", "share", "file"),
    [
        ("Say: The quick, brown fox jumps over the lazy cat", 0.5, "one.txt"),  # 10 words, 3 8-grams... see below
        ("quick brown fox jumps over the lazy", 0.0, None),
        ("WHAT is two plus two", 1.0, "two.txt"),
        ("Tell me what is two plus two", 0.0, None),
        ("...", 0.0, None),
    ],
)
def test_overlap_with_evaluation_prompts(prompt, share, file):
    """`say the quick … lazy cat` has 10 words, three 8-grams, of which `the quick … lazy` alone is in the file."""
    found = measured("completely different words here", prompt=prompt, evaluation=evaluation_grams(EVALUATION, 8))
    assert found["prompt_contamination"] == pytest.approx(1 / 3 if share == 0.5 else share)
    assert found["contamination_file"] == file
    assert found["completion_contamination"] == 0.0


def test_overlap_of_a_completion():
    found = measured("x", "so the quick brown fox jumps over the lazy dog", evaluation=evaluation_grams(EVALUATION, 8))
    assert found["completion_contamination"] == pytest.approx(2 / 3)
    assert found["contamination_file"] == "one.txt"


def lists(*rows: list[int]) -> tokens.TokenLists:
    return tokens.TokenLists(np.array([token for row in rows for token in row], np.int32), np.cumsum([*map(len, rows)]))


SPECIAL = tokens.SpecialIds(1, (2,), np.array([0, 1, 2, 9]))


def token_facts(prompt: list[int], chosen: list[int], rejected: list[int], special=SPECIAL) -> dict:
    clean = ([1, 5], [5, 2], [6, 2])
    table = tokens.measure(
        *(lists(before, here, before) for before, here in zip(clean, (prompt, chosen, rejected), strict=True)), special
    )
    assert table.row(0) == table.row(2)  # no pair changes another's measures
    return table.row(1, named=True)


CLEAN = {
    "double_bos": False,
    "chosen_ends_in_eos": True,
    "rejected_ends_in_eos": True,
    "special_id_in_completion": False,
    "special_id_in_prompt": False,
}


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "differs"),
    [
        ([1, 5, 6], [5, 2], [6, 7, 2], {}),
        ([1, 1, 5], [5, 2], [6, 2], {"double_bos": True}),
        ([1, 5], [1, 5, 2], [6, 2], {"double_bos": True, "special_id_in_completion": True}),
        ([1, 5], [5], [6, 2], {"chosen_ends_in_eos": False}),
        ([1, 5], [5, 2], [6], {"rejected_ends_in_eos": False}),
        ([1, 5], [5, 2], [], {}),
        ([1, 5], [5, 9, 2], [6, 2], {"special_id_in_completion": True}),
        ([1, 5], [5, 2, 2], [6, 2], {"special_id_in_completion": True}),
        ([1, 5, 9], [5, 2], [6, 2], {"special_id_in_prompt": True}),
    ],
)
def test_control_tokens(prompt, chosen, rejected, differs):
    found = token_facts(prompt, chosen, rejected)
    assert {name: found[name] for name in CLEAN} == CLEAN | differs


def test_a_completion_may_end_in_another_token_than_eos():
    """9 ends a turn of the chat template; it is a control token out of place only where it is not the last."""
    special = tokens.SpecialIds(1, (2, 9), SPECIAL.every)
    found = token_facts([1, 5], [5, 9], [6, 2], special)
    assert {name: found[name] for name in CLEAN} == CLEAN
    assert token_facts([1, 5], [9, 5, 9], [6, 2], special)["special_id_in_completion"]


def test_without_a_tokenizer_its_facts_are_unknown():
    found = token_facts([1, 1], [1, 2], [9, 2], special=None)
    assert all(found[name] is None for name in CLEAN)
    assert found["chosen_tokens"] == 2


def test_repetition_is_the_share_of_repeated_fourgrams():
    """1 2 3 4 1 2 3 4 has five 4-grams, 1234 twice: 1 / 5. All distinct: 0. Under four tokens: 0."""
    found = token_facts([1, 5], [11, 12, 13, 14, 11, 12, 13, 14], [5, 6, 2])
    assert found["chosen_repetition"] == pytest.approx(0.2)
    assert found["rejected_repetition"] == 0.0
