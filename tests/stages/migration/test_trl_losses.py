"""A translated loss gives the number that TRL's own trainer gives with the same keys."""

import pytest

from scoreonce.stages.config import Train
from scoreonce.stages.migration import trl, trl_keys
from scoreonce.stages.migration.mapped import Given

pytest.importorskip("trl", reason="needs TRL to compare with: pip install trl", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SMOOTHING = {name: {"label_smoothing": 0.1} for name in ("robust", "exo_pair", "aot", "sigmoid")}
CASES = [
    *({"loss_type": [name], "beta": 0.3, **SMOOTHING.get(name, {})} for name in trl_keys.LOSSES),
    {"loss_type": ["discopop"], "discopop_tau": 0.2},
    {"loss_type": ["sigmoid"], "ld_alpha": 0.3},
    {"loss_type": ["sigmoid"], "use_weighting": True},
    {"loss_type": ["hinge"], "f_divergence_type": "js_divergence"},
    {"loss_type": ["sigmoid"], "f_divergence_type": "forward_kl"},
    {"loss_type": ["sigmoid_norm"], "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    {"loss_type": ["robust", "aot"], "loss_weights": [0.5, 0.5], "label_smoothing": 0.2},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_the_loss_is_trls(case):
    import torch
    from trl_losses import agree, ours, problem, theirs

    given = Given("TRL", "f", {"model_name_or_path": "m", "dataset_name": "d", **case})
    lines = trl.translate(given, model=None, data=None, out="o", processes=1).lines
    train = Train(**{line.key.partition(".")[2]: line.value for line in lines if line.key.startswith("train.")})
    alpha = case.get("f_divergence_type") == "alpha_divergence"
    numbers = problem(torch.float32 if alpha else torch.float64)
    rest = {name: value for name, value in case.items() if name not in ("loss_type", "discopop_tau")}
    if "discopop_tau" in case:
        from types import SimpleNamespace

        rest["args"] = SimpleNamespace(discopop_tau=case["discopop_tau"])
    expected = theirs(numbers, case["loss_type"], **rest)
    pieces = {name: value for name, value in train.pieces.items() if value is not None}
    found = ours(numbers, train.method, **train.hyperparameters, **pieces)
    # A gradient of LD-DPO is for all tokens and for the prefix: see tests/pipeline/methods/test_trl.py.
    compared = 1 if "ld_alpha" in case else 2
    agree(found[:compared], expected[:compared], 1e-5 if alpha else 1e-6)
