"""Stage two: train a policy from cached columns. The reference model is never loaded.

    scoreonce train configs/x.toml --method beta_dpo --set train.beta=0.05

Writes <out>/train/<label>/: metrics.jsonl and metrics.parquet (per step), steps.parquet (per pair and step), run.toml,
lineage.json, checkpoints/, and model/. Killed, it goes on from the last checkpoint with the same result.

Left out: FSDP and DeepSpeed; any number of processes under DDP works.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tomli_w
import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor

from scoreonce.pipeline import methods, probe
from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.forward import TokenScorer
from scoreonce.pipeline.methods import Method, Outcome
from scoreonce.pipeline.metrics import step_metrics
from scoreonce.pipeline.optimizer import Masters, gradient_norm, make_optimizer, make_scheduler
from scoreonce.pipeline.rows import PromptRow
from scoreonce.pipeline.step import Processes, Step
from scoreonce.stages import checkpoint, files, lineage, models, policy, training_data, verify
from scoreonce.stages.config import Run
from scoreonce.stages.layout import Layout
from scoreonce.stages.progress import progress
from scoreonce.stages.step_log import StepLog
from scoreonce.stages.training_data import TrainingData

TERMINATED = 143  # 128 + SIGTERM


def run(run: Run, *, restart: bool = False) -> None:
    """Train the policy that the run file asks for, or go on with it; do nothing where it is there already.

    Raises `InputError` for anything in the way that the user can mend, `SystemExit(143)` after SIGTERM.
    """
    layout, settings = Layout.of(run), run.train
    method = methods.resolve(
        settings.method,
        settings.hyperparameters,
        objective=settings.objective,
        calibration=settings.calibration,
        selection=settings.selection,
    )
    data = training_data.load(layout, method.reads)
    story = lineage.describe(run, method, len(data))
    if _finished(layout, story["identity"], restart):
        print(f"{layout.label}: up to date, {layout.policy}")
        return
    device = models.resolve_device(run.compute.device)
    accelerator = Accelerator(cpu=device.type == "cpu", log_with=settings.log_with or None, project_dir=layout.training)
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InputError(
            "Training runs on one process or under DDP.",
            found=str(accelerator.distributed_type),
            where="the accelerate config",
            fix="Choose multi-GPU or multi-CPU without FSDP and DeepSpeed in `accelerate config`.",
        )
    if accelerator.is_main_process:
        _begin(run, layout, story)
    accelerator.wait_for_everyone()
    trainer = _Trainer.build(run, method, data, accelerator, story)
    trainer.train(layout, story)


def _finished(layout: Layout, identity: str, restart: bool) -> bool:
    """Whether this very policy is there; another run's outputs under the same label are never overwritten unasked."""
    record = layout.training / "lineage.json"
    if restart:
        shutil.rmtree(layout.training, ignore_errors=True)
    if not record.exists():
        return False
    if files.read_json(record)["identity"] != identity:
        raise InputError(
            "Another training run has its outputs under this label.",
            found="its data, reference, method or settings differ (lineage.json, run.toml)",
            where=str(layout.training),
            fix="Give this one a label of its own, --set train.label=..., or replace the old one with --restart.",
        )
    return layout.policy.is_dir()


def _begin(run: Run, layout: Layout, story: dict[str, Any]) -> None:
    layout.training.mkdir(parents=True, exist_ok=True)
    resolved = run.model_dump(exclude_none=True)
    with files.atomic(layout.training / "run.toml") as temporary:
        temporary.write_bytes(tomli_w.dumps(resolved).encode())
    files.write_json(layout.training / "lineage.json", story)


@dataclass
class _Trainer:
    """The loop and what it owns."""

    run: Run
    data: TrainingData
    accelerator: Accelerator
    training: checkpoint.Training
    step: Step
    scorer: TokenScorer
    steps: int
    seconds: float = 0.0

    @classmethod
    def build(
        cls, run: Run, method: Method, data: TrainingData, accelerator: Accelerator, story: dict[str, Any]
    ) -> _Trainer:
        settings = run.train
        own = settings.model
        dtype = settings.dtype or run.reference.dtype
        torch.manual_seed(settings.seed)
        model = models.load_model(
            own or run.reference.model,
            dtype=dtype,
            device=accelerator.device,
            revision=None if own else run.reference.revision,
            adapter=None if own else run.reference.adapter,
        )
        longest = max(
            len(data.tokens.row(i, "prompt_ids"))
            + len(data.tokens.row(i, "chosen_ids"))
            + len(data.tokens.row(i, "rejected_ids"))
            for i in range(len(data))
        )
        found = probe.choose_layout(model, run.compute.attention, longest)
        accelerator.print(
            f"{story['label']}: {method.title} on {len(data):,} pairs; {found.layout} rows"
            + (f" ({found.reason})" if found.reason else "")
        )
        scorer = TokenScorer(model, found.layout)
        if settings.verify_pairs and lineage.policy_is_reference(story):
            residual = verify.residual(
                scorer, data, settings.verify_pairs, run.compute.tokens_per_microbatch, settings.seed
            )
            verify.demand_agreement(residual, dtype)
            accelerator.print(
                f"{story['label']}: policy equals the cached reference to {residual.worst:.1e} nats per token ({residual.pairs} pairs)"
            )
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # transformers checkpoints in training mode alone; dropout is 0 all the same
        masters = Masters.of(model.parameters())
        optimizer = make_optimizer(model, masters, settings, str(Layout.of(run).training))
        steps = settings.max_steps or math.ceil(settings.epochs * _steps_per_epoch(len(data), settings.batch_pairs))
        scheduler = make_scheduler(optimizer, settings.scheduler, settings.warmup_ratio, steps)
        wrapped = accelerator.prepare_model(scorer)
        processes = Processes(
            accelerator.process_index,
            lambda column: accelerator.reduce(column, "sum"),
            accelerator.backward,
            lambda: accelerator.no_sync(wrapped),
            accelerator.num_processes,
        )
        return cls(
            run,
            data,
            accelerator,
            checkpoint.Training(model, masters, optimizer, scheduler),
            Step(wrapped, masters.parameters, method, processes),
            scorer,
            steps,
        )

    def train(self, layout: Layout, story: dict[str, Any]) -> None:
        """Run the remaining steps and write the model."""
        folder = layout.training / "checkpoints"
        done, state = 0, self.step.method.init_state()
        if found := checkpoint.checkpoints(folder):
            done, state = checkpoint.restore(found[-1], self.training)
            self.accelerator.print(f"{layout.label}: going on after step {done} of {self.steps}")
        main = self.accelerator.is_main_process
        log = StepLog(layout.training, done) if main else None
        if self.run.train.log_with:
            self.accelerator.init_trackers("scoreonce", config={"label": layout.label, **story["train"]})
        every = self.run.train.checkpoint_every or max(1, math.ceil(self.steps / 10))
        with _asked_to_stop() as stopping, progress(self.steps, "steps", layout.label, done=done, enabled=main) as bar:
            for step in range(done + 1, self.steps + 1):
                outcome, metrics, rows = self._step(step, state)
                state = outcome.state
                if log is not None:
                    log.add(metrics, rows)
                if self.run.train.log_with:
                    self.accelerator.log(metrics, step=step)
                bar.set_postfix_str(f"loss {metrics['loss']:.4f}", refresh=False)
                bar.update(1)
                stop = self._anyone(bool(stopping))
                if log is not None and (stop or step % every == 0 or step == self.steps):
                    log.flush(step)
                    checkpoint.save(
                        folder,
                        self.training,
                        step=step,
                        state=state,
                        identity=story["identity"],
                        keep=self.run.train.keep_checkpoints,
                    )
                if stop:
                    self.accelerator.print(
                        f"{layout.label}: stopped at step {step}; the same command goes on from there"
                    )
                    raise SystemExit(TERMINATED)
        if log is not None:
            log.finish()
            own = self.run.train.model
            origin = models.folder_of(own or self.run.reference.model, None if own else self.run.reference.revision)
            policy.save(
                layout.policy,
                self.training.model,
                origin=origin,
                tokenizer=self.run.data.tokenizer or str(origin),
                lineage=story,
            )
            print(f"{layout.label}: {self.steps} steps, model in {layout.policy}")
        if self.run.train.log_with:
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()

    def _step(self, step: int, state: dict[str, Tensor]) -> tuple[Outcome, dict[str, float | int], dict[str, Any]]:
        started, settings, training = time.perf_counter(), self.run.train, self.training
        epoch, pairs = batch(len(self.data), step, settings.batch_pairs, settings.shuffle, settings.seed)
        rows = [self._row(pair) for pair in pairs]
        columns = {
            name: torch.from_numpy(values[pairs]).to(self.accelerator.device)
            for name, values in self.data.columns.items()
        }
        if self.step.method.random:
            draws = np.random.default_rng([settings.seed, step]).standard_exponential(len(pairs))
            columns["exponential_draws"] = torch.from_numpy(draws).to(self.accelerator.device)
        outcome, everything = self.step(rows, columns, state, self.run.compute.tokens_per_microbatch)
        training.masters.take_gradients()
        norm = gradient_norm(training.masters.masters)
        metrics: dict[str, float | int] = {
            "step": step,
            "epoch": epoch,
            **step_metrics(outcome, everything),
            "grad_norm": norm,
            "learning_rate": training.scheduler.get_last_lr()[0],
        }
        if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
            raise InputError(
                "Training diverged: the loss or its gradient is not finite.",
                found=f"loss {metrics['loss']}, gradient norm {norm}",
                where=f"step {step}",
                fix="Lower train.learning_rate or beta; the last checkpoint is from before.",
            )
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(training.masters.masters, settings.max_grad_norm, torch.tensor(norm))
        training.optimizer.step()
        training.scheduler.step()
        training.optimizer.zero_grad()
        training.masters.give_weights()
        seconds = time.perf_counter() - started
        tokens = sum(row.tokens for row in rows)
        metrics |= {
            "perf/seconds": seconds,
            "perf/pairs_per_second": len(rows) / seconds,
            "perf/tokens_per_second": tokens / seconds,
        }
        return outcome, metrics, _log_rows(outcome, step, epoch, [self.data.pair_ids[pair] for pair in pairs])

    def _row(self, pair: int) -> PromptRow:
        tokens, sides = (
            self.data.tokens,
            [
                tokens_of
                for tokens_of, column in (
                    ("chosen_ids", "policy_chosen_logps"),
                    ("rejected_ids", "policy_rejected_logps"),
                )
                if column in self.step.method.reads
            ],
        )
        return PromptRow(tokens.row(pair, "prompt_ids"), tuple(tokens.row(pair, side) for side in sides))  # type: ignore[arg-type]

    def _anyone(self, stop: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)


def batch(pairs: int, step: int, batch_pairs: int, shuffle: bool, seed: int) -> tuple[int, np.ndarray]:
    """Epoch and pair numbers of an optimizer step (from 1): a function of the step alone, so resuming needs no state."""
    per_epoch = _steps_per_epoch(pairs, batch_pairs)
    epoch, within = divmod(step - 1, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(pairs) if shuffle else np.arange(pairs)
    return epoch, order[within * batch_pairs : (within + 1) * batch_pairs]


def _steps_per_epoch(pairs: int, batch_pairs: int) -> int:
    return math.ceil(pairs / batch_pairs)


def _log_rows(outcome: Outcome, step: int, epoch: int, pair_ids: list[str]) -> dict[str, Any]:
    def values(column: Tensor) -> list[float | None]:
        return [None if math.isnan(value) else value for value in column.detach().double().cpu().tolist()]

    return {
        "step": [step] * len(pair_ids),
        "epoch": [epoch] * len(pair_ids),
        "pair_id": pair_ids,
        "margin": values(outcome.margin),
        "beta": values(outcome.beta),
        "target_margin": values(outcome.target_margin),
        "weight": values(outcome.weight),
        "loss": values(outcome.losses),
    }


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that is non-empty once SIGTERM has come: schedulers send it before they kill."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
