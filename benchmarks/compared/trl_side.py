"""TRL's side, through its own DPOTrainer: tokenisation, precomputed reference and its cache, default collator.

Only what is timed is added: a subclass that notes when each batch of the reference pass begins and ends.
"""

from __future__ import annotations

import os
import time
from typing import Any

import child

from compared.world import digest

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, DPOTrainer

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")


class Timed(DPOTrainer):
    """DPOTrainer that notes its reference pass: pairs and end of each batch."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.batches: list[tuple[int, float]] = []
        super().__init__(*arguments, **named)

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        result = super().compute_ref_log_probs(model, inputs)
        result[0].tolist()  # waits for a GPU
        self.batches.append((len(inputs["input_ids"]) // 2, time.time()))
        return result


class StepBegin(TrainerCallback):
    """Notes when the last step began."""

    moment = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.moment = time.time()


def trainer(
    order: dict[str, Any],
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Dataset | None = None,
    **changes: Any,
) -> Timed:
    """The trainer of an order; it makes or finds its reference log-probs while it is built."""
    half, micro = order["dtype"] == "bfloat16", changes.pop("micro", order["micro"])
    batch = order["batch"]
    arguments = {
        "output_dir": order["out"],
        "per_device_train_batch_size": micro["train"],
        "gradient_accumulation_steps": batch // micro["train"],
        "per_device_eval_batch_size": micro["score"],
        "precompute_ref_batch_size": micro["score"],
        "precompute_ref_log_probs": True,
        "max_steps": order["steps"],
        "max_length": order["max_length"],
        "learning_rate": order["learning_rate"],
        "optim": "adamw_torch",
        "warmup_steps": 0,
        "beta": 0.1,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": half,
        "use_cpu": order["device"] == "cpu",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=order["dtype"])
    config = DPOConfig(**{**arguments, **changes})
    return Timed(model=model, args=config, train_dataset=pairs, eval_dataset=held_out, processing_class=tokenizer)


def inputs(order: dict[str, Any]) -> tuple[Dataset, PreTrainedTokenizerBase]:
    """Pairs from disk, so that TRL's caches can work, and the tokenizer."""
    return read(order, "pairs_file"), AutoTokenizer.from_pretrained(order["model"])


def read(order: dict[str, Any], file: str) -> Dataset:
    """The pairs of one of an order's files."""
    return load_dataset("json", data_files=order[file], split="train", cache_dir=order["cache"])


def scored(order: dict[str, Any]) -> dict[str, Any]:
    made = trainer(order, *inputs(order))
    # The first batch also starts threads and fills allocators: it is left out where there are others.
    batches = made.batches
    first = batches[0][1]
    return {
        "pairs": sum(pairs for pairs, _ in batches[1:]),
        "seconds": batches[-1][1] - first,
        "passes": sum(pairs for pairs, _ in batches) / order["pairs"],
        "digest": digest([[row[name] for name in IDS] for row in made.train_dataset]),
    }


def trained(order: dict[str, Any]) -> dict[str, Any]:
    ends = child.step_ends()
    made = trainer(order, *inputs(order), **order.get("changes", {}))
    made.train()
    return {
        "losses": [entry["loss"] for entry in made.state.log_history if "loss" in entry],
        "passes": sum(pairs for pairs, _ in made.batches) / order["pairs"],
        "step ends, s": [end - order["started"] for end in ends],
    }


def searched(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds per pair of the reference pass and of a step, by micro-batch size; the smallest of each is used."""
    ends, begin = child.step_ends(), StepBegin()
    pairs, tokenizer = inputs(order)
    # Two batches of the largest size at least: the first one is not counted.
    pairs = pairs.select(range(min(len(pairs), 2 * max(order["sizes"]))))
    found: dict[str, dict[str, float]] = {"score": {}, "train": {}}
    for size in order["sizes"]:
        made = trainer(order, pairs, tokenizer, micro={"score": size, "train": size}, max_steps=1)
        batches = made.batches
        found["score"][str(size)] = (batches[-1][1] - batches[0][1]) / sum(count for count, _ in batches[1:])
        made.add_callback(begin)
        made.train()
        found["train"][str(size)] = (ends[-1] - begin.moment) / order["batch"]
    return found


def swept(order: dict[str, Any]) -> dict[str, Any]:
    """Every training, one after the other in one process, so that libraries load once."""
    pairs, tokenizer = inputs(order)
    names, started, passes = order["names"], time.time(), 0.0
    for method, beta in order["runs"]:
        smoothing = order["smoothing"] if method in order["smoothed"] else 0.0
        made = trainer(order, pairs, tokenizer, beta=beta, loss_type=[names[method]], label_smoothing=smoothing)
        made.train()
        passes += sum(count for count, _ in made.batches) / order["pairs"]
    return {"seconds": time.time() - started, "reference passes": passes}


def whole(order: dict[str, Any]) -> dict[str, Any]:
    """A run from pairs to a policy: training, held-out pairs, the policy on disk. The reference is loaded, or scored
    before.
    """
    method, beta, seed = order["setting"]
    changes = {"beta": beta, "loss_type": [order["names"][method]], "seed": seed}
    changes["precompute_ref_log_probs"] = order["precompute"]
    made = trainer(order, *inputs(order), held_out=read(order, "held_out_file"), **changes)
    made.train()
    found = made.evaluate()
    made.save_model(order["out"])
    passes = sum(count for count, _ in made.batches) / (order["pairs"] + order["held out"])
    return {"held-out accuracy": found["eval_rewards/accuracies"], "passes": passes}


if __name__ == "__main__":
    WHAT = {"score": scored, "train": trained, "search": searched, "sweep": swept, "run": whole}
    child.answer(lambda order: WHAT[order["do"]](order))
