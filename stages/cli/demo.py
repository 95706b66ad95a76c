"""Steps of `make demo` and `make demo-chat`."""

from __future__ import annotations

from scoreonce.stages.cli.loading import load
from scoreonce.stages.cli.options import RunFile, Sets


def task(run: RunFile, sets: Sets = None) -> None:
    """Write the texts of the synthetic task, a tokenizer and an untrained model."""
    settings = load(run, sets)
    from scoreonce.stages.demo import stage

    stage.task(settings)


def pairs(run: RunFile, sets: Sets = None) -> None:
    """Sample and label pairs.

    Samples two texts per prompt from the reference model and labels them by the known reward, with noise.
    """
    settings = load(run, sets)
    from scoreonce.stages.demo import stage

    stage.pairs(settings)


def judge(run: RunFile, sets: Sets = None) -> None:
    """Measure the true reward and the KL divergence of every policy."""
    settings = load(run, sets)
    from scoreonce.stages.demo import stage

    stage.judge(settings)


def chat(run: RunFile, sets: Sets = None) -> None:
    """Write the instruct model of the chat demo, and questions."""
    settings = load(run, sets)
    from scoreonce.stages.demo import chat

    chat.chat(settings)
