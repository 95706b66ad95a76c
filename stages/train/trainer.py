"""The training loop: optimizer steps with logging, checkpoints and resuming."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.batches.prompt_rows import RowLayout, sequence_multiple
from scoreonce.pipeline.forward import architecture, layout_probe
from scoreonce.pipeline.forward.routing import Router, router_of
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.forward.sharding import own_part, release
from scoreonce.pipeline.forward.token_masks import LearntMasks, Masking, activation_masks
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.training import dropout, sampling
from scoreonce.pipeline.training.agreement import require_agreement
from scoreonce.pipeline.training.metrics import step_metrics
from scoreonce.pipeline.training.optimizer import Masters, gradient_norm, make_optimizer, make_scheduler
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.pipeline.training.step import Collectives, Step, in_parts, slices
from scoreonce.schemas import metrics as names
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage, ReferenceManifest
from scoreonce.stages.common.gpu_memory import peak_bytes
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Run
from scoreonce.stages.held_out.evaluator import Evaluator
from scoreonce.stages.held_out.sample import Sample
from scoreonce.stages.held_out.watch import Watch
from scoreonce.stages.memory.huge_pages import move_to_huge_pages
from scoreonce.stages.models import adapters, lineage, loading, policy
from scoreonce.stages.models.forward_record import differing, facts, other_layout, provenance_of, single_layout
from scoreonce.stages.outputs.at_address import publish
from scoreonce.stages.sharded.layout import agreed_layout
from scoreonce.stages.sharded.processes import mesh_of
from scoreonce.stages.sharded.scorer import require_can_be_sharded, sharded_scorer
from scoreonce.stages.train import cache_check, checkpoint, rebuilt_logps, reference_logits, save_policy
from scoreonce.stages.train.data import TrainingData
from scoreonce.stages.train.step_log import Rows, StepLog, log_damage, log_rows

logger = logging.getLogger(__name__)

TERMINATED = 143  # 128 + SIGTERM

Metrics = dict[str, float | int]


@dataclass(frozen=True)
class Trainer:
    """The objects of a training run on one process."""

    run: Run
    data: TrainingData
    accelerator: Accelerator
    training: checkpoint.Training
    step: Step
    rebuilt: rebuilt_logps.Comparison
    reference: reference_logits.Provider | None
    budget: int
    steps: int
    scored: ReferenceManifest | None = None  # the reference's columns, where the method reads some

    @classmethod
    def build(
        cls,
        run: Run,
        method: Method,
        data: TrainingData,
        accelerator: Accelerator,
        scored: ReferenceManifest | None = None,
    ) -> Trainer:
        """Load the policy, find the exact layout for it, and make optimizer and schedule.

        The layout is that in which the reference was `scored`, where it is exact here; said where it is another.
        """
        settings, device = run.train, accelerator.device
        first = single_layout(scored.layout) if scored else None
        torch.manual_seed(settings.seed)
        mesh, budget = mesh_of(run.compute, device), run.compute.budget(device.type)
        if mesh is None:
            scorer, found, router = _whole_scorer(run, method, data, device, first)
        else:
            require_can_be_sharded(run, method)
            scorer, found, router = sharded_scorer(
                run,
                mesh,
                device,
                lambda model: masking(method, model, device),
                longest_row=data.longest_row,
                largest_token=data.largest_token,
                longest_sequence=data.longest_sequence,
                first=first,
            )
        reference = reference_logits.provider(run, method, device, data.longest_row, scorer)
        masters = Masters.of(scorer.parameters(), offloads=run.compute.offload_optimizer)
        optimizer = make_optimizer(scorer, masters, settings)
        steps = sampling.planned_steps(
            len(data), settings.batch_pairs, epochs=settings.epochs, max_steps=settings.max_steps
        )
        scheduler = make_scheduler(optimizer, settings.scheduler, settings.warmup_ratio, steps)
        prepared = scorer if mesh else accelerator.prepare_model(scorer)
        processes = Collectives(
            index=accelerator.process_index,
            count=accelerator.num_processes,
            gather=lambda column: accelerator.reduce(column, "sum"),
            backward=accelerator.backward,
            # Where parts of a model are kept, so are parts of gradients: each micro-batch's are summed at once.
            no_sync=nullcontext if mesh else lambda: accelerator.no_sync(prepared),
        )
        rebuilt = rebuilt_logps.Comparison(prepared, run)
        what = f"{method.title} on {len(data):,} pairs, {steps:,} steps of {settings.batch_pairs}; {found.layout} rows"
        _say(accelerator, f"{run.train.label or method.name}: {what}{f' ({found.reason})' if found.reason else ''}")
        asked = run.compute.attention != "auto"
        if scored is not None and (note := other_layout(scored.layout, found, asked=asked)):
            _say(accelerator, f"note: {note}")
        if router is None and architecture.settings(architecture.causal_lm(scorer.model)).get("output_router_logits"):
            _say(
                accelerator, "note: output_router_logits of the model's config has no effect; see train.router_aux_loss"
            )
        return cls(
            run,
            data,
            accelerator,
            checkpoint.Training(scorer, masters, optimizer, scheduler, sharded=mesh is not None),
            Step(
                rebuilt,
                masters.parameters,
                method,
                processes,
                reference,
                reference_logits.cached_tokens(run, method, device),
                split=batcher_for(found.layout),
                router_loss=router.coefficient if router else 0.0,
                noisy=settings.lora_dropout > 0,
            ),
            rebuilt,
            reference,
            budget,
            steps,
            scored,
        )

    def check_against_cache(self) -> None:
        """Score some pairs again. Raises `InputError` where the policy, being the reference, differs from the cache."""
        settings = self.run.train
        found = cache_check.residual(self.step.scorer, self.data, settings.verify_pairs, self.budget, settings.seed)
        release(self.training.model)
        experts = architecture.has_experts(architecture.causal_lm(self.training.model.model))
        differing = self._computed_otherwise()
        cache_check.require_agreement(found, lineage.dtype_of(self.run), experts=experts, differing=differing)
        agreement = f"policy equals the cached reference to {found.worst:.1e} nats per token"
        _say(
            self.accelerator,
            f"{agreement} ({found.pairs} pairs scored again{f'; {differing}' if differing else ''})",
        )

    def _computed_otherwise(self) -> str:
        """What the cached log-probs were computed with, where that is not what is used here."""
        if self.scored is None:
            return ""
        scorer = self.training.model
        model, compiled = architecture.causal_lm(scorer.model), self.run.compute.compile
        here = facts([provenance_of(model, scorer.layout, self.accelerator.device, compiled=compiled)])
        return differing({"layout": self.scored.layout, **self.scored.computed}, here)

    def watch(self, sample: Sample | None) -> Watch:
        """What computes the held-out figures of this run, on a `sample` if there is one."""
        bare, seed = replace(self.step, scorer=self.training.model), self.run.train.seed
        evaluator = None
        if sample is not None:
            evaluator = Evaluator(sample, bare, self.training.model, self.budget, seed, self.steps)
        per_epoch = sampling.steps_per_epoch(len(self.data), self.run.train.batch_pairs)
        return Watch(self.run, evaluator, self.accelerator, steps=self.steps, steps_per_epoch=per_epoch)

    def train(self, paths: RunPaths, watch: Watch) -> int:
        """Run the remaining steps; the last of them, which `watch` may end before all are done.

        Raises `SystemExit(143)` after SIGTERM and `KeyboardInterrupt` after Ctrl-C, both with a checkpoint written;
        `InputError` where the processes would go on from different steps, or the training diverges.
        """
        folder, settings = paths.checkpoints, self.run.train
        done, state = 0, self.step.method.init_state()
        if found := checkpoint.newest_sound(folder, partial(log_damage, paths.training), watch.needs):
            done, state = checkpoint.restore(found, self.training)
            _say(self.accelerator, f"{paths.label}: resuming after step {done:,} of {self.steps:,}")
        require_same_plan(self.accelerator, {"steps done": done})
        main = self.accelerator.is_main_process
        log = StepLog(paths.training, done, inside=paths.out) if main else None
        interval = checkpoint.CheckpointInterval.of(settings.checkpoint_every, self.steps)
        watch.begin(done, state)
        with (
            _stop_requested(alone=self.accelerator.num_processes == 1) as requested,
            progress(self.steps, "steps", paths.label, done=done, enabled=main) as bar,
            closing(self.reference) if self.reference else nullcontext(),
        ):
            upcoming = self._planned(done + 1)
            while done < self.steps and not watch.over:
                done = step = done + 1
                (epoch, pairs), upcoming = upcoming, self._planned(step + 1)
                state, metrics, rows = self.take(step, epoch, pairs, state)
                metrics |= watch.after(step, state)
                self.accelerator.log(metrics, step=step)
                bar.set_postfix_str(f"loss {metrics[names.LOSS]:.4f}", refresh=False)
                bar.update(1)
                stop = self.anyone(bool(requested))
                due = interval.ends_at(step) and self.anyone(main and interval.is_worth_it())
                keeps = stop or due or step == self.steps or watch.over or watch.must_keep
                if keeps:
                    self._require_finite_weights(step)
                if log is not None:
                    log.add(metrics, rows)
                    if keeps:
                        log.flush(step)
                if keeps:
                    with interval.writing():
                        if main or self.training.sharded:
                            checkpoint.save(
                                folder,
                                self.training,
                                step,
                                state,
                                keep=settings.keep_checkpoints,
                                inside=paths.out,
                                log=log.parts if log else None,
                                needs=watch.needs,
                            )
                        publish(paths)
                if stop:
                    _say(self.accelerator, f"{paths.label}: stopped at step {step}; the same command resumes there")
                    raise KeyboardInterrupt if signal.SIGINT in requested else SystemExit(TERMINATED)
        if log is not None:
            watch.finish()
            log.finish()
        return done

    def _planned(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        """Epoch and pairs of a step, none behind the last, whose reference distributions begin to be read."""
        settings = self.run.train
        epoch, pairs = sampling.batch(
            len(self.data), step, settings.batch_pairs, shuffle=settings.shuffle, seed=settings.seed
        )
        if step > self.steps:
            pairs = pairs[:0]
        if self.reference is not None and self.reference.reads_ahead:
            rows = [self.data.row(pair) for pair in pairs]
            size = settings.microbatch_pairs if settings.scope == "microbatch" else max(1, len(rows))
            parts = [self.step.batches(rows[part], self.budget) for part in slices(len(rows), size)]
            self.reference.announce([batch for part in parts for batch in part])
        return epoch, pairs

    def save_policy(self, paths: RunPaths, made: Lineage) -> None:
        """Write the trained model, from the main process: the weights of the step that `made` says."""
        if self.accelerator.is_main_process or self.training.sharded:
            if made.held_out is not None and made.held_out.policy_step != made.held_out.last_step:
                checkpoint.restore_sound(paths.checkpoints, made.held_out.policy_step, self.training)
            start, data, trained = lineage.start_of(self.run), self.run.data, self.training.model.model
            save_policy.save(
                paths.policy,
                trained,
                start=start,
                data=data,
                lineage=made,
                inside=paths.out,
                sharded=getattr(torch, lineage.dtype_of(self.run)) if self.training.sharded else None,
            )
        self.accelerator.wait_for_everyone()

    def take(
        self, step: int, epoch: int, pairs: npt.NDArray[np.int64], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Metrics, Rows]:
        """One optimizer step on `pairs`: the method's new state, the step's metrics, and its rows of the step log."""
        started, settings, method = time.perf_counter(), self.run.train, self.step.method
        rows = [self.data.row(pair) for pair in pairs]
        columns = {name: values[pairs] for name, values in self.data.columns.items()}
        if method.random:
            columns["exponential_draws"] = sampling.exponential_draws(len(pairs), step, seed=settings.seed)
        if method.scheduled:
            columns["progress"] = np.array((step - 1) / self.steps)
        tensors = {name: torch.from_numpy(values).to(self.accelerator.device) for name, values in columns.items()}
        with self._with_dropout(step) as taken:
            if settings.scope == "microbatch":
                outcome, everything = in_parts(taken, rows, tensors, state, self.budget, settings.microbatch_pairs)
            else:
                outcome, everything = taken(rows, tensors, state, self.budget)
        rate = float(self.training.scheduler.get_last_lr()[0])
        self.rebuilt.require_agreement()
        norm = self._update(step, float(outcome.loss.detach()))
        seconds, tokens = time.perf_counter() - started, sum(row.tokens for row in rows)
        metrics: Metrics = {
            names.STEP: step,
            names.EPOCH: epoch,
            **step_metrics(outcome, everything),
            names.GRAD_NORM: norm,
            names.LEARNING_RATE: rate,
            names.SECONDS: seconds,
            names.PAIRS_PER_SECOND: len(rows) / seconds,
            names.TOKENS_PER_SECOND: tokens / seconds,
            names.PEAK_MEMORY: peak_bytes(self.accelerator.device),
        }
        return outcome.state, metrics, log_rows(outcome, step, epoch, [self.data.pair_ids[pair] for pair in pairs])

    @contextmanager
    def _with_dropout(self, step: int) -> Iterator[Step]:
        """The step as it is taken in training: with dropout where the run file asks for it."""
        settings = self.run.train
        if not settings.lora_dropout:
            yield self.step
            return
        with dropout.switched_on(adapters.dropouts(self.training.model.model)):
            yield replace(self.step, scorer=dropout.seeded(self.step.scorer, settings.seed, step))

    def _update(self, step: int, loss: float) -> float:
        """Clip, step the optimizer and its schedule; the gradient norm before clipping."""
        training, limit = self.training, self.run.train.max_grad_norm
        training.masters.take_gradients()
        norm = gradient_norm(training.masters.masters)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise InputError(
                "Training diverged: the loss or its gradient is not finite.",
                found=f"loss {loss}, gradient norm {norm}",
                where=f"step {step}",
                fix="Lower train.learning_rate or beta and start again with --restart.",
            )
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(training.masters.masters, limit, torch.tensor(norm))
        training.optimizer.step()
        training.scheduler.step()
        training.optimizer.zero_grad()
        training.masters.give_weights()
        return norm

    def _require_finite_weights(self, step: int) -> None:
        """Raise `InputError` where weights are not finite, before they are kept.

        The loss of a step is that of the weights before it: those of the last step have no later loss to show it.
        """
        trained = zip(self.training.names, self.training.masters.parameters, strict=True)
        counts = {name: int((~own_part(weights.detach()).isfinite()).sum()) for name, weights in trained}
        if self.training.sharded:
            each = self.accelerator.reduce(torch.tensor(list(counts.values()), device=self.accelerator.device), "sum")
            counts = dict(zip(counts, each.tolist(), strict=True))
        if broken := [name for name, count in counts.items() if count]:
            raise InputError(
                "Training diverged: weights are not finite.",
                found=f"{sum(counts.values()):,} weights of {len(broken):,} tensors, {broken[0]} the first",
                where=f"after step {step}; nothing of it was saved",
                fix="Lower train.learning_rate or beta and start again with --restart.",
            )

    def anyone(self, stop: bool) -> bool:
        """Whether `stop` is true on any process; every process gets the same answer."""
        if self.accelerator.num_processes == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)


def require_same_plan(accelerator: Accelerator, plan: Mapping[str, Any]) -> None:
    """Raise `InputError` on every process where the facts of `plan` are not the same on all of them."""
    require_agreement(plan, lambda table: accelerator.gather(table.to(accelerator.device)))


def _say(accelerator: Accelerator, message: str) -> None:
    """Log a message, once for all processes."""
    if accelerator.is_main_process:
        logger.info(message)


def _whole_scorer(
    run: Run, method: Method, data: TrainingData, device: torch.device, first: RowLayout | None
) -> tuple[TokenScorer, layout_probe.Probe, Router | None]:
    """The policy's scorer where this process keeps all of it, and the layout that the first process finds exact."""
    settings = run.train
    model = policy.load(run, device)
    loading.require_fit(
        model,
        lineage.start_of(run).model,
        largest_token=data.largest_token,
        longest_sequence=data.longest_sequence,
    )
    move_to_huge_pages(model)
    multiple = sequence_multiple(run.compute.budget(device.type))
    compute = run.compute
    found = agreed_layout(
        model, compute.attention, data.longest_row, multiple, compiled=compute.compile, trains=True, first=first
    )
    if settings.gradient_checkpointing:
        loading.recompute_activations(model, offload=compute.offload_activations)
        layout_probe.require_same_in_training(model, found.layout, multiple)
    router = router_of(model) if settings.router_aux_loss else None
    masks = masking(method, model, device)
    return TokenScorer(model, found.layout, masks, multiple=multiple, top_k=router and router.top_k), found, router


def masking(method: Method, model: PreTrainedModel, device: torch.device) -> Masking | None:
    """The token masks that a method reads: learnt where it penalises them, else from activations."""
    asked = PolicyColumns.of(method.reads)
    if not asked.reads("masks", "learnt masks"):
        return None
    if not asked.reads("learnt masks"):
        return activation_masks
    # The reference is as wide as the policy: the policy starts from it, or has the same architecture.
    return LearntMasks(model.get_output_embeddings().weight.shape[1]).to(device, model.dtype)


@contextmanager
def _stop_requested(*, alone: bool) -> Iterator[list[int]]:
    """A list of the signals that came: SIGTERM, which schedulers send some time before they kill, or Ctrl-C's SIGINT.

    A second Ctrl-C raises `KeyboardInterrupt` at once in a process that trains `alone`. A launcher of several passes
    each one on, so that they come twice, and kills its processes itself.
    """
    requested: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and number in requested and alone:
            raise KeyboardInterrupt
        requested.append(number)
        if number == signal.SIGINT and alone:
            with suppress(RuntimeError):  # it came while something else was being printed
                logger.warning("\nfinishing this step to write a checkpoint; Ctrl-C again stops at once")

    # Ignored where a shell or nohup started this in the background: that stays so.
    heeded = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
