"""Which attention can be used on which machine."""

from dataclasses import replace

from scoreonce.stages.doctor.attention import paths
from scoreonce.stages.doctor.facts import Compiler


def obstacles(facts):
    return {path.layout: path.obstacle for path in paths(facts)}


def test_on_a_cpu(sound):
    found = obstacles(sound.cpu_facts())
    assert list(found) == ["packed", "shared", "padded", "flex", "flash"]
    assert [layout for layout, obstacle in found.items() if not obstacle] == ["packed", "shared", "padded"]
    assert "backward" in found["flex"]


def test_on_a_gpu(sound):
    half = replace(sound.wanted, dtypes=("bfloat16", "bfloat16"))
    found = obstacles(sound.gpu_facts(wanted=half))
    assert list(found) == ["flex", "flash", "shared", "padded", "packed"]
    assert [layout for layout, obstacle in found.items() if obstacle] == ["packed"]


def test_what_stands_in_the_way_on_a_gpu(sound):
    assert (
        obstacles(sound.gpu_facts(compiler=Compiler(None, True, "3.5")))["flex"] == "torch.compile lacks a C compiler"
    )
    assert "float16 only" in obstacles(sound.gpu_facts(wanted=sound.wanted))["flash"]
    old = replace(sound.gpu, capability=(7, 5))
    assert "7.5" in obstacles(sound.gpu_facts(gpus=(old,)))["flash"]
    half = replace(sound.wanted, dtypes=("bfloat16",), compiles=True)
    assert "compute.compile" in obstacles(sound.gpu_facts(wanted=half))["flash"]


def test_without_torch(sound):
    assert paths(sound.cpu_facts(torch=None)) == []
