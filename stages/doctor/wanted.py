"""What a run file asks of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scoreonce.schemas.addresses import EXTRAS, PACKAGES, is_address, scheme_of
from scoreonce.stages.config import Run
from scoreonce.stages.doctor.facts import Wanted

WEIGHTS = ("*.safetensors", "*.bin")
# The packages of trackers in the extra `trackers`. Of others `train` says what they need.
TRACKERS = {"mlflow": "mlflow-skinny", "tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


def wanted(run: Run) -> Wanted:
    """The settings of a run that need something of the machine."""
    reference, compute = run.reference, run.compute
    return Wanted(
        device=compute.device,
        dtypes=(
            reference.dtype,
            run.train.dtype or reference.dtype,
            *(each.dtype for each in reference.other.values()),
        ),
        compiles=compute.compile,
        model=reference.model,
        weights=_weights(Path(reference.model).expanduser()),
        packages=dict(_packages(run)),
    )


def _weights(folder: Path) -> int | None:
    """Bytes of the weight files in a local folder, of the first kind that there is."""
    if folder.is_dir():
        for pattern in WEIGHTS:
            if sizes := [path.stat().st_size for path in folder.glob(pattern)]:
                return sum(sizes)
    return None


def _packages(run: Run) -> Iterator[tuple[str, str]]:
    """Optional packages, each with the first setting that needs it."""
    train, reference = run.train, run.reference
    scored = {"reference": reference, **{f"reference.other.{name}": each for name, each in reference.other.items()}}
    adapters = [section for section, model in scored.items() if model.adapter]
    if train.lora_rank or train.lora_continue:
        yield "peft", "train.lora_rank" if train.lora_rank else "train.lora_continue"
    elif adapters:
        yield "peft", f"{adapters[0]}.adapter"
    if quantized := [section for section, model in scored.items() if model.quantization]:
        yield "bitsandbytes", f"{quantized[0]}.quantization = {scored[quantized[0]].quantization!r}"
    if package := _of_optimizer(train.optimizer):
        yield package, f"train.optimizer = {train.optimizer!r}"
    engines = {"data.engine": run.data.engine, "audit.engine": run.audit.engine, "score.engine": run.score.engine}
    if asked := [key for key, engine in engines.items() if engine == "ray"]:
        yield "ray", f'{asked[0]} = "ray"'
    addresses = {
        "out": run.out,
        "data.source": run.data.source,
        "data.test_source": run.data.test_source,
        "score.store": run.score.store,
    }
    for key, name in addresses.items():
        if name is not None and is_address(name) and scheme_of(name) in EXTRAS:
            yield PACKAGES[scheme_of(name)], f"{key} = {name!r}"
    for tracker in train.log_with:
        if tracker in TRACKERS:
            yield TRACKERS[tracker], f"train.log_with = {tracker!r}"


def _of_optimizer(name: str) -> str | None:
    """The package of an optimizer by its name in transformers, None for torch's own."""
    if name.startswith("adamw_torch_") and name.endswith("bit"):
        return "torchao"
    return "bitsandbytes" if "bnb" in name or name.startswith("paged_") or name.endswith("bit") else None
