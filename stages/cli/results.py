"""Commands that say what policies are worth."""

from __future__ import annotations

from scoreonce.stages.cli.loading import load, load_each
from scoreonce.stages.cli.options import (
    Against,
    AllowJudgeFunction,
    AnswerFile,
    AnswerFormat,
    Completions,
    JudgedLabel,
    JudgementName,
    Judgements,
    Label,
    Labels,
    LockTimeout,
    Methods,
    Model,
    Questions,
    Realign,
    Rehash,
    Restart,
    RunFile,
    SampledLabels,
    SampledModel,
    SampledPrompts,
    Sets,
    Trust,
)


def evaluate(
    run: RunFile,
    sets: Sets = None,
    methods: Methods = None,
    label: Label = None,
    model: Model = None,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Evaluate a policy on the held-out pairs, or that of each --method."""
    runs = load_each(run, sets, methods, label)
    from scoreonce.stages.evaluate import stage

    for settings in runs:
        stage.evaluate(settings, model=model, label=label, lock_timeout=lock_timeout)


def sample(
    run: RunFile,
    sets: Sets = None,
    labels: SampledLabels = None,
    model: SampledModel = None,
    prompts: SampledPrompts = None,
    n: Completions = None,
    realign: Realign = None,
    restart: Restart = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Sample completions from the reference and from policies.

    With the log-prob of each under its model and the reference, for the report, and to be judged. What was sampled
    before with the same settings stays.
    """
    given = {
        "sample.prompts": prompts,
        "sample.n": n,
        "sample.realign": None if realign is None else realign.split(","),
    }
    settings = load(run, sets).replace({key: value for key, value in given.items() if value is not None})
    from scoreonce.stages.sample import stage

    stage.sample(settings, labels=labels, model=model, restart=restart, lock_timeout=lock_timeout)


def judge(
    run: RunFile,
    sets: Sets = None,
    label: JudgedLabel = None,
    against: Against = None,
    name: JudgementName = None,
    answer_format: AnswerFormat = None,
    to: AnswerFile = None,
    questions: Questions = None,
    allow_judge_function: AllowJudgeFunction = False,
    lock_timeout: LockTimeout = None,
    trust: Trust = False,
) -> None:
    """Judge sampled completions, or compare those of two labels.

    By a reward model, a model at an OpenAI-compatible endpoint, or a Python function: [judge] of the run file.
    """
    settings = load(run, sets)
    from scoreonce.stages.judge import export, stage

    if answer_format is not None:
        export.export_answers(settings, answer_format, to, label=label, questions=questions)
    else:
        stage.judge(
            settings,
            label=label,
            against=against,
            name=name,
            allow_judge_function=allow_judge_function,
            lock_timeout=lock_timeout,
        )


def pairs(
    run: RunFile,
    judgements: Judgements,
    sets: Sets = None,
    name: JudgementName = None,
    lock_timeout: LockTimeout = None,
) -> None:
    """Make graded lists of scored samples, for prepare.

    A line for each prompt, with its completions and scores; data.pairing of the next run makes pairs of them.
    """
    settings = load(run, sets)
    from scoreonce.stages.pairs import stage

    stage.pairs(settings, judgements, name=name, lock_timeout=lock_timeout)


def report(run: RunFile, sets: Sets = None, labels: Labels = None, lock_timeout: LockTimeout = None) -> None:
    """Write one HTML page about the training runs."""
    settings = load(run, sets)
    from scoreonce.stages.report import stage

    stage.report(settings, labels=labels, lock_timeout=lock_timeout)
