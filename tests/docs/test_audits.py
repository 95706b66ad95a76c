"""The recipes of docs/audits.md run as they stand, on a small audited run."""

import re
from pathlib import Path

import polars as pl
import pytest
from written import write_reference_manifest

from scoreonce.stages.audit import stage as audit
from scoreonce.stages.common.files import write_parquet
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "audits.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def audited(tmp_path_factory, planted) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    out = folder / "out"
    run = Run.model_validate({"out": str(out), "data": {"source": "none"}, "reference": {"model": str(folder)}})
    paths = RunPaths.of(run)
    planted.write(paths, 120, each=3)
    for split in ("train", "test"):
        ids = pl.read_parquet(paths.pairs(split), columns=["pair_id"]).unique()
        scores = {"ref_chosen_logps": -20.0, "ref_rejected_logps": -21.0, "ref_margin": 1.0}
        scored = ids.with_columns(pl.lit(value).alias(name) for name, value in scores.items())
        write_parquet(paths.reference(split), scored.to_arrow())
    write_reference_manifest(paths)
    numbers = {"epoch": 0, "margin": -1.0, "beta": 0.1, "weight": 1.0, "loss": 0.5}
    steps = ids.select("pair_id", step=pl.int_range(1, pl.len() + 1), **numbers)
    write_parquet(out / "train" / "dpo" / "steps.parquet", steps.to_arrow())
    audit.audit(run)
    return out


def test_there_are_ten_recipes():
    assert re.findall(r"^## (\d+)\.", TEXT, re.MULTILINE) == [str(number) for number in range(1, 11)]
    assert len(RECIPES) == 11


def test_the_recipes_run_and_answer(audited, capsys):
    names: dict = {}
    exec("\n".join(RECIPES).replace("runs/example", str(audited)), names)
    assert names["to_read"].height == 3
    assert names["by_source"]["pairs"].sum() == names["pairs"].select(pl.len()).collect().item()
    assert names["together"].width > 20
    assert names["by_length"].height > 0
    assert names["one_each"].height < names["by_source"]["pairs"].sum()
    assert names["groups"]["pairs"].max() == 2
    # 3 contradictions and 3 copies: d = ½ over the six, more than any ε below one half explains.
    assert names["judged"]["d"].item() == pytest.approx(0.5)
    assert names["judged"]["flip_rate"].item() == pytest.approx(0.5)
    assert set(names["ranking"]["by sum"].to_list()) == {1.0}
    assert names["stubborn"].height > 0
    assert 0 < names["kept"] < names["by_source"]["pairs"].sum()
