"""Facts of a sound machine, made by hand; tests change what they are about."""

from dataclasses import replace

import pytest

from scoreonce.stages.doctor.facts import Compiler, Cpu, Disk, Facts, Gpu, Memory, Package, Torch, Wanted

GIB = 1 << 30


class Sound:
    """Sound facts with a CPU alone, or with a GPU."""

    torch = Torch("2.13.0+cpu", None, None, 0, (), "", 8, "AVX512", True, True)
    gpu_torch = replace(
        torch, version="2.13.0", cuda="12.8", gpus=1, archs=("sm_80", "sm_90", "compute_90"), onednn_faster=False
    )
    gpu = Gpu("H100", 80 * GIB, 79 * GIB, "570.86", (9, 0))
    package = Package("torch", ">=2.12", "2.13.0", True)
    peft = Package("peft", ">=0.18", None, False, "peft")
    wanted = Wanted("auto", ("float32", "float32"), False, "models/sft", None, {})
    disk = Disk("out", "runs/mine", "/runs", 500 * GIB, True)

    def cpu_facts(self, **changes):
        facts = Facts(
            python="3.12.1",
            platform="Linux",
            packages=(self.package, self.peft),
            torch=self.torch,
            torch_error="",
            gpus=(),
            cpu=Cpu("EPYC", 8, None, frozenset({"avx2", "avx512f"})),
            compiler=Compiler("/usr/bin/gcc", True, None),
            memory=Memory(64 * GIB, 60 * GIB),
            disks=(self.disk,),
        )
        return replace(facts, **changes)

    def gpu_facts(self, **changes):
        whole = Compiler("/usr/bin/gcc", True, "3.5.0")
        return replace(self.cpu_facts(torch=self.gpu_torch, gpus=(self.gpu,), compiler=whole), **changes)


@pytest.fixture
def sound():
    return Sound()
