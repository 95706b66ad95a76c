"""Models and tensors in parts, here in one part: files, names, configs."""

import json

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tiny_models import MIXTRAL, random_rows, tiny_model
from transformers import AutoModelForCausalLM, MixtralConfig

from scoreonce.pipeline.forward import architecture, sharding
from scoreonce.pipeline.forward.layout_probe import Probe, ProbeOutcome
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Compute, Run
from scoreonce.stages.models import loading
from scoreonce.stages.models.empty import without_weights
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.sharded import load, processes, save, tensors


def run_of(folder, **train):
    return Run.model_validate(
        {"out": "out", "data": {"source": "none"}, "reference": {"model": str(folder)}, "train": train}
    )


def sharded(policy, mesh, dtype=torch.float32):
    scorer = TokenScorer(policy.model, "padded")
    outcome = ProbeOutcome(Probe("padded", 0.0), architecture.form_of(policy.model), all_output=False)
    policy.spread(scorer, outcome, mesh, dtype, Compute())
    return scorer


@pytest.mark.parametrize("name", ["llama", "gpt2_absolute_positions", "gemma2_softcap_sliding", "qwen2"])
def test_parts_read_from_the_files_are_the_model(tmp_path, mesh, name):
    """Nothing was loaded whole. GPT-2 and Gemma 2 tie their embeddings."""
    tiny_model(name).save_pretrained(tmp_path / "model")
    policy = load.empty_policy(run_of(tmp_path / "model"))
    assert policy.stored
    assert all(parameter.is_meta for parameter in policy.model.parameters())
    scorer = sharded(policy, mesh)
    with torch.no_grad():
        found = scorer(random_rows(3)).token_logps
        whole = loading.load_model(str(tmp_path / "model"), dtype="float32", device="cpu")
        wanted = TokenScorer(whole, "padded")(random_rows(3)).token_logps
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_a_model_in_half_precision_computes_as_it_did(tmp_path, mesh):
    """Parts are kept in float32 and computed with in bfloat16: the bits of the bfloat16 model."""
    tiny_model("llama", torch.bfloat16).save_pretrained(tmp_path / "model")
    scorer = sharded(load.empty_policy(run_of(tmp_path / "model")), mesh, torch.bfloat16)
    assert {parameter.dtype for parameter in scorer.parameters()} == {torch.float32}
    with torch.no_grad():
        found = scorer(random_rows(3)).token_logps
        # As loaded, its rotary frequencies are in float32.
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
        wanted = TokenScorer(loaded.eval(), "padded")(random_rows(3)).token_logps
    assert torch.equal(found, wanted)


def test_a_model_that_is_stored_under_other_names_goes_by_the_first_process(tmp_path, mesh):
    """Mixtral's files have a tensor for each expert, the model one for all of them; saved, it has the files' again."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MixtralConfig(**MIXTRAL)).eval()
    model.save_pretrained(tmp_path / "model")
    policy = load.empty_policy(run_of(tmp_path / "model"))
    assert not policy.stored
    scorer = sharded(policy, mesh)
    with torch.no_grad():
        found = scorer(random_rows(3)).token_logps
        wanted = TokenScorer(model, "padded")(random_rows(3)).token_logps
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    (tmp_path / "saved").mkdir()
    save.write_model(scorer.model, tmp_path / "saved", torch.float32)
    assert_same_folder(tmp_path / "saved", tmp_path / "model")


@pytest.mark.parametrize("name", ["llama", "gpt2_absolute_positions"])
def test_a_saved_model_is_what_transformers_would_write(tmp_path, mesh, monkeypatch, name):
    tiny_model(name).save_pretrained(tmp_path / "model")
    scorer = sharded(load.empty_policy(run_of(tmp_path / "model")), mesh)
    (tmp_path / "saved").mkdir()
    save.write_model(scorer.model, tmp_path / "saved", torch.float32)
    assert_same_folder(tmp_path / "saved", tmp_path / "model")
    monkeypatch.setattr(save, "LARGEST_FILE", 20_000)
    (tmp_path / "several").mkdir()
    save.write_model(scorer.model, tmp_path / "several", torch.bfloat16)
    assert len(list((tmp_path / "several").glob("model-*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "several")
    assert loaded.dtype == torch.bfloat16
    for own, other in zip(loaded.parameters(), tiny_model(name, torch.bfloat16).parameters(), strict=True):
        assert torch.equal(own, other)


def assert_same_folder(one, other):
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for path in one.glob("*.json"):
        mine, theirs = json.loads(path.read_text()), json.loads((other / path.name).read_text())
        # Dropout is off while a model trains; the stage writes it back.
        off = {name: 0.0 for name in theirs if name.endswith(("pdrop", "dropout"))}
        assert {**mine, "_name_or_path": None} == {**theirs, "_name_or_path": None, **off}, path.name
    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_weight_that_is_not_finite_is_named(tmp_path, mesh):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = torch.nan
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="NaN or infinite") as caught:
        sharded(load.empty_policy(run_of(tmp_path / "model")), mesh)
    assert "layers.1.mlp.up_proj" in caught.value.found


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_files_that_are_not_the_model_are_refused_as_without_parts(tmp_path, mesh, change):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    held = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    if change == "unexpected":
        held["model.layers.9.mlp.up_proj.weight"] = held[name].clone()
    elif change == "missing":
        del held[name]
    else:
        held[name] = held[name][:-1].clone()
    save_file(held, path, {"format": "pt"})
    with pytest.raises(InputError, match="not those that"):
        load.empty_policy(run_of(tmp_path / "model"))


def test_few_layers_have_every_kind_of_layer(tmp_path, capfd):
    """Gemma 2 alternates windows and full attention: two layers of its four; their weights are the model's."""
    tiny_model("gemma2_softcap_sliding").save_pretrained(tmp_path / "model")
    few = load.few_layers(Start(str(tmp_path / "model"), None, None), torch.float32, torch.device("cpu"))
    assert few.config.num_hidden_layers == 2
    assert few.config.layer_types == ["sliding_attention", "full_attention"]
    whole = tiny_model("gemma2_softcap_sliding")
    assert torch.equal(few.model.layers[1].mlp.up_proj.weight, whole.model.layers[1].mlp.up_proj.weight)
    assert torch.equal(few.model.norm.weight, whole.model.norm.weight)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())


def test_tensors_are_read_into_whatever_is_there(tmp_path):
    """Without processes; half precision is filled from float32."""
    tensors.write(tmp_path, {"a": torch.arange(6.0).view(3, 2), "b/step": torch.tensor(3.0)})
    into = {"a": torch.zeros(3, 2, dtype=torch.bfloat16), "b/step": torch.zeros(())}
    tensors.read(tmp_path, into)
    assert into["a"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert into["b/step"].item() == 3
    assert tensors.stored(tmp_path) == {"a": ((3, 2), torch.float32), "b/step": ((), torch.float32)}
    for wrong in ({"c": torch.zeros(1)}, {"a": torch.zeros(4, 2)}):
        with pytest.raises((ValueError, RuntimeError)):
            tensors.read(tmp_path, wrong)


def test_what_the_first_process_finds_all_find(mesh):
    assert processes.on_first(lambda: {"a": 1}) == {"a": 1}

    def refused():
        raise InputError("No.", found="a", where="b", fix="c")

    with pytest.raises(InputError, match="No") as caught:
        processes.on_first(refused)
    assert (caught.value.found, caught.value.where, caught.value.fix) == ("a", "b", "c")


def test_machines_with_different_numbers_of_processes_are_no_replicas(mesh, monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda: 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match="same number of processes") as caught:
        processes.mesh_of(Compute(shard="hybrid"), torch.device("cpu"))
    assert caught.value.found == "5 processes, 3 of them on this machine"


def test_a_configuration_that_no_model_has_is_an_error(tmp_path):
    """Before a sharded model is loaded, and in `estimate`."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 5, "num_key_value_heads": 0}))
    with pytest.raises(InputError, match=r"cannot be (built|loaded)"):
        without_weights(tmp_path / "model", torch.float32)


def test_a_model_without_known_blocks_is_refused():
    model = tiny_model("llama")
    model._no_split_modules = []
    with pytest.raises(InputError, match="cannot be sharded"):
        sharding.blocks_of(model)
