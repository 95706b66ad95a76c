"""Checks of what is installed: packages, torch's build, what torch.compile needs."""

from __future__ import annotations

from collections.abc import Iterator

from scoreonce.stages.doctor.facts import Facts, Package
from scoreonce.stages.doctor.finding import Check, Finding, Level

# How to get torch for GPUs; which index has it is PyTorch's to say.
CUDA_BUILD = (
    'pip install --force-reinstall torch, from the index that PyTorch\'s "Get started" page names for CUDA. On Linux '
    "pip's default index has that build: see whether PIP_INDEX_URL or PIP_EXTRA_INDEX_URL names another."
)


def required_packages(facts: Facts) -> Iterator[Finding]:
    """What scoreonce cannot do without, in versions that it was not written for or not at all."""
    for package in facts.packages:
        if not package.extra and not package.fits:
            yield Finding("error", f"{_misfit(package)}.", f"pip install '{package.name}{package.wanted}'")


def optional_packages(facts: Facts) -> Iterator[Finding]:
    """Packages of extras: an error where the run file needs one, a warning for a version that is not supported."""
    asked = facts.wanted.packages if facts.wanted else {}
    known = {package.name: package for package in facts.packages if package.extra}
    for name, package in known.items():
        if package.fits:
            continue
        if name in asked:
            what = f"{_misfit(package)}, and the run file needs it: {asked[name]}."
            yield Finding("error", what, f"pip install 'scoreonce[{package.extra}]'")
        elif package.version is not None:
            yield Finding("warning", f"{_misfit(package)}.", f"pip install '{package.name}{package.wanted}'")


def torch_loads(facts: Facts) -> Iterator[Finding]:
    """That torch can be imported."""
    if facts.torch is None and any(package.name == "torch" and package.version for package in facts.packages):
        yield Finding(
            "error",
            f"torch is installed and cannot be imported: {facts.torch_error}",
            "Install it again: pip install --force-reinstall torch.",
        )


def torch_sees_the_gpu(facts: Facts) -> Iterator[Finding]:
    """A GPU that the driver has and torch cannot use, with the reason."""
    torch = facts.torch
    if torch is None or torch.gpus or not facts.gpus:
        return
    asked = facts.wanted.device if facts.wanted else "auto"
    if asked == "cpu":
        return
    level: Level = "error" if asked == "cuda" else "warning"
    slow = "" if asked == "cuda" else " Everything runs on the CPU, many times slower."
    if torch.cuda is None and torch.hip is None:
        yield Finding(level, f"CUDA is there but torch is a CPU build ({torch.version}).{slow}", CUDA_BUILD)
    elif "CUDA_VISIBLE_DEVICES" in facts.environment:
        hidden = f"CUDA_VISIBLE_DEVICES={facts.environment['CUDA_VISIBLE_DEVICES']!r}"
        yield Finding(level, f"{hidden} hides every GPU from torch.{slow}", "unset CUDA_VISIBLE_DEVICES")
    else:
        said = f" It says: {torch.said}" if torch.said else ""
        driver = facts.gpus[0].driver
        yield Finding(
            level,
            f"torch, built for CUDA {torch.cuda}, cannot use the GPU with driver {driver}.{slow}{said}",
            f"Install a driver for CUDA {torch.cuda} or newer, or a torch for an older CUDA: see PyTorch's \"Get "
            'started" page.',
        )


def a_gpu_where_one_is_asked_for(facts: Facts) -> Iterator[Finding]:
    """compute.device = "cuda" on a machine without a GPU."""
    if facts.wanted and facts.wanted.device == "cuda" and not facts.gpus and not (facts.torch and facts.torch.gpus):
        yield Finding(
            "error",
            'The run file has compute.device = "cuda", and no GPU was found.',
            'Set compute.device = "auto", or see whether `nvidia-smi` lists the GPU.',
        )


def torch_was_built_for_the_gpu(facts: Facts) -> Iterator[Finding]:
    """A GPU that is too old or too new for torch's build: it is listed, and nothing runs on it."""
    if not facts.uses_gpu or facts.torch is None or facts.torch.hip or not facts.torch.archs:
        return
    for gpu in facts.gpus:
        if gpu.capability is not None and not runs_on(gpu.capability, facts.torch.archs):
            yield Finding(
                "error",
                f"torch was not built for {gpu.name} (compute capability {'.'.join(map(str, gpu.capability))}), only "
                f"for {', '.join(facts.torch.archs)}.",
                "Install a build of torch that has it: an older one for an old GPU, the newest for a new one.",
            )


def runs_on(capability: tuple[int, int], archs: tuple[str, ...]) -> bool:
    """Whether code for `archs` runs on a GPU: binaries (sm) of the same generation, or PTX (compute) of any before."""
    for arch in archs:
        kind, _, digits = arch.partition("_")
        number = digits.rstrip("abcdefghijklmnopqrstuvwxyz")  # sm_90a
        if not number.isdecimal():
            continue
        built = divmod(int(number), 10)
        same_generation = built[0] == capability[0] and built <= capability
        if same_generation if kind == "sm" else built <= capability:
            return True
    return False


def torch_compile(facts: Facts) -> Iterator[Finding]:
    """What flex attention and compute.compile lack on a GPU."""
    missing = lacking(facts)
    if facts.uses_gpu and missing:
        asked = facts.wanted is not None and facts.wanted.compiles
        yield Finding(
            "error" if asked else "warning",
            f"torch.compile lacks {' and '.join(missing)}: "
            + ("compute.compile needs it." if asked else "rows are not packed by flex attention, which is slower."),
            "Debian and Ubuntu: apt-get install build-essential python3-dev. Triton comes with torch for CUDA: pip "
            "install triton.",
        )


def lacking(facts: Facts) -> list[str]:
    """The parts of torch.compile's toolchain that are not there."""
    found = facts.compiler
    parts = {
        "a C compiler": found.command is not None,
        "Python.h": found.headers,
        "Triton": found.triton is not None,
    }
    return [name for name, there in parts.items() if not there]


def _misfit(package: Package) -> str:
    if package.version is None:
        return f"{package.name} is not installed"
    return f"{package.name} {package.version} is not {package.name}{package.wanted}"


CHECKS: tuple[Check, ...] = (
    required_packages,
    optional_packages,
    torch_loads,
    torch_sees_the_gpu,
    a_gpu_where_one_is_asked_for,
    torch_was_built_for_the_gpu,
    torch_compile,
)
