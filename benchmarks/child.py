"""Measuring in a process of its own: an order goes there as JSON, an answer comes back with the peak memory it took.

`ask` starts `python -m MODULE --order FILE` in this folder; there the module calls `answer`. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
FLAG = "--order"


def ask(module: str, folder: Path, **order: Any) -> dict[str, Any]:
    """Have a module of this folder measure something in a process of its own; ends the benchmark where that fails."""
    asked, answered = folder / "order.json", folder / "answer.json"
    answered.unlink(missing_ok=True)
    asked.write_text(json.dumps({**order, "answer": str(answered), "started": time.time()}))
    command = [sys.executable, "-m", module, FLAG, str(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    answer: dict[str, Any] = json.loads(answered.read_text())
    return answer


def asked() -> bool:
    """Whether this process was started by `ask`."""
    return FLAG in sys.argv


def answer(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Carry out the order that this process was started with."""
    order = json.loads(Path(sys.argv[sys.argv.index(FLAG) + 1]).read_text())
    figures = measure(order)
    Path(order["answer"]).write_text(json.dumps({**figures, "peak, bytes": _peak()}))


def step_ends() -> list[float]:
    """A list that grows by the time of day whenever an optimizer has made a step, whoever's optimizer it is."""
    import torch  # table benchmarks do without
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ends: list[float] = []

    def note(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.time())

    register_optimizer_step_post_hook(note)
    return ends


def _peak() -> int:
    """Bytes: of the GPU where one was used, of the whole process with its libraries otherwise."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        peak: int = torch.cuda.max_memory_allocated()
        return peak
    # Not ru_maxrss: that starts from the size of the process that started this one.
    return _status("VmHWM")


def resident() -> int:
    """Bytes of memory that this process has now."""
    return _status("VmRSS")


def _status(name: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])
