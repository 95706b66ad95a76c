"""The arguments and options of the command line, each with its help. Their names here are not shown to users.

Importing this has to be quick: what an option needs is imported when it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scoreonce.stages.cli.completion import run_files


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"scoreonce {version('scoreonce')}")
        raise typer.Exit


def _trust_remote_code(wanted: bool) -> None:
    if wanted:
        from scoreonce.stages.models import folders

        folders.trust_remote_code = True


def _rehash(wanted: bool) -> None:
    if wanted:
        from scoreonce.stages.common import digests

        digests.rehash = True


RunFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.toml", help="The run file; see configs/example.toml.", autocompletion=run_files),
]
OptionalRunFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN.toml]",
        help="A run file: what it asks for, its folders and its reference store are examined too.",
        autocompletion=run_files,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key of the run file; repeatable."),
]
Method = Annotated[
    str | None, typer.Option(metavar="NAME", help="Method, in place of the run file's; see `scoreonce methods`.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Method, in place of the run file's; repeatable, one run after the other. See `scoreonce methods`.",
    ),
]
Compared = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME,NAME",
        help="Methods to compare (compare.methods); several with commas, or repeated.",
    ),
]
Varied = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override one key of the run file; several values with commas, of a key of [train], are compared "
        "(compare.vary): train.beta=0.05,0.1. Repeatable.",
    ),
]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", min=1, help="Trainings of each candidate (compare.seeds).")
]
Search = Annotated[
    Literal["grid", "random", "halving"] | None,
    typer.Option(
        "--search",
        help="grid: every combination. random: some of them. halving: all for a short training, the best for longer "
        "ones (compare.search).",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option("--trials", metavar="N", min=1, help="Combinations of a random search (compare.trials)."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, help="Trainings at a time; by default one on each GPU, and one without GPUs."
    ),
]
Label = Annotated[
    str | None, typer.Option(metavar="NAME", help="Folder name of this training run; the method by default.")
]
Repository = Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; made where it is not there.")]
Merged = Annotated[bool, typer.Option("--merged", help="Send what `scoreonce merge` wrote, in place of the adapter.")]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="ORG/NAME", help="Hub name of the model that the policy was trained from, if it was a folder."
    ),
]
Public = Annotated[bool, typer.Option("--public", help="Make a new repository public; by default it is private.")]
Branch = Annotated[str | None, typer.Option("--revision", metavar="BRANCH", help="Branch; made where it is not there.")]
Message = Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Commit message; by default the label.")]
ListOnly = Annotated[bool, typer.Option("--dry-run", help="Only list the files that would be sent.")]
InitModel = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Reference model: folder or Hub name.")]
InitData = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="Preference data: file, folder, Hub name or address.")
]
InitMethod = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="NAME,NAME", help="Method; dpo by default. Several, with commas, are to be compared."
    ),
]
RunOut = Annotated[
    Path | None, typer.Option("--out", metavar="RUN.toml", help="The run file to write; run.toml by default.")
]
Overwrite = Annotated[bool, typer.Option("--replace", help="Replace the run file if it is there.")]
FromTrl = Annotated[
    Path | None, typer.Option("--from-trl", metavar="FILE", help="Translate this YAML or JSON file of TRL's DPO.")
]
FromAxolotl = Annotated[
    Path | None,
    typer.Option("--from-axolotl", metavar="FILE", help="Translate this Axolotl file (rl: dpo, …)."),
]
FromLlamafactory = Annotated[
    Path | None,
    typer.Option("--from-llamafactory", metavar="FILE", help="Translate this LLaMA-Factory file (stage: dpo or kto)."),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        metavar="N",
        help="Processes that the translated configuration is launched with: a factor of its pairs per step.",
    ),
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME", help="Only this training run; repeatable.")
]
WatchedLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAMES",
        help="These training runs, e.g. dpo,beta_dpo; repeatable. By default those that are training, or the last one.",
    ),
]
Once = Annotated[bool, typer.Option("--once", help="Print one frame and end, as without a terminal.")]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Policy to evaluate in place of the trained one: folder or Hub name."),
]
SampledLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME",
        help="Sample this training run, or reference; repeatable. By default reference and this run file's own label.",
    ),
]
SampledModel = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Sample this model in place of trained ones: folder or Hub name."),
]
SampledPrompts = Annotated[
    str | None,
    typer.Option("--prompts", metavar="WHICH", help="heldout, train, or a .jsonl or .txt file (sample.prompts)."),
]
Completions = Annotated[
    int | None, typer.Option("--n", metavar="N", min=1, help="Completions of each prompt (sample.n).")
]
Realign = Annotated[
    str | None,
    typer.Option(
        "--realign",
        metavar="WEIGHTS",
        help="Mix each policy with the reference, e.g. 0.5,1,2: its weight, 1 is the policy (sample.realign).",
    ),
]
FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="FINDINGS",
        help="Exit with code 3 on these findings, e.g. duplicate_pair,contradictory_pair>0.01: on any pair, or on more "
        "than that share or number of pairs.",
    ),
]
NearDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--near-duplicates/--no-near-duplicates", help="Search for near-duplicates by shared words, or do not."
    ),
]
Contamination = Annotated[
    list[str] | None,
    typer.Option(
        "--contamination", metavar="FILE", help="Evaluation prompts that no pair may overlap with; repeatable."
    ),
]
Query = Annotated[
    str, typer.Argument(metavar="SQL", help="For example: SELECT source, avg(ref_margin) FROM pairs GROUP BY source")
]
Restart = Annotated[bool, typer.Option("--restart", help="Delete this label's outputs and start again.")]
TrainAgain = Annotated[
    bool,
    typer.Option("--restart", help="Delete what is there with other settings under these labels, and train it again."),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Replace the pairs of this run, and delete its reference scores, training runs, evaluations, exports and "
        "comparison. The reference store stays.",
    ),
]
LockTimeout = Annotated[
    float | None,
    typer.Option(
        "--lock-timeout",
        metavar="SECONDS",
        min=0,
        help="How long to wait for another command that writes the same files; without end by default.",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="Delete this whole store, by its key in `store list`; repeatable."),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Also delete, from every layer, completions that are not in this run's pairs.")
]
Preview = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Only show the first N pairs as the model will see them, and write nothing. Without this option, the "
        "first two are shown after the work; 0 shows none.",
    ),
]
FullVocab = Annotated[
    str | None,
    typer.Option(metavar="FORM", help="Also store next-token distributions: none, hidden or topk (score.full_vocab)."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only estimate time, memory and disk, from a few seconds of work with the model."),
]
TimeOnly = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say how many trainings there are and how long they take; prepares the pairs."),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Only score part I of N, beside processes that score the others, on one machine or many.",
    ),
]
Engine = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(
        "--engine",
        help="local: this process, or those of a launch. ray: the GPUs of a Ray cluster, or its CPUs (score.engine).",
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        metavar="N",
        min=1,
        help="With --engine ray: let N GPUs, or CPUs, hold one reference together, in parts (score.group_size).",
    ),
]
PrepareEngine = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(
        "--engine", help="local: make pairs on this machine. ray: by the CPUs of a Ray cluster (data.engine)."
    ),
]
AuditEngine = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(
        "--engine", help="local: read texts on this machine. ray: by the CPUs of a Ray cluster (audit.engine)."
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        callback=_trust_remote_code,
        help="Allow Python code that comes with a model to run.",
    ),
]
AllowMethodFile = Annotated[
    bool, typer.Option("--allow-method-file", help="Allow the Python code of train.method_file to run.")
]
JudgedLabel = Annotated[
    str | None,
    typer.Option("--label", metavar="NAME", help="Samples to judge; by default those of the training label."),
]
Against = Annotated[
    str | None,
    typer.Option("--against", metavar="NAME", help="Samples to compare them with, e.g. reference: a win rate."),
]
JudgementName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Folder name of the result; made of the labels by default.")
]
AllowJudgeFunction = Annotated[
    bool, typer.Option("--allow-judge-function", help="Allow the Python code of judge.function to run.")
]
AnswerFormat = Annotated[
    Literal["alpaca-eval", "arena-hard"] | None,
    typer.Option(
        "--format",
        help="Judge nothing: write the first sample of each prompt to --to, in the format of that benchmark.",
    ),
]
AnswerFile = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="The file of --format; replaced.")]
Questions = Annotated[
    Path | None,
    typer.Option("--questions", metavar="FILE", help="arena-hard: its question.jsonl, for the ids of the questions."),
]
Judgements = Annotated[
    list[str],
    typer.Option("--judgement", metavar="NAME", help="Judgement whose scores are used; repeatable, of one judge."),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        callback=_rehash,
        help="Hash models and raw data again: do not trust that a file of the same size and date is the same.",
    ),
]
Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]
MethodName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Explain this method.")]
MethodFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE.py", help="Also load this file, which registers methods; runs its code."),
]
AsJson = Annotated[bool, typer.Option("--json", help="All methods as JSON, for programs.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="A Markdown table, as in docs/methods-table.md.")]
AsOneJson = Annotated[bool, typer.Option("--json", help="The same as JSON, for programs; sizes in bytes.")]
Gpus = Annotated[int, typer.Option("--gpus", metavar="N", help="GPUs that train together, one process each.")]
Memory = Annotated[
    float | None, typer.Option("--memory", metavar="GIB", help="Memory of a GPU in GiB, to say what fits.")
]
Shard = Annotated[
    Literal["none", "full", "hybrid"] | None,
    typer.Option(
        "--shard",
        help="none: whole weights on each GPU. full: weights, gradients and optimizer shared out (FSDP2). hybrid: "
        "shared out within a machine. By default compute.shard of the run file.",
    ),
]
PerMachine = Annotated[
    int | None,
    typer.Option("--per-machine", metavar="N", help="GPUs of a machine, for hybrid; by default 8, or all if fewer."),
]
Tflops = Annotated[
    float | None,
    typer.Option("--tflops", metavar="N", help="Peak of a GPU in TFLOP/s in the dtype of the run, for the time."),
]
Mfu = Annotated[
    float | None, typer.Option("--mfu", metavar="SHARE", help="Share of that peak that is reached; 0.35 by default.")
]
To = Annotated[
    str,
    typer.Option(
        "--to", metavar="TRAINER", help="Whose format: trl, fairseq2, or jsonl for anything else (docs/exchange.md)."
    ),
]
Tokens = Annotated[
    bool, typer.Option("--tokens", help="jsonl: also token ids and the log-prob of each completion token.")
]
LeaveOutDiffering = Annotated[
    bool,
    typer.Option(
        "--leave-out-differing",
        help="fairseq2: leave out, and count, the pairs whose text it tokenises to other ids than were scored.",
    ),
]
Datasets = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE_OR_FOLDER...",
        help="Datasets of TRL's trainer after precompute_ref_log_probs: a saved folder, Parquet, Arrow or JSON lines.",
    ),
]
CutTo = Annotated[
    int,
    typer.Option(
        "--max-length",
        metavar="TOKENS",
        min=0,
        help="DPOConfig.max_length of the run that made them, TRL's default by default; 0: nothing was cut.",
    ),
]
What = Annotated[str, typer.Argument(metavar="WHAT", help="What to locate; an unknown word lists the choices.")]
