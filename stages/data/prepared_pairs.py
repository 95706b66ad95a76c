"""The prepared pairs: their manifest, whether their files are whole, and whether a run file still asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import HubInput, LocalInput, PairsManifest, Settings
from scoreonce.stages.common import manifests
from scoreonce.stages.common.manifests import ABSENT, Difference
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Data, Run
from scoreonce.stages.raw.raw_data import local_inputs

Inputs = Mapping[str, LocalInput | HubInput]
WHICH_DATA = {"source", "subset", "split", "test_source", "test_split", "chat_template"}


def data_settings(data: Data) -> Settings:
    """The settings that decide the pairs. The tokenizer counts by its digest, not by its name."""
    return data.model_dump(mode="json", exclude={"workers", "processes", "engine", "streaming", "tokenizer"})


def read_pairs(paths: RunPaths) -> PairsManifest:
    """The manifest of the pairs that are there, whatever a run file asks for, after checking each of their files.

    Raises `InputError` where they are absent, unfinished or damaged.
    """
    manifest = manifests.read(PairsManifest, paths.pairs_manifest)
    manifests.require_files(manifest, paths.pairs_manifest.parent)
    return manifest


def require_pairs(run: Run) -> PairsManifest:
    """The manifest of the pairs, after checking their files and that the run file still asks for these pairs.

    Data that are no longer there, or on the Hub, are not compared: the pairs are good without them. Raises `InputError`
    where the pairs are absent or damaged, or where the data section or the data themselves have changed.
    """
    paths = RunPaths.of(run)
    manifest = read_pairs(paths)
    changed = pairs_differences(manifest, data_settings(run.data), _inputs_now(manifest, run.data))
    changed += _tokenizer_differences(manifest, run)
    if changed:
        raise InputError(
            "The pairs were prepared from other data or settings than the run file's.",
            found=manifests.listed(changed, "prepared"),
            where=str(paths.pairs_manifest),
            fix="Run `scoreonce prepare` with this run file, or undo the change.",
        )
    return manifest


def require_held_out(prepared: PairsManifest, paths: RunPaths) -> None:
    """Raise `InputError` where no pair is held out."""
    if prepared.counts.test == 0:
        raise InputError(
            "There are no held-out pairs to evaluate on.",
            found="0 pairs in the test split",
            where=str(paths.pairs("test")),
            fix="Set data.test_share above 0, or data.test_split or data.test_source, and run "
            "`scoreonce prepare` and `scoreonce score` again.",
        )


def pairs_differences(manifest: PairsManifest, settings: Settings, inputs: Inputs) -> list[Difference]:
    """In which settings and input files the pairs differ from those that would be prepared now."""
    then, now = ({name: each.content for name, each in side.items()} for side in (manifest.inputs, inputs))
    return [
        *manifests.differences("data", manifest.config, settings),
        *(
            Difference(f"data file {name}", then.get(name, ABSENT), now.get(name, ABSENT))
            for name in [*then, *(name for name in now if name not in then)]
            if then.get(name) != now.get(name)
        ),
    ]


def _inputs_now(manifest: PairsManifest, data: Data) -> Inputs:
    """The input files as they are now, where they can be looked at, otherwise as they were."""
    if any(manifest.config.get(name) != value for name, value in data_settings(data).items() if name in WHICH_DATA):
        return manifest.inputs  # other data are asked for, which the settings say already
    found: dict[str, LocalInput | HubInput] = {}
    here: list[Path] = []
    for source, split in _sources(data):
        inputs = local_inputs(source, split)
        if inputs is not None:
            found |= inputs
            here.append(Path(source).expanduser())
    if data.chat_template is not None:
        found |= _template_now(data)
    elsewhere = {
        name: each
        for name, each in manifest.inputs.items()
        if not any(Path(name).is_relative_to(path) for path in here)
    }
    return {**elsewhere, **found}


def _template_now(data: Data) -> dict[str, LocalInput]:
    from scoreonce.stages.data.encoding import template_inputs

    return template_inputs(data)


def _sources(data: Data) -> list[tuple[str, str | None]]:
    """Where the rows come from: source and split; a split of None means held-out data."""
    if data.test_source is not None:
        return [(data.source, data.split), (data.test_source, data.test_split)]
    if data.test_split is not None:
        return [(data.source, data.split), (data.source, data.test_split)]
    return [(data.source, data.split)]


def _tokenizer_differences(manifest: PairsManifest, run: Run) -> list[Difference]:
    """Whether the run file's tokenizer would give other ids, where it has another name and is a folder with one."""
    key, name = (
        ("data.tokenizer", run.data.tokenizer) if run.data.tokenizer else ("reference.model", run.reference.model)
    )
    if name == manifest.tokenizer.name or not (Path(name) / "tokenizer_config.json").is_file():
        return []
    from scoreonce.stages.data.encoding import encoding_of
    from scoreonce.stages.models.tokenizers import load_tokenizer

    same = encoding_of(load_tokenizer(name), run).encoder.digest == manifest.tokenizer.digest
    key = "data.tokenizer" if run.data.tokenizer else "reference.model, whose tokenizer is used"
    return [] if same else [Difference(key, manifest.tokenizer.name, name)]
