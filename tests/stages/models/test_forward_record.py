"""What scores were computed with, put together from the files of a store and compared with what is used here."""

from scoreonce.pipeline.forward.layout_probe import Probe
from scoreonce.stages.models.forward_record import differing, facts, other_layout, single_layout

CPU = {"layout": "packed", "attention": "sdpa", "device": "cpu", "compiled": "no", "versions": {"torch": "2.13.0"}}
GPU = {**CPU, "layout": "flex", "device": "NVIDIA H100", "versions": {"torch": "2.12.0", "scoreonce": "0.2"}}


def test_facts_of_several_files_are_joined():
    """Merged files have joined texts, and a list of versions; 0.1 did not say whether blocks were compiled."""
    merged = {"layout": "flex and packed", "versions": [{"torch": "2.13.0"}, {"torch": "2.12.0"}], "n": [1, 2]}
    old = {"layout": "packed", "probe_deviation": 1e-7}
    assert facts([CPU, GPU]) == {
        "layout": "flex and packed",
        "attention": "sdpa",
        "device": "NVIDIA H100 and cpu",
        "compiled": "no",
        "torch": "2.12.0 and 2.13.0",
    }
    assert facts([merged, old]) == {"layout": "flex and packed", "torch": "2.12.0 and 2.13.0"}
    assert facts([]) == {}


def test_only_known_facts_that_differ_are_named():
    assert differing(facts([GPU]), facts([CPU])) == (
        "layout flex when scored, packed here; device NVIDIA H100 when scored, cpu here; "
        "torch 2.12.0 when scored, 2.13.0 here"
    )
    assert differing(facts([CPU]), facts([CPU])) == differing({}, facts([CPU])) == ""


def test_another_layout_is_a_sentence_with_its_reason():
    assert other_layout("packed", Probe("packed", 0.0), asked=False) is None
    refused = Probe("packed", 0.0, "flash: not for LlamaForCausalLM on cpu")
    assert other_layout("flash", refused, asked=False) == (
        "the reference was scored in flash rows, and packed rows are used here (flash: not for LlamaForCausalLM on "
        "cpu): log-probs of the same weights differ by rounding"
    )
    assert "(compute.attention)" in other_layout("packed", Probe("padded", 0.0, "asked for"), asked=True)
    assert "flash and flex rows, and flex rows are used here (one" in other_layout(
        "flash and flex", Probe("flex", 0.0), asked=False
    )
    assert [single_layout(text) for text in ("flex", "flash and flex", "")] == ["flex", None, None]
