"""How processes that score together find each other."""

import os
import socket
import subprocess
import sys

import pytest

from scoreonce.stages.config import Compute
from scoreonce.stages.scoring.processes import ALONE, launched

MEMBER = """
import sys
from scoreonce.stages.config import Compute
from scoreonce.stages.scoring.processes import Meeting, launched, meet

compute = Compute(device="cpu")
rank = int(sys.argv[1])
group = meet(Meeting("127.0.0.1", int(sys.argv[2]), 2), rank, compute)
import torch
import torch.distributed as dist

total = torch.tensor([rank + 1])
dist.all_reduce(total)
group.wait()
print(group.rank, group.world, int(total), dist.get_backend(), launched(compute)[:2])
"""


def test_without_a_launch_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched(Compute()) is ALONE
    assert (ALONE.rank, ALONE.world, ALONE.wait()) == (0, 1, None)


@pytest.mark.long
def test_two_processes_that_no_launcher_started_meet():
    """1 + 2 = 3 in both; afterwards each is as torchrun would have made it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(rank), str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    said = [member.communicate()[0].strip() for member in members]
    assert said == ["0 2 3 gloo (0, 2)", "1 2 3 gloo (1, 2)"]
