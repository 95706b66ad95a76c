"""Packages, torch's build and torch.compile, by facts made by hand."""

from dataclasses import replace

import pytest

from scoreonce.stages.doctor.examination import findings
from scoreonce.stages.doctor.facts import Compiler, Package
from scoreonce.stages.doctor.software_checks import runs_on


def test_nothing_is_wrong_with_a_sound_machine(sound):
    assert findings(sound.cpu_facts()) == []
    assert findings(sound.gpu_facts()) == []
    assert findings(sound.cpu_facts(wanted=sound.wanted)) == []


@pytest.mark.parametrize(
    ("version", "what"), [(None, "torch is not installed."), ("2.10", "torch 2.10 is not torch>=2.12.")]
)
def test_a_required_package_that_is_missing_or_old_stops_everything(sound, version, what):
    old = replace(sound.package, version=version, fits=False)
    [found] = findings(sound.cpu_facts(packages=(old,)))
    assert (found.level, found.what, found.fix) == ("error", what, "pip install 'torch>=2.12'")


def test_an_optional_package_counts_where_the_run_file_needs_it(sound):
    needs = replace(sound.wanted, packages={"peft": "train.lora_rank"})
    [found] = findings(sound.cpu_facts(wanted=needs))
    assert found.level == "error"
    assert found.what == "peft is not installed, and the run file needs it: train.lora_rank."
    assert found.fix == "pip install 'scoreonce[peft]'"
    old = Package("peft", ">=0.18", "0.15", False, "peft")
    assert [each.level for each in findings(sound.cpu_facts(packages=(sound.package, old)))] == ["warning"]
    new = replace(old, version="0.20", fits=True)
    assert findings(sound.cpu_facts(packages=(sound.package, new), wanted=needs)) == []


def test_torch_that_cannot_be_imported(sound):
    [found] = findings(sound.cpu_facts(torch=None, torch_error="libcudart.so.12: cannot open"))
    assert found.level == "error"
    assert "libcudart.so.12" in found.what


@pytest.mark.parametrize(("device", "level"), [("auto", "warning"), ("cuda", "error"), ("cpu", None)])
def test_a_gpu_beside_a_cpu_build_of_torch(sound, device, level):
    wanted = replace(sound.wanted, device=device)
    found = findings(sound.cpu_facts(gpus=(sound.gpu,), wanted=wanted))
    assert [each.level for each in found] == [level] * (level is not None)
    for each in found:
        assert each.what.startswith("CUDA is there but torch is a CPU build (2.13.0+cpu).")
        assert each.fix.startswith("pip install --force-reinstall torch")


def test_a_gpu_that_the_driver_is_too_old_for(sound):
    blind = replace(sound.gpu_torch, gpus=0, archs=(), said="The NVIDIA driver on your system is too old")
    [found] = findings(sound.gpu_facts(torch=blind))
    assert "driver 570.86" in found.what
    assert "too old" in found.what
    assert "CUDA 12.8" in found.fix
    [hidden] = findings(sound.gpu_facts(torch=blind, environment={"CUDA_VISIBLE_DEVICES": ""}))
    assert hidden.fix == "unset CUDA_VISIBLE_DEVICES"


def test_a_gpu_that_is_asked_for_and_not_there(sound):
    [found] = findings(sound.cpu_facts(wanted=replace(sound.wanted, device="cuda")))
    assert found.level == "error"
    assert "no GPU was found" in found.what


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((9, 0), ("sm_80", "sm_90"), True),
        ((8, 6), ("sm_80", "sm_90"), True),  # the same generation, newer
        ((7, 5), ("sm_80", "sm_90"), False),
        ((10, 0), ("sm_80", "sm_90"), False),
        ((10, 0), ("sm_80", "compute_90"), True),  # PTX is compiled for what came after it
        ((12, 0), ("sm_90a", "sm_120"), True),
        ((8, 0), ("compute_90",), False),
        ((8, 0), ("sm_86",), False),
    ],
)
def test_which_gpus_a_build_runs_on(capability, archs, runs):
    assert runs_on(capability, archs) == runs


def test_a_gpu_that_torch_was_not_built_for(sound):
    old = replace(sound.gpu, name="T4", capability=(7, 5))
    [found] = findings(sound.gpu_facts(gpus=(old,)))
    assert found.level == "error"
    assert "T4 (compute capability 7.5)" in found.what


@pytest.mark.parametrize(("compiles", "level"), [(False, "warning"), (True, "error")])
def test_torch_compile_lacks_its_tools_on_a_gpu(sound, compiles, level):
    bare = Compiler(None, False, None)
    [found] = findings(sound.gpu_facts(compiler=bare, wanted=replace(sound.wanted, compiles=compiles)))
    assert found.level == level
    assert "lacks a C compiler and Python.h and Triton" in found.what
    assert "apt-get install build-essential" in found.fix
    assert findings(sound.cpu_facts(compiler=bare)) == []  # nothing is compiled there


def test_errors_come_first(sound):
    cut = replace(sound.disk, writable=False)
    full = replace(sound.disk, role="cache", free=1 << 30)
    assert [each.level for each in findings(sound.cpu_facts(disks=(full, cut)))] == ["error", "warning"]
