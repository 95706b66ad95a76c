"""Any tree of values as a run file, and any override: a `Run` that can be written and read again, or four parts."""

from collections.abc import Callable

import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreonce.schemas.errors import InputError
from scoreonce.stages import config, run_file
from scoreonce.stages.config import Run

SECTIONS = run_file.keys(Run)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.one_of(TEXT, st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.dates(), st.datetimes())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
GOOD = {"out": "o", "data": {"source": "d"}, "reference": {"model": "m"}}


@st.composite
def trees(draw):
    """A run file that would be accepted, with some values in place of others."""
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in GOOD.items()}
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(list(SECTIONS)))
        key = draw(st.one_of(st.sampled_from(SECTIONS[section]), TEXT))
        place = tree if not section else tree.setdefault(section, {})
        if isinstance(place, dict):
            place[key] = draw(VALUES)
    return tree


def run_or_message(load: Callable[[], Run]) -> Run | None:
    """The run; None where it is refused with four parts."""
    try:
        return load()
    except InputError as error:
        parts = (error.what, error.found, error.where, error.fix)
    assert all(parts), parts
    return None


@settings(max_examples=300, deadline=None, database=None)
@given(trees())
def test_any_tree(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("run") / "run.toml"
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    if run := run_or_message(lambda: config.load(path)):
        path.write_text(tomli_w.dumps(run.model_dump(exclude_none=True)), encoding="utf-8")
        assert config.load(path) == run


@settings(max_examples=300, deadline=None, database=None)
@given(st.one_of(TEXT, st.builds("{}.{}={}".format, st.sampled_from(list(SECTIONS)), TEXT, TEXT)))
def test_any_override(text):
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in GOOD.items()}

    def load() -> Run:
        run_file.override(tree, text)
        return config.checked(tree, "here")

    run_or_message(load)
