"""Labels are names of folders."""

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.names import name_of, require_name


@pytest.mark.parametrize("name", ["dpo", "ipo+batch_beta", "beta-0.05", "_x", "A1", "-x", "+", "x.", "x" * 100])
def test_names(name):
    assert require_name(name, "train.label") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "/a", "a\\b", "a b", "a\n", "a\0", "~", "*", "é", "x" * 101, "x" * 5000]
)
def test_what_is_no_name(name):
    with pytest.raises(InputError) as caught:
        require_name(name, "evaluate.label")
    assert caught.value.where == "evaluate.label"
    assert len(caught.value.found) < 200


def test_a_name_of_any_text():
    texts = {"a b/c": "a-b-c", "../x": "x", "ipo+dpo": "ipo+dpo", "my model (v2)": "my-model-v2", "...": "", "é": ""}
    assert {text: name_of(text) for text in texts} == texts
    assert len(name_of("x" * 200)) == 100
