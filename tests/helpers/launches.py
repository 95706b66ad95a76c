"""Stages in several processes, started by torchrun as a user would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "stages_in_parts.py"


def launch(stage, runs, processes, *, nodes=1, until=0):
    """Run a stage for some runs in one launch, by so many processes on each node; a node is a launcher here.

    Returns what all processes said. `until`: the step before which training is interrupted.
    """
    trees = json.dumps([run.model_dump(exclude_none=True) for run in runs])
    each = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    if nodes == 1:
        commands = [[*each, "--standalone", str(SCRIPT), stage, trees, str(until)]]
    else:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        meeting = ["--nnodes", str(nodes), "--master_addr", "localhost", "--master_port", str(port)]
        commands = [
            [*each, *meeting, "--node_rank", str(node), str(SCRIPT), stage, trees, str(until)] for node in range(nodes)
        ]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * nodes, "\n".join(said)
    return "\n".join(said)
