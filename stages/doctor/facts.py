"""What was found out about the machine, the installed packages and the run: plain values that the checks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Package:
    """A package that scoreonce needs, or one of an optional extra."""

    name: str
    wanted: str  # versions, e.g. ">=2.12"
    version: str | None  # None where it is not installed
    fits: bool  # whether the version is among those wanted
    extra: str = ""  # of scoreonce, which installs it; empty for what is always needed


@dataclass(frozen=True)
class Torch:
    """What torch says of itself and of this machine."""

    version: str
    cuda: str | None  # version that it was built for, e.g. "12.8"; None for a CPU build
    hip: str | None  # the same of ROCm
    gpus: int  # that it can use
    archs: tuple[str, ...]  # of GPUs that it was built for, e.g. "sm_90", "compute_90"
    said: str  # why it can use no GPU, in its own words
    threads: int
    vector: str  # the instructions that it uses: "AVX512", "AVX2", "DEFAULT", ...
    onednn_faster: bool  # float32 products by oneDNN, not MKL
    bf16: bool  # whether oneDNN has products in bfloat16


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver sees it, whatever torch can do with it; memory in bytes."""

    name: str
    memory: int
    free: int
    driver: str
    capability: tuple[int, int] | None  # compute capability, e.g. (9, 0)


@dataclass(frozen=True)
class Cpu:
    """The processor."""

    model: str
    cores: int  # that this process may use
    quota: float | None  # cores that a container may use at a time
    flags: frozenset[str]  # of FLAGS, those that it has


@dataclass(frozen=True)
class Compiler:
    """What torch.compile needs on a GPU."""

    command: str | None  # of a C compiler
    headers: bool  # whether Python.h is there
    triton: str | None  # version


@dataclass(frozen=True)
class Memory:
    """Of the host, in bytes; in a container no more than it may have."""

    total: int
    available: int
    huge_pages: str | None = None  # who gets them: "always", "madvise" (who asks) or "never"; None where Linux is not


@dataclass(frozen=True)
class Disk:
    """Where something is kept; `free` in bytes."""

    role: str  # "out", "store", "cache"
    path: str
    there: str  # the nearest folder that exists
    free: int
    writable: bool


@dataclass(frozen=True)
class StoreHealth:
    """A reference store, by its sidecars and the sizes of its files; contents are not read. Sizes in bytes."""

    key: str
    model: str
    files: int
    completions: int
    bytes: int
    damaged: tuple[str, ...]  # files with another size than was written, or a sidecar that cannot be read
    leftovers: int  # files that were never finished, or are being written
    set_aside: int  # damaged files that `score` has moved away


@dataclass(frozen=True)
class Stores:
    """The reference stores of a run; of those at an `address`, the local copy."""

    path: str
    address: str | None
    stores: tuple[StoreHealth, ...]


@dataclass(frozen=True)
class Wanted:
    """What a run file asks for."""

    device: str  # "auto", "cpu" or "cuda"
    dtypes: tuple[str, ...]  # of the reference and the policy
    compiles: bool
    model: str
    weights: int | None  # bytes of the reference's weight files; None where its folder is not on this disk
    packages: Mapping[str, str]  # of optional packages by name, the setting that needs each


@dataclass(frozen=True)
class Facts:
    """Everything that the checks read. `torch` is None where it cannot be imported, for the reason in `torch_error`."""

    python: str
    platform: str
    packages: tuple[Package, ...]
    torch: Torch | None
    torch_error: str
    gpus: tuple[Gpu, ...]
    cpu: Cpu
    compiler: Compiler
    memory: Memory
    disks: tuple[Disk, ...]
    stores: Stores | None = None  # without a run file nothing is known of one
    wanted: Wanted | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # of VARIABLES, those that are set

    @property
    def uses_gpu(self) -> bool:
        """Whether stages run on a GPU here."""
        asked = self.wanted.device if self.wanted else "auto"
        return asked != "cpu" and self.torch is not None and self.torch.gpus > 0


# What of the environment changes what is found.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "SCOREONCE_CACHE",
)
# Instructions that decide how fast a CPU is here, as Linux names them.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
