"""Model folders that are damaged: each is named, in four parts, before anything is computed."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import digests
from scoreonce.stages.models import loading
from scoreonce.stages.weights import model_digests, policy_manifest
from scoreonce.stages.weights.safetensors_header import require_whole


def load(folder):
    return loading.load_model(str(folder), dtype="float32", device="cpu")


@pytest.mark.parametrize("size", [0, 7, 8, 50, -1])
def test_an_interrupted_download_is_named(world, size):
    path = world.model() / "model.safetensors"
    require_whole(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(InputError, match="weight file is incomplete or damaged") as raised:
        model_digests.model_digest(path.parent)
    assert raised.value.where == str(path)
    assert "hf download" in raised.value.fix
    if size == -1:
        assert raised.value.found == f"{len(whole) - 1:,} bytes; its header says {len(whole):,}"


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b'{"w": 1}', b'{"w": {"data_offsets": []}}', b"\xff\xff"])
def test_a_damaged_header_is_named(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="incomplete or damaged"):
        require_whole(path)


def test_weights_with_code_in_them_are_refused(world, tmp_path):
    """A .bin file is read without unpickling anything but tensors."""
    folder = world.model()
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "run"
    # A pickle that calls os.system, as text: protocol 0.
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(InputError, match="model cannot be loaded"):
        load(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change", [{"hidden_size": "wide"}, {"num_hidden_layers": None}, {"model_type": 3}, {"vocab_size": -1}]
)
def test_an_ill_typed_config_is_named(world, change):
    path = world.model() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"The model('s configuration)? cannot be loaded") as raised:
        load(path.parent)
    assert raised.value.where == str(path.parent)


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_a_config_that_is_no_object_is_named(world, text):
    path = world.model() / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match="configuration is not a JSON object") as raised:
        model_digests.model_digest(path.parent)
    assert raised.value.where == str(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(world, value):
    path = world.model() / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["model.norm.weight"][3] = value
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputError, match="NaN or infinite") as raised:
        load(path.parent)
    assert raised.value.found == "1 tensors, the first model.norm.weight"


def test_a_trained_model_is_checked_wherever_its_folder_is(world, monkeypatch):
    """One bit of one weight, with the file's date kept: --rehash sees it, or a folder that was not looked at before."""
    folder = world.model()
    policy_manifest.write(folder, "0" * 64)
    model_digests.model_digest(folder)
    path = folder / "model.safetensors"
    before, contents = path.stat(), bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    monkeypatch.setattr(digests, "rehash", True)
    for read in (model_digests.model_digest, load):
        with pytest.raises(InputError, match="not what `scoreonce train` wrote") as raised:
            read(folder)
        assert raised.value.where == str(path)
        assert "scoreonce train" in raised.value.fix
    (folder / "scoreonce.json").unlink()  # as the message says, where the user changed the model
    assert torch.isfinite(load(folder).model.norm.weight).all()


def test_people_may_edit_the_card(world):
    folder = world.model()
    (folder / "README.md").write_text("as written")
    policy_manifest.write(folder, "0" * 64)
    (folder / "README.md").write_text("as edited")
    policy_manifest.require_sound(folder)
    assert torch.isfinite(load(folder).model.norm.weight).all()
