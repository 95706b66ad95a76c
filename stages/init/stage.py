"""init: the first run file, from a look at model and data, or from the configuration of another tool.

    scoreonce init --model models/sft --data pairs.jsonl
    scoreonce init --from-trl dpo_config.yaml

Reads config.json, the tokenizer and the first rows of the data, no weights. Writes one file, with a comment at each
line that says why, and replaces none unless told to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages import config, run_file
from scoreonce.stages.common.files import atomic
from scoreonce.stages.migration import axolotl, llamafactory, trl
from scoreonce.stages.migration.mapped import Translation, read_configuration
from scoreonce.stages.run_text import Line, render, toml, tree

NAME = Path("run.toml")
TOOLS: dict[str, ModuleType] = {"trl": trl, "axolotl": axolotl, "llamafactory": llamafactory}


@dataclass(frozen=True)
class Written:
    """The run file, and what to tell about it, line by line."""

    path: Path
    report: tuple[str, ...]


def init(
    model: str | None = None,
    data: str | None = None,
    *,
    method: str | None = None,
    out: Path | None = None,
    sets: Sequence[str] = (),
    replace: bool = False,
    configurations: Mapping[str, Path | None] = {},  # by tool: trl, axolotl, llamafactory
    processes: int = 1,
) -> Written:
    """Write a run file for a model and data, or from one configuration of another tool; `out` is its path.

    `sets` are keys of a run file, `section.key=value`, that stand as they are given. `processes`: of the launch that
    the configuration was for. Raises `InputError` where the file exists (unless `replace`), where model or data cannot
    be read, and for what a run file cannot have.
    """
    path = out or NAME
    if path.exists() and not (replace and path.is_file()):
        raise InputError(
            "There is a file of that name, and init replaces none.",
            found=str(path),
            where="--out",
            fix="Give another name with --out, or replace it with --replace.",
        )
    files = [(tool, file) for tool, file in configurations.items() if file is not None]
    given = _given(sets)
    if not files:
        lines, report = _looked(_required(model, "--model"), _required(data, "--data"), method or "dpo", path, given)
        head, notes = [f"Written by `scoreonce init` for {model} and {data}."], []
    else:
        if len(files) > 1 or method is not None or processes < 1:
            raise InputError(
                "A configuration of one other tool is translated as it is.",
                found=f"{', '.join(f'--from-{tool}' for tool, _ in files)}, --method {method}, --processes {processes}",
                where="the options",
                fix="Give one --from-… option, without --method, and at least one process.",
            )
        translated = _translated(*files[0], model, data, path, processes)
        lines, notes = _with(translated.lines, given), list(translated.notes())
        head = [f"Written by `scoreonce init --from-{files[0][0]} {files[0][1]}`.", *_told(translated)]
        report = [*_told(translated), *notes]
    config.checked(tree(lines), str(files[0][1]) if files else "the options given")
    with atomic(path) as temporary:
        temporary.write_text(
            render([*head, "All keys, with their defaults: configs/example.toml."], lines, notes), "utf-8"
        )
    compared = any(line.key.startswith("compare.") for line in lines)
    return Written(path, (*report, *_next(path, compared)))


def _required(value: str | None, flag: str) -> str:
    if not value:
        raise InputError(
            "A first run file needs a model and data.",
            found=f"no {flag}",
            where="the options",
            fix="Give --model and --data, or a configuration of another tool with --from-trl, --from-axolotl or "
            "--from-llamafactory.",
        )
    return value


def _given(sets: Sequence[str]) -> dict[str, Any]:
    """The keys of `section.key=value` texts."""
    found: dict[str, Any] = {}
    for text in sets:
        run_file.override(found, text)
    return {
        f"{section}.{key}" if isinstance(keys, dict) else section: value
        for section, keys in found.items()
        for key, value in (keys.items() if isinstance(keys, dict) else [(section, keys)])
    }


def _looked(model: str, data: str, method: str, path: Path, given: Mapping[str, Any]) -> tuple[list[Line], list[str]]:
    names = [name.strip() for name in method.split(",") if name.strip()] or ["dpo"]
    base = {"out": f"runs/{path.stem}", "data.source": data, "reference.model": model, "train.method": names[0]}
    run = config.checked(tree(Line(key, value, "") for key, value in {**base, **given}.items()), "the options given")
    from scoreonce.pipeline import methods  # torch
    from scoreonce.stages.init import draft, look
    from scoreonce.stages.init.advice import advise

    runs = {name: run if name == run.train.method else run.of_method(name) for name in (run.train.method, *names[1:])}
    composed = {
        name: methods.resolve(name, each.train.hyperparameters, **each.train.pieces) for name, each in runs.items()
    }
    seen, read = look.look_at_model(run), look.look_at_data(run)
    lora = run.train.lora_rank is not None
    advised = {name: (each, advise(each.name, seen.parameters, lora=lora)) for name, each in composed.items()}
    lines = draft.draft(run, seen, read, advised, given)
    return lines, list(_findings(seen, read, lines))


def _findings(model: Any, data: Any, lines: Sequence[Line]) -> Iterator[str]:
    """What was found, for a terminal."""
    positions = "" if model.positions is None else f", {model.positions:,} positions"
    template = "a chat template" if model.has_template else "no chat template"
    yield f"model     {model.name}: {model.architecture}, {model.parameters:,} parameters{positions}, {template}"
    yield f"data      {data.name}: {data.format} ({data.meaning}), from columns {data.columns}"
    yield from (f"          {note}" for note in data.notes)
    refused = ", ".join(f"{reason} {count:,}" for reason, count in data.refused.items())
    unusable = f"; not usable: {refused}" if refused else ""
    yield f"          first {data.read:,} rows: {data.pairs:,} pairs{unusable}"
    quantiles = ", ".join(f"{100 * share:g} % at most {data.covering(share):,}" for share in (0.5, 0.95, 0.99))
    yield f"lengths   {quantiles}, the longest {data.lengths[-1]:,} tokens of prompt and completion"
    chosen = {line.key: line for line in lines}
    compared = "compare.methods" in chosen
    for key in ("data.max_length", *(() if compared else ("train.learning_rate", "train.beta"))):
        if key in chosen:
            yield f"{key} = {toml(chosen[key].value)}: {chosen[key].why}"
    for line in lines:
        if line.key.startswith("compare.vary."):
            yield f"{line.key.removeprefix('compare.vary.')} = {toml(line.value)}: {line.why}"


def _translated(tool: str, file: Path, model: str | None, data: str | None, path: Path, processes: int) -> Translation:
    translator = TOOLS[tool]
    given = read_configuration(translator.TOOL, file)
    found: Translation = translator.translate(
        given, model=model, data=data, out=f"runs/{path.stem}", processes=processes
    )
    return found


def _with(lines: Sequence[Line], given: Mapping[str, Any]) -> list[Line]:
    """The lines with those set by hand in their places; the keys that they replace are not lost from the account."""
    by_key = {line.key: line for line in lines}
    for key, value in given.items():
        by_key[key] = Line(key, value, "given with --set", by_key[key].sources if key in by_key else ())
    return list(by_key.values())


def _told(translated: Translation) -> list[str]:
    used = {source for line in translated.lines for source in line.sources}
    verdicts = [each.verdict for each in translated.remarks]
    return [
        f"{translated.tool}: {len(used) + len(verdicts) + len(translated.unknown)} keys: {len(used)} are in the run "
        f"file, {verdicts.count('not needed')} not needed, {verdicts.count('not supported')} not supported, "
        f"{len(translated.unknown)} unknown or not mapped; docs/migration.md has the table."
    ]


def _next(path: Path, compared: bool) -> Iterator[str]:
    yield f"Written to {path}. Next: scoreonce prepare {path} --preview 2"
    if compared:
        yield f"then how long the comparison takes: scoreonce compare {path} --dry-run"
    yield f"then, before there is a GPU: scoreonce estimate {path} --memory 80"
