"""Stage two: train a policy from cached columns. The reference model is never loaded.

    scoreonce train configs/x.toml --method beta_dpo --set train.beta=0.05
    scoreonce train configs/x.toml --dry-run   time and memory
    torchrun --nproc_per_node 2 -m scoreonce.stages.cli train configs/x.toml   or `accelerate launch` on GPUs

Writes <out>/train/<label>/: metrics.jsonl and metrics.parquet (per step), steps.parquet (per pair and step), run.toml,
lineage.json, checkpoints/, and model/; with evaluate.every also held_out.jsonl and held_out.parquet (per evaluation).
A killed run resumes from the last checkpoint with the same result.

With several processes each keeps all of the model (DDP), or with compute.shard a part of it (FSDP2).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.pages.numbers import duration, size
from scoreonce.pipeline.verdict.verdict import verdict
from scoreonce.schemas import metrics
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.manifests import Lineage, PairsManifest, ReferenceManifest, TrainingLogManifest
from scoreonce.stages.common import files, manifests
from scoreonce.stages.common.gpu_memory import enough_gpu_memory
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.method_file import load_allowed
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import TrainResult
from scoreonce.stages.config import Run
from scoreonce.stages.data.prepared_pairs import require_held_out, require_pairs
from scoreonce.stages.data.reference_scores import (
    require_columns,
    require_other,
    require_reference,
    require_scores_of_pairs,
)
from scoreonce.stages.data.training_runs import checkpoints, metric_lines
from scoreonce.stages.held_out import settings as held_out_settings
from scoreonce.stages.held_out.sample import Sample
from scoreonce.stages.memory import peaks
from scoreonce.stages.models import lineage, loading, policy
from scoreonce.stages.outputs.at_address import at_address, require_one_machine
from scoreonce.stages.sharded.choice import choose_shard
from scoreonce.stages.sharded.processes import part_at_exit
from scoreonce.stages.sharded.scorer import require_can_be_sharded
from scoreonce.stages.train import pair_filter
from scoreonce.stages.train.data import TrainingData, load_training_data
from scoreonce.stages.train.estimate import TrainingEstimate, estimate_training
from scoreonce.stages.train.step_log import WHOLE
from scoreonce.stages.train.trainer import Trainer, require_same_plan
from scoreonce.stages.verdict import say as verdicts
from scoreonce.stages.verdict.gather import after_training
from scoreonce.stages.weights import policy_manifest

logger = logging.getLogger(__name__)


@at_address("pairs/*", "reference/*", "audit/audit.json", "audit/pairs.parquet", writes="train/{label}")
def train(
    run: Run, *, restart: bool = False, allow_method_file: bool = False, lock_timeout: float | None = None
) -> TrainResult:
    """Train the policy that the run file asks for, or resume; do nothing where it is finished.

    `restart` deletes what another run, or an unfinished one, left under the same label. `allow_method_file` lets the
    code of `train.method_file` run. Another process that trains under this label is waited for, at most `lock_timeout`
    seconds. Raises `InputError` for anything that the user can put right, `SystemExit(143)` after SIGTERM and
    `KeyboardInterrupt` after Ctrl-C, both with a checkpoint written.
    """
    paths, method = RunPaths.of(run), _method(run, allow_method_file)
    data, sample, record, scored = _inputs(run, method)
    accelerator = _accelerator(run, paths)
    say = logger.info if accelerator.is_main_process else logger.debug
    asked, run = run, _with_shard(run, method, data, accelerator)
    if run.compute.shard != "none":
        require_one_machine(paths, "the parts of a model")
    with _only_run(accelerator, paths, restart, lock_timeout):
        require_same_plan(accelerator, _plan(run, paths, record))
        if _finished(paths, record):
            say("%s: up to date, %s", paths.label, paths.policy)
            return TrainResult(paths, 0)
        with _enough_gpu_memory(run, accelerator, "before the first step"):
            trainer = Trainer.build(run, method, data, accelerator, scored)
            if run.train.verify_pairs and lineage.policy_is_reference(record):
                trainer.check_against_cache()
        # Whatever is refused is refused before this point, so that it leaves nothing under the label.
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _begin(asked, paths, record)
        accelerator.init_trackers(
            "scoreonce", {"label": paths.label, "method": method.name}, init_kwargs=_tracker_settings(paths.label)
        )
        watch = trainer.watch(sample)
        with _enough_gpu_memory(run, accelerator, "a training step"):
            last = trainer.train(paths, watch)
        record = record.model_copy(update={"held_out": watch.choice(last)})
        if accelerator.is_main_process and record.held_out is not None:
            manifests.write(paths.lineage, record)
            watch.say(record.held_out, sum(line[metrics.SECONDS] for line in metric_lines(paths)))
        trainer.save_policy(paths, record)
        # Not `end_training`, which also ends the group of processes: it serves the next run of this command.
        for tracker in accelerator.trackers:
            tracker.finish()
    say("%s: %s steps done, model in %s", paths.label, f"{last:,}", paths.policy)
    if accelerator.is_main_process:
        logger.info("\n".join(verdicts.lines(verdict(after_training(paths)))))
    return TrainResult(paths, last)


@at_address("pairs/*", "reference/*", "audit/pairs.parquet")
def estimate(run: Run, *, allow_method_file: bool = False) -> TrainingEstimate:
    """What `train` would take: time and memory, from a few steps. Writes nothing.

    Raises `InputError` as `train` does.
    """
    method = _method(run, allow_method_file)
    data, sample, _, scored = _inputs(run, method)
    accelerator = _accelerator(run, RunPaths.of(run))
    run = _with_shard(run, method, data, accelerator)
    with _enough_gpu_memory(run, accelerator, "the steps that the estimate takes"):
        trainer = Trainer.build(run, method, data, accelerator, scored)
        left, planned = estimate_training(trainer), trainer.watch(sample).planned_tokens
    if accelerator.is_main_process:
        logger.info(
            "to train   %s pairs, %s steps, %s tokens\n"
            "time       about %s (%s tokens/s, measured here)\n"
            "memory     about %s for each process",
            f"{len(data):,}",
            f"{left.steps:,}",
            f"{left.tokens:,}",
            duration(left.seconds),
            f"{left.tokens / left.seconds:,.0f}",
            size(left.memory),
        )
        if planned:
            # Without backward passes, which take two thirds of the time of a step.
            seconds = planned * left.seconds / left.tokens / 3
            logger.info(f"held-out   {planned:,} tokens over all evaluations, about {duration(seconds)} more")
    return left


def _enough_gpu_memory(run: Run, accelerator: Accelerator, where: str) -> AbstractContextManager[None]:
    """Say how to train in less memory where it runs out. Only the budget may change in a run that has begun."""
    budget = run.compute.budget(accelerator.device.type)
    return enough_gpu_memory(
        "checkpoints stay",
        where=f"{where}, with micro-batches of up to {budget:,} tokens",
        fix=f"Run again with a smaller budget, e.g. --set compute.tokens_per_microbatch={budget // 2}, or train with "
        "gradient_checkpointing = true or lora_rank.",
    )


def _inputs(run: Run, method: Method) -> tuple[TrainingData, Sample | None, Lineage, ReferenceManifest | None]:
    """The training pairs with the columns that the method reads, and a sample of the held-out ones where it is asked
    for; the lineage of what they lead to, and the scores.
    """
    pairs, evaluates = require_pairs(run), run.evaluate.every is not None
    scores = require_reference(run) if evaluates or lineage.reads_reference(method) else None
    reference = scores if lineage.reads_reference(method) else None
    if reference is not None:
        require_columns(reference, method.name, method.reads, live=run.train.full_vocab == "live")
    others = {name: require_other(run, name, method.name) for name in method.others}
    data = load_training_data(
        RunPaths.of(run),
        method.reads,
        run.train.where,
        run.train.drop,
        share=run.train.share,
        seed=run.data.seed,
        takes_unpaired=method.takes_unpaired,
    )
    if "has_chosen" in data.columns and (said := pair_filter.balance(data.columns, method.hyperparameters)):
        logger.info(said)
    _require_calibrated(method, data)
    sample = _sample(run, method, pairs, scores) if evaluates and scores else None
    record = lineage.describe(run, method, data.pair_ids, pairs, reference, scores, others)
    return data if sample is None else data.and_given(sample.rows), sample, record, reference


def _sample(run: Run, method: Method, pairs: PairsManifest, scores: ReferenceManifest) -> Sample:
    """The held-out pairs of the figures while training."""
    paths = RunPaths.of(run)
    require_held_out(pairs, paths)
    require_scores_of_pairs(scores, paths)
    reads, unpaired = held_out_settings.reads(method), method.takes_unpaired or held_out_settings.imitates(method)
    return Sample.draw(run, method, load_training_data(paths, reads, takes_unpaired=unpaired, split="test"))


def _method(run: Run, allow_method_file: bool) -> Method:
    settings = run.train
    if settings.method_file:
        load_allowed(settings.method_file, allowed=allow_method_file)
    method = methods.resolve(settings.method, settings.hyperparameters, **settings.pieces)
    policy.require_lora_settings(run)
    held_out_settings.require_settings(run, method)
    if settings.scope == "microbatch" and not method.batch_coupled:
        raise InputError(
            f"{method.name} takes no statistics over a batch, so there is nothing for a micro-batch scope to change.",
            found='scope = "microbatch"',
            where="train.scope",
            fix='Use scope = "step", or a method such as beta_dpo or alpha_dpo.',
        )
    return method


def _require_calibrated(method: Method, data: TrainingData) -> None:
    """Calibrate once over all pairs by what is cached alone (ODPO's scores), to find a bad one before training."""
    for piece in method.calibrations:
        if piece.columns and set(piece.columns) <= data.columns.keys():
            piece({name: torch.tensor(data.columns[name]) for name in piece.columns}, method.hyperparameters)


def _require_trackers(names: list[str]) -> None:
    """Accelerate would leave out a tracker that is not installed without a message."""
    known, installed = LoggerType.list(), [tracker.value for tracker in get_available_trackers()]
    for name in names:
        if name != "all" and name not in installed:
            raise InputError(
                "No such tracker." if name not in known else "The tracker is not installed.",
                found=f"{name!r}.{did_you_mean(name, known) if name not in known else ''}",
                where="train.log_with",
                fix=f"Use one of: {', '.join(known)}."
                if name not in known
                else f"pip install {name}; scoreonce[trackers] has mlflow, tensorboard, trackio and wandb",
            )


def _tracker_settings(label: str) -> dict[str, dict[str, str]]:
    """The name under which each tracker keeps the run; TensorBoard's is the folder train/<label>."""
    return {"wandb": {"name": label}, "mlflow": {"run_name": label}, "trackio": {"name": label}}


def _accelerator(run: Run, paths: RunPaths) -> Accelerator:
    device = loading.resolve_device(run.compute.device)
    policy.require_activations_to_offload(run, device.type)
    _require_trackers(run.train.log_with)
    part_at_exit()
    accelerator = Accelerator(
        cpu=device.type == "cpu", log_with=run.train.log_with or None, project_dir=paths.training / "trackers"
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InputError(
            "The model is sharded by the run file, not by accelerate.",
            found=str(accelerator.distributed_type),
            where="the accelerate config",
            fix="Choose multi-GPU or multi-CPU without FSDP and DeepSpeed in `accelerate config`, and set "
            'compute.shard = "full".',
        )
    return accelerator


def _with_shard(run: Run, method: Method, data: TrainingData, accelerator: Accelerator) -> Run:
    """The run with compute.shard = "auto" decided."""
    chosen = choose_shard(
        run.compute,
        accelerator.device,
        "training",
        lambda sharing: peaks.training(run, peaks.counted_training(run, sharing.gpus, data.places), sharing),
        require=lambda: require_can_be_sharded(run, method),
    )
    return run.model_copy(update={"compute": run.compute.model_copy(update={"shard": chosen})})


@at_address("pairs/*", "reference/*", "audit/pairs.parquet", "train/{label}/lineage.json")
def other_run(run: Run, *, allow_method_file: bool = False) -> list[manifests.Difference]:
    """How a run that is there under this label differs from this one; empty where none is there, or this very one.

    Empty too where its lineage is damaged, which `train` says. Raises `InputError` as `train` does for what it reads.
    """
    there = manifests.readable(Lineage, RunPaths.of(run).lineage)
    if there is None:
        return []
    _, _, record, _ = _inputs(run, _method(run, allow_method_file))
    return lineage.conflicts(there, record)


@contextmanager
def _only_run(accelerator: Accelerator, paths: RunPaths, restart: bool, timeout: float | None) -> Iterator[None]:
    """The main process holds the lock of this label; the others begin when it has it."""
    with ExitStack() as held:
        if accelerator.is_main_process:
            what = f"the training run {paths.label}"
            held.enter_context(locked(paths, paths.training, what, timeout=timeout, restart=restart))
        accelerator.wait_for_everyone()
        yield


def _plan(run: Run, paths: RunPaths, record: Lineage) -> dict[str, Any]:
    """What this process is about to do, as facts that have to be the same on all of them."""
    facts, there = record.model_dump(mode="json"), manifests.readable(Lineage, paths.lineage)
    found = checkpoints(paths.checkpoints)
    return {
        "the settings of [train]": [
            facts["method"],
            run.train.model_dump(mode="json", exclude={"model", "method_file"}),
        ],
        "the held-out figures": run.evaluate.model_dump(mode="json", exclude={"model", "label"}),
        "compute.shard": run.compute.shard,
        "the pairs": facts["data"],
        "the weights to start from": [facts["policy"]["weights"], facts["policy"]["adapter"]],
        "the reference scores": facts["reference"] and facts["reference"]["files"],
        "the run that is there": there and there.identity,
        "the last checkpoint": found[-1].name if found else None,
        "whether it is finished": paths.policy.is_dir(),
    }


def _finished(paths: RunPaths, wanted: Lineage) -> bool:
    """Whether this very policy is there; another run's outputs under the same label are never overwritten unasked."""
    if not paths.lineage.exists():
        return False
    record = _recorded(paths, wanted)
    if record is None:
        if paths.held_out_log.is_file():
            return False  # which evaluation the model is of is found out again, from the last checkpoint
        manifests.write(paths.lineage, record := wanted)
    changed = lineage.conflicts(record, wanted)
    if changed:
        raise InputError(
            "Another training run has its outputs under this label.",
            found=manifests.listed(changed, "trained"),
            where=str(paths.training),
            fix="Give this one a label of its own, --set train.label=..., or replace the old one with --restart.",
        )
    return paths.policy.is_dir() and not _damaged(paths)


def _recorded(paths: RunPaths, wanted: Lineage) -> Lineage | None:
    """The lineage of the run that is there; None where its file is damaged, and the model says that it is `wanted`."""
    try:
        tree = manifests.load(Lineage, paths.lineage)
    except InputError as error:
        if policy_manifest.identity_of(paths.policy) != wanted.identity:
            error.fix = "Restore the file from a copy, or replace this run: `scoreonce train` with --restart."
            raise
        logger.warning("%s: %s (%s); written again", paths.label, error.what, error.where)
        return None
    return manifests.parse(Lineage, tree, paths.lineage)


def _damaged(paths: RunPaths) -> bool:
    """Whether the model or the log of a finished run is not what was written; said, because training goes on then."""
    try:
        policy_manifest.require_sound(paths.policy)
        if (settings := paths.training / "run.toml").exists():
            files.read_toml(settings)
        if paths.training_log.exists():
            log = manifests.read(TrainingLogManifest, paths.training_log)
            manifests.require_files(log, paths.training, WHOLE)
            return not log.finished  # a run that mends a damaged one was stopped
    except InputError as error:
        begin = "last checkpoint" if checkpoints(paths.checkpoints) else "first step"
        logger.warning("%s: %s (%s); written again from the %s", paths.label, error.what, error.where, begin)
        return True
    except ValueError as error:
        logger.warning("%s: run.toml cannot be read (%s); written again", paths.label, error)
        return True
    return False


def _begin(run: Run, paths: RunPaths, record: Lineage) -> None:
    paths.training.mkdir(parents=True, exist_ok=True)
    files.write_toml(paths.training / "run.toml", run.model_dump(exclude_none=True))
    manifests.write(paths.lineage, record)
