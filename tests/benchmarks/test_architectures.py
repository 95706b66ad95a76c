"""Every causal architecture of the installed transformers is exact, or refused by name."""

from importlib.metadata import version
from pathlib import Path

import architectures
import pytest
import tiny_configs
import torch
from architectures import LARGEST_DIFFERENCE
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
GO_ON_OR_NOT = {"continued", "padded"}
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
        ours, on_the_page = found.refused or found.layout, on_page(model_type)[1]
        # Whether a cache goes on within the probe's limit depends on the processor where a model rounds by as much.
        assert ours == on_the_page or (found.rounding > LARGEST_DIFFERENCE and {ours, on_the_page} == GO_ON_OR_NOT)


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
    """1e-5 nats in float32, or four times what rounding does to transformers itself; 1e-6 in float64; no gradient."""
    for figures in ({}, {"difference": 2e-5, "rounding": 6e-6}, {"in_double": 9e-7}, {"gradient": 9e-7}):
        assert architectures.Measured("tiny", "TinyForCausalLM", layout="packed", **figures).exact, figures
    for figures in (
        {"difference": 2e-5, "rounding": 4e-6},
        {"in_double": 2e-6, "rounding": 1e-3},
        {"gradient": float("nan")},
        {"untrained": ("lm_head.weight",)},
    ):
        assert not architectures.Measured("tiny", "TinyForCausalLM", layout="packed", **figures).exact, figures


def test_in_double_nothing_is_computed_in_float32():
    x = torch.tensor([0.1], dtype=torch.float64)
    with architectures.in_double():
        results = [
            x.float(),
            x.to(torch.float32),
            x.softmax(-1, dtype=torch.float32),
            torch.ones(1),
            torch.zeros_like(x),
        ]
    assert {each.dtype for each in results} == {torch.float64}
    assert torch.ones(1).dtype == x.float().dtype == torch.float32


def test_docs_show_the_results_on_disk():
    page = (Path(__file__).resolve().parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert RESULTS.partition("`. ")[2] in page
