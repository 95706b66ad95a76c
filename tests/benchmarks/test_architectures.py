"""Every causal architecture of the installed transformers is exact, or refused by name."""

from importlib.metadata import version
from pathlib import Path

import architectures
import pytest
import tiny_configs
from packaging.version import Version

RESULTS = architectures.RESULTS.read_text(encoding="utf-8")
MEASURED_WITH = RESULTS.partition("transformers ")[2].partition(",")[0]
# One of each kind: experts, latent attention, sinks, capped and scaled logits, a block that attends twice, layers that
# are no attention, a head that is not understood, a model that is not causal.
OFTEN = (
    "mixtral",
    "deepseek_v3",
    "gpt_oss",
    "gemma3n_text",
    "recurrent_gemma",
    "minicpm3",
    "longcat_flash",
    "qwen3_next",
    "lfm2",
    "electra",
    "xlnet",
    "qwen2_5_vl",
    "gemma3",
    "mllama",
    "paligemma",
)
needs_measured_version = pytest.mark.skipif(
    Version(version("transformers")) < Version(MEASURED_WITH), reason="older transformers have other architectures"
)


def on_page(model_type):
    """The line of the results for a model type, as cells."""
    line = next(line for line in RESULTS.splitlines() if line.startswith(f"| `{model_type}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@needs_measured_version
@pytest.mark.parametrize(
    "model_type",
    [pytest.param(each, marks=() if each in OFTEN else pytest.mark.long) for each in tiny_configs.model_types()],
)
def test_exact_or_refused(model_type):
    found = architectures.measured(model_type)
    assert found.exact, found
    if Version(version("transformers")) == Version(MEASURED_WITH):
        cells = on_page(model_type)
        assert cells[1] == (found.refused or found.layout)


@needs_measured_version
def test_enough_and_each_once():
    lines = [
        line.partition("|")[2].partition("|")[0].strip() for line in RESULTS.splitlines() if line.startswith("| `")
    ]
    models = [line for line in lines if "," not in line]
    assert len(models) > 120
    assert len(set(models)) == len(models)
    assert set(OFTEN) <= set(tiny_configs.model_types())


def test_what_is_not_exact():
    """1e-5 nats, or four times what rounding does to transformers itself; a missing gradient; not a number."""
    good = architectures.Measured("tiny", "TinyForCausalLM", layout="packed")
    assert good.exact
    for wrong in (
        {"difference": 2e-5, "rounding": 4e-6},
        {"in_double": 2e-5},
        {"gradient": float("nan")},
        {"untrained": ("lm_head.weight",)},
    ):
        assert not architectures.Measured("tiny", "TinyForCausalLM", layout="packed", **wrong).exact, wrong
    assert architectures.Measured("tiny", "TinyForCausalLM", difference=2e-5, rounding=6e-6, in_double=None).exact
    # What is float32 in a model's code is computed in other chunks where completions go on from a cache.
    assert architectures.Measured("tiny", "TinyForCausalLM", layout="continued", rounding=6e-6, in_double=2e-5).exact


def test_docs_show_the_results_on_disk():
    page = (Path(__file__).resolve().parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert RESULTS.partition("`. ")[2] in page
