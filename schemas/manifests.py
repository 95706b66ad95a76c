"""Every manifest: what a stage has written, with which settings, and the digest of each file that it vouches for.

A manifest is written last, so that its existence means that the work is complete. `format` is raised where the meaning
of a file changes; the formats that a model allows are those that this version reads.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Settings = dict[str, JsonValue]
Files = dict[str, Sha256]  # by name, in the folder of the manifest


class Record(BaseModel):
    """A part of a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Manifest(Record):
    """What all manifests have. Subclasses narrow `format` to the formats that they read."""

    title: ClassVar[str]  # of what it vouches for, as a message names it
    absent: ClassVar[str]  # what a message says where there is none
    stage: ClassVar[str]  # the command that writes it

    format: int

    @classmethod
    def formats(cls) -> tuple[int, ...]:
        """The formats that can be read; the last is the one that is written."""
        return get_args(cls.model_fields["format"].annotation)


class FilesManifest(Manifest):
    """A manifest that vouches for files beside it."""

    files: Files


# prepare


class LocalInput(Record):
    """A raw data file as it was read."""

    size: int
    mtime_ns: int
    sha256: Sha256

    @property
    def content(self) -> str:
        """What decides the rows: a file that was only touched is still the same file."""
        return f"{self.size:,} bytes, SHA-256 {self.sha256[:16]}…"


class HubInput(Record):
    """A split of a Hub dataset as it was read; of one that was streamed the number of rows is not known.

    Off line no revision is known; then the rows' fingerprint is.
    """

    rows: int | None = None
    revision: str | None = None
    fingerprint: str | None = None

    @property
    def content(self) -> str:
        """What decides the rows."""
        rows = "" if self.rows is None else f"{self.rows:,} rows, "
        return f"{rows}revision {self.revision or self.fingerprint}"


class SpecialTokens(Record):
    """The control tokens of a tokenizer, which an audit looks for; `ends` are those that end a completion."""

    bos: int | None
    ends: list[int]
    every: list[int]


class TokenizerRecord(Record):
    """The tokenizer of the pairs. `digest` covers everything that decides the ids; `name` is only where it was."""

    name: str
    vocab_size: int
    digest: str
    # Unknown in manifests of 0.1, which stay the same files, since reference scores name them by their digest.
    special: SpecialTokens | None = Field(None, exclude_if=lambda special: special is None)


class PairCounts(Record):
    """Rows of the dataset, and what became of them."""

    raw: int
    train: int
    test: int
    quarantined: int
    by_reason: dict[str, int]


class PairsManifest(FilesManifest):
    """pairs/manifest.json. `config` is the [data] section that made the pairs, without what changes no pair."""

    title = "the prepared pairs"
    absent = "The pairs are not prepared."
    stage = "prepare"

    format: Literal[1] = 1
    config: Settings
    inputs: dict[str, LocalInput | HubInput]  # by path, or by Hub name, subset and split
    tokenizer: TokenizerRecord
    counts: PairCounts
    truncated: dict[str, int]  # by side
    boundary_merged: int
    lengths: dict[str, dict[str, int | float]]  # in tokens: side -> median, p95, max


# score


class ImportedScores(Record):
    """Where scores come from that `score` did not make: another trainer's files, by path, with their digests.

    `verified` distinct training pairs were scored again with the model; the `worst` was so many nats per token apart.
    """

    source: str  # the trainer
    files: Files
    max_length: int | None  # to which that trainer cut its sequences
    verified: int
    worst: float | None


class ReferenceManifest(FilesManifest):
    """reference/manifest.json: which model scored which pairs, and how.

    Scores that were `imported` have a `store_key` that no store has, and no layout.
    """

    title = "the reference scores"
    absent = "The pairs have no reference scores."
    stage = "score"

    format: Literal[1] = 1
    model: str  # the name that it had; the weights are what counts
    weights: str  # digest
    adapter: str | None  # digest
    dtype: str
    quantization: str | None = None  # of linear layers
    head: str  # dtype of the output head
    layout: str  # of the forward pass: provenance, as is what follows
    # Attention, device, compiled or not, versions; those of several files joined by "and". Unknown before 0.2.
    computed: dict[str, str] = Field({}, exclude_if=lambda computed: not computed)
    store_key: str
    mismatched: bool
    embeddings: bool
    pairs_manifest_sha256: Sha256
    pairs: dict[str, int]  # distinct pairs by split
    imported: ImportedScores | None = Field(None, exclude_if=lambda imported: imported is None)


# compare


class ComparisonManifest(FilesManifest):
    """compare/compare.json: candidates in their order, and which one to take."""

    title = "the comparison"
    absent = "There is no comparison."
    stage = "compare"

    format: Literal[1] = 1
    settings: Settings
    pairs: int  # held out, that every candidate ranks
    ranked_by: str = "held-out accuracy"  # else the true reward, or what a judge says
    standings: list[dict[str, JsonValue]]  # of `pipeline.evaluation.standings`, best first
    recommended: str | None
    reason: str
    candidates: dict[str, Settings]  # the varied keys of each, by name


# export-reference


class ExportManifest(FilesManifest):
    """export/<to>/manifest.json: which pairs and scores were written for another trainer."""

    title = "the exported reference"
    absent = "The reference was not exported."
    stage = "export-reference"

    format: Literal[1] = 1
    to: str
    tokens: bool
    leave_out_differing: bool
    model: str
    weights: str
    adapter: str | None
    dtype: str
    store_key: str
    max_length: int  # of prompt and completion, in tokens
    pairs_manifest_sha256: Sha256
    reference_manifest_sha256: Sha256
    pairs: dict[str, int]  # rows by split
    left_out: dict[str, int]  # rows of all splits, by reason


# train


class MethodRecord(Record):
    """A method in resolved form."""

    name: str
    title: str
    paper: str | None
    hyperparameters: dict[str, Any]
    objective: str
    calibration: list[str]
    selection: str


class PolicyStart(Record):
    """The model that training started from, with digests of its weights and of its adapter."""

    model: str
    weights: str
    adapter: str | None


class ScoredReference(PolicyStart):
    """The reference whose columns were used."""

    dtype: str
    quantization: str | None = None
    store_key: str
    files: Files


class TrainedPairs(Record):
    """The pairs that were trained on. `pair_ids` digests their ids, in order."""

    source: str
    pairs: int
    pair_ids: Sha256
    files: Files
    counts: PairCounts
    config: Settings | None = None  # the settings of `prepare`; unknown in format 1


class HeldOutChoice(Record):
    """What came of the held-out figures: the best step, how far training went, and whose weights the policy has."""

    metric: str
    best_step: int | None  # None where no evaluation after a step gave a finite number
    best: float | None  # the metric there
    last_step: int
    planned_steps: int
    stopped: Literal["all steps done", "patience"]
    policy_step: int


class Lineage(Manifest):
    """train/<label>/lineage.json: all that the weights of a policy depend on, digested in `identity`."""

    title = "the training run"
    absent = "There is no training run."
    stage = "train"

    format: Literal[1, 2] = 2  # 2 adds the settings of `prepare`
    label: str
    identity: Sha256
    method: MethodRecord
    train: dict[str, Any]
    policy: PolicyStart
    reference: ScoredReference | None
    data: TrainedPairs
    versions: dict[str, str]
    # Written when training has ended; what is decided by it is in `train`.
    held_out: HeldOutChoice | None = Field(None, exclude_if=lambda choice: choice is None)


class CheckpointManifest(FilesManifest):
    """manifest.json of one checkpoint."""

    title = "a checkpoint"
    absent = "A checkpoint has no manifest."
    stage = "train"

    format: Literal[1] = 1
    step: int
    log: Files  # the parts of the step log up to this step, by path in train/<label>


class TrainingLogManifest(FilesManifest):
    """train/<label>/log.json: what has been logged up to `step`.

    While a run is training, `files` has the parts under steps/; after the last step, every file of the log.
    """

    title = "the log of the training run"
    absent = "The training run has no log."
    stage = "train"

    format: Literal[1] = 1
    step: int
    finished: bool


class PolicyManifest(FilesManifest):
    """scoreonce.json in the folder of a trained model: what `train` wrote there, wherever the folder is now."""

    title = "the trained model"
    absent = "The model was not trained by scoreonce."
    stage = "train"

    format: Literal[1] = 1
    identity: Sha256  # of the lineage


# evaluate


class EvaluatedReference(Record):
    """The reference that the policy was compared with."""

    model: str
    weights: str
    store_key: str
    dtype: str


class EvaluationManifest(FilesManifest):
    """evaluate/<label>/summary.json: which policy was evaluated on which pairs, and the figures."""

    title = "the evaluation"
    absent = "There is no evaluation."
    stage = "evaluate"

    format: Literal[2] = 2  # 2 keeps the figures apart and vouches for pairs.parquet
    label: str
    model: str
    revision: str | None
    adapter: str | None
    dtype: str
    weights: str
    store_key: str
    method: str | None
    training_identity: str | None  # of the lineage, where `train` made the policy
    reference: EvaluatedReference
    pairs_manifest_sha256: Sha256
    figures: dict[str, JsonValue]


# sample


class SampledPrompts(Record):
    """Which prompts were answered. `prompt_ids` digests their ids, in order."""

    source: str  # "heldout", "train" or a file
    prompts: int
    prompt_ids: Sha256
    pairs_manifest_sha256: Sha256 | None  # of the pairs that they are from; None for a file


class SamplesManifest(FilesManifest):
    """samples/<label>/manifest.json: which model wrote which completions, and how.

    `generation` has the settings of transformers' GenerationConfig, and `seed` the noise. Of a `realigned` model,
    `weights` and `store_key` are those of the policy that was mixed with the reference.
    """

    title = "the samples"
    absent = "There are no samples."
    stage = "sample"

    format: Literal[1] = 1
    label: str
    model: str
    revision: str | None
    adapter: str | None
    dtype: str
    weights: str
    store_key: str
    method: str | None
    training_identity: str | None  # of the lineage, where `train` made the model
    realigned: float | None  # the weight λ of the policy in the mixture; None for a single model
    reference: EvaluatedReference
    prompts: SampledPrompts
    generation: Settings
    ends: list[int]  # token ids that end a completion
    seed: int
    n: int  # completions of each prompt
    whole_distribution: bool  # sampled as the model has it: temperature 1, nothing cut off or penalised
    computed: dict[str, str]  # device and versions: provenance


# judge, pairs


class JudgementManifest(FilesManifest):
    """judge/<name>/manifest.json: which judge said what of which samples.

    `scores.parquet` is there where the judge scores each completion, `judgements.parquet` where two labels were
    compared; `answers.jsonl`, which is only a cache, is not vouched for.
    """

    title = "the judgement"
    absent = "There is no judgement of this name."
    stage = "judge"

    format: Literal[1] = 1
    name: str
    judge: Settings  # what decides its answers; never a key
    label: str
    against: str | None
    samples: Files  # samples.parquet, by label
    figures: dict[str, JsonValue]


class GradedManifest(FilesManifest):
    """graded/<name>/manifest.json: which judgements' scores became graded lists."""

    title = "the graded lists"
    absent = "There are no graded lists of this name."
    stage = "pairs"

    format: Literal[1] = 1
    name: str
    judgements: dict[str, Sha256]  # their manifests, by name
    finished_only: bool
    counts: dict[str, int]


# audit


class MeasuresManifest(FilesManifest):
    """audit/measures.json: what the measures of each pair were made from."""

    title = "the measures of the audit"
    absent = "The pairs are not measured."
    stage = "audit"

    format: Literal[6] = 6  # 6 has the relations between pairs in a file of their own
    pairs_manifest_sha256: Sha256
    settings: Settings
    special: SpecialTokens | None
    contamination: Files  # the files of evaluation prompts, by the name in the run file


class AuditManifest(FilesManifest):
    """The part `manifest` of audit/audit.json: what was audited, with which settings."""

    title = "the audit"
    absent = "The pairs are not audited."
    stage = "audit"

    format: Literal[2] = 2  # 2 has this manifest as a part of its own
    pairs_manifest_sha256: Sha256
    reference_manifest_sha256: Sha256 | None  # None before `score`
    settings: Settings
