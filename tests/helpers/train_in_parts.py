"""A process of a launch: trains the runs of a JSON list, one after the other.

    torchrun ... train_in_parts.py RUNS STEP

STEP: the step before which each run is interrupted, 0 for none. Each process says how many weights it keeps.
"""

import contextlib
import json
import os
import sys

from accelerate import Accelerator

from scoreonce.pipeline.forward.sharding import own_part
from scoreonce.stages.config import Run
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.trainer import Trainer

honest = Trainer.take


def take(self, step, *rest):
    if step == 2:  # before, what is outside of blocks is still whole from the comparison with the cache
        parameters = list(self.training.model.parameters())
        own, whole = sum(own_part(each).numel() for each in parameters), sum(each.numel() for each in parameters)
        os.write(1, f"kept {own} {whole}\n".encode())  # at once: the processes share a pipe
    if step == int(sys.argv[2]):
        raise KeyboardInterrupt
    return honest(self, step, *rest)


if __name__ == "__main__":
    Accelerator(cpu=True)
    Trainer.take = take
    for tree in json.loads(sys.argv[1]):
        with contextlib.suppress(KeyboardInterrupt):
            train.train(Run.model_validate(tree))
