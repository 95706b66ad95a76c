"""An Axolotl configuration of preference training (rl: dpo, ipo, orpo, simpo, kto) as a run file.

Read from Axolotl 0.19, which trains with TRL 1.9. Keys that neither map nor are in the lists below are named as not
mapped: Axolotl has some 400, most of them for other kinds of training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scoreonce.stages.migration import settings, trl_losses
from scoreonce.stages.migration.mapped import OFF, Given, Key, Translation, translation
from scoreonce.stages.migration.settings import Reasons, copied
from scoreonce.stages.run_text import Line

TOOL = "Axolotl"
COPIED: dict[str, tuple[str, Any]] = {
    **settings.COPIED,
    "seed": ("train.seed", 0),
    "save_steps": ("train.checkpoint_every", 1),
    "torch_compile": ("compute.compile", False),
    "dataset_num_proc": ("data.processes", 1),
}
LORA: dict[str, tuple[str, Any]] = {
    "lora_alpha": ("train.lora_alpha", 1.0),
    "lora_dropout": ("train.lora_dropout", 0.0),
    "lora_modules_to_save": ("train.lora_modules_to_save", []),
    "peft_use_dora": ("train.lora_use_dora", False),
    "peft_use_rslora": ("train.lora_use_rslora", False),
}
TRACKERS = {
    "wandb_project": "wandb",
    "use_wandb": "wandb",
    "use_tensorboard": "tensorboard",
    "use_mlflow": "mlflow",
    "use_comet": "comet_ml",
}
MAPPED = {
    "base_model": ("reference.model", "reference, and start of the policy"),
    "revision_of_model": ("reference.revision", ""),
    "bf16": ("reference.dtype", "mixed precision, as with TRL"),
    "fp16": ("reference.dtype", "float32: float16 needs its loss scaled, which is not done here"),
    "datasets": ("data.source, data.subset, data.split", "one dataset: its path or data_files, name and split"),
    "test_datasets": ("data.test_source, data.test_split", "one dataset"),
    "val_set_size": ("data.test_share", "a share below 1"),
    "sequence_len": ("data.max_length", ""),
    "chat_template_jinja": ("data.chat_template", ""),
    "optimizer": ("train.optimizer", ""),
    "rl": ("train.method", "dpo, ipo, orpo, simpo, kto"),
    "dpo_loss_type": ("train.method", "as TRL's loss types"),
    "dpo_loss_weights": ("train.objective", ""),
    "dpo_label_smoothing": ("train.label_smoothing", "in the losses of TRL that read it"),
    "dpo_use_weighting": ("train.method", '`wpo` with clamp = "none"'),
    "rl_beta": ("train.beta", "`lam` of orpo"),
    "trl": ("train.beta", "its beta"),
    "orpo_alpha": ("train.lam", ""),
    "simpo_gamma": ("train.gamma_beta_ratio", "divided by β"),
    "cpo_alpha": ("train.objective", "simpo + cpo_alpha*sft_tokens; 1 unless set"),
    "kto_desirable_weight": ("train.desirable_weight", ""),
    "kto_undesirable_weight": ("train.undesirable_weight", ""),
    "micro_batch_size": ("train.batch_pairs", "times accumulation and processes"),
    "gradient_accumulation_steps": ("train.batch_pairs", "a factor of it"),
    "num_epochs": ("train.epochs", ""),
    "max_steps": ("train.max_steps", ""),
    "learning_rate": ("train.learning_rate", ""),
    "lr_scheduler": ("train.scheduler", "cosine unless set"),
    "warmup_ratio": ("train.warmup_ratio", "0.03, and at most 100 steps, unless set"),
    "warmup_steps": ("train.warmup_ratio", "divided by max_steps"),
    "gradient_checkpointing": ("train.gradient_checkpointing", ""),
    "output_dir": ("out", ""),
    "adapter": ("train.lora_rank", "lora, qlora"),
    "lora_r": ("train.lora_rank", ""),
    "lora_target_linear": ("train.lora_targets", '["all-linear"]'),
    "lora_target_modules": ("train.lora_targets", ""),
    "load_in_4bit": ("reference.quantization", "nf4"),
    "fsdp": ("compute.shard", ""),
    "fsdp_config": ("compute.shard", ""),
    **dict.fromkeys(TRACKERS, ("train.log_with", "")),
    **settings.WHILE_TRAINING,
    "evals_per_epoch": ("evaluate.every", "1 divided by it, from 2 on"),
    "early_stopping_patience": ("evaluate.patience", "where evaluate.every is set"),
    **{name: (key, "") for name, (key, _) in {**COPIED, **LORA}.items()},
}
NOT_NEEDED = {
    "the reference is always scored first, once, and kept for every later run": "precompute_ref_log_probs",
    "rows are packed under compute.tokens_per_microbatch and not padded": "pad_to_sequence_len sample_packing "
    "eval_sample_packing dpo_padding_free group_by_length pad_to_multiple_of remove_unused_columns",
    'compute.attention = "auto" takes the fastest layout that a probe finds exact': "flash_attention sdp_attention "
    "xformers_attention flex_attention attn_implementation",
    "logits exist for one chunk at a time": "dpo_use_liger_kernel plugins",
    "held-out pairs are scored in micro-batches of the training's own budget": "eval_batch_size",
    "the run folder has prepared pairs": "dataset_prepared_path dataset_processes",
    "every step is logged": "logging_steps wandb_name wandb_run_id wandb_watch wandb_log_model",
    "the same command goes on from the last checkpoint": "resume_from_checkpoint auto_resume_from_checkpoints "
    "saves_per_epoch save_strategy",
    "PyTorch's defaults stand": "tf32",
    "completions alone are trained on": "train_on_inputs",
    "activations are recomputed without reentrant autograd": "gradient_checkpointing_kwargs",
    "the tokenizer of the model is taken": "tokenizer_type model_type type_of_model",
}
NOT_SUPPORTED = {
    "the tokenizer's own template is used; another is data.chat_template, a file or the text": "chat_template",
    'ZeRO-3 is compute.shard = "full"': "deepspeed",
    "adapters are reference.adapter and train.lora_continue": "lora_model_dir",
    "weights in 8 bits are not read; reference.quantization has nf4": "load_in_8bit",
    "add tokens to the tokenizer and the model first": "special_tokens tokens",
    "no noise is added to embeddings": "neftune_noise_alpha",
    "a schedule takes no further arguments": "lr_scheduler_kwargs cosine_min_lr_ratio cosine_constant_lr_ratio",
    "give --trust-remote-code to each command": "trust_remote_code",
}
KEYS = {
    **{name: Key("maps", how, ours) for name, (ours, how) in MAPPED.items()},
    **{name: Key("not needed", why) for why, names in NOT_NEEDED.items() for name in names.split()},
    **{name: Key("not supported", why) for why, names in NOT_SUPPORTED.items() for name in names.split()},
}
# TRL's names of what Axolotl hands on to TRL's DPO.
HANDED_ON = {
    "loss_type": "dpo_loss_type",
    "loss_weights": "dpo_loss_weights",
    "label_smoothing": "dpo_label_smoothing",
    "use_weighting": "dpo_use_weighting",
}


def translate(given: Given, *, model: str | None, data: str | None, out: str, processes: int) -> Translation:
    """The run file's lines and what became of the other keys. `model` and `data` take the place of the file's.

    Raises `InputError` for another kind of training, and for what a run file cannot say.
    """
    inner = given.values.get("trl")
    inner = inner if isinstance(inner, dict) else {}
    if inner.get("sync_ref_model"):
        raise given.refused(
            "trl",
            "The reference moves during training (TR-DPO), so that log-probs scored once would be wrong.",
            "Set sync_ref_model: false.",
        )
    training, reasons = _training(given, processes)
    data_lines = _data(given, data)
    watched, more = settings.while_training(given, data_lines)
    reasons |= more
    lines = [
        settings.out_folder(given, "output_dir", out),
        *data_lines,
        *_model(given, model),
        *_objective(given, inner),
        *training,
        *_lora(given),
        *watched,
    ]
    if set(inner) - {"beta", "sync_ref_model"}:
        rest = ", ".join(sorted(set(inner) - {"beta", "sync_ref_model"}))
        lines = [
            replace(line, why=f"{line.why}; its {rest}: not mapped") if "trl" in line.sources else line
            for line in lines
        ]
        reasons["trl"] = ("not supported", f"of its keys beta maps, not {rest}")
    return translation(given, KEYS, lines, reasons)


def _data(given: Given, data: str | None) -> list[Line]:
    share = given.number("val_set_size", 0.0)
    test = copied(given, "val_set_size", "data.test_share", share if share < 1 else 0.0)
    if share >= 1:
        test = replace(test, why=f"val_set_size is {share:g} rows: a run file has a share of prompts, set it")
    lines = _dataset(given, data, "datasets", "data.source", "data.split")
    if given.has("test_datasets"):
        lines += _dataset(given, None, "test_datasets", "data.test_source", "data.test_split")
    else:
        lines.append(test)
    length = copied(given, "sequence_len", "data.max_length", given.whole("sequence_len", 512))
    return [*lines, length, *settings.copies(given, {"chat_template_jinja": ("data.chat_template", "")})]


def _dataset(given: Given, data: str | None, name: str, source: str, split: str) -> list[Line]:
    entries = given.values.get(name)
    if data is not None or not given.has(name):
        return [settings.where_from(given, "--data", data, name, source, "dataset")]
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise given.refused(name, "A run file has one dataset.", "Write them to one file, and give it with --data.")
    entry = entries[0]
    files = entry.get("data_files")
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if files is not None and not isinstance(files, str):
        raise given.refused(name, "A run file has one file or folder of data.", "Give it with --data.")
    why = settings.entry(name, entry, ("path", "name", "data_files", "split"))
    lines = [Line(source, str(files or entry.get("path")), why, (name,))]
    found = [("data.subset", entry.get("name") if source == "data.source" else None), (split, entry.get("split"))]
    rest = [Line(key, str(value), why, (name,)) for key, value in found if value is not None]
    return lines if files else [*lines, *rest]


def _model(given: Given, model: str | None) -> list[Line]:
    lines = [settings.where_from(given, "--model", model, "base_model", "reference.model", "model")]
    if model is None:
        lines += settings.copies(given, {"revision_of_model": ("reference.revision", "")})
    names = tuple(name for name in ("bf16", "fp16") if name in given.values)
    mixed = given.text("bf16", "auto") if not isinstance(given.values.get("bf16"), bool) else str(given.values["bf16"])
    half = mixed.lower() not in ("false", "no") and not given.flag("fp16", False)
    why = "bf16, auto unless set: mixed precision, weights are kept in float32" if half else "bf16 is off"
    lines.append(Line("reference.dtype", "bfloat16" if half else "float32", why, names))
    if given.flag("load_in_4bit", False):
        lines.append(copied(given, "load_in_4bit", "reference.quantization", "nf4"))
    sharded = [name for name in ("fsdp", "fsdp_config") if given.values.get(name)]
    if sharded:
        inner = given.values.get("fsdp_config")
        inner = inner if isinstance(inner, dict) else {}
        why = settings.entry(sharded[-1], inner, ("fsdp_version", "offload_params", "fsdp_offload_params"))
        lines.append(Line("compute.shard", "full", f"{why}: FSDP2", tuple(sharded)))
        if inner.get("offload_params") or inner.get("fsdp_offload_params"):
            lines.append(Line("compute.offload", True, "from offload_params of fsdp_config"))
    return lines


def _objective(given: Given, inner: dict[str, Any]) -> list[Line]:
    rl = given.text("rl", "").lower()
    beta_name = "trl" if inner.get("beta") is not None else "rl_beta" if given.has("rl_beta") else "orpo_alpha"
    values = {"beta": inner.get("beta") or given.values.get("rl_beta") or given.values.get("orpo_alpha")}
    values |= {name: given.values.get(theirs) for name, theirs in HANDED_ON.items() if rl == "dpo"}
    handed = replace(given, values={name: value for name, value in values.items() if value is not None})
    names = {**HANDED_ON, "beta": beta_name}
    method = Line("train.method", rl, "from rl", ("rl",))
    if rl == "dpo":
        lines = settings.named(trl_losses.objective(handed), names)
        return [replace(lines[0], sources=(*lines[0].sources, "rl")), *lines[1:]]
    beta = handed.number("beta", 0.1)
    line = settings.named([copied(handed, "beta", "train.lam" if rl == "orpo" else "train.beta", beta)], names)
    if rl in ("ipo", "orpo"):
        return [method, *line]
    if rl == "simpo":
        return [*_simpo(given), *line, *_gamma(given, beta)]
    if rl == "kto":
        weights = {f"kto_{side}_weight": (f"train.{side}_weight", 1.0) for side in ("desirable", "undesirable")}
        mismatched = Line("score.mismatched", True, "KTO compares with a completion of another prompt")
        return [mismatched, method, *line, *settings.copies(given, weights)]
    raise given.refused("rl", "This is no training on preference data.", "Give rl: dpo, ipo, orpo, simpo or kto.")


def _simpo(given: Given) -> list[Line]:
    alpha = given.number("cpo_alpha", 1.0)
    lines = [Line("train.method", "simpo", "from rl", ("rl",))]
    if alpha:
        terms = {"simpo": 1.0, "sft_tokens": alpha}
        note = "a likelihood term beside SimPO, as TRL adds"
        lines.append(copied(given, "cpo_alpha", "train.objective", settings.objective(terms), note))
        lines.append(Line("train.label", "simpo+sft", "the folder of this training run"))
    return lines


def _gamma(given: Given, beta: float) -> list[Line]:
    ratio = given.number("simpo_gamma", 0.5) / beta
    return [copied(given, "simpo_gamma", "train.gamma_beta_ratio", ratio, "divided by β")]


def _training(given: Given, processes: int) -> tuple[list[Line], Reasons]:
    batch = settings.batch(given, ("micro_batch_size", 1), ("gradient_accumulation_steps", 1), processes)
    length, steps, decided = settings.length(given, "num_epochs", 1.0)
    warm, reasons = settings.warmup(given, batch.value, steps, ratio_name="warmup_ratio", default="0.03")
    rate = given.number("learning_rate", 0.0)
    if not rate:
        raise given.refused("learning_rate", "The configuration has no learning rate.", "Set learning_rate: 5e-7, say.")
    checkpointing = given.values.get("gradient_checkpointing", False)
    used = [name for name in TRACKERS if given.values.get(name) not in OFF]
    lines = [
        copied(given, "learning_rate", "train.learning_rate", rate),
        batch,
        length,
        copied(given, "lr_scheduler", "train.scheduler", given.text("lr_scheduler", "cosine")),
        warm,
        copied(given, "gradient_checkpointing", "train.gradient_checkpointing", checkpointing not in (False, None)),
        copied(given, "optimizer", "train.optimizer", given.text("optimizer", "adamw_torch_fused")),
        *settings.copies(given, COPIED),
    ]
    wanted = list(dict.fromkeys(TRACKERS[name] for name in used))
    return [*lines, *(settings.trackers(given, wanted, used) if used else [])], reasons | decided


def _lora(given: Given) -> list[Line]:
    adapter = given.text("adapter", "")
    if not adapter:
        return []
    if adapter not in ("lora", "qlora"):
        raise given.refused("adapter", "This adapter is not trained here.", "Give adapter: lora or qlora, or none.")
    whole = given.flag("lora_target_linear", False)
    names = tuple(name for name in ("lora_target_linear", "lora_target_modules") if name in given.values)
    targets = given.texts("lora_target_modules")
    rank = copied(given, "lora_r", "train.lora_rank", given.whole("lora_r", 8))
    return [
        replace(rank, sources=(*rank.sources, "adapter")),
        Line(
            "train.lora_targets",
            ["all-linear"] if whole or not targets else targets,
            f"from {' and '.join(names)}" if names else "every linear layer",
            names,
        ),
        *settings.copies(given, LORA),
    ]
