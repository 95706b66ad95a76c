"""A training whose process dies: nothing catches it, and nothing is written after it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from scoreonce.stages.train.trainer import Trainer


class Killed(BaseException):
    """Stands for a kill."""


@contextmanager
def dying(owner: Any, method: str, dies: Callable[..., bool]) -> Iterator[None]:
    """Die in this block where `dies`, given a call's arguments, says so, and expect it."""
    honest = getattr(owner, method)

    def called(*arguments: Any) -> Any:
        if dies(*arguments):
            raise Killed
        return honest(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, method, called)
        with pytest.raises(Killed):
            yield


def dying_in_update(number: int, optimizer: type = torch.optim.AdamW) -> Any:
    """Die in the optimizer's step of that number, after the gradients were made."""
    calls: list[None] = []

    def counted(*_: Any) -> bool:
        calls.append(None)
        return len(calls) == number

    return dying(optimizer, "step", counted)


def dying_before(step: int) -> Any:
    """Die before a step of the training begins."""
    return dying(Trainer, "take", lambda trainer, number, *rest: number == step)
