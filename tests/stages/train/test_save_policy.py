"""What is saved beside the weights."""

import pytest
from chat_tokenizers import CHATML, chat_tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from scoreonce.stages.config import Data
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.train import save_policy

OTHER = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture
def saved(world, tmp_path, monkeypatch):
    """Saves the model with a tokenizer beside it, and loads the tokenizer of what was saved."""
    folder = world.model()
    chat_tokenizer(CHATML).save_pretrained(folder)
    monkeypatch.setattr(save_policy, "card", lambda *_: "")
    monkeypatch.setattr(save_policy.policy_manifest, "write", lambda *_: None)

    def save(**data):
        model, start = LlamaForCausalLM.from_pretrained(folder), Start(str(folder), None, None)
        settings = Data(source="pairs.jsonl", **data)
        record = type("Lineage", (), {"identity": ""})
        save_policy.save(tmp_path / "saved", model, start=start, data=settings, lineage=record, inside=tmp_path)
        return AutoTokenizer.from_pretrained(tmp_path / "saved")

    return save


def test_the_policy_has_the_chat_template_that_it_was_trained_on(saved, tmp_path):
    assert saved().chat_template == CHATML
    assert saved(chat_template=OTHER).chat_template == OTHER
    (tmp_path / "chat.jinja").write_text(OTHER)
    assert saved(chat_template=str(tmp_path / "chat.jinja")).chat_template == OTHER


def test_a_tokenizer_that_the_run_file_names_is_saved(saved, tmp_path):
    chat_tokenizer(OTHER).save_pretrained(tmp_path / "other")
    assert saved(tokenizer=str(tmp_path / "other")).chat_template == OTHER
