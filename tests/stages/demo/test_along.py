"""The weights of a run's checkpoints, in a policy that was loaded once."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import CheckpointManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.config import Compute, Reference
from scoreonce.stages.demo.along import earlier_steps
from scoreonce.stages.scoring.model_scorer import ModelScorer


@pytest.fixture
def policy(tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=16, tie_word_embeddings=True, **sizes)).save_pretrained(tmp_path / "model")
    reference = Reference(model=str(tmp_path / "model"))
    return ModelScorer.load(reference, Compute(device="cpu"), longest_row=8, longest_sequence=8, largest_token=0)


def write(training, step, weights):
    folder = training / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    files = {"weights.safetensors": sha256(folder / "weights.safetensors")}
    manifests.write(folder / "manifest.json", CheckpointManifest(step=step, files=files, log={}))
    return folder


def filled(policy, value):
    return {name: torch.full(each.shape, value) for name, each in policy.scorer.named_parameters()}


def ends(policy):
    """The smallest and largest of each parameter's weights."""
    return [end for each in policy.scorer.parameters() for end in each.detach().aminmax()]


def test_the_policy_has_the_weights_of_each_step_but_the_last(tmp_path, policy):
    for step in (9, 10, 11):
        write(tmp_path, step, filled(policy, float(step)))
    seen = {step: {float(end) for end in ends(policy)} for step in earlier_steps(tmp_path / "checkpoints", policy)}
    assert seen == {9: {9.0}, 10: {10.0}}


def test_a_run_without_checkpoints_has_no_earlier_steps(tmp_path, policy):
    assert list(earlier_steps(tmp_path / "checkpoints", policy)) == []
    write(tmp_path, 3, filled(policy, 3.0))
    assert list(earlier_steps(tmp_path / "checkpoints", policy)) == []


def test_changed_weights_are_not_judged(tmp_path, policy):
    folder = write(tmp_path, 1, filled(policy, 1.0))
    write(tmp_path, 2, filled(policy, 2.0))
    save_file(filled(policy, 5.0), folder / "weights.safetensors")
    with pytest.raises(InputError, match="not what `scoreonce train` wrote"):
        list(earlier_steps(tmp_path / "checkpoints", policy))


def test_weights_of_matrices_alone_are_refused(tmp_path, policy):
    for step in (1, 2):
        write(tmp_path, step, {"model.lora_A.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="whole models alone"):
        list(earlier_steps(tmp_path / "checkpoints", policy))
