"""The auxiliary loss of mixtures of experts, by hand and against transformers' own."""

import numpy as np
import pytest
import torch
import transformers as tr
from tiny_models import SHAPE, random_rows, tiny_model

from scoreonce.pipeline.batches.prompt_rows import collate
from scoreonce.pipeline.forward.routing import position_weights, router_of, routing_of
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError

EXPERTS = {
    "mixtral": lambda: tr.MixtralConfig(**SHAPE, num_local_experts=4, router_aux_loss_coef=0.5),
    "qwen3_moe": lambda: tr.Qwen3MoeConfig(
        **SHAPE, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "olmoe": lambda: tr.OlmoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2),
    "granitemoe": lambda: tr.GraniteMoeConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "phimoe": lambda: tr.PhimoeConfig(**SHAPE, num_local_experts=4),
}


def experts(name):
    torch.manual_seed(0)
    return tr.AutoModelForCausalLM.from_config(EXPERTS[name]()).eval()


def plain_sequences(rows):
    """Prompt and completion without its last token, one sequence per completion, padded on the right."""
    whole = [np.concatenate([row.prompt, completion[:-1]]) for row in rows for completion in row.completions]
    ids = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, tokens in enumerate(whole):
        ids[number, : len(tokens)] = torch.from_numpy(tokens)
        mask[number, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def test_the_loss_by_hand():
    """Two experts, k = 1, odds 3 and 1/3: probabilities (3/4, 1/4), (3/4, 1/4), and (1/4, 3/4) that counts twice.

    f = (2/4, 2/4), P = ((2 * 3/4 + 2 * 1/4) / 4, ...) = (1/2, 1/2): 2 * (1/4 + 1/4) = 1. Without the third position
    f = (1, 0), P = (3/4, 1/4): 2 * 3/4 = 1.5.
    """
    odds = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 3.0]]).log()
    assert float(routing_of([odds], torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64), 1).loss()) == pytest.approx(1.0)
    assert float(routing_of([odds], torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), 1).loss()) == pytest.approx(1.5)


def test_a_prompt_counts_once_for_each_completion():
    """Prompt of 2, completions of 3 and 1 tokens: positions 2 + 2 + 0, then padding."""
    rows = random_rows(1)
    row = type(rows[0])(np.array([5, 6]), (np.array([7, 8, 9]), np.array([4])))
    assert position_weights(collate([row], "packed"))[:6].tolist() == [2, 2, 1, 1, 0, 0]
    assert position_weights(collate([row], "padded")).tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("layout", ["padded", "shared", "packed"])
def test_every_layout_gives_the_loss_of_plain_sequences(layout):
    model, rows = experts("mixtral"), random_rows(4)
    expected = model(**plain_sequences(rows), output_router_logits=True).aux_loss.detach()
    found = TokenScorer(model, layout, top_k=router_of(model).top_k)(rows).routing
    assert float(found.loss().detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EXPERTS)
def test_the_router_of_an_architecture(name, dtype):
    """Found in its config, after a comparison with its own loss."""
    router = router_of(experts(name).to(dtype))
    config = EXPERTS[name]()
    assert (router.top_k, router.coefficient) == (config.num_experts_per_tok, config.router_aux_loss_coef)


def test_what_has_no_such_loss_or_another_is_refused(monkeypatch):
    with pytest.raises(InputError, match="LlamaForCausalLM has no auxiliary loss"):
        router_of(tiny_model("llama"))
    model = experts("mixtral")
    model.num_experts_per_tok = 1  # the model's own loss takes another k than its config says
    with pytest.raises(InputError, match="is not understood"):
        router_of(model)
