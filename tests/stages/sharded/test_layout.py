"""What the first process finds, the others use without trying anything."""

import pytest
from tiny_models import tiny_model

from scoreonce.pipeline.attention import flex
from scoreonce.pipeline.attention.last_layer import computes_all_output
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.layout_probe import Probe, ProbeOutcome
from scoreonce.stages.sharded import layout


def test_without_others_it_is_the_probe():
    found = layout.agreed_layout(tiny_model("llama"), "auto", 60, 64)
    assert (found.layout, found.reason) == ("packed", "")


@pytest.mark.parametrize("all_output", [False, True])
def test_another_process_takes_what_the_first_found(monkeypatch, all_output):
    """Flex attention, which nothing on a CPU would choose."""
    model = tiny_model("llama")
    outcome = ProbeOutcome(Probe("flex", 1e-7), architecture.form_of(model), all_output)
    monkeypatch.setattr(layout, "on_first", lambda work: outcome)
    monkeypatch.setattr(layout, "choose_layout", None)
    assert layout.agreed_layout(model, "auto", 60, 64).layout == "flex"
    assert model.config._attn_implementation == flex.NAME
    assert computes_all_output(model) == all_output
