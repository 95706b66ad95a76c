"""Checks of prepared pairs: relations between them, their tokens and their texts."""

from __future__ import annotations

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check, shares

LOOP_TOKENS = 32  # a shorter completion is never called a loop

_REPEATED = pl.max_horizontal("chosen_repetition", "rejected_repetition")
_CUT = pl.col("chosen_truncated") != pl.col("rejected_truncated")
_PAIR = (pl.col("chosen_len") > 0) & (pl.col("rejected_len") > 0)


def _looping(side: str, threshold: float) -> pl.Expr:
    tokens = pl.col(f"{side}_tokens")
    # A tokenizer that encodes a script byte by byte yields few distinct 4-grams: 45 % repeat in an ordinary paragraph
    # of Russian. A loop repeats nearly all of them.
    spelled = 2 * tokens > pl.col(f"{side}_bytes")
    limit = pl.when(spelled).then((1 + threshold) / 2).otherwise(threshold)
    return (pl.col(f"{side}_repetition") >= limit) & (tokens >= LOOP_TOKENS)


def pair_checks(*, crowded: int, repetition: float, similarity: float) -> tuple[Check, ...]:
    """All checks of prepared pairs, worst first.

    `crowded`: the most pairs of one prompt that are not reported. `repetition`: share of repeated 4-grams from which a
    completion is a loop. `similarity`: Jaccard index from which texts are near-duplicates.
    """
    return (*_fails(), *_relations(crowded), *_near(), *_tokens(), *_texts(repetition, similarity), *_contamination())


def _fails() -> tuple[Check, ...]:
    return (
        Check(
            "prompt_in_both_splits",
            "fail",
            "Prompt in train and test",
            "The same prompt, token for token, is in both splits: held-out results would measure memorisation.",
            pl.col("prompt_splits") > 1,
            "Hold out whole prompts: remove data.test_source and set data.test_share, or [train] drop = "
            '["prompt_in_both_splits"].',
        ),
        Check(
            "double_bos",
            "fail",
            "Two BOS tokens",
            "The prompt starts with two BOS tokens, or a completion with one: the chat template and the tokenizer both "
            "add it, which the model has never seen.",
            pl.col("double_bos"),
            "Remove BOS from the chat template or from the text, and run `scoreonce prepare` again.",
        ),
        Check(
            "missing_eos",
            "fail",
            "Untruncated completion without EOS",
            "A complete completion does not end in the tokenizer's EOS: the model would not learn to stop.",
            ~pl.col("chosen_ends_in_eos") & ~pl.col("chosen_truncated")
            | ~pl.col("rejected_ends_in_eos") & ~pl.col("rejected_truncated"),
            "Run `scoreonce prepare` again with the reference's tokenizer.",
        ),
        Check(
            "tokens_disagree",
            "fail",
            "Token ids of another pair",
            "The number of tokens differs between the token file and the table: they do not belong together.",
            pl.any_horizontal(
                pl.col(f"{side}_tokens") != pl.col(f"{side}_len") for side in ("prompt", "chosen", "rejected")
            ),
            "Run `scoreonce prepare` again: it rewrites both files.",
        ),
    )


def _relations(crowded: int) -> tuple[Check, ...]:
    return (
        Check(
            "contradictory_pair",
            "flag",
            "Same pair, opposite labels",
            "The same two completions also occur with the other one preferred: one label is wrong, or judges disagree.",
            pl.col("opposite_pair_id").is_not_null(),
            other="opposite_pair_id",
        ),
        Check(
            "duplicate_pair",
            "flag",
            "Duplicate of an earlier pair",
            "The pair occurs earlier, token for token: copies count twice in training and make intervals too narrow.",
            pl.col("copy_of").is_not_null(),
            note=pl.format("copy of row {}", "copy_of"),
        ),
        Check(
            "contradictory_after_normalisation",
            "flag",
            "Opposite labels, up to case and punctuation",
            "The same words, with different token ids, also occur with the other side preferred.",
            pl.col("words_contradicted") & pl.col("opposite_pair_id").is_null(),
        ),
        Check(
            "duplicate_after_normalisation",
            "flag",
            "Duplicate, up to case and punctuation",
            "Another pair has the same words, with different token ids.",
            pl.col("same_words") > pl.col("copies"),
            note=pl.format("{} pairs have these words", "same_words"),
        ),
        Check(
            "prompt_in_both_splits_after_normalisation",
            "flag",
            "Prompt in both splits, up to case and punctuation",
            "The other split has a prompt with the same words: held-out results are less independent than they look.",
            (pl.col("prompt_key_splits") > 1) & (pl.col("prompt_splits") == 1),
        ),
        Check(
            "scores_are_tied",
            "flag",
            "Both sides scored the same",
            "The dataset scores both completions equally, yet one is preferred: the label is arbitrary.",
            pl.col("chosen_score") == pl.col("rejected_score"),
            note=pl.format("both {}", "chosen_score"),
        ),
        Check(
            "scores_prefer_rejected",
            "flag",
            "Scores prefer the rejected side",
            "The dataset's own scores contradict its label.",
            pl.col("chosen_score") < pl.col("rejected_score"),
            note=pl.format("chosen {}, rejected {}", "chosen_score", "rejected_score"),
        ),
        Check(
            "crowded_prompt",
            "info",
            f"More than {crowded} pairs of one prompt",
            "A few prompts with many pairs dominate training: the policy may overfit them.",
            pl.col("pairs_of_prompt") > crowded,
            note=pl.format("{} pairs of this prompt", "pairs_of_prompt"),
        ),
    )


def _near() -> tuple[Check, ...]:
    return (
        Check(
            "near_duplicate_prompt_in_both_splits",
            "flag",
            "Near-duplicate prompt in the other split",
            "A prompt with almost the same words is in the other split.",
            pl.col("near_prompt_splits") > 1,
            other="near_prompt_other_id",
        ),
        Check(
            "near_duplicate_prompt",
            "info",
            "Near-duplicate prompt",
            "Another prompt has almost the same words: templates and paraphrases get extra weight.",
            pl.col("near_prompt_group").is_not_null(),
            other="near_prompt_other_id",
        ),
        Check(
            "near_duplicate_completion",
            "info",
            "Near-duplicate completion",
            "A completion of another pair has almost the same words.",
            pl.col("near_chosen_group").is_not_null() | pl.col("near_rejected_group").is_not_null(),
            other="near_completion_other_id",
        ),
    )


def _tokens() -> tuple[Check, ...]:
    return (
        Check(
            "one_side_truncated",
            "flag",
            "Only one side was truncated",
            "One completion was truncated and has no EOS, the other is complete: that gives the label away.",
            _PAIR & _CUT,
            'Raise data.max_length, set data.truncation = "drop", or [train] drop = ["one_side_truncated"].',
            note=pl.when("chosen_truncated")
            .then(pl.lit("chosen was truncated"))
            .otherwise(pl.lit("rejected was truncated")),
        ),
        Check(
            "special_token_in_completion",
            "flag",
            "Control token inside a completion",
            "The text of a completion contains a control token: the model would learn to write it, or to stop there.",
            pl.col("control_token_in_completion") | pl.col("special_id_in_completion").fill_null(value=False),
        ),
        Check(
            "special_token_in_prompt",
            "info",
            "Control token inside a prompt",
            "The prompt contains a control token. Most prompts have none, so no chat template wrote it.",
            pl.col("control_token_in_prompt") | pl.col("special_id_in_prompt").fill_null(value=False),
            rare=True,
        ),
        Check(
            "prompt_truncated",
            "info",
            "Prompt was truncated",
            "The start of the prompt is missing.",
            pl.col("prompt_truncated"),
            "Raise data.max_prompt_length.",
        ),
        Check(
            "chosen_truncated",
            "info",
            "Chosen side was truncated",
            "Its end is missing, EOS included.",
            pl.col("chosen_truncated"),
            "Raise data.max_length.",
        ),
        Check(
            "rejected_truncated",
            "info",
            "Rejected side was truncated",
            "Its end is missing, EOS included.",
            pl.col("rejected_truncated"),
            "Raise data.max_length.",
        ),
        Check(
            "boundary_merged",
            "info",
            "A token would span the end of the prompt",
            "Tokenized together, prompt and completion share a token; they were split as at generation.",
            pl.col("boundary_merged"),
            "End prompts at a token boundary, for instance without a trailing space.",
        ),
    )


def _texts(repetition: float, similarity: float) -> tuple[Check, ...]:
    sides = ("chosen", "rejected")
    scripts, languages = ([pl.col(f"{side}_{what}") for side in sides] for what in ("script", "language"))
    return (
        Check(
            "near_identical_sides",
            "flag",
            "Both sides almost the same",
            f"The sides share at least {similarity:.0%} of their 3-word shingles: there is little to learn, and DPO "
            "tends to make both less likely.",
            pl.col("similarity") >= similarity,
            note=pl.format("similarity {}", pl.col("similarity").round(2)),
        ),
        Check(
            "chosen_loops",
            "flag",
            "Chosen side is repetitive",
            f"At least {repetition:.0%} of its token 4-grams are repetitions: training would reward looping.",
            _looping("chosen", repetition),
            note=shares(_REPEATED) + " repeated",
        ),
        Check(
            "rejected_loops",
            "info",
            "Rejected side is repetitive",
            f"At least {repetition:.0%} of its token 4-grams are repetitions: an easy negative.",
            _looping("rejected", repetition),
            note=shares(_REPEATED) + " repeated",
        ),
        Check(
            "chosen_refuses",
            "flag",
            "Chosen side refuses",
            "It begins like a refusal. If the other side answers, training teaches the policy to refuse.",
            pl.col("chosen_refuses"),
        ),
        Check(
            "rejected_refuses",
            "info",
            "Rejected side refuses",
            "It begins like a refusal.",
            pl.col("rejected_refuses"),
        ),
        Check(
            "chosen_names_itself",
            "flag",
            "Chosen side names a model",
            "It says which model or company it is from, or that it is a language model: the policy would learn that.",
            pl.col("chosen_names_itself"),
        ),
        Check(
            "scripts_differ",
            "flag",
            "Sides in different scripts",
            "The sides are mostly in different scripts: the language may determine the label.",
            scripts[0] != scripts[1],
            note=pl.format("{} against {}", *scripts),
        ),
        Check(
            "script_of_prompt_differs",
            "info",
            "Answer in a different script than the prompt",
            "The chosen side is mostly in a different script than the prompt.",
            pl.col("prompt_script") != scripts[0],
            note=pl.format("{} after {}", scripts[0], pl.col("prompt_script")),
        ),
        Check(
            "languages_differ",
            "flag",
            "Sides in different languages",
            "Both sides are in Latin script, but their function words are of different languages: the language may "
            "determine the label.",
            languages[0] != languages[1],
            note=pl.format("{} against {}", *languages),
        ),
        Check(
            "language_of_prompt_differs",
            "info",
            "Answer in a different language than the prompt",
            "The function words of the chosen side are of another language than the prompt's: an answer in the wrong "
            "language, or a translation that the prompt asks for.",
            pl.col("prompt_language") != languages[0],
            note=pl.format("{} after {}", languages[0], pl.col("prompt_language")),
        ),
        Check(
            "control_character",
            "flag",
            "Control characters in the text",
            "The text contains control characters, replacement characters or marks that change the writing direction: "
            "a damaged file, or an attempt to hide something.",
            pl.col("control_character"),
        ),
    )


def _contamination() -> tuple[Check, ...]:
    return (
        Check(
            "contaminated_prompt",
            "flag",
            "Prompt overlaps an evaluation set",
            "The prompt shares a word n-gram with a prompt of an evaluation file: results on it would be too good.",
            pl.col("prompt_contamination") > 0,
            note=pl.format("{} of its n-grams in {}", shares(pl.col("prompt_contamination")), "contamination_file"),
        ),
        Check(
            "contaminated_completion",
            "flag",
            "Completion overlaps an evaluation set",
            "A completion shares a word n-gram with a prompt of an evaluation file.",
            pl.col("completion_contamination") > 0,
            note=pl.format("{} of its n-grams in {}", shares(pl.col("completion_contamination")), "contamination_file"),
        ),
    )
