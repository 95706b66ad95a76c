"""Parts in host memory: refused without a GPU; how they are made, on a CPU; what they compute, on a GPU."""

import pytest
import torch
import torch.distributed as dist
from tiny_models import random_rows, tiny_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor

from scoreonce.pipeline.forward import architecture, sharding
from scoreonce.pipeline.forward.layout_probe import Probe, ProbeOutcome
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.optimizer import gradient_norm
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Compute
from scoreonce.stages.models import loading
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.sharded import load
from scoreonce.stages.sharded.processes import mesh_of

OFFLOAD = Compute(shard="full", offload=True)


def offloaded(folder, mesh):
    empty = load.empty_reference(Start(str(folder), None, None), torch.float32)
    scorer = TokenScorer(empty.model, "padded")
    outcome = ProbeOutcome(Probe("padded", 0.0), architecture.form_of(empty.model), all_output=False)
    empty.spread(scorer, outcome, mesh, torch.float32, OFFLOAD)
    return scorer


@pytest.mark.parametrize(
    ("compute", "device", "what", "found"),
    [
        (OFFLOAD, "cpu", "there is no GPU", "compute.device = 'auto'"),
        (Compute(offload=True, shard="none"), "cuda", "Only a model in parts", "compute.shard = 'none'"),
        (OFFLOAD, "cuda", "Only a model in parts", "a process that no launcher started"),
    ],
)
def test_it_needs_a_gpu_and_parts(compute, device, what, found):
    with pytest.raises(InputError, match=what) as caught:
        mesh_of(compute, torch.device(device))
    assert found in caught.value.found
    assert caught.value.where == "compute.offload"


def test_every_part_has_the_policy(tmp_path, mesh, monkeypatch):
    """On a CPU it moves nothing, and memory cannot be pinned there."""
    monkeypatch.setattr(sharding, "CPUOffloadPolicy", lambda: CPUOffloadPolicy(pin_memory=False))
    tiny_model("llama").save_pretrained(tmp_path / "model")
    scorer = offloaded(tmp_path / "model", mesh)
    wrapped = [module for module in scorer.modules() if isinstance(module, sharding.FSDPModule)]
    assert len(wrapped) == 4 + 1
    groups = [module._get_fsdp_state()._fsdp_param_group for module in wrapped]
    assert all(isinstance(group.offload_policy, CPUOffloadPolicy) for group in groups)
    whole = TokenScorer(loading.load_model(str(tmp_path / "model"), dtype="float32", device="cpu"), "padded")
    with torch.no_grad():
        found, wanted = (each(random_rows(3)).token_logps for each in (scorer, whole))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_is_that_of_the_whole_model(tmp_path):
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        tiny_model("llama").save_pretrained(tmp_path / "model")
        scorer = offloaded(tmp_path / "model", init_device_mesh("cuda", (1,)))
        whole = TokenScorer(loading.load_model(str(tmp_path / "model"), dtype="float32", device="cuda"), "padded")
        assert {part.device.type for part in scorer.parameters() if isinstance(part, DTensor)} == {"cpu"}
        weights = []
        for each in (scorer, whole):
            each.requires_grad_()
            made = each(random_rows(3))
            made.sums().sum().backward()
            parameters = list(each.parameters())
            optimizer = torch.optim.AdamW(parameters, lr=1e-3)
            weights.append([made.token_logps.detach(), torch.tensor(gradient_norm(parameters))])
            optimizer.step()
            weights[-1] += [sharding.whole(parameter.detach()) for parameter in parameters]
        for found, wanted in zip(*weights, strict=True):
            torch.testing.assert_close(found.cpu(), wanted.cpu(), rtol=1e-4, atol=1e-4)
        assert {part.grad.device.type for part in scorer.parameters()} == {"cpu"}
    finally:
        dist.destroy_process_group()
