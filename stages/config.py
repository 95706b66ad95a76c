"""The run file: one TOML file per run, validated as a whole before anything is read or written.

`load("configs/x.toml", ["train.beta=0.05"])` returns a `Run`. A misspelt key or hyperparameter and a value out of range
are an `InputError` in every command; whether the method has that hyperparameter is seen when `train` resolves it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from scoreonce.schemas.columns import is_prefix
from scoreonce.schemas.hyperparameters import HYPERPARAMETERS, OTHER_NAMES
from scoreonce.schemas.names import require_name
from scoreonce.stages import run_file

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["nf4"]
Name = Annotated[str, AfterValidator(run_file.name)]  # of a file, folder or Hub repository to read
Source = Annotated[str, AfterValidator(run_file.source)]  # the same of data, or an address
Folder = Annotated[str, AfterValidator(run_file.source)]  # to write, or an address
LARGEST = 2**32 - 1  # of whole numbers: what every library takes as a seed, and more than any count needs


class _Section(BaseModel):
    """What is true of every value: numbers are finite and of bounded size, text can be written to a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        for each in (
            value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else [value]
        ):
            if isinstance(each, str):
                run_file.text(each)
            elif isinstance(each, int) and each > LARGEST:
                raise ValueError(f"it is over {LARGEST:,}")
        return value


class Data(_Section):
    """The dataset, and how it is tokenised."""

    source: Source = Field(
        description="dataset name on the Hub, or a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, or a folder of "
        "them: local, or at an s3://, gs:// or hf:// address"
    )
    subset: str | None = Field(None, description="configuration name of a Hub dataset")
    split: str = Field("train", description="split to read")
    test_source: Source | None = Field(
        None, description="held-out pairs from another source; by default test_share is split off"
    )
    test_split: str | None = Field(None, description="held-out pairs from this split of the same dataset")
    test_share: float = Field(0.1, ge=0, lt=1, description="share of prompts held out")
    format: Literal["auto", "pairs", "implicit", "messages", "labelled", "graded", "completion", "unpaired"] = Field(
        "auto", description="data format, see docs/formats.md"
    )
    columns: dict[str, str] = Field(
        {}, description="scoreonce's name = the dataset's name, e.g. prompt = 'question'; '' leaves a column out"
    )
    preference: Literal["0/1", "1/0", "1/2", "A/B", "signed", "winners"] | None = Field(
        None,
        description="labelled data: the value for the first response / for the second, the sign of a number, or a "
        "column of the winner for each; by default as the values and the column's name say",
    )
    pairing: Literal["best_worst", "all_pairs", "random", "rso", "best_of_n"] = Field(
        "best_worst", description="which pairs a graded list gives; never two equal scores"
    )
    min_gap: float = Field(0.0, ge=0, description="smallest score gap of a pair from a graded list")
    pairs_per_prompt: int = Field(1, ge=1, description='pairs drawn per list by pairing = "random"')
    rso_samples: int = Field(8, ge=2, description='completions accepted per list by pairing = "rso"')
    rso_beta: float = Field(0.5, gt=0, description="rso: high values sample at random, low values prefer the best")
    rso_ranking: Literal["first_round", "tournament"] = Field(
        "first_round", description="rso: n / 2 pairs of n accepted completions, or up to n - 1"
    )
    preference_from_scores: float | None = Field(
        None, gt=0, description="derive preference probabilities (sppo) from scores: sigmoid(this * score gap)"
    )
    tokenizer: Name | None = Field(None, description="tokenizer folder or Hub name; by default the reference model's")
    chat_template: str | None = Field(
        None, description="file of a Jinja template, or the template itself; by default the tokenizer's"
    )
    chat_template_kwargs: dict[str, pydantic.JsonValue] = Field(
        {}, description="variables of the template, e.g. enable_thinking = false"
    )
    max_length: int = Field(1024, ge=2, description="prompt and completion together, in tokens")
    max_prompt_length: int | None = Field(None, ge=1, description="cut the start of longer prompts")
    truncation: Literal["completion", "drop"] = Field(
        "completion", description="for pairs over max_length: cut the completion, or drop the pair"
    )
    limit: int | None = Field(None, ge=1, description="use only this many rows, from the first")
    seed: int = Field(0, ge=0, description="for which prompts are held out and which pairs are drawn")
    workers: int | None = Field(None, ge=1, description="tokenisation threads; by default one per core")
    processes: int = Field(1, ge=1, description="processes that make pairs, over 1 beside one that reads and writes")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="local: pairs are made on this machine; ray: by the CPUs of a Ray cluster, see docs/cache.md",
    )
    streaming: bool = Field(False, description="read a Hub dataset as it comes, without a copy on this disk")


class Reference(_Section):
    """The reference model."""

    model: Name = Field(description="folder or Hub name")
    revision: str | None = None
    adapter: Name | None = Field(None, description="PEFT adapter of the reference, folder or Hub name")
    dtype: Dtype = "float32"
    quantization: Quantization | None = Field(
        None,
        description="nf4: linear layers in 4 bits (QLoRA), of the reference and of the policy that LoRA trains",
    )
    other: dict[str, Reference] = Field(
        {},
        description="further models that score the same completions, each a section [reference.other.NAME] with the "
        "keys of [reference]; their columns are NAME_chosen_logps and NAME_rejected_logps",
    )

    @pydantic.field_validator("other")
    @classmethod
    def _names_columns(cls, other: dict[str, Reference]) -> dict[str, Reference]:
        for name, reference in other.items():
            if not is_prefix(name):
                raise ValueError(f"{name!r} cannot begin the names of columns: lower-case letters, digits and _ can")
            if reference.other:
                raise ValueError(f"{name!r} has further models of its own")
        return other


class Compute(_Section):
    """Where and how to run. Never part of a result's identity."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    tokens_per_microbatch: int | None = Field(
        None, ge=1, description="tokens per forward pass; by default 1,024 on a CPU, 16,384 on a GPU"
    )
    attention: Literal["auto", "shared", "packed", "padded", "flex", "flash"] = Field(
        "auto",
        description="shared: one prompt with its completions per sequence; packed: several per sequence; padded: one "
        "completion per sequence; flex, flash: packed, with block masks or flash attention on a GPU; auto: the fastest "
        "that is exact, and where only padded is, scores from the model's cache of each prompt if that goes on exactly",
    )
    compile: bool = Field(False, description="also compile the model's layers (flex only); starts slower")
    shard: Literal["auto", "none", "full", "hybrid"] = Field(
        "auto",
        description="full: every process of a launch keeps a part of the model (FSDP2) instead of all of it; hybrid: "
        "parts within a machine, copies between machines; none: all of it; auto: full where several GPUs are used and "
        "the whole model and what training adds to it would not fit one, else none",
    )
    offload: bool = Field(
        False,
        description="keep parts of weights, gradients and optimizer state in host memory: less of the GPU's, slower",
    )
    offload_optimizer: bool = Field(
        False,
        description="keep the optimizer's state and float32 weights in the CPU's memory, and step there: less GPU "
        "memory, more time",
    )
    offload_activations: bool = Field(
        False,
        description="with gradient_checkpointing, keep in the CPU's memory what it keeps: less GPU memory",
    )

    def budget(self, device_type: str) -> int:
        """Tokens per forward pass on "cpu" or "cuda".

        Small micro-batches stay in a CPU's caches: a step of a 2.8M model took 6.5 s of one core with 16,384 tokens,
        3.0 s with 4,096 and 2.4 s with 1,024.
        """
        return self.tokens_per_microbatch or (16_384 if device_type == "cuda" else 1_024)


class Audit(_Section):
    """Thresholds of `audit`. They change no pair and no score."""

    near_duplicates: bool = Field(True, description="search for near-duplicates by shared words")
    similarity: float = Field(
        0.8, gt=0, le=1, description="Jaccard index of 3-word shingles from which two texts are near-duplicates"
    )
    contamination: list[Name] = Field([], description="files of evaluation prompts that no pair may overlap with")
    ngram: int = Field(8, ge=2, le=64, description="consecutive words that count as an overlap")
    crowded_prompt: int = Field(8, ge=1, description="report prompts with more pairs than this")
    repetition: float = Field(
        0.5, gt=0, le=1, description="share of repeated 4-grams of tokens from which a completion counts as a loop"
    )
    votes: str | None = Field(None, description="dataset column with the judges' votes: a list, or an object by judge")
    vote_first: float = Field(0.0, description="the vote for the first response (or chosen)")
    vote_second: float = Field(
        1.0, description="the vote for the second (or rejected); half-way between the two is a tie"
    )
    methods: list[str] = Field(
        [], description="methods for which to compute, after scoring, which pairs they would down-weight"
    )
    engine: Literal["local", "ray"] = Field(
        "local", description="who reads the texts: the cores of this machine, or the CPUs of a Ray cluster"
    )


class Score(_Section):
    """Stage one: what to compute with the reference, and where to keep it."""

    store: Folder | None = Field(
        None,
        description="folder of the reference store, or its s3:// or gs:// address, which runs may share; by default "
        "<out>/store",
    )
    full_vocab: Literal["none", "hidden", "topk"] = Field(
        "none",
        description="for full-vocabulary methods, also store hidden states (exact) or the largest log-probs",
    )
    hidden: Literal["exact", "int8"] = Field(
        "exact", description="hidden states as the model gives them, or in 8 bits: half the disk, approximate"
    )
    topk: int = Field(128, ge=1, description="log-probs stored per token with topk, at 6 bytes each")
    embeddings: bool = Field(
        False, description="compute embedding similarity (REAL) and CHES score per pair; 4 bytes * width per completion"
    )
    mismatched: bool = Field(False, description="for kto, also score each prompt with a completion of another prompt")
    shard_completions: int = Field(2048, ge=1, description="completions per shard, the unit of resuming")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="local: this process, or those of a launch; ray: the GPUs of a Ray cluster, or its CPUs, see "
        "docs/cache.md",
    )
    group_size: int = Field(
        1, ge=1, description="with ray: GPUs, or CPUs, that hold one reference together, in parts (FSDP2)"
    )

    @property
    def form(self) -> str | None:
        """Name of the store's layer for next-token distributions, None without one."""
        return None if self.full_vocab == "none" else self.layer_of(self.full_vocab)

    def layer_of(self, kept: Literal["hidden", "topk"]) -> str:
        """Name of the store's layer where next-token distributions are kept as hidden states, or as log-probs."""
        return {"hidden": "hidden" if self.hidden == "exact" else "hidden-int8", "topk": f"topk-tail-{self.topk}"}[kept]


class Train(_Section):
    """Stage two. Keys not listed here are hyperparameters of the method, e.g. beta = 0.1."""

    model_config = ConfigDict(extra="allow")

    method: str = "dpo"
    method_file: Name | None = Field(
        None, description="a Python file that registers a method; --allow-method-file runs it"
    )
    objective: str | dict[str, float] | None = None
    calibration: str | None = None
    selection: str | None = None
    drop: list[str] = Field([], description="leave out pairs with these findings of `scoreonce audit`")
    where: str | None = Field(None, description="train only on pairs for which this SQL condition is true")
    share: float = Field(
        1.0, gt=0, le=1, description="train on this share of those pairs; a smaller share is a part of a larger one"
    )
    label: str | None = Field(None, description="folder name of this run's outputs; by default the method")
    model: Name | None = Field(None, description="policy to start from; by default the reference")
    dtype: Dtype | None = Field(None, description="dtype of the policy; by default the reference's")
    optimizer: str = Field("adamw_torch", description="a value of transformers' `optim`")
    learning_rate: float = Field(1e-6, gt=0, le=1e30)  # Adam divides it by 1 - beta1, in float32
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    scheduler: str = Field("linear", description="a value of transformers' `lr_scheduler_type`")
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    max_grad_norm: float = Field(1.0, ge=0, description="0 disables clipping")
    epochs: float = Field(1, gt=0)
    max_steps: int | None = Field(None, ge=1, description="overrides epochs")
    batch_pairs: int = Field(64, ge=1, description="pairs per optimizer step, over all processes and micro-batches")
    scope: Literal["step", "microbatch"] = Field(
        "step", description="scope of batch statistics: the optimizer step, or a micro-batch as in the papers' code"
    )
    microbatch_pairs: int = Field(8, ge=1, description="pairs per micro-batch of that scope, over all processes")
    shuffle: bool = True
    seed: int = Field(0, ge=0)
    gradient_checkpointing: bool = False
    router_aux_loss: bool = Field(
        False,
        description="add the auxiliary loss of a mixture of experts, with router_aux_loss_coef of the model's config",
    )
    lora_rank: int | None = Field(None, ge=1, description="train LoRA matrices of this rank instead of all weights")
    lora_alpha: float | None = Field(None, gt=0, description="scale of the LoRA matrices; by default twice the rank")
    lora_targets: list[str] = Field(
        ["all-linear"],
        min_length=1,
        description="names of the modules to adapt; all-linear: every linear layer but the output head; all-experts: "
        "the weights of experts that are stacked in one tensor",
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the LoRA matrices, in training")
    lora_use_dora: bool = Field(False, description="DoRA: also train the norm of each output's weights")
    lora_use_rslora: bool = Field(False, description="rsLoRA: scale by alpha / sqrt(rank), not alpha / rank")
    lora_modules_to_save: list[str] = Field(
        [], description="names of modules to train whole beside the matrices, saved in the adapter"
    )
    lora_init: str = Field("kaiming", description="first values of the matrices: kaiming, gaussian, orthogonal")
    lora_continue: bool = Field(False, description="train the reference's adapter on, in place of new LoRA matrices")
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="steps between checkpoints; by default a tenth of the run, or more if writing takes long",
    )
    keep_checkpoints: int = Field(2, ge=1)
    full_vocab: Literal["hidden", "topk", "live"] = Field(
        "hidden", description="reference of full-vocabulary methods: what `score` stored, or the loaded model (live)"
    )
    verify_pairs: int = Field(32, ge=0, description="cached pairs to score again and compare before the first step")
    log_with: list[str] = Field([], description="accelerate trackers: tensorboard, wandb, mlflow, trackio, ...")

    @pydantic.field_validator("label")
    @classmethod
    def _names_a_folder(cls, label: str | None) -> str | None:
        return None if label is None else require_name(label, "train.label, or --label")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters of the method."""
        return dict(self.model_extra or {})

    @property
    def pieces(self) -> dict[str, Any]:
        """What replaces the method's own pieces, as `methods.resolve` takes it."""
        return {"objective": self.objective, "calibration": self.calibration, "selection": self.selection}


class Evaluate(_Section):
    """The held-out evaluation, of the trained policy and, with `every`, while it trains."""

    model: Name | None = Field(None, description="policy to evaluate; by default the one that `train` wrote")
    label: str | None = Field(None, description="folder name of the results; by default the training label")
    every: float | None = Field(
        None,
        gt=0,
        description="held-out figures while training: optimizer steps between them as a whole number, or below 1 a "
        "share of an epoch; by default there are none",
    )
    pairs: int = Field(256, ge=1, description="held-out pairs of these figures, drawn once by data.seed")
    metric: Literal["loss", "accuracy", "margin"] = Field(
        "loss",
        description="what the best step is best in: loss, the method's own on the held-out pairs; accuracy; margin, "
        "in nats",
    )
    patience: int | None = Field(
        None, ge=1, description="evaluations without a better one after which training stops; by default it never does"
    )
    policy: Literal["last", "best"] = Field(
        "last", description="which weights `train` writes: those after the last step, or those of the best evaluation"
    )

    @pydantic.field_validator("every")
    @classmethod
    def _whole_steps_or_a_share(cls, every: float | None) -> float | None:
        if every is not None and every >= 1 and every != int(every):
            raise ValueError("a number of steps is a whole number, and a share of an epoch is below 1")
        return every

    @property
    def decides(self) -> bool:
        """Whether the trained weights depend on held-out figures."""
        return self.every is not None and (self.patience is not None or self.policy == "best")

    @pydantic.field_validator("label")
    @classmethod
    def _names_a_folder(cls, label: str | None) -> str | None:
        return None if label is None else require_name(label, "evaluate.label, or --label")


class Sample(_Section):
    """Completions sampled from the reference and from policies."""

    prompts: Name = Field(
        "heldout",
        description="heldout or train: those of the prepared pairs; or a file: .jsonl with prompt (text, or messages), "
        ".txt with one a line",
    )
    limit: int | None = Field(None, ge=1, description="use only this many prompts, from the first")
    n: int = Field(1, ge=1, description="completions of each prompt")
    max_new_tokens: int = Field(256, ge=1, description="tokens of a completion at most")
    temperature: float = Field(1.0, ge=0, description="0: the most likely token each time")
    top_p: float = Field(1.0, gt=0, le=1, description="sample among the most likely tokens with this probability")
    top_k: int = Field(0, ge=0, description="sample among so many most likely tokens; 0: among all")
    repetition_penalty: float = Field(1.0, gt=0, description="divides the logits of tokens that were there; 1: none")
    generation: dict[str, pydantic.JsonValue] = Field(
        {}, description="further settings of transformers' GenerationConfig, e.g. min_p = 0.05"
    )
    realign: list[float] = Field(
        [],
        description="sample mixtures of reference and policy, with these weights of the policy (decoding-time "
        "realignment): 0 is the reference, 1 the policy, 2 as trained with half the beta",
    )
    seed: int = Field(0, ge=0)
    tokens_per_batch: int | None = Field(
        None,
        ge=1,
        description="prompt and new tokens of all rows that are written together; by default 16,384 on a CPU, 65,536 "
        "on a GPU",
    )

    def budget(self, device_type: str) -> int:
        """Positions of keys and values on "cpu" or "cuda"."""
        return self.tokens_per_batch or (65_536 if device_type == "cuda" else 16_384)


class Compare(_Section):
    """Several trainings on the same pairs and scores, and which of them to take."""

    methods: list[str] = Field([], description="methods to compare; by default train.method")
    vary: dict[str, list[Any]] = Field(
        {},
        description='values of keys of [train], all combinations: {"train.beta" = [0.01, 0.1]}; "simpo.train.beta" '
        "is for that method alone",
    )
    seeds: int = Field(1, ge=1, description="trainings of each candidate, with train.seed and the numbers after it")
    search: Literal["grid", "random", "halving"] = Field(
        "grid",
        description="grid: every combination; random: `trials` of them; halving: all for a short training, the best "
        "for longer ones",
    )
    trials: int = Field(16, ge=1, description="combinations that a random search draws")
    keep: int = Field(3, ge=2, description="successive halving goes on with the best 1 in `keep`")
    seed: int = Field(0, ge=0, description="of the random search")
    keep_checkpoints: bool = Field(False, description="keep the checkpoints of trainings that are evaluated")


class Judge(_Section):
    """Who judges sampled completions: exactly one of reward_model, endpoint and function."""

    reward_model: Name | None = Field(
        None, description="folder or Hub name of a reward model: AutoModelForSequenceClassification with one output"
    )
    dtype: Dtype = Field("float32", description="dtype of the reward model")
    endpoint: str | None = Field(
        None, description="base URL of an OpenAI-compatible server; its key is in SCOREONCE_JUDGE_API_KEY, never here"
    )
    model: str | None = Field(None, description="name of the model at the endpoint")
    template: Name | None = Field(
        None,
        description="file of a Jinja template of the question to the endpoint, with prompt, first and second; by "
        "default the one in docs/judge.md",
    )
    temperature: float = Field(0.0, ge=0, description="of the model at the endpoint")
    max_tokens: int = Field(1024, ge=1, description="longest answer of the model at the endpoint")
    concurrency: int = Field(8, ge=1, le=1024, description="requests at a time")
    timeout: float = Field(120.0, gt=0, description="seconds for one answer")
    tries: int = Field(6, ge=1, description="requests for one answer, where the server fails")
    function: str | None = Field(
        None, description="a Python function, file.py:name or module:name; --allow-judge-function runs it"
    )


class Pairs(_Section):
    """The graded lists that scored samples become."""

    finished_only: bool = Field(
        True, description="leave out completions that max_new_tokens cut: `prepare` would put an end token after them"
    )


class Run(_Section):
    """A run file."""

    out: Folder = Field(
        description="folder for everything that this run writes, or its s3:// or gs:// address, of which a copy is "
        "kept in the cache"
    )
    data: Data
    reference: Reference
    compute: Compute = Compute()
    audit: Audit = Audit()
    score: Score = Score()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    compare: Compare = Compare()
    judge: Judge = Judge()
    pairs: Pairs = Pairs()
    sample: Sample = Sample()

    @classmethod
    def load(cls, path: str | Path, settings: Mapping[str, Any] | None = None) -> Run:
        """Read a run file; `settings` such as `{"train.beta": 0.05}` override its keys.

        Raises `InputError` for a missing file, bad TOML, unknown keys and values out of range.
        """
        return load(path).replace(settings or {})

    def of_method(self, name: str, kept: Collection[str] = ()) -> Run:
        """The same run with another method.

        The run file's label, and the pieces that replace those of its method, are not taken over; nor are its
        hyperparameters, unless it is for the same method: a β for DPO is none for SimPO. Keys of [train] in `kept`
        stay. Raises `InputError` as `replace`.
        """
        tree = self.model_dump(exclude_unset=True)
        own = {"label", *self.train.pieces} | (set() if name == self.train.method else set(self.train.hyperparameters))
        train = {key: value for key, value in tree.get("train", {}).items() if key not in own or key in kept}
        return checked({**tree, "train": {**train, "method": name}}, "the settings given")

    def replace(self, settings: Mapping[str, Any]) -> Run:
        """The same run with some keys changed, e.g. `run.replace({"train.beta": 0.05, "train.label": "gentle"})`.

        Other keys stay: for another method take `of_method`, which leaves out the hyperparameters of this one.
        Raises `InputError` for an unknown key or a value out of range.
        """
        tree = self.model_dump(exclude_unset=True)
        for key, value in settings.items():
            run_file.put(tree, key, value, "the settings given")
        return checked(tree, "the settings given")


def load(path: str | Path, overrides: list[str] | None = None) -> Run:
    """Read a run file and apply `section.key=value` overrides.

    Paths in it are relative to the working directory, as on the command line. Raises `InputError` for a missing file,
    invalid TOML, unknown keys and values out of range.
    """
    path = Path(path)
    tree = run_file.read(path)
    for override in overrides or []:
        run_file.override(tree, override)
    return checked(tree, str(path))


def checked(tree: dict[str, Any], where: str) -> Run:
    """The run of a tree of sections. Raises `InputError`, which names `where`, for what a run file cannot have."""
    try:
        run = Run.model_validate(tree)
    except pydantic.ValidationError as error:
        raise run_file.unusable(error, Run, where) from None
    _require_known(run.train, where)
    return run


def _require_known(train: Train, where: str) -> None:
    """Every further key of [train] has to be a hyperparameter of some method, or of the method file."""
    own = run_file.file_hyperparameters(train.method_file) if train.method_file else frozenset[str]()
    for name, value in train.hyperparameters.items():
        if own is not None and name not in (*HYPERPARAMETERS, *OTHER_NAMES, *own):
            raise run_file.unknown_key(f"train.{name}", value, Run, where, also=own)
