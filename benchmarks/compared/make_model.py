"""Write the model, in a process of its own: whoever starts processes stays small, and its size is no child's peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import child
from flops import Shape

from compared.world import write_model


def made(order: dict[str, Any]) -> dict[str, Any]:
    write_model(Path(order["model"]), Shape(**order["shape"]), order["dtype"])
    return {}


if __name__ == "__main__":
    child.answer(made)
