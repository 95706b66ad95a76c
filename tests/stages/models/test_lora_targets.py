"""Which weights LoRA adapts, per architecture: every matrix of the blocks, experts and fused projections included."""

import pytest
import torch
import transformers as tr
from peft import AutoPeftModelForCausalLM
from tiny_models import SHAPE, VOCABULARY

from scoreonce.pipeline.attention.last_layer import blocks
from scoreonce.schemas.errors import InputError
from scoreonce.stages.models import adapters
from scoreonce.stages.models.lora import ALL_EXPERTS, ALL_LINEAR, Lora, stacked_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT

SMALL = {**SHAPE, "num_hidden_layers": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS = {
    "llama": lambda: tr.LlamaConfig(**SMALL),
    "phi3, fused projections": lambda: tr.Phi3Config(**SMALL),
    "gpt2, Conv1D": lambda: tr.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda: tr.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "mixtral": lambda: tr.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: tr.Qwen3MoeConfig(**SMALL, **EXPERTS, head_dim=8, decoder_sparse_step=1),
    "gpt_oss": lambda: tr.GptOssConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=8),
}
# Routers are parameters of their own there, and stay as they are.
ROUTERS = ("gate.weight", "router.weight")


def model(name):
    torch.manual_seed(0)
    return tr.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()


def logits(made):
    with torch.no_grad():
        return made(torch.arange(3, 30)[None]).logits


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_every_matrix_of_the_blocks_is_adapted(name, tmp_path):
    """Unchanged at first; with other matrices changed, and loaded by PEFT the same."""
    base = model(name)
    base.save_pretrained(tmp_path / "base")
    matrices = {n for block in blocks(base) for n, p in block.named_parameters() if p.ndim > 1 and "bias" not in n}
    before, experts = logits(base), stacked_weights(base)
    assert bool(experts) == (name in ("mixtral", "qwen3_moe", "gpt_oss"))
    targets = (ALL_LINEAR, ALL_EXPERTS) if experts else (ALL_LINEAR,)
    wrapped = adapters.with_new_lora(base, Lora(2, 4.0, targets))
    assert torch.equal(logits(wrapped), before)
    pairs = sum("lora_A" in n for n, _ in wrapped.named_parameters())
    routers = {n for n in matrices if n.endswith(ROUTERS)}
    assert pairs == len(blocks(base)) * len(matrices - (routers if experts else set()))
    with torch.no_grad():
        for n, parameter in wrapped.named_parameters():
            if "lora_B" in n:
                parameter.normal_(std=0.1)
    changed = logits(wrapped)
    assert (changed - before).abs().max() > 1e-3
    adapters.write(wrapped, tmp_path / "adapter", str(tmp_path / "base"), None)
    torch.testing.assert_close(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()), changed)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
def test_experts_whose_linear_neighbours_peft_takes_for_experts():
    """A shared expert beside the stacked ones has linear layers of the names that the others had."""
    sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = tr.Glm4MoeConfig(**SMALL, **sizes, n_shared_experts=1, first_k_dense_replace=0)
    mixture = tr.AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match="by their own names") as raised:
        adapters.with_new_lora(mixture, Lora(2, 4.0, (ALL_LINEAR, ALL_EXPERTS)))
    assert "Glm4MoeForCausalLM" in raised.value.found


def test_one_weight_of_the_experts_by_its_name():
    wrapped = adapters.with_new_lora(model("mixtral"), Lora(2, 4.0, ("q_proj", "experts.down_proj")))
    assert sum("lora_A" in name for name, _ in wrapped.named_parameters()) == 2 * 2


@pytest.mark.parametrize("more", [{"dropout": 0.1}, {"use_dora": True}])
def test_experts_have_neither_dropout_nor_dora(more):
    with pytest.raises(InputError, match="neither dropout nor DoRA") as raised:
        adapters.with_new_lora(model("mixtral"), Lora(2, 4.0, (ALL_EXPERTS,), **more))
    assert "experts.down_proj" in raised.value.found
