"""A reward model as the judge: its scores are what transformers gives one conversation at a time."""

import json

import pytest
import torch
from judged_samples import OTHER, OWN, reward_model
from safetensors.torch import load_file, save_file
from sample_tables import as_conversations, sample_rows, write_samples
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.judge import reward_model as module
from scoreonce.stages.judge.stage import judge


def alone(folder, conversations) -> list[float]:
    """The oracle: one conversation at a time, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    ids = [tokenizer.apply_chat_template(each, tokenize=True, return_dict=False) for each in conversations]
    with torch.inference_mode():
        return [model(torch.tensor([each])).logits[0, 0].item() for each in ids]


def turns(prompt, completion):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


@pytest.mark.parametrize("kind", [{}, {"pad": False}, {"both_ways": True}], ids=["padded", "no padding", "both ways"])
def test_scores_are_those_of_one_conversation_at_a_time(judged, tmp_path, kind):
    folder = reward_model(tmp_path / "rm", **kind)
    found = judge(judged(reward_model=str(folder)), label="dpo").scores()
    expected = alone(folder, [turns(prompt, each) for prompt, texts in OWN.items() for each in texts])
    assert found["score"].to_list() == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) == len(expected)


def test_a_tokenizer_with_other_rules_than_its_file_is_said(judged, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module.tokenizers, "other_rules", lambda tokenizer: f"{tokenizer.name_or_path} differs.")
    folder = reward_model(tmp_path / "rm")
    judge(judged(reward_model=str(folder)), label="dpo")
    assert f"{folder} differs. If the file is right" in caplog.text


def test_another_tokenizer_beside_the_same_weights_judges_again(judged, tmp_path, caplog):
    caplog.set_level("INFO", logger="scoreonce")
    folder = reward_model(tmp_path / "rm")
    run = judged(reward_model=str(folder))
    before = judge(run, label="dpo").scores()["score"].to_list()
    file = folder / "tokenizer.json"
    normalizer = {"type": "Replace", "pattern": {"String": "e"}, "content": "a"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": normalizer}))
    after = judge(run, label="dpo").scores()["score"].to_list()
    assert "Judging again:\n  judge.tokenizer: judged with " in caplog.text
    expected = alone(folder, [turns(prompt, each) for prompt, texts in OWN.items() for each in texts])
    assert after == pytest.approx(expected, abs=1e-5)
    assert after != pytest.approx(before, abs=1e-3)


def test_conversations_are_read_with_all_their_messages(judged, tmp_path):
    folder = reward_model(tmp_path / "rm")
    run, system = judged(reward_model=str(folder)), {"role": "system", "content": "Be kind."}
    write_samples(RunPaths.of(run), "chat", as_conversations(sample_rows({"one?": ["yes"]}), system))
    expected = alone(folder, [[system, *turns("one?", "yes")]])
    assert judge(run, label="chat").scores()["score"].to_list() == pytest.approx(expected, abs=1e-5)


def test_two_labels_are_compared_by_their_scores(judged, tmp_path, caplog):
    folder = reward_model(tmp_path / "rm")
    result = judge(judged(reward_model=str(folder)), label="dpo", against="reference")
    own = alone(folder, [turns(prompt, each) for prompt, texts in OWN.items() for each in texts])
    other = alone(folder, [turns(prompt, each) for prompt, texts in OTHER.items() for each in texts])
    expected = [0.5 if a == b else float(a > b) for a, b in zip(own, other, strict=True)]
    assert result.judgements()["preference"].to_list() == expected
    figures = result.summary["comparison"]
    assert figures["position"] is None
    assert figures["win_rate"]["rate"] == pytest.approx(sum(expected) / 6)
    assert figures["ties"] == 2
    assert "win rate" in caplog.text


def test_judged_once_it_is_up_to_date_and_new_samples_alone_are_scored(judged, tmp_path, monkeypatch):
    run = judged(reward_model=str(reward_model(tmp_path / "rm")))
    before = judge(run, label="dpo")
    first = before.scores()["score"].to_list()
    scored: list[int] = []
    outputs = module.RewardModel._outputs

    def counted(self, rows):
        scored.append(len(rows))
        return outputs(self, rows)

    monkeypatch.setattr(module.RewardModel, "_outputs", counted)
    assert judge(run, label="dpo").summary == before.summary
    assert not scored
    write_samples(RunPaths.of(run), "dpo", sample_rows({**OWN, "four?": ["new"]}))
    after = judge(run, label="dpo").scores()
    assert sum(scored) == 1
    assert after["score"].to_list()[:6] == first


def test_a_text_longer_than_the_model_reads_has_no_score(judged, tmp_path):
    run = judged(reward_model=str(reward_model(tmp_path / "rm")))
    write_samples(RunPaths.of(run), "long", sample_rows({"one?": ["short", "x" * 300]}))
    result = judge(run, label="long")
    assert result.scores()["score"].is_null().to_list() == [False, True]
    assert result.summary["scores"][0]["unscored"] == 1


def test_a_model_of_several_outputs_is_refused(judged, tmp_path):
    run = judged(reward_model=str(reward_model(tmp_path / "rm", outputs=2)))
    with pytest.raises(InputError, match="reward model cannot be used") as refused:
        judge(run, label="dpo")
    assert refused.value.found == "2 outputs"


def test_a_language_model_is_no_reward_model(judged, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = reward_model(tmp_path / "rm")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, num_labels=1, **shape)).save_pretrained(folder)
    with pytest.raises(InputError, match="reward model cannot be used") as refused:
        judge(judged(reward_model=str(folder)), label="dpo")
    assert "score.weight" in refused.value.found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"num_hidden_layers": 1}, "not in the model: model.layers.1.input_layernorm.weight"),
        ({"num_hidden_layers": 3}, "not in the files: model.layers.2.input_layernorm.weight"),
        (
            {"intermediate_size": 40},
            "of another shape: model.layers.0.mlp.down_proj.weight (32 x 48 in the file, 32 x 40 in the model)",
        ),
    ],
)
def test_weights_that_its_config_does_not_describe_are_refused(judged, tmp_path, change, found):
    """A layer that is left out, or made of noise, would score all the same."""
    folder = reward_model(tmp_path / "rm")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(InputError, match=r"weights are not those that config\.json describes") as refused:
        judge(judged(reward_model=str(folder)), label="dpo")
    assert refused.value.where == str(folder)
    assert refused.value.found.startswith(found)


def test_the_head_of_the_language_model_it_was_made_from_is_left_out(judged, tmp_path):
    folder = reward_model(tmp_path / "rm")
    before = judge(judged(reward_model=str(folder)), label="dpo").scores()["score"]
    weights = load_file(folder / "model.safetensors")
    head = torch.ones_like(weights["model.embed_tokens.weight"])
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    after = judge(judged(reward_model=str(folder)), label="dpo").scores()["score"]
    assert after.to_list() == before.to_list()


def test_weights_that_are_not_finite_are_refused(judged, tmp_path):
    """Each of its scores would be NaN, and no completion would have one."""
    folder = reward_model(tmp_path / "rm")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="NaN or infinite") as refused:
        judge(judged(reward_model=str(folder)), label="dpo")
    assert refused.value.found == "1 tensors, the first score.weight"


def test_conversations_need_a_chat_template(judged, tmp_path):
    run = judged(reward_model=str(reward_model(tmp_path / "rm", template=None)))
    assert judge(run, label="dpo").scores()["score"].null_count() == 0  # plain prompts need none
    write_samples(RunPaths.of(run), "chat", as_conversations(sample_rows(OWN)))
    with pytest.raises(InputError, match="has no chat template"):
        judge(run, label="chat")
