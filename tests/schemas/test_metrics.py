"""Names of metrics: TRL's where TRL has the metric."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from scoreonce.schemas import metrics


def source_of(package, *path):
    """The text of a module, which is not imported."""
    found = find_spec(package)
    if found is None:
        pytest.skip(f"needs {package}")
    return Path(found.origin).parent.joinpath(*path).read_text(encoding="utf-8")


def test_names_that_are_said_to_be_trls_are_what_trl_logs():
    of_dpo = set(re.findall(r'_metrics\[mode\]\["([^"]+)"\]', source_of("trl", "trainer", "dpo_trainer.py")))
    of_trainer = set(re.findall(r'logs\["(\w+)"\]', source_of("transformers", "trainer.py")))
    assert set(metrics.TRL) <= of_dpo | of_trainer
    assert {"rewards/chosen", "rewards/accuracies", "logps/rejected", "aux_loss"} <= set(metrics.TRL) & of_dpo


def test_no_two_metrics_share_a_name():
    names = [value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)]
    assert len({*names, *metrics.LOGPS.values()}) == len(names) + 2
