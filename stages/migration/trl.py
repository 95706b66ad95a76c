"""A TRL DPO configuration as a run file: YAML as `trl dpo --config` reads it, or JSON.

What TRL does by default and a run file does not is written out: 3 epochs, no warm-up, seed 42, 8 pairs a device,
gradient checkpointing, bfloat16.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scoreonce.stages.migration import settings, trl_losses
from scoreonce.stages.migration.mapped import Given, Translation, translation
from scoreonce.stages.migration.settings import Reasons, copied, told
from scoreonce.stages.migration.trl_keys import KEYS, SMOOTHED
from scoreonce.stages.run_text import Line

TOOL = "TRL"
NO_BOUND = 1 << 20  # tokens, for max_length: null
# Keys that are copied where the file has them, read as their defaults are.
COPIED: dict[str, tuple[str, Any]] = {
    "optim": ("train.optimizer", ""),
    **settings.COPIED,
}
COPIED_DATA: dict[str, tuple[str, Any]] = {
    "max_prompt_length": ("data.max_prompt_length", 1),
    "dataset_num_proc": ("data.processes", 1),
}


def translate(given: Given, *, model: str | None, data: str | None, out: str, processes: int) -> Translation:
    """The run file's lines and what became of the other keys. `model` and `data` take the place of the file's.

    Raises `InputError` for what would train something else than a run file can say, and for values of a wrong kind.
    """
    if given.flag("sync_ref_model", False):
        raise given.refused(
            "sync_ref_model",
            "The reference moves during training (TR-DPO), so that log-probs scored once would be wrong.",
            "Train with a fixed reference (sync_ref_model: false), or stay with TRL for this method.",
        )
    if given.flag("reference_free", False):
        raise given.refused(
            "reference_free",
            "DPO without a reference is not a method here.",
            "Use a method that is made for it: scoreonce init --method simpo, orpo, cpo or repo.",
        )
    given, inner = _opened(given)
    training, reasons = _training(given, processes)
    data_lines = _data(given, data)
    watched, more = settings.while_training(given, data_lines)
    lines = [
        settings.out_folder(given, "output_dir", out),
        *data_lines,
        *_model(given, inner, model),
        *_compute(given),
        *trl_losses.objective(given),
        *training,
        *_lora(given),
        *watched,
    ]
    return translation(given, KEYS, lines, reasons | more | _reasons(given, data))


def _opened(given: Given) -> tuple[Given, dict[str, Any]]:
    """The keys with those of model_init_kwargs beside them, `model_init_kwargs.name`, and these alone."""
    kwargs = given.values.get("model_init_kwargs")
    if not isinstance(kwargs, dict):
        return given, {}
    inner = {"dtype" if name == "torch_dtype" else name: value for name, value in kwargs.items()}
    rest = {name: value for name, value in given.values.items() if name != "model_init_kwargs"}
    return replace(
        given, values={**rest, **{f"model_init_kwargs.{name}": value for name, value in inner.items()}}
    ), inner


def _data(given: Given, data: str | None) -> list[Line]:
    source, names = _source(given, data)
    evaluated = given.text("eval_strategy", given.text("evaluation_strategy", "no")) != "no"
    held_out = ("dataset_test_split", "test") if evaluated and data is None and not given.has("datasets") else None
    if given.has("test_split_size"):
        test = copied(given, "test_split_size", "data.test_share", given.number("test_split_size", 0.0))
    elif held_out:
        test = copied(given, held_out[0], "data.test_split", given.text(*held_out))
    else:
        test = Line("data.test_share", 0.0, "TRL trains on every row; a share above 0 keeps prompts for `evaluate`")
    if given.has("max_length") or "max_length" not in given.values:
        length = copied(given, "max_length", "data.max_length", given.whole("max_length", 1024))
    else:
        length = Line("data.max_length", NO_BOUND, "max_length is null: nothing is cut", ("max_length",))
    streaming = [name for name in ("dataset_streaming", "streaming") if given.flag(name, False)]
    return [
        source,
        *names,
        test,
        length,
        *(copied(given, name, "data.streaming", True) for name in streaming[:1]),
        *settings.copies(given, COPIED_DATA),
    ]


def _source(given: Given, data: str | None) -> tuple[Line, list[Line]]:
    """The lines of the source, and of its subset and split. Raises `InputError` for a mixture of datasets."""
    if data is not None or not given.has("datasets"):
        source = settings.where_from(given, "--data", data, "dataset_name", "data.source", "dataset")
        names = {"dataset_config": ("data.subset", ""), "dataset_train_split": ("data.split", "")}
        return source, settings.copies(given, names) if data is None else []
    datasets = given.values["datasets"]
    if not isinstance(datasets, list) or len(datasets) != 1 or not isinstance(datasets[0], dict):
        raise given.refused(
            "datasets",
            "A run file has one dataset, and this is a mixture.",
            "Write the mixture to one file, and give it with --data.",
        )
    entry = datasets[0]
    why = settings.entry("datasets", entry, ("path", "name", "data_files", "split"))
    files = entry.get("data_files")
    if files is not None and not isinstance(files, str):
        raise given.refused("datasets", "A run file has one file or folder of data.", "Give it with --data.")
    found = [("data.subset", None if files else entry.get("name")), ("data.split", entry.get("split"))]
    rest = [Line(key, str(value), why, ("datasets",)) for key, value in found if value is not None]
    return Line("data.source", str(files or entry.get("path")), why, ("datasets",)), [] if files else rest


def _model(given: Given, inner: dict[str, Any], model: str | None) -> list[Line]:
    lines = [settings.where_from(given, "--model", model, "model_name_or_path", "reference.model", "model")]
    revisions = [name for name in ("model_init_kwargs.revision", "model_revision") if given.has(name)]
    if model is None and revisions and given.text(revisions[0], "main") != "main":
        lines.append(copied(given, revisions[0], "reference.revision", given.text(revisions[0], "")))
    return [*lines, _dtype(given, inner), *_quantization(given)]


def _dtype(given: Given, inner: dict[str, Any]) -> Line:
    """bf16, on unless fp16 is, is mixed precision: a policy in bfloat16 keeps its weights in float32 here too."""
    names = tuple(name for name in ("bf16", "fp16") if name in given.values)
    key = "reference.dtype"
    if given.flag("fp16", False):
        return Line(key, "float32", "from fp16: float16 needs its loss scaled, which is not done here", names)
    if given.flag("bf16", True):
        return Line(key, "bfloat16", f"{told(given, 'bf16')}: mixed precision, weights are kept in float32", names)
    stated = [name for name in ("model_init_kwargs.dtype", "dtype", "torch_dtype") if given.has(name)]
    value = given.text(stated[0], "float32") if stated else "float32"
    value = value.removeprefix("torch.")
    if value not in ("float32", "bfloat16"):
        return Line(
            key,
            "float32",
            f"from {stated[0]}, {value}: set bfloat16 where the weights are stored so",
            (*names, *stated[:1]),
        )
    why = told(given, stated[0]) if stated else "bf16 is off"
    return Line(key, value, why, (*names, *stated[:1]))


def _quantization(given: Given) -> list[Line]:
    if not given.flag("load_in_4bit", False):
        return []
    if given.text("bnb_4bit_quant_type", "nf4") != "nf4":
        raise given.refused(
            "bnb_4bit_quant_type",
            "Weights in 4 bits are NF4 here.",
            "Set bnb_4bit_quant_type: nf4, or load_in_4bit: false.",
        )
    names = tuple(name for name in ("load_in_4bit", "bnb_4bit_quant_type") if name in given.values)
    return [Line("reference.quantization", "nf4", "from load_in_4bit, for reference and policy", names)]


def _compute(given: Given) -> list[Line]:
    lines = []
    if given.flag("use_cpu", False):
        lines.append(copied(given, "use_cpu", "compute.device", "cpu"))
    wanted = given.values.get("fsdp")
    words = wanted.split() if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    if wanted not in (None, False, "", []):
        shard = "hybrid" if any("hybrid" in str(word) for word in words) else "full"
        lines.append(copied(given, "fsdp", "compute.shard", shard, "FSDP2, each process keeps a part of the model"))
        if "offload" in words:
            lines.append(copied(given, "fsdp", "compute.offload", True))
    return [*lines, *settings.copies(given, {"torch_compile": ("compute.compile", False)})]


def _training(given: Given, processes: int) -> tuple[list[Line], Reasons]:
    batch = settings.batch(given, ("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1), processes)
    length, steps, decided = settings.length(given, "num_train_epochs", 3.0)
    warm, reasons = settings.warmup(given, batch.value, steps, ratio_name="warmup_ratio")
    names = ("activation_checkpointing", "gradient_checkpointing")
    saved = next((name for name in names if given.has(name)), names[1])
    checkpointing = copied(given, saved, "train.gradient_checkpointing", given.flag(saved, True))
    lines = [
        copied(given, "learning_rate", "train.learning_rate", given.number("learning_rate", 1e-6)),
        batch,
        length,
        copied(given, "lr_scheduler_type", "train.scheduler", given.text("lr_scheduler_type", "linear")),
        warm,
        checkpointing,
        copied(given, "seed", "train.seed", given.whole("seed", 42)),
        *settings.copies(given, COPIED),
        *settings.trackers(given, given.texts("report_to"), ["report_to"]),
    ]
    every = given.number("save_steps", 0.0)
    if every >= 1 and given.text("save_strategy", "steps") == "steps":
        lines.append(copied(given, "save_steps", "train.checkpoint_every", int(every)))
    if given.text("train_sampling_strategy", "random") in ("random", "sequential") and given.has(
        "train_sampling_strategy"
    ):
        shuffled = given.text("train_sampling_strategy", "random") == "random"
        lines.append(copied(given, "train_sampling_strategy", "train.shuffle", shuffled))
    if given.has("router_aux_loss_coef"):
        on = given.number("router_aux_loss_coef", 0.0) > 0
        note = "with the coefficient of the model's config" if on else ""
        lines.append(copied(given, "router_aux_loss_coef", "train.router_aux_loss", on, note))
    return lines, reasons | decided


def _lora(given: Given) -> list[Line]:
    if not given.flag("use_peft", False):
        return []
    targets = given.texts("lora_target_modules")
    whole = not targets or targets == ["all-linear"]
    note = "" if targets else "PEFT picks by architecture; here every linear layer"
    lines = [
        Line("train.lora_rank", given.whole("lora_r", 16), told(given, "lora_r"), _there(given, "use_peft", "lora_r")),
        copied(given, "lora_alpha", "train.lora_alpha", given.number("lora_alpha", 32.0)),
        copied(given, "lora_dropout", "train.lora_dropout", given.number("lora_dropout", 0.05)),
        copied(given, "lora_target_modules", "train.lora_targets", ["all-linear"] if whole else targets, note),
    ]
    if saved := given.texts("lora_modules_to_save"):
        lines.append(copied(given, "lora_modules_to_save", "train.lora_modules_to_save", saved))
    flags = (("use_rslora", "train.lora_use_rslora"), ("use_dora", "train.lora_use_dora"))
    return [*lines, *(copied(given, name, key, True) for name, key in flags if given.flag(name, False))]


def _there(given: Given, *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name in given.values)


def _reasons(given: Given, data: str | None) -> Reasons:
    """Verdicts that depend on other keys."""
    found: Reasons = {}
    if data is not None:
        names = ("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "datasets")
        found |= dict.fromkeys(names, ("not needed", "--data takes its place"))
    if given.has("datasets"):
        found |= dict.fromkeys(("dataset_name", "dataset_config"), ("not needed", "TRL takes datasets in its place"))
    if given.text("truncation_mode", "keep_start") == "keep_start":
        found["truncation_mode"] = ("not needed", "completions are cut at their end, as there")
    if not given.flag("disable_dropout", True):
        found["disable_dropout"] = ("not supported", "dropout is always 0, so that the policy starts at the reference")
    if given.text("train_sampling_strategy", "random") not in ("random", "sequential"):
        why = "pairs are taken at random, or in the order of the file; padding does not decide"
        found["train_sampling_strategy"] = ("not supported", why)
    if "label_smoothing" in given.values and not set(trl_losses.loss_types(given)) & set(SMOOTHED):
        why = "TRL 1.16 does not read it with this loss; train.label_smoothing of dpo would be cDPO"
        found["label_smoothing"] = ("not needed", why)
    inner = [name for name in given.values if name.startswith("model_init_kwargs.")]
    why = "of from_pretrained's arguments revision and dtype map; [reference] and [compute] have the rest"
    found |= dict.fromkeys(inner, ("not supported", why))
    return found
