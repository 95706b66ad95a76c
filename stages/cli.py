"""The command line: `scoreonce STAGE RUN.toml`. Each command loads the run file and calls its stage, nothing more.

Stages are imported inside the commands, after the run file has been checked: importing torch takes seconds, and neither
`scoreonce --help` nor the error for a misspelt key should wait for it.

Exit codes: 0 done; 1 a fault in scoreonce, with a traceback; 2 unusable input, with a four-part message; 3 an audit
found what --fail-on names, or doctor what would stop a stage; 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scoreonce.schemas.errors import InputError, printable
from scoreonce.stages.commands.failures import environment_error, print_error
from scoreonce.stages.commands.options import (
    Against,
    AllowJudgeFunction,
    AllowMethodFile,
    AnswerFile,
    AnswerFormat,
    AsJson,
    AsMarkdown,
    AsOneJson,
    BaseModel,
    Branch,
    Compared,
    Completions,
    Contamination,
    CutTo,
    Datasets,
    Drop,
    DryRun,
    Engine,
    FailOn,
    FromAxolotl,
    FromLlamafactory,
    FromTrl,
    FullVocab,
    Gpus,
    GroupSize,
    InitData,
    InitMethod,
    InitModel,
    Jobs,
    JudgedLabel,
    JudgementName,
    Judgements,
    Label,
    Labels,
    LeaveOutDiffering,
    ListOnly,
    LockTimeout,
    Memory,
    Merged,
    Message,
    Method,
    MethodFile,
    MethodName,
    Methods,
    Mfu,
    Model,
    NearDuplicates,
    Once,
    OptionalRunFile,
    Overwrite,
    Part,
    PerMachine,
    PrepareEngine,
    Preview,
    Processes,
    Prune,
    Public,
    Query,
    Questions,
    Realign,
    Rehash,
    Replace,
    Repository,
    Restart,
    RunFile,
    RunOut,
    SampledLabels,
    SampledModel,
    SampledPrompts,
    Search,
    Seeds,
    Sets,
    Shard,
    Tflops,
    TimeOnly,
    To,
    Tokens,
    TrainAgain,
    Trials,
    Trust,
    Varied,
    Version,
    WatchedLabels,
    What,
)
from scoreonce.stages.common.messages import quiet_imports, verbose

if TYPE_CHECKING:
    from scoreonce.stages.config import Run

INTERRUPTED = 130
FINDINGS_EXCEEDED = 3  # of --fail-on, or of doctor

app = typer.Typer(
    name="scoreonce",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Score the reference model once; train every preference-optimisation method from the cached columns. "
    "The stages, in order: prepare, audit, score, train, evaluate, sample, report. Each does only what is not done "
    "yet.",
    epilog="`scoreonce init` writes a first run file. `scoreonce COMMAND --help` has the options of a command.",
)
store_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Inspect, verify and clean the reference store."
)
demo_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Steps of `make demo` and `make demo-chat`.")
logger = logging.getLogger(__name__)
app.add_typer(store_app, name="store")
app.add_typer(demo_app, name="demo")


@app.callback()
def _options(version: Version = False) -> None:
    pass


def _load(path: Path, sets: list[str] | None, *, method: str | None = None, label: str | None = None) -> Run:
    """The run file with overrides. `--method` replaces the file's method with what the file says of it alone."""
    from scoreonce.stages import config

    run = config.load(path, sets)
    if method is not None:
        given = (entry.split("=")[0].strip() for entry in sets or [])
        run = run.of_method(method, {key.removeprefix("train.") for key in given if key.startswith("train.")})
    return run if label is None else run.replace({"train.label": label})


def _load_optional(path: Path | None, sets: list[str] | None) -> Run | None:
    """The run file, if one is given. Raises `InputError` for overrides of none."""
    if path is None and sets:
        raise InputError(
            "There is no run file whose keys could be overridden.",
            found=f"--set {sets[0]}",
            where="--set",
            fix="Give the run file too: scoreonce doctor RUN.toml --set ...",
        )
    return None if path is None else _load(path, sets)


def _load_each(path: Path, sets: list[str] | None, methods: list[str] | None, label: str | None) -> list[Run]:
    """The run file once for each method. Raises `InputError` where several would have one label."""
    each: Sequence[str | None] = methods or [None]
    runs = [_load(path, sets, method=method, label=label) for method in each]
    labels = [run.train.label or run.train.method for run in runs]
    if len(set(labels)) < len(labels):
        raise InputError(
            "Several methods cannot share one label.",
            found=f"{', '.join(methods or [])} as {', '.join(labels)}",
            where="--method",
            fix="Leave out --label: each run is then named after its method.",
        )
    return runs


@app.command()
def init(
    model: InitModel = None,
    data: InitData = None,
    method: InitMethod = None,
    out: RunOut = None,
    sets: Sets = None,
    replace: Overwrite = False,
    from_trl: FromTrl = None,
    from_axolotl: FromAxolotl = None,
    from_llamafactory: FromLlamafactory = None,
    processes: Processes = 1,
    trust: Trust = False,
) -> None:
    """Write a first run file.

    For a model and data, of which config.json, the tokenizer and some rows are read; or from a configuration of TRL,
    Axolotl or LLaMA-Factory. Each line has a comment that says why.
    """
    from scoreonce.stages.init import stage

    files = {"trl": from_trl, "axolotl": from_axolotl, "llamafactory": from_llamafactory}
    written = stage.init(
        model,
        data,
        method=method,
        out=out,
        sets=sets or [],
        replace=replace,
        configurations=files,
        processes=processes,
    )
    print(printable("\n".join(written.report)))


@app.command()
def prepare(
    run: RunFile,
    sets: Sets = None,
    preview: Preview = None,
    engine: PrepareEngine = None,
    restart: Replace = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Turn a preference dataset into token pairs.

    Rows that cannot be used are quarantined with the reason. Pairs of other data or settings are replaced only if no
    other stage has used them, or with --restart.
    """
    settings = _load(run, sets).replace({} if engine is None else {"data.engine": engine})
    from scoreonce.stages.commands import previews
    from scoreonce.stages.prepare import stage

    if preview:
        lines = previews.of_dataset(stage.preview(settings, preview))
    else:
        made = stage.prepare(settings, restart=restart, lock_timeout=lock_timeout)
        lines = previews.of_pairs(made.preview if preview is None else ())
    for line in lines:
        print(line)


@app.command()
def audit(
    run: RunFile,
    sets: Sets = None,
    fail_on: FailOn = None,
    near_duplicates: NearDuplicates = None,
    contamination: Contamination = None,
    lock_timeout: LockTimeout = None,
    trust: Trust = False,
) -> None:
    """Find flaws in the pairs.

    Run it again after score and after train: it then uses their columns too. Exits with code 3 if it finds what
    --fail-on names.
    """
    settings = _load(run, sets)
    given = {"near_duplicates": near_duplicates, "contamination": contamination}
    settings = settings.replace({f"audit.{name}": value for name, value in given.items() if value is not None})
    from scoreonce.stages.audit import stage

    if stage.audit(settings, fail_on=fail_on, lock_timeout=lock_timeout).exceeded:
        raise typer.Exit(FINDINGS_EXCEEDED)


@app.command()
def sql(run: RunFile, query: Query, sets: Sets = None) -> None:
    """Query the pairs with SQL.

    Tables: pairs (with the columns of score and audit), evaluation, steps, quarantine.
    """
    settings = _load(run, sets)
    from scoreonce.stages.commands import sql

    print(printable(sql.answer(settings, query)))


@app.command()
def score(
    run: RunFile,
    sets: Sets = None,
    part: Part = None,
    engine: Engine = None,
    group_size: GroupSize = None,
    dry_run: DryRun = False,
    full_vocab: FullVocab = None,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Score the pairs with the reference model, once.

    Completions that the store already holds are not scored again.
    """
    given = {"score.full_vocab": full_vocab, "score.engine": engine, "score.group_size": group_size}
    settings = _load(run, sets).replace({key: value for key, value in given.items() if value is not None})
    from scoreonce.stages.score import stage

    if dry_run:
        stage.estimate(settings, part=part)
    else:
        stage.score(settings, part=part, lock_timeout=lock_timeout)


@app.command()
def train(
    run: RunFile,
    sets: Sets = None,
    methods: Methods = None,
    label: Label = None,
    restart: Restart = False,
    dry_run: DryRun = False,
    allow_method_file: AllowMethodFile = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Train a policy from the cached columns, or one for each --method.

    The reference model is not loaded. An interrupted run continues from its last checkpoint.
    """
    runs = _load_each(run, sets, methods, label)
    from scoreonce.stages.train import stage

    own = _load(run, sets).train
    for settings in runs:
        if left := sorted(own.hyperparameters.keys() - settings.train.hyperparameters.keys()):
            logger.info(
                f"{', '.join(left)} of the run file: for {own.method} alone; {settings.train.method} has its own "
                "defaults, or what --set train.KEY=VALUE gives"
            )
        if dry_run:
            stage.estimate(settings, allow_method_file=allow_method_file)
        else:
            stage.train(settings, restart=restart, allow_method_file=allow_method_file, lock_timeout=lock_timeout)


@app.command()
def watch(run: RunFile, sets: Sets = None, labels: WatchedLabels = None, once: Once = False) -> None:
    """Show the curves of training runs in the terminal, until they end.

    Run it beside train. Ctrl-C ends only the watching.
    """
    settings = _load(run, sets)
    from scoreonce.stages.watch import watching

    watching.watch(settings, labels=[each for given in labels or [] for each in given.split(",")], once=once)


@app.command()
def estimate(
    run: RunFile,
    sets: Sets = None,
    gpus: Gpus = 1,
    memory: Memory = None,
    shard: Shard = None,
    per_machine: PerMachine = None,
    tflops: Tflops = None,
    mfu: Mfu = None,
    method: Method = None,
    label: Label = None,
    as_json: AsOneJson = False,
    trust: Trust = False,
) -> None:
    """Work out memory and time before there is a GPU.

    Needs no weights, only the model's config.json: bytes per GPU by part for train and score, whether they fit, and
    which setting to change if not. Where weights and a device are there, --dry-run of train and score measures instead.
    """
    settings = _load(run, sets, method=method, label=label)
    from scoreonce.stages.estimate import stage, text

    found = stage.estimate(
        settings, gpus=gpus, memory=memory, shard=shard, per_machine=per_machine, tflops=tflops, mfu=mfu
    )
    print(json.dumps(found.document(), indent=2) if as_json else printable("\n".join(text.lines(found))))


@app.command()
def merge(
    run: RunFile,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Merge a LoRA policy into its base model.

    Writes a whole model beside the adapter, for tools that load no adapters.
    """
    settings = _load(run, sets, method=method, label=label)
    from scoreonce.stages.train import merge

    merge.merge(settings, lock_timeout=lock_timeout)


@app.command()
def push(
    run: RunFile,
    repository: Repository,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
    merged: Merged = False,
    base: BaseModel = None,
    public: Public = False,
    revision: Branch = None,
    message: Message = None,
    dry_run: ListOnly = False,
    rehash: Rehash = False,
) -> None:
    """Send a policy to a repository of the Hugging Face Hub, with a model card.

    The card has the lineage, the held-out figures and what the audit found. HF_TOKEN or `hf auth login` gives access.
    """
    settings = _load(run, sets, method=method, label=label)
    from scoreonce.stages.push import stage

    stage.push(
        settings,
        repository,
        merged=merged,
        base=base,
        public=public,
        revision=revision,
        message=message,
        dry_run=dry_run,
    )


@app.command()
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
    runs = _load_each(run, sets, methods, label)
    from scoreonce.stages.evaluate import stage

    for settings in runs:
        stage.evaluate(settings, model=model, label=label, lock_timeout=lock_timeout)


@app.command()
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
    settings = _load(run, sets)
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


@app.command()
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
    settings = _load(run, sets)
    from scoreonce.stages.pairs import stage

    stage.pairs(settings, judgements, name=name, lock_timeout=lock_timeout)


@app.command()
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
    settings = _load(run, sets).replace({key: value for key, value in given.items() if value is not None})
    from scoreonce.stages.sample import stage

    stage.sample(settings, labels=labels, model=model, restart=restart, lock_timeout=lock_timeout)


@app.command()
def compare(
    run: RunFile,
    sets: Varied = None,
    methods: Compared = None,
    seeds: Seeds = None,
    search: Search = None,
    trials: Trials = None,
    jobs: Jobs = None,
    dry_run: TimeOnly = False,
    restart: TrainAgain = False,
    allow_method_file: AllowMethodFile = False,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Train several methods and settings, and say which to take.

    Prepares and scores what is not done yet, once; each training goes on where it was interrupted. Ranks on the same
    held-out pairs.
    """
    from scoreonce.stages.compare.options import settings_of, varied

    fixed, vary = varied(sets or [])
    given = {"methods": methods, "seeds": seeds, "search": search, "trials": trials}
    settings = settings_of(_load(run, fixed), vary, given)
    from scoreonce.stages.compare import estimate, stage

    if dry_run:
        estimate.estimate(settings, restart=restart, allow_method_file=allow_method_file)
        return
    stage.compare(settings, jobs=jobs, restart=restart, allow_method_file=allow_method_file, lock_timeout=lock_timeout)


@app.command()
def report(run: RunFile, sets: Sets = None, labels: Labels = None, lock_timeout: LockTimeout = None) -> None:
    """Write one HTML page about the training runs."""
    settings = _load(run, sets)
    from scoreonce.stages.report import stage

    stage.report(settings, labels=labels, lock_timeout=lock_timeout)


@app.command()
def doctor(run: OptionalRunFile = None, sets: Sets = None, as_json: AsOneJson = False) -> None:
    """Say what on this machine would stop a stage or make it slow, and what to do.

    Loads no model and uses no network. Exits with code 3 if something would stop a stage.
    """
    settings = _load_optional(run, sets)
    from scoreonce.stages.doctor import examination, text

    found = examination.examine(settings)
    print(json.dumps(found.document(), indent=2) if as_json else printable("\n".join(text.lines(found))))
    if found.stops:
        raise typer.Exit(FINDINGS_EXCEEDED)


@app.command()
def methods(
    name: MethodName = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    method_file: MethodFile = None,
) -> None:
    """List the methods, or explain one."""
    from scoreonce.stages.commands import listing

    print(listing.methods(name, "json" if as_json else "markdown" if as_markdown else "text", method_file))


@app.command()
def path(
    run: RunFile,
    what: What,
    sets: Sets = None,
    method: Method = None,
    label: Label = None,
) -> None:
    """Print where a run keeps a file or folder.

    `inputs` are the local files that the run reads; everything else is written by it. One path per line.
    """
    from scoreonce.stages.commands import listing

    for found in listing.paths(_load(run, sets, method=method, label=label), what):
        print(found)


@app.command()
def export_reference(
    run: RunFile,
    to: To,
    sets: Sets = None,
    tokens: Tokens = False,
    leave_out_differing: LeaveOutDiffering = False,
    lock_timeout: LockTimeout = None,
    trust: Trust = False,
) -> None:
    """Write the scored pairs for another trainer.

    Under <out>/export: for TRL a dataset with its reference columns, for fairseq2 JSON lines with its scores.
    """
    settings = _load(run, sets)
    from scoreonce.stages.exchange import export

    export.export_reference(
        settings, to, tokens=tokens, leave_out_differing=leave_out_differing, lock_timeout=lock_timeout
    )


@app.command()
def import_reference(
    run: RunFile,
    datasets: Datasets,
    sets: Sets = None,
    max_length: CutTo = 1024,
    lock_timeout: LockTimeout = None,
    rehash: Rehash = False,
    trust: Trust = False,
) -> None:
    """Take reference log-probs that TRL has precomputed.

    In place of score, for methods that read sums alone. Some pairs are scored again, if the model is on this machine.
    """
    settings = _load(run, sets)
    from scoreonce.stages.exchange import import_scores

    import_scores.import_reference(settings, datasets, max_length=max_length or None, lock_timeout=lock_timeout)


@store_app.command("list")
def store_list(run: RunFile, sets: Sets = None) -> None:
    """List the stores, one per reference model, and the layers of each."""
    from scoreonce.stages.commands import stores

    stores.list_stores(_load(run, sets))


@store_app.command("verify")
def store_verify(run: RunFile, sets: Sets = None) -> None:
    """Check every file of every layer against its digest.

    Files without a digest are named too. Exits with code 2 if something is damaged.
    """
    from scoreonce.stages.commands import stores

    if stores.verify(_load(run, sets)):
        raise typer.Exit(2)


@store_app.command("gc")
def store_gc(run: RunFile, sets: Sets = None, prune: Prune = False, drop: Drop = None) -> None:
    """Delete leftovers of killed commands, and what you name, from every layer."""
    from scoreonce.stages.commands import stores

    stores.gc(_load(run, sets), prune=prune, drop=drop or [])


@store_app.command("compact")
def store_compact(run: RunFile, sets: Sets = None) -> None:
    """Merge small files of every layer into larger ones.

    Run it while no other command uses the store.
    """
    from scoreonce.stages.commands import stores

    stores.compact(_load(run, sets))


@demo_app.command("task")
def demo_task(run: RunFile, sets: Sets = None) -> None:
    """Write the texts of the synthetic task, a tokenizer and an untrained model."""
    settings = _load(run, sets)
    from scoreonce.stages.demo import stage as demo

    demo.task(settings)


@demo_app.command("pairs")
def demo_pairs(run: RunFile, sets: Sets = None) -> None:
    """Sample and label pairs.

    Samples two texts per prompt from the reference model and labels them by the known reward, with noise.
    """
    settings = _load(run, sets)
    from scoreonce.stages.demo import stage as demo

    demo.pairs(settings)


@demo_app.command("judge")
def demo_judge(run: RunFile, sets: Sets = None) -> None:
    """Measure the true reward and the KL divergence of every policy."""
    settings = _load(run, sets)
    from scoreonce.stages.demo import stage as demo

    demo.judge(settings)


@demo_app.command("chat")
def demo_chat(run: RunFile, sets: Sets = None) -> None:
    """Write the instruct model of the chat demo, and questions."""
    settings = _load(run, sets)
    from scoreonce.stages.demo.chat import chat

    chat(settings)


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code. Errors are printed to stderr."""
    verbose()
    quiet_imports()
    try:
        app(args=arguments, prog_name="scoreonce")
    except InputError as error:
        print_error("error", str(error))
        return 2
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code != INTERRUPTED:
            return code
    except KeyboardInterrupt:
        pass  # older typer lets it through, newer exits with 130; both are reported below
    except Exception as error:
        if known := environment_error(error):
            print_error("error", str(known))
            return 2
        traceback.print_exc()
        print_error(
            "fault",
            "this is a bug in scoreonce, not in your input. Please report it with the lines above and the command: "
            f"{shlex.join(['scoreonce', *arguments])}",
        )
        return 1
    else:
        return 0
    print_error(
        "interrupted",
        f"finished shards and the last checkpoint stay. To continue: {shlex.join(['scoreonce', *arguments])}",
    )
    return INTERRUPTED


def main() -> None:
    """The console script."""
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
