"""Which column is the only completion of a prompt, and which one says whether it is good."""

from __future__ import annotations

from scoreonce.pipeline.detection.codings import BAD, GOOD, counted, label_of
from scoreonce.pipeline.detection.finding import Finding
from scoreonce.pipeline.text.dataset_columns import Made, Row
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError

COMPLETIONS = ("output", "response", "answer")
CONVERSATIONS = ("conversations", "conversation")
LABELS = ("label", "kto_tag")


def find_completion(finding: Finding, format: str | None) -> None:
    """Give `completion` or `messages` its column, and in unpaired data `label`, as true or false.

    Raises `InputError` where the label is neither true nor false.
    """
    if not finding.free("chosen", "rejected", "response_1", "response_2", "responses"):
        return
    if finding.free("completion", "messages"):
        completion = next((name for name in COMPLETIONS if name in finding.found), None)
        conversation = next((name for name in CONVERSATIONS if name in finding.found), None)
        if completion is not None:
            finding.take("completion", completion)
        elif conversation is not None:
            finding.take("messages", conversation)
    if finding.free("label"):
        name = next((name for name in LABELS if name in finding.found), None)
        if name is not None:
            finding.take("label", name)
    if (
        format == "completion"
        or not finding.values("label")
        or not (finding.has("completion") or finding.has("messages"))
    ):
        finding.leave_out("label")
        return
    _read_label(finding)


def _read_label(finding: Finding) -> None:
    name, made, values = finding.names["label"], finding.maker("label"), finding.values("label")

    def value(row: Row) -> bool | None:
        found = made.value(row)
        return None if found is None or found == "" else label_of(found, name)

    foreign = [found for found in values if found != "" and not _is_label(found)]
    if foreign:
        raise InputError(
            f"The column {name!r} does not say whether a completion is good.",
            found=f"{name}: {counted(values)}",
            where="data.source",
            fix=f"Correct it: good is one of {', '.join(sorted(GOOD))}, bad is one of {', '.join(sorted(BAD))}. To "
            'train on every completion, set data.format = "completion".',
        )
    finding.make("label", name, Made(made.reads, value))
    finding.judged[name] = made
    finding.notes.append(f"{name!r} says which completions are good ({counted(values)} in the first rows)")


def _is_label(value: object) -> bool:
    try:
        label_of(value, "label")
    except RowError:
        return False
    return True
