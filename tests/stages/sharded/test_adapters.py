"""A model to be scored with an adapter, in parts: each process reads its parts, and all of the adapter."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import MIXTRAL, random_rows, tiny_model
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, MixtralConfig

from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.layout_probe import Probe, ProbeOutcome
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Compute
from scoreonce.stages.models import loading
from scoreonce.stages.models.adapters import deprecations_ignored
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.sharded import load

peft = pytest.importorskip("peft")


def written(folder, model, **settings):
    """A model and an adapter of it whose matrices are all random."""
    model.save_pretrained(folder / "model")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=4.0, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    with deprecations_ignored():
        wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model", dtype=model.dtype), config)
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(str(folder / "adapter"))
    return Start(str(folder / "model"), None, str(folder / "adapter"))


def sharded(start, mesh, dtype=torch.float32):
    empty = load.empty_reference(start, dtype)
    scorer = TokenScorer(empty.model, "padded")
    form = architecture.form_of(architecture.causal_lm(empty.model))
    empty.spread(scorer, ProbeOutcome(Probe("padded", 0.0), form, all_output=False), mesh, dtype, Compute())
    return empty, scorer


def logps(scorer):
    with torch.no_grad():
        return scorer(random_rows(3)).token_logps


def whole(start, dtype):
    model = loading.load_model(start.model, dtype=dtype, device="cpu", adapter=start.adapter)
    return logps(TokenScorer(model, "padded"))


ALL = {"target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", ALL),
        ("gpt2_absolute_positions", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ],
    ids=["lora", "tied", "dora", "own head"],
)
def test_it_scores_as_the_whole_model_does(tmp_path, mesh, name, settings):
    start = written(tmp_path, tiny_model(name), **settings)
    empty, scorer = sharded(start, mesh)
    assert empty.stored
    assert not empty.loaded
    parts = {name: isinstance(each, DTensor) for name, each in empty.model.named_parameters()}
    assert {name for name, is_part in parts.items() if not is_part} == empty.added
    torch.testing.assert_close(logps(scorer), whole(start, "float32"), rtol=0, atol=2e-5)
    plain = loading.load_model(start.model, dtype="float32", device="cpu")
    assert (logps(scorer) - logps(TokenScorer(plain, "padded"))).abs().max() > 0.1


def test_in_half_precision_the_adapter_stays_in_float32(tmp_path, mesh):
    """As PEFT keeps it beside a whole model: the same bits."""
    start = written(tmp_path, tiny_model("llama", torch.bfloat16), **ALL)
    empty, scorer = sharded(start, mesh, torch.bfloat16)
    added = {each.dtype for name, each in empty.model.named_parameters() if name in empty.added}
    assert added == {torch.float32}
    assert torch.equal(logps(scorer), whole(start, "bfloat16"))


def test_a_model_that_the_first_process_loads_takes_one_too(tmp_path, mesh):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MixtralConfig(**MIXTRAL)).eval()
    start = written(tmp_path, model, target_modules=["q_proj", "v_proj"])
    empty, scorer = sharded(start, mesh)
    assert empty.loaded
    torch.testing.assert_close(logps(scorer), whole(start, "float32"), rtol=0, atol=2e-5)


def test_what_is_wrong_with_the_adapter_is_said(tmp_path, mesh):
    start = written(tmp_path, tiny_model("llama"), **ALL)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    held = load_file(path)
    first = min(held)
    save_file({name: tensor for name, tensor in held.items() if name != first}, path)
    with pytest.raises(InputError, match="not those that") as caught:
        sharded(start, mesh)
    assert caught.value.where == str(tmp_path / "adapter")
    held[first][0, 0] = torch.nan
    save_file(held, path)
    with pytest.raises(InputError, match="NaN or infinite") as caught:
        sharded(start, mesh)
    assert caught.value.where == str(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="adapter cannot be loaded"):
        sharded(start, mesh)
