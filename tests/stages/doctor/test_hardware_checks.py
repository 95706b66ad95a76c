"""Processor, memory, disks and stores, by facts made by hand."""

from dataclasses import replace

import pytest

from scoreonce.stages.doctor.examination import findings
from scoreonce.stages.doctor.facts import Cpu, Memory, StoreHealth, Stores

GIB = 1 << 30
MIB = 1 << 20


def test_a_busy_gpu(sound):
    [found] = findings(sound.gpu_facts(gpus=(replace(sound.gpu, free=30 * GIB),)))
    assert found.what == "GPU 0 (H100): 50.0 GiB of 80.0 GiB are in use."
    assert findings(sound.gpu_facts(gpus=(replace(sound.gpu, free=41 * GIB),))) == []


def test_vector_instructions(sound):
    slow = replace(sound.torch, vector="DEFAULT")
    [asked] = findings(sound.cpu_facts(torch=slow, environment={"ATEN_CPU_CAPABILITY": "default"}))
    assert asked.what == "ATEN_CPU_CAPABILITY=default: torch uses DEFAULT instructions where the CPU has AVX512."
    assert asked.fix == "unset ATEN_CPU_CAPABILITY"
    [old] = findings(sound.cpu_facts(torch=slow, cpu=Cpu("Atom", 8, None, frozenset({"sse2"}))))
    assert "has no AVX2" in old.what
    assert findings(sound.cpu_facts(torch=slow, cpu=Cpu("M3", 8, None, frozenset()))) == []  # not known


@pytest.mark.parametrize(
    ("threads", "cores", "quota", "environment", "fix"),
    [
        (8, 8, None, {}, None),
        (8, 16, None, {}, None),  # torch counts no hyperthreads
        (1, 8, None, {"OMP_NUM_THREADS": "1"}, "unset OMP_NUM_THREADS, unless other processes use the rest."),
        (8, 8, None, {"OMP_NUM_THREADS": "8"}, None),
        (8, 8, 2.0, {}, "export OMP_NUM_THREADS=2"),
        (8, 8, 0.5, {}, "export OMP_NUM_THREADS=1"),
        (2, 8, 2.0, {"OMP_NUM_THREADS": "2"}, None),
    ],
)
def test_threads(sound, threads, cores, quota, environment, fix):
    cpu = Cpu("EPYC", cores, quota, frozenset({"avx512f"}))
    facts = sound.cpu_facts(torch=replace(sound.torch, threads=threads), cpu=cpu, environment=environment)
    assert [found.fix for found in findings(facts)] == [fix] * (fix is not None)


def test_half_precision_on_a_cpu(sound):
    half = replace(sound.wanted, dtypes=("bfloat16", "bfloat16"))
    [found] = findings(sound.cpu_facts(wanted=half))
    assert found.what == "bfloat16 is slow on this CPU, which has neither AVX-512 BF16 nor AMX."
    amx = Cpu("Xeon", 8, None, frozenset({"avx2", "avx512f", "amx_bf16"}))
    assert findings(sound.cpu_facts(wanted=half, cpu=amx)) == []
    assert findings(sound.gpu_facts(wanted=half)) == []
    assert findings(sound.cpu_facts(wanted=replace(half, dtypes=("float16",)), cpu=amx))[0].level == "warning"


def test_huge_pages(sound):
    never = replace(sound.cpu_facts().memory, huge_pages="never")
    [found] = findings(sound.cpu_facts(memory=never))
    assert found.what == "The kernel gives out no huge pages: stages are slower on a CPU without them."
    assert findings(sound.gpu_facts(memory=never)) == []
    for there in ("always", "madvise", None):
        assert findings(sound.cpu_facts(memory=replace(never, huge_pages=there))) == []


def test_memory(sound):
    [little] = findings(sound.cpu_facts(memory=Memory(4 * GIB, 500 * MIB)))
    assert little.what == "500.0 MiB of 4.0 GiB of memory are available."
    big = replace(sound.wanted, weights=70 * GIB)
    [found] = findings(sound.cpu_facts(wanted=big))
    assert found.what == "The weights of models/sft take 70.0 GiB, and 60.0 GiB of memory are available."
    assert "scoreonce estimate" in found.fix


@pytest.mark.parametrize(
    ("free", "level"), [(10 * GIB, None), (2 * GIB, None), (1 * GIB, "warning"), (1 * MIB, "error")]
)
def test_room_on_a_disk(sound, free, level):
    found = findings(sound.cpu_facts(disks=(replace(sound.disk, free=free),)))
    assert [each.level for each in found] == [level] * (level is not None)


def test_a_folder_that_cannot_be_written(sound):
    [found] = findings(sound.cpu_facts(disks=(replace(sound.disk, role="cache", writable=False),)))
    assert found.level == "error"
    assert found.what == "cache (runs/mine) cannot be written: /runs is read-only, or another user's."
    assert "SCOREONCE_CACHE" in found.fix


def test_stores(sound):
    health = StoreHealth("ab" * 16, "sft", 3, 40, 1000, (), 0, 0)

    def of(**changes):
        stores = Stores("runs/mine/store", None, (replace(health, **changes),))
        return [(found.level, found.what) for found in findings(sound.cpu_facts(stores=stores))]

    assert of() == []
    [(level, what)] = of(damaged=("shards/a.parquet", "shards/b.parquet"))
    assert level == "warning"
    assert "shards/a.parquet and 1 more damaged" in what
    assert [level for level, _ in of(leftovers=2, set_aside=1)] == ["note", "note"]
