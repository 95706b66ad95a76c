"""The technical note names the tests that hold its claims: they exist, and every claim has some."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTE = (ROOT / "docs" / "technical-note.md").read_text(encoding="utf-8")
CLAIMS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", NOTE, re.DOTALL | re.MULTILINE))


def defined_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_claim_has_a_proof_its_limits_and_its_tests():
    assert len(CLAIMS) == 4
    for title, text in CLAIMS.items():
        for part in ("Claim.", "Proof", "∎", "Floating point.", "Where it does not hold.", "Held by"):
            assert part in text, f"{title}: {part}"


def test_the_tests_that_hold_a_claim_exist():
    for title, text in CLAIMS.items():
        named = re.findall(r"^- `(tests/[\w/]+\.py)::(test_\w+)`", text.partition("**Held by**")[2], re.MULTILINE)
        assert len(named) == text.partition("**Held by**")[2].count("\n- ") >= 5, title
        assert [name for path, name in named if name not in defined_in(path)] == [], title


def test_maths_within_a_line_has_nothing_that_markdown_takes_away():
    """A host of git removes the backslash before punctuation, also within `$...$`; its blocks are left alone."""
    outside = re.sub(r"^```math\n.*?^```", "", NOTE, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"\$([^$]+)\$", outside)
    assert len(inline) > 40
    assert [formula for formula in inline if re.search(r"\\[^A-Za-z]", formula)] == []
