"""An audit needs no model: what it has to know of the tokenizer stands in the manifest of `prepare`."""

import subprocess
import sys

import pytest

from scoreonce.schemas.manifests import PairsManifest, SpecialTokens
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json
from scoreonce.stages.models import folders


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an audit loaded a model or a tokenizer")

    monkeypatch.setattr(folders, "folder_of", refuse)


def missing_eos(world) -> int:
    """The pairs with a completion that does not end with EOS."""
    findings = read_json(world.paths.audit_summary)["findings"]
    return next(finding["rows"] for finding in findings if finding["name"] == "missing_eos")


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("data", [{}, {"tokenizer": "org/tokenizer"}], ids=["the model's tokenizer", "one of its own"])
def test_recorded_control_tokens_are_enough(world, data):
    """Every completion ends with token 2."""
    pairs = [(prompt, chosen, [*rejected, 2]) for prompt, chosen, rejected in world.random_pairs(8)]
    paths = world.prepare(pairs[:6], pairs[6:])
    manifest = manifests.read(PairsManifest, paths.pairs_manifest)
    run = world.run(reference={"model": "org/model"}, data=data)
    for eos, expected in [(2, 0), (3, 8)]:
        special = SpecialTokens(bos=None, ends=[eos], every=[eos])
        tokenizer = manifest.tokenizer.model_copy(update={"special": special})
        manifests.write(paths.pairs_manifest, manifest.model_copy(update={"tokenizer": tokenizer}))
        audit.audit(run)
        assert missing_eos(world) == expected


@pytest.mark.usefixtures("nothing_is_loaded")
def test_without_them_the_texts_are_audited_all_the_same(world):
    world.prepare(world.random_pairs(6), world.random_pairs(2, seed=1))
    result = audit.audit(world.run(reference={"model": "org/model"}, data={"tokenizer": "/absent"}))
    assert "missing EOS: the tokenizer is not at hand" in world.paths.audit_summary.read_text()
    assert result.pairs().height == 8


def test_an_audit_loads_no_torch():
    code = (
        "import sys; import scoreonce.stages.audit.stage; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
