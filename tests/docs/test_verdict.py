"""docs/training.md: the rules of the verdict are those of the code, and their keys those of a run file."""

import re
from pathlib import Path

from scoreonce.pipeline.verdict.text import markdown
from scoreonce.pipeline.verdict.verdict import RULES
from scoreonce.schemas.hyperparameters import HYPERPARAMETERS
from scoreonce.stages.config import Run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_documented_rules_are_those_of_the_code():
    block = re.search(r"^<!-- rules: .*?-->\n(.*?)^<!-- /rules -->", PAGE, re.DOTALL | re.MULTILINE)
    assert block.group(1).strip() == markdown(RULES)


def test_every_rule_says_where_its_threshold_comes_from():
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.holds
        assert (rule.threshold is None) == (rule.unit == "")
        assert rule.source or rule.threshold is None
        assert "|" not in rule.holds + rule.source  # the table would break


def test_advice_names_keys_that_a_run_file_has():
    named = {advice.key for rule in RULES for advice in rule.advice if "." in advice.key}
    for key in named:
        section, _, name = key.partition(".")
        known = Run.model_fields[section].annotation.model_fields.keys() | set(HYPERPARAMETERS)
        assert name in known, key
