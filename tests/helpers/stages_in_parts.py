"""A process of a launch: scores, evaluates or trains the runs of a JSON list, one after the other.

    torchrun ... stages_in_parts.py STAGE RUNS [STEP]

CACHES in the environment: the beginning of the names of caches, one for each node.
STEP: the step before which each training is interrupted. Each process says how many weights it keeps, and fails where
it ends in its group of processes, whose threads abort it now and then.
"""

import atexit
import contextlib
import json
import os
import sys

import torch.distributed as dist
from accelerate import Accelerator

from scoreonce.pipeline.forward.sharding import own_part
from scoreonce.stages.config import Run
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.score.stage import score
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.trainer import Trainer

honest = Trainer.take


def has_parted():
    if dist.is_initialized():
        os.write(2, b"the process group was not ended\n")
        os._exit(1)


def take(self, step, *rest):
    if step == 2:  # before, what is outside of blocks is still whole from the comparison with the cache
        parameters = list(self.training.model.parameters())
        own, whole = sum(own_part(each).numel() for each in parameters), sum(each.numel() for each in parameters)
        os.write(1, f"kept {own} {whole}\n".encode())  # at once: the processes share a pipe
    if step == int(sys.argv[3]):
        raise KeyboardInterrupt
    return honest(self, step, *rest)


if __name__ == "__main__":
    if "CACHES" in os.environ:
        os.environ["SCOREONCE_CACHE"] = f"{os.environ['CACHES']}-{os.environ['GROUP_RANK']}"
    atexit.register(has_parted)  # before the stages: called after what they register
    Accelerator(cpu=True)
    Trainer.take = take
    stage = {"train": train.train, "score": score, "evaluate": evaluate}[sys.argv[1]]
    for tree in json.loads(sys.argv[2]):
        with contextlib.suppress(KeyboardInterrupt):
            stage(Run.model_validate(tree))
