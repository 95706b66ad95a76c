"""A trained policy to a repository of the Hugging Face Hub, with a card of its lineage, figures and data.

    scoreonce push configs/x.toml org/name --label dpo        needs: scoreonce train

One commit. Files that are there already are not sent again. HF_TOKEN or `hf auth login` gives the right to write, and
HF_ENDPOINT the address of another Hub, as for every tool of huggingface_hub.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scoreonce.pipeline.pages.model_card import card
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import PushResult
from scoreonce.stages.config import Run
from scoreonce.stages.data.pair_tables import current_audit, read_audit
from scoreonce.stages.data.training_runs import read_evaluation
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.push.published import ADAPTER_CONFIG, adapter_config, without_local_paths
from scoreonce.stages.weights import policy_manifest

logger = logging.getLogger(__name__)

CARD = "README.md"


@at_address(
    *(f"train/{{label}}/{each}" for each in ("lineage.json", "model/*", "merged/*")),
    "evaluate/{label}/*",
    "audit/*",
    "pairs/manifest.json",
)
def push(
    run: Run,
    repository: str,
    *,
    merged: bool = False,
    base: str | None = None,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> PushResult:
    """Commit the policy of a label to a repository `org/name`, which is made where it is not there, private by default.

    `merged` takes what `merge` wrote. `base` is the name on the Hub of the model that the policy was trained from.
    `dry_run` sends nothing and returns what would be sent. Raises `InputError` where there is no policy, a file of it
    is damaged, its adapter needs a local folder, or the Hub refuses.
    """
    paths = RunPaths.of(run)
    folder = paths.merged if merged else paths.policy
    lineage = _checked(folder, paths, merged)
    files = _files(folder, paths, lineage, base)
    size = sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values())
    if dry_run:
        for name in sorted(files):
            logger.info(f"{repository}: would send {name}")
        return PushResult(paths, repository, None, files)
    logger.info(f"{repository}: {len(files)} files, {size / 1e6:,.1f} MB")
    url = _committed(repository, files, public=public, revision=revision, message=message or f"{paths.label}")
    logger.info(f"pushed: {url}")
    return PushResult(paths, repository, url, files)


def _checked(folder: Path, paths: RunPaths, merged: bool) -> Lineage:
    """The lineage of the policy in a folder, whose files are as they were written."""
    lineage = manifests.read(Lineage, paths.lineage)
    if not folder.is_dir():
        raise InputError(
            "There is no merged model to push." if merged else "There is no trained policy to push.",
            found=f"no folder {folder}",
            where=f"label {paths.label}",
            fix=f"Run `scoreonce {'merge' if merged else 'train'}` with this run file and label first.",
        )
    if policy_manifest.identity_of(folder) != lineage.identity:
        raise InputError(
            "The policy is not that of this training run.",
            found=f"another identity in {folder / policy_manifest.NAME} than in the lineage",
            where=str(paths.lineage),
            fix=f"Run `scoreonce {'merge' if merged else 'train'}` with this run file and label again.",
        )
    policy_manifest.require_sound(folder)
    return lineage


def _files(folder: Path, paths: RunPaths, lineage: Lineage, base: str | None) -> dict[str, Path | bytes]:
    """What is sent, by its name in the repository. scoreonce.json vouches for files of this machine, and stays."""
    config = adapter_config(folder, base)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != policy_manifest.NAME
    }
    if config is not None:
        files[ADAPTER_CONFIG] = config
    evaluation = read_evaluation(paths)
    if evaluation is not None and evaluation.training_identity != lineage.identity:
        logger.warning(f"{paths.label}: the card has no figures, for the evaluation is of another training")
        evaluation = None
    audit = read_audit(paths)[1] if current_audit(paths) is not None else None
    text = card(
        without_local_paths(lineage, base),
        "transformers" if config is None else "peft",
        figures=None if evaluation is None else evaluation.figures,
        findings=None if audit is None else audit["findings"],
    )
    return {**files, CARD: text.encode()}


def _committed(
    repository: str, files: dict[str, Path | bytes], *, public: bool, revision: str | None, message: str
) -> str:
    """Make the repository and the branch where they are not there, commit, and return the commit's address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=files[name]) for name in sorted(files)]
    with _refusals(repository):
        api.create_repo(repository, private=not public, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        made: Any = api.create_commit(repository, operations, commit_message=message, revision=revision)
    return str(made.commit_url)


@contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """What the Hub, the network or the token makes impossible becomes an `InputError`."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        found, fix = str(error), "Give the repository as ORG/NAME, with letters, digits, `-`, `_` and `.`."
    except HfHubHTTPError as error:
        status = error.response.status_code
        found = f"{constants.ENDPOINT} answered {status}: {error.server_message or error}"
        if status in (401, 403):
            fix = "Set HF_TOKEN to a token that may write to this repository, or log in with `hf auth login`."
        else:
            fix = "Try again; what was sent already is not sent twice."
    except (OSError, OfflineModeIsEnabled, ValueError, RuntimeError) as error:
        found = f"{error}" if error.__cause__ is None else f"{error} {error.__cause__}"
        fix = f"See that {constants.ENDPOINT} can be reached (HF_ENDPOINT, HF_HUB_OFFLINE), and try again."
    else:
        return
    raise InputError("The Hub did not take the policy.", found=found, where=repository, fix=fix)
