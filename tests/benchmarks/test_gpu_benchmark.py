"""benchmarks/gpu.py runs where there is no GPU, no installed scoreonce and no package for tables or run files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
ABSENT = (
    *("polars", "pyarrow", "dataframely", "pydantic", "typer", "datasets", "trl"),
    *("beartype", "humanize", "scipy"),
)
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "jaxtyping":  # as if it were not: only what stands in for it is found
            return PathFinder.find_spec(name, [folder for folder in sys.path if "site-packages" not in folder])

sys.meta_path.insert(0, NotInstalled)
sys.modules |= dict.fromkeys({ABSENT})
"""


@pytest.mark.long
def test_smoke_on_a_bare_machine(tmp_path):
    code = f"""{WITHOUT}
import runpy
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.argv[1:] = ["--smoke", "--out", {str(tmp_path)!r}]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
assert "stand_ins" in sys.modules["jaxtyping"].__file__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert figures["left out"] == []
    for sides in figures["shapes"]["tiny"]["profiles"].values():
        for made in [*sides["ours"].values(), *sides["padded"].values()]:
            assert made["scoring, pairs/s"] > 0
            assert made["training, FLOP/s"] > 0
    assert figures["shapes"]["tiny"]["agreement"]["packed"]["ours, largest"] < 1e-5
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("| multi-turn |") == 4


def test_without_a_gpu_it_says_so(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True)
    if "skipped" not in done.stdout:
        pytest.skip("there is a GPU")
    assert done.stdout == "skipped: needs a CUDA GPU\n"
    assert not list(tmp_path.iterdir())


def test_operations_by_hand():
    """Prompt 3, completions 2 and 4. Shared: 3 + 1 + 3 positions; visible 6, 1 x 3 + 1 and 3 x 3 + 6; 6 predicted.
    Repeated: 5 + 7 positions, 15 + 28 visible. Per layer 4 projections of 8 x 8 and 3 of 8 x 16; width 8."""
    code = """
import sys; sys.path.insert(0, sys.argv[1]); import gpu, numpy as np
from transformers import AutoModelForCausalLM, LlamaConfig
from scoreonce.pipeline.batches.prompt_rows import PromptRow
model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=16,
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2))
row = PromptRow(np.arange(3), (np.arange(2), np.arange(4)))
print(*(int(gpu.operations(model, [row], shared=shared)) for shared in (True, False)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(SCRIPT.parent)], capture_output=True, text=True)
    weights, head = 2 * (4 * 64 + 3 * 128), 2 * 8 * 11 * 6
    shared = 2 * weights * 7 + 4 * 8 * 2 * (6 + 4 + 15) + head
    repeated = 2 * weights * 12 + 4 * 8 * 2 * (15 + 28) + head
    assert done.stdout.split() == [str(shared), str(repeated)], done.stderr
