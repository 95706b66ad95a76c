"""A LLaMA-Factory configuration of preference training (stage: dpo, kto) as a run file.

Read from LLaMA-Factory 0.9.5, whose DPO trainer has losses of its own beside those of TRL up to 0.24. Keys that neither
map nor are in the lists below are named as not mapped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from scoreonce.schemas.errors import first_line
from scoreonce.stages.migration import settings
from scoreonce.stages.migration.mapped import Given, Key, Translation, translation
from scoreonce.stages.migration.settings import Reasons, copied, told
from scoreonce.stages.run_text import Line

TOOL = "LLaMA-Factory"
# pref_loss there: our method.
LOSSES = {"sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}
COPIED: dict[str, tuple[str, Any]] = {
    "optim": ("train.optimizer", ""),
    **settings.COPIED,
    "save_steps": ("train.checkpoint_every", 1),
    "torch_compile": ("compute.compile", False),
}
LORA: dict[str, tuple[str, Any]] = {
    "additional_target": ("train.lora_modules_to_save", []),
    "use_rslora": ("train.lora_use_rslora", False),
    "use_dora": ("train.lora_use_dora", False),
}
MAPPED = {
    "stage": ("train.method", "dpo, kto"),
    "model_name_or_path": ("reference.model", "train.model where there is a ref_model"),
    "model_revision": ("reference.revision", ""),
    "ref_model": ("reference.model", "the policy then starts from model_name_or_path, train.model"),
    "bf16": ("reference.dtype", "mixed precision"),
    "pure_bf16": ("reference.dtype", "bfloat16; here with weights kept in float32 all the same"),
    "fp16": ("reference.dtype", "float32: float16 needs its loss scaled, which is not done here"),
    "dataset": ("data.source", "one entry of dataset_info.json, with its columns"),
    "dataset_dir": ("data.source", "where dataset_info.json is"),
    "max_samples": ("data.limit", ""),
    "val_size": ("data.test_share", "a share below 1"),
    "cutoff_len": ("data.max_length", ""),
    "streaming": ("data.streaming", ""),
    "pref_loss": ("train.method", ", ".join(f"{theirs}: {ours}" for theirs, ours in LOSSES.items())),
    "pref_beta": ("train.beta", "`lam` of orpo"),
    "pref_ftx": ("train.objective", "the term sft, per completion"),
    "pref_bco_weight": ("train.objective", "w: (loss + w * bco) / (1 + w)"),
    "dpo_label_smoothing": ("train.label_smoothing", "cDPO"),
    "simpo_gamma": ("train.gamma_beta_ratio", "divided by β"),
    "ld_alpha": (
        "train.method, train.ld_alpha",
        "`ld_dpo`, of policy and reference; there of the policy alone",
    ),
    "kto_chosen_weight": ("train.desirable_weight", ""),
    "kto_rejected_weight": ("train.undesirable_weight", ""),
    "per_device_train_batch_size": ("train.batch_pairs", "times accumulation and processes"),
    "gradient_accumulation_steps": ("train.batch_pairs", "a factor of it"),
    "num_train_epochs": ("train.epochs", ""),
    "max_steps": ("train.max_steps", ""),
    "learning_rate": ("train.learning_rate", "5e-5 there unless set"),
    "lr_scheduler_type": ("train.scheduler", ""),
    "warmup_ratio": ("train.warmup_ratio", ""),
    "warmup_steps": ("train.warmup_ratio", "divided by max_steps"),
    "seed": ("train.seed", ""),
    "disable_shuffling": ("train.shuffle", ""),
    "disable_gradient_checkpointing": ("train.gradient_checkpointing", "on unless set"),
    "report_to": ("train.log_with", ""),
    "output_dir": ("out", ""),
    "finetuning_type": ("train.lora_rank", "lora unless set; full"),
    "lora_rank": ("train.lora_rank", "8 unless set"),
    "lora_alpha": ("train.lora_alpha", "twice the rank unless set"),
    "lora_dropout": ("train.lora_dropout", ""),
    "lora_target": ("train.lora_targets", 'all: ["all-linear"]'),
    "quantization_bit": ("reference.quantization", "4: nf4"),
    "quantization_type": ("reference.quantization", "nf4 alone"),
    **settings.WHILE_TRAINING,
    **{name: (key, "") for name, (key, _) in {**COPIED, **LORA}.items()},
}
NOT_NEEDED = {
    "it says which command runs": "do_train do_eval do_predict overwrite_output_dir",
    "the run folder has prepared pairs": "overwrite_cache preprocessing_num_workers preprocessing_batch_size "
    "tokenized_path dataloader_num_workers",
    "every step is logged": "logging_steps plot_loss run_name include_num_input_tokens_seen",
    "the same command goes on from the last checkpoint": "resume_from_checkpoint save_only_model save_strategy",
    "held-out pairs are scored in micro-batches of the training's own budget, accuracy among the figures": ""
    "per_device_eval_batch_size compute_accuracy",
    'compute.attention = "auto" takes the fastest layout that a probe finds exact': "flash_attn",
    "logits exist for one chunk at a time, and rows are not padded": "enable_liger_kernel use_unsloth packing "
    "neat_packing upcast_lmhead_output",
    "NF4 is always with double quantisation": "double_quantization quantization_method",
    "processes are those of torchrun or accelerate": "ddp_timeout ddp_find_unused_parameters",
    "completions alone are trained on": "train_on_prompt mask_history",
}
NOT_SUPPORTED = {
    "the tokenizer's own chat template is used; another is data.chat_template, a file or the text": "template",
    "give the held-out data as data.test_source": "eval_dataset",
    'ZeRO-3 is compute.shard = "full"': "deepspeed fsdp fsdp_config",
    "merge it into the model first, or set reference.adapter with train.lora_continue": "adapter_name_or_path "
    "create_new_adapter",
    "the reference's adapter is reference.adapter": "ref_model_adapters",
    "it changes the weights of the model that the adapter is for": "pissa_init",
    "one learning rate is for all matrices": "loraplus_lr_ratio",
    "of these optimizers, those of transformers' optim are there: train.optimizer": "use_galore use_apollo use_badam "
    "use_muon use_adam_mini",
    "add tokens to the tokenizer and the model first": "add_tokens add_special_tokens resize_vocab",
    "no noise is added to embeddings": "neftune_noise_alpha",
    "give --trust-remote-code to each command": "trust_remote_code",
    "rotary frequencies are those of the model's config": "rope_scaling",
}
KEYS = {
    **{name: Key("maps", how, ours) for name, (ours, how) in MAPPED.items()},
    **{name: Key("not needed", why) for why, names in NOT_NEEDED.items() for name in names.split()},
    **{name: Key("not supported", why) for why, names in NOT_SUPPORTED.items() for name in names.split()},
}


def translate(given: Given, *, model: str | None, data: str | None, out: str, processes: int) -> Translation:
    """The run file's lines and what became of the other keys. `model` and `data` take the place of the file's.

    Raises `InputError` for another kind of training, and for what a run file cannot say.
    """
    training, reasons = _training(given, processes)
    data_lines = _data(given, data)
    watched, more = settings.while_training(given, data_lines)
    lines = [
        settings.out_folder(given, "output_dir", out),
        *data_lines,
        *_model(given, model),
        *_objective(given),
        *training,
        *_lora(given),
        *watched,
    ]
    return translation(given, KEYS, lines, reasons | more)


def _data(given: Given, data: str | None) -> list[Line]:
    share = given.number("val_size", 0.0)
    test = copied(given, "val_size", "data.test_share", share if share < 1 else 0.0)
    if share >= 1:
        test = replace(test, why=f"val_size is {share:g} rows: a run file has a share of prompts, set it")
    length = copied(given, "cutoff_len", "data.max_length", given.whole("cutoff_len", 2048))
    more = {"max_samples": ("data.limit", 1), "streaming": ("data.streaming", False)}
    return [*_dataset(given, data), test, length, *settings.copies(given, more)]


def _dataset(given: Given, data: str | None) -> list[Line]:
    """The source, and the columns that dataset_info.json names for it."""
    names = given.texts("dataset")
    if data is not None or not names:
        return [settings.where_from(given, "--data", data, "dataset", "data.source", "dataset")]
    if len(names) > 1:
        raise given.refused(
            "dataset", "A run file has one dataset.", "Write them to one file, and give it with --data."
        )
    folder = Path(given.text("dataset_dir", "data"))
    used = tuple(name for name in ("dataset", "dataset_dir") if name in given.values)
    entry = _entry(given, folder / "dataset_info.json", names[0])
    hub, file = entry.get("hf_hub_url"), entry.get("file_name")
    if not (hub or file):
        raise given.refused("dataset", "Its entry names no Hub dataset and no file.", "Give the data with --data.")
    known = ("hf_hub_url", "file_name", "subset", "split", "columns", "ranking")
    why = settings.entry(f"{folder / 'dataset_info.json'}", entry, known)
    lines = [Line("data.source", str(hub or folder / str(file)), why, used)]
    found = [("data.subset", entry.get("subset")), ("data.split", entry.get("split"))] if hub else []
    lines += [Line(key, str(value), why, used) for key, value in found if value]
    columns = entry.get("columns")
    if isinstance(columns, dict):
        roles = {name: str(columns[name]) for name in ("prompt", "chosen", "rejected", "system") if columns.get(name)}
        lines += (
            [Line("data.columns", roles, f"{why}; `prepare --preview` shows what becomes of it", used)] if roles else []
        )
    return lines


def _entry(given: Given, file: Path, name: str) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return dict(entries[name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise given.refused(
            "dataset",
            f"The dataset is not found in {file}: {first_line(error)}.",
            "Give the data with --data, or run the command where the dataset_dir is.",
        ) from None


def _model(given: Given, model: str | None) -> list[Line]:
    lines = [settings.where_from(given, "--model", model, "model_name_or_path", "reference.model", "model")]
    if model is None and given.has("ref_model"):
        policy = replace(lines[0], key="train.model", why="from model_name_or_path: the policy starts from it")
        lines = [copied(given, "ref_model", "reference.model", given.text("ref_model", "")), policy]
    elif model is None and given.text("model_revision", "main") != "main":
        lines += settings.copies(given, {"model_revision": ("reference.revision", "")})
    names = tuple(name for name in ("bf16", "pure_bf16", "fp16") if name in given.values)
    half = given.flag("bf16", False) or given.flag("pure_bf16", False)
    why = "from bf16: mixed precision, weights are kept in float32" if half else "neither bf16 nor pure_bf16 is on"
    lines.append(Line("reference.dtype", "bfloat16" if half else "float32", why, names))
    if given.has("quantization_bit"):
        if given.whole("quantization_bit", 4) != 4 or given.text("quantization_type", "nf4") != "nf4":
            raise given.refused("quantization_bit", "Quantised weights are NF4 here.", "Set 4 bits and nf4, or none.")
        lines.append(copied(given, "quantization_bit", "reference.quantization", "nf4"))
    return lines


def _objective(given: Given) -> list[Line]:
    stage = given.text("stage", "sft")
    beta = copied(given, "pref_beta", "train.beta", given.number("pref_beta", 0.1))
    if stage == "kto":
        weights = {
            "kto_chosen_weight": ("train.desirable_weight", 1.0),
            "kto_rejected_weight": ("train.undesirable_weight", 1.0),
        }
        mismatched = Line("score.mismatched", True, "KTO compares with a completion of another prompt")
        method = Line("train.method", "kto", "from stage", ("stage",))
        return [mismatched, method, beta, *settings.copies(given, weights)]
    if stage != "dpo":
        raise given.refused("stage", "This is no training on preference data.", "Give stage: dpo or kto.")
    loss = given.text("pref_loss", "sigmoid")
    if loss not in LOSSES:
        raise given.refused("pref_loss", "This loss is no method here.", f"Give one of: {', '.join(LOSSES)}.")
    why, used = f"{told(given, 'pref_loss')}: {loss}", ("stage", *(["pref_loss"] if given.has("pref_loss") else []))
    name, more = LOSSES[loss], list[Line]()
    if given.has("ld_alpha"):
        if loss != "sigmoid":
            raise given.refused("ld_alpha", "LD-DPO is a form of DPO.", "Give pref_loss: sigmoid, or no ld_alpha.")
        note = "it weights policy and reference, as the paper; there the policy alone"
        name, more = "ld_dpo", [copied(given, "ld_alpha", "train.ld_alpha", given.number("ld_alpha", 1.0), note)]
    elif loss == "sigmoid" and given.number("dpo_label_smoothing", 0.0):
        more = settings.copies(given, {"dpo_label_smoothing": ("train.label_smoothing", 0.0)})
    elif loss == "simpo":
        ratio = given.number("simpo_gamma", 0.5) / beta.value
        more = [copied(given, "simpo_gamma", "train.gamma_beta_ratio", ratio, "divided by β")]
    elif loss == "orpo":
        beta = replace(beta, key="train.lam")
    return [Line("train.method", name, why, used), beta, *more, *_sum(given, name)]


def _sum(given: Given, method: str) -> list[Line]:
    """(loss + w * bco) / (1 + w) + f * sft, for w = pref_bco_weight and f = pref_ftx."""
    bco, sft = given.number("pref_bco_weight", 0.0), given.number("pref_ftx", 0.0)
    if not bco and not sft:
        return []
    terms = {method: 1 / (1 + bco), "bco": bco / (1 + bco), "sft": sft}
    names = tuple(name for name in ("pref_bco_weight", "pref_ftx") if name in given.values)
    kept = {name: weight for name, weight in terms.items() if weight}
    return [
        Line("train.objective", settings.objective(kept), f"from {' and '.join(names)}", names),
        Line("train.label", "+".join(kept), "the folder of this training run"),
    ]


def _training(given: Given, processes: int) -> tuple[list[Line], Reasons]:
    batch = settings.batch(given, ("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1), processes)
    length, steps, decided = settings.length(given, "num_train_epochs", 3.0)
    warm, reasons = settings.warmup(given, batch.value, steps, ratio_name="warmup_ratio")
    off = given.flag("disable_gradient_checkpointing", False)
    lines = [
        copied(given, "learning_rate", "train.learning_rate", given.number("learning_rate", 5e-5)),
        batch,
        length,
        copied(given, "lr_scheduler_type", "train.scheduler", given.text("lr_scheduler_type", "linear")),
        warm,
        copied(given, "disable_gradient_checkpointing", "train.gradient_checkpointing", not off),
        copied(given, "seed", "train.seed", given.whole("seed", 42)),
        *settings.copies(given, COPIED),
        *settings.trackers(given, given.texts("report_to"), ["report_to"]),
    ]
    if given.flag("disable_shuffling", False):
        lines.append(copied(given, "disable_shuffling", "train.shuffle", False))
    return lines, reasons | decided


def _lora(given: Given) -> list[Line]:
    kind = given.text("finetuning_type", "lora")
    if kind == "full":
        return []
    if kind != "lora":
        raise given.refused("finetuning_type", "This is not trained here.", "Give finetuning_type: lora or full.")
    rank = given.whole("lora_rank", 8)
    targets = given.texts("lora_target") or ["all"]
    first = copied(given, "lora_rank", "train.lora_rank", rank)
    return [
        replace(first, sources=(*first.sources, "finetuning_type")),
        copied(given, "lora_alpha", "train.lora_alpha", given.number("lora_alpha", 2.0 * rank)),
        copied(given, "lora_dropout", "train.lora_dropout", given.number("lora_dropout", 0.0)),
        copied(given, "lora_target", "train.lora_targets", ["all-linear"] if targets == ["all"] else targets),
        *settings.copies(given, LORA),
    ]
