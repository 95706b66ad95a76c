"""Where a run keeps its files: the only place that builds their paths."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scoreonce.schemas.addresses import is_address
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.names import name_of, require_name
from scoreonce.stages.config import Run, Train

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
MANIFEST = "manifest.json"  # of most results, written last
SAMPLES = "samples.parquet"
SCORES, JUDGEMENTS = "scores.parquet", "judgements.parquet"


def cache_folder() -> Path:
    """SCOREONCE_CACHE, else XDG_CACHE_HOME/scoreonce, else ~/.cache/scoreonce."""
    own = os.environ.get("SCOREONCE_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(user) / "scoreonce"


def copy_of(address: str, kind: Literal["data", "stores", "runs"]) -> Path:
    """The folder of the cache in which the files of an address are kept: its last name, and a digest of all of it."""
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / kind / f"{_last_name(address)}-{digest}"


def _last_name(address: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in address.rpartition("/")[2])[:40]


def _label(train: Train) -> str:
    """The run's label; by default the method and the pieces that replace its own, as a folder name."""
    objective = "+".join(train.objective) if isinstance(train.objective, dict) else train.objective
    pieces = [piece for piece in (train.method, objective, train.calibration, train.selection) if piece]
    if train.label is not None:
        return require_name(train.label, "train.label, or --label")
    # Not cut to length: two compositions could become one name.
    return require_name("+".join(map(name_of, pieces)), "train.label, by default made of the method and its pieces")


def _folder(key: str, name: str) -> Path:
    """A folder that is there or can be made: what of its path is there has to be folders."""
    path = Path(name).expanduser()
    there = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    if os.path.lexists(there) and not there.is_dir():
        raise InputError(
            f"{key} is not a folder.",
            found=f"{there} is {_what_is(there)}",
            where=f"{key} = {name!r}",
            fix=f"Give {key} the name of a folder; it is made where there is none.",
        )
    return path


def _what_is(path: Path) -> str:
    if path.is_file():
        return "a file"
    return "a link that leads nowhere" if path.is_symlink() and not path.exists() else "a device or a pipe"


@dataclass(frozen=True)
class RunPaths:
    """The paths of one run file. `label` names one training run of several on the same pairs."""

    out: Path
    store: Path
    label: str
    store_address: str | None = None  # of which `store` is the local copy
    address: str | None = None  # of which `out` is the local copy
    other: str | None = None  # the further model of [reference.other] whose scores `reference` is about

    @classmethod
    def of(cls, run: Run) -> RunPaths:
        """The paths of a run file. Raises `InputError` where `out` or `score.store` can be no folder."""
        label, store = _label(run.train), run.score.store
        if is_address(run.out):
            address, out = run.out, copy_of(run.out, "runs") / _last_name(run.out)
            store = store or f"{address}/store"
        else:
            address, out = None, _folder("out", run.out)
        if store is None:
            return cls(out, out / "store", label)
        if is_address(store):
            return cls(out, copy_of(store, "stores"), label, store, address)
        return cls(out, _folder("score.store", store), label, None, address)

    @property
    def store_name(self) -> str:
        """Where the reference store is, in messages."""
        return self.store_address or str(self.store)

    def lock(self, written: Path) -> Path:
        """The lock file of a file or folder of this run, outside of it: a folder can be removed and made again."""
        return self.out / ".locks" / f"{'-'.join(written.relative_to(self.out).parts)}.lock"

    def pairs(self, split: Split) -> Path:
        """Prepared pairs with their text, without token ids (Parquet)."""
        return self.out / "pairs" / f"{split}.parquet"

    def tokens(self, split: Split) -> Path:
        """Token ids of the same pairs, in the same order (Arrow, read by memory map)."""
        return self.out / "pairs" / f"{split}.tokens.arrow"

    @property
    def prepared(self) -> Path:
        """Folder of the prepared pairs."""
        return self.out / "pairs"

    @property
    def quarantine(self) -> Path:
        """Rows that cannot be used, with the reason (Parquet)."""
        return self.out / "pairs" / "quarantine.parquet"

    @property
    def failed_quarantine(self) -> Path:
        """The same of data without one usable row, where there are pairs of other data."""
        return self.out / "pairs" / "quarantine.failed.parquet"

    @property
    def pairs_manifest(self) -> Path:
        """What `prepare` read and wrote (JSON), written last."""
        return self.out / "pairs" / MANIFEST

    def reference(self, split: Split) -> Path:
        """Per-pair reference columns (Parquet)."""
        return self.out / "reference" / (self.other or "") / f"{split}.parquet"

    def of_other(self, name: str) -> RunPaths:
        """The same paths, with those of the scores of a further model in the place of the reference's."""
        return replace(self, other=name)

    @property
    def others(self) -> list[str]:
        """The further models whose scores are there."""
        return sorted(each.parent.name for each in (self.out / "reference").glob("*/manifest.json"))

    @property
    def reference_manifest(self) -> Path:
        """The scoring model, its settings and the digests of the two files (JSON), written last."""
        return self.out / "reference" / (self.other or "") / MANIFEST

    @property
    def exports(self) -> Path:
        """Folder of the reference in the formats of other trainers."""
        return self.out / "export"

    def export(self, to: str) -> Path:
        """Folder of the reference as one other trainer reads it: its files, and manifest.json, written last."""
        return self.exports / to

    @property
    def training(self) -> Path:
        """Folder of one training run: metrics, step log, checkpoints, model."""
        return self.out / "train" / self.label

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints from which this training run goes on where it was stopped."""
        return self.training / "checkpoints"

    @property
    def lineage(self) -> Path:
        """What the policy is trained from and how (JSON), written before the first step."""
        return self.training / "lineage.json"

    @property
    def training_log(self) -> Path:
        """Which files of the log there are (JSON), written after them: steps/, steps.parquet, metrics.parquet."""
        return self.training / "log.json"

    @property
    def held_out_log(self) -> Path:
        """Held-out figures while training, a line per evaluation (JSON lines), each with its checksum beside it."""
        return self.training / "held_out.jsonl"

    @property
    def held_out(self) -> Path:
        """The same as a table (Parquet), when training has ended."""
        return self.training / "held_out.parquet"

    @property
    def policy(self) -> Path:
        """The trained model, a Hugging Face folder."""
        return self.training / "model"

    @property
    def merged(self) -> Path:
        """The trained adapter merged into its base model by `scoreonce merge`, a Hugging Face folder."""
        return self.training / "merged"

    @property
    def evaluation(self) -> Path:
        """Folder of one policy's held-out results: pairs.parquet, verdict.json and summary.json."""
        return self.out / "evaluate" / self.label

    @property
    def evaluation_pairs(self) -> Path:
        """One row per distinct held-out pair (Parquet)."""
        return self.evaluation / "pairs.parquet"

    @property
    def evaluation_verdict(self) -> Path:
        """What became of the run that made the policy, with the rules that say so (JSON)."""
        return self.evaluation / "verdict.json"

    @property
    def evaluation_summary(self) -> Path:
        """Which policy was evaluated on which pairs, and the figures (JSON), written last."""
        return self.evaluation / "summary.json"

    def samples(self, label: str) -> Path:
        """Folder of the completions that one model wrote: samples.parquet, and manifest.json, written last."""
        return self.out / "samples" / label

    def judgement(self, name: str) -> Path:
        """Folder of what one judge said of samples: scores.parquet, judgements.parquet, and manifest.json, written
        last; answers.jsonl has what was answered so far.
        """
        return self.out / "judge" / name

    def graded(self, name: str) -> Path:
        """Folder of graded lists for `prepare`: pairs.jsonl, and manifest.json, written last."""
        return self.out / "graded" / name

    @property
    def comparison(self) -> Path:
        """Folder of the comparison of training runs: trials.parquet, compare.json, index.html."""
        return self.out / "compare"

    @property
    def trials(self) -> Path:
        """One row per training of a comparison (Parquet)."""
        return self.comparison / "trials.parquet"

    @property
    def comparison_summary(self) -> Path:
        """The standings of a comparison and what they decide (JSON), written last."""
        return self.comparison / "compare.json"

    @property
    def comparison_page(self) -> Path:
        """The comparison as a page (HTML)."""
        return self.comparison / "index.html"

    @property
    def audit(self) -> Path:
        """Folder of the audit: index.html, audit.json, pairs.parquet; measures.parquet and relations.parquet are
        reused by later audits.
        """
        return self.out / "audit"

    @property
    def measures(self) -> Path:
        """The measures of each pair, kept for later audits (Parquet)."""
        return self.audit / "measures.parquet"

    @property
    def relations(self) -> Path:
        """What other pairs have to do with each pair, row by row beside its measures (Parquet)."""
        return self.audit / "relations.parquet"

    @property
    def measures_manifest(self) -> Path:
        """What the measures were made from (JSON), written after them."""
        return self.audit / "measures.json"

    @property
    def audit_summary(self) -> Path:
        """Every finding, measure and distribution (JSON), written last."""
        return self.audit / "audit.json"

    @property
    def audit_pairs(self) -> Path:
        """One row per pair of both splits: measures and a boolean column per finding (Parquet)."""
        return self.audit / "pairs.parquet"

    @property
    def audit_page(self) -> Path:
        """The audit as a page (HTML)."""
        return self.audit / "index.html"

    @property
    def report(self) -> Path:
        """The report (HTML)."""
        return self.out / "report.html"
