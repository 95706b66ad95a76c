"""For any conversation and each family of templates: prompt ids and completion ids are the rendered conversation."""

from functools import cache

import pytest
from chat_tokenizers import CHATML, CONTROL, LLAMA_3, MISTRAL, PHI_3, R1, TOOLS, ZEPHYR, chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreonce.pipeline.templates.renderer import Template, chat_renderer
from scoreonce.pipeline.templates.turn_end import find_turn_end
from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.formats import FORMATS
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import REASONS
from scoreonce.pipeline.text.rows_to_pairs import PreparationSettings, prepare_rows
from scoreonce.pipeline.text.tokenize import Limits, text_encoder

FAMILIES = {
    "chatml": (CHATML, "<|im_end|>"),
    "llama 3": (LLAMA_3, "<|eot_id|>"),
    "mistral": (MISTRAL, "</s>"),
    "zephyr": (ZEPHYR, "</s>"),
    "phi 3": (PHI_3, "<|end|>"),
    "r1": (R1, "</s>"),
}
TOKENIZERS = {family: chat_tokenizer(template) for family, (template, _) in FAMILIES.items()}
# What an answer cannot be and stay itself: blank, with space around it, with control tokens, with a think block.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).map(str.strip)
SAID = TEXT.filter(lambda text: text and not any(token in text for token in (*CONTROL, "</think>")))


# The same examples each time, so that a failure is one of the code.
SAME = {"derandomize": True, "database": None, "deadline": None}


@cache
def recipe_of(template: str, form: str, columns: tuple[str, ...]) -> PreparationSettings:
    tokenizer = chat_tokenizer(template)
    render = chat_renderer(tokenizer, Template(variables={"thinking": False} if template == R1 else {}))
    encoder = text_encoder(tokenizer, turn_end=find_turn_end(tokenizer, render))
    return PreparationSettings(form, match_columns(list(columns), {}), render, encoder, Limits(10_000), Pairing())


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, **SAME)
@given(turns=st.lists(SAID, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2), chosen=SAID, rejected=SAID)
def test_the_ids_decode_to_the_rendered_conversation(family, turns, chosen, rejected):
    template, end = FAMILIES[family]
    prompt = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    recipe = recipe_of(template, "messages", tuple(row))
    pairs, refused = prepare_rows([row], 0, recipe)
    if chosen == rejected:
        assert [problem.reason for problem in refused] == ["sides_are_identical"]
        return
    [pair] = pairs
    tokenizer = TOKENIZERS[family]
    variables = {"thinking": False} if family == "r1" else {}
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **variables)
    decode = recipe.encoder.whole.decode
    assert decode(pair.tokens.prompt_ids.tolist(), skip_special_tokens=False) == start
    for said, ids in ((chosen, pair.tokens.chosen_ids), (rejected, pair.tokens.rejected_ids)):
        whole = tokenizer.apply_chat_template(
            [*prompt, {"role": "assistant", "content": said}], tokenize=False, **variables
        )
        text = decode([*pair.tokens.prompt_ids.tolist(), *ids.tolist()], skip_special_tokens=False)
        assert text == whole[: len(text)]
        assert text.endswith(end)
        assert whole[len(text) :].replace("</s>", "").strip() == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "from", "value", "type", "text", "tool_calls", "function", "arguments"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
COLUMNS = ("prompt", "system", "tools", "chosen", "rejected", "completion", "messages", "response_1", "response_2")
ROLES = st.sampled_from(["user", "assistant", "human", "gpt", "tool", "x"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=5) | JSON}), max_size=3)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=60, **SAME)
@given(row=st.fixed_dictionaries(dict.fromkeys([*COLUMNS, "preference", "responses", "scores"], JSON | MESSAGES)))
def test_any_row_is_a_pair_or_has_a_reason(form, row):
    pairs, refused = prepare_rows([row], 0, recipe_of(TOOLS, form, tuple(row)))
    assert pairs or refused
    assert {problem.reason for problem in refused} <= REASONS.keys()
