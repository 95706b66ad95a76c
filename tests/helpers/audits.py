"""A small audit as the audit stage writes it, for tests of the page."""

from scoreonce.pipeline.pages.audit.pairs import Texts

EVIL = "</script><script>document.title='taken'</script><!--<img src=https://evil.example/x onerror=alert(1)>\u202e\x07"


def finding(name, severity="flag", rows=3, of=200, examples=(), **more):
    return {
        "name": name,
        "severity": severity,
        "title": f"Title of {name}",
        "meaning": f"Meaning of {name}.",
        "rows": rows,
        "of": of,
        "share": rows / of,
        "column": name,
        "fix": f"Fix of {name}.",
        "examples": list(examples),
        **more,
    }


def example(row, split="train", note="", **more):
    return {"pair_id": f"{row:032x}", "row": row, "split": split, "note": note, **more}


def worst(row, score, findings=("duplicate_pair",), source="web"):
    return {**example(row), "source": source, "findings": list(findings), "score": score}


def auc(name, value, source=None, half=0.01):
    return {
        "name": name,
        "title": name.title(),
        "source": source,
        "auc": value,
        "low": value - half,
        "high": value + half,
        "pairs": 150,
    }


def histogram(name, counts=(1, 4, 0, 5)):
    bins = [{"low": 10 * i, "high": 10 * (i + 1), "count": count} for i, count in enumerate(counts)]
    return {"name": name, "title": name.title(), "unit": "tokens", "bins": bins}


def audit(**parts):
    """Of 200 pairs: two errors, a warning, a note, a check that found nothing, one strong shortcut."""
    whole = {
        "format": 1,
        "data": {
            "source": "pairs.jsonl",
            "counts": {"raw": 210, "train": 180, "test": 20, "quarantined": 10},
            "quarantined_by_reason": {"chosen_is_blank": 7, "sides_are_identical": 3},
        },
        "reference": None,
        "training": [],
        "findings": [
            finding("double_bos", "fail", 4),
            finding("prompt_in_both_splits", "fail", 6, examples=[example(0)]),
            finding("duplicate_pair", rows=30, examples=[example(1, note="row 7 reads the same"), example(2)]),
            finding("crowded_prompt", "info", 100),
            finding("reference_missing", rows=0),
        ],
        "distributions": [histogram("prompt_len")],
        "shortcuts": [
            auc("markdown", 0.56),
            auc("length", 0.74),
            auc("length", 0.9, "web"),
            auc("length", 0.6, "books"),
        ],
        "sources": [
            {"source": "books", "pairs": 50, "share": 0.25, "longer_wins": 0.125},
            {"source": "web", "pairs": 150, "share": 0.75, "longer_wins": 0.625},
        ],
        "measures": {"pairs_per_prompt": 17.5},
        "worst": [worst(1, 12.5), worst(2, 3.0, ["crowded_prompt"], None)],
    }
    return whole | parts


def texts(*rows, split="train", **more):
    """Pairs of these rows as the page looks them up."""
    values = {"prompt": "Which animal?", "chosen": "the cat sat here", "rejected": "the dog sat here", **more}
    return {f"{row:032x}": Texts(f"{row:032x}", split, row, **values) for row in rows}


def evil_audit():
    """An audit with the same attack in every text that a dataset or a run file could bring into it."""
    bad = finding(
        "duplicate_pair",
        "fail",
        examples=[example(1, note=EVIL, other_pair_id="b")],
        title=EVIL,
        meaning=EVIL,
        fix=EVIL,
    ) | {"name": EVIL, "column": EVIL}
    return audit(
        data={
            "source": EVIL,
            "counts": {"raw": 9, "train": 5, "test": 0, "quarantined": 1},
            "quarantined_by_reason": {EVIL: 1},
        },
        findings=[bad, finding("absent", rows=0, title=EVIL, meaning=EVIL)],
        shortcuts=[{**auc("length", 0.7), "title": EVIL}, {**auc("length", 0.8), "title": EVIL, "source": EVIL}],
        distributions=[{**histogram("prompt_len"), "title": EVIL, "unit": EVIL}],
        sources=[{"source": EVIL, "pairs": 5, "share": 1.0, EVIL: 0.5}],
        measures={EVIL: 1.0},
        reference={EVIL: EVIL},
        training=[EVIL],
        worst=[worst(1, 3.0, [EVIL], EVIL)],
    )
