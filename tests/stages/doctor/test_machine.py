"""What the machine's own words mean."""

import pytest

from scoreonce.stages.doctor import machine
from scoreonce.stages.doctor.facts import Gpu, Package
from scoreonce.stages.doctor.packages import found

MIB = 1 << 20


def test_the_table_of_nvidia_smi():
    lines = [
        "NVIDIA H100 80GB HBM3, 81559, 81008, 570.86.15, 9.0",
        "Tesla K80, 11441, 11441, 470.1, [N/A]",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "",
    ]
    assert list(machine.listed_gpus(lines)) == [
        Gpu("NVIDIA H100 80GB HBM3", 81559 * MIB, 81008 * MIB, "570.86.15", (9, 0)),
        Gpu("Tesla K80", 11441 * MIB, 11441 * MIB, "470.1", None),
    ]


def test_the_processor():
    text = (
        "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu sse2 avx2 avx512f avx512_bf16 sha_ni\n\n"
        "processor\t: 1\nmodel name\t: other\nflags\t\t: amx_bf16\n"
    )
    assert machine.processor(text) == ("AMD EPYC 9B14", {"avx2", "avx512f", "avx512_bf16"})
    assert machine.processor("") == ("", frozenset())


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000\n", 2.0), ("50000 100000", 0.5), ("max 100000\n", None), ("", None)]
)
def test_the_quota_of_a_container(text, cores):
    assert machine.cpu_quota(text) == cores


def test_who_gets_huge_pages():
    assert machine.huge_pages("always [madvise] never\n") == "madvise"
    assert machine.huge_pages("always madvise [never]") == "never"
    assert machine.huge_pages("") is None  # not Linux


def test_a_disk_is_that_of_the_nearest_folder(tmp_path):
    found = machine.disk("out", tmp_path / "not" / "yet")
    assert (found.role, found.path, found.there) == ("out", str(tmp_path / "not" / "yet"), str(tmp_path))
    assert found.free > 0
    assert found.writable


def test_requirements_of_the_metadata():
    lines = [
        "torch>=2.12",
        "dataframely<4,>=3",
        'peft>=0.18; extra == "peft"',
        'pytest>=9; extra == "test"',
        'scoreonce[gcs,s3]; extra == "remote"',
        'pywin32>=1; sys_platform == "win32"',
        'ray[data]>=2.60; extra == "ray"',
    ]
    there = {"torch": "2.13.0+cpu", "dataframely": "4.0.1", "peft": "0.18.0"}
    assert list(found(lines, there.get)) == [
        Package("torch", ">=2.12", "2.13.0+cpu", True),
        Package("dataframely", "<4,>=3", "4.0.1", False),
        Package("peft", ">=0.18", "0.18.0", True, "peft"),
        Package("ray", ">=2.60", None, False, "ray"),
    ]
