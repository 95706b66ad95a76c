"""Sampling end to end: a tiny model and real texts, resumed after a kill, and refused where it has to be."""

import json
import shutil

import polars as pl
import pytest
import torch
from chat_tokenizers import CHATML
from killed_training import dying
from text_runs import text_run
from transformers import LlamaForCausalLM

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Sample
from scoreonce.stages.common.files import read_json, sha256
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.samples import read_samples, sampled_labels, samples_manifest
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.sample import generation
from scoreonce.stages.sample.parts import Parts
from scoreonce.stages.sample.stage import sample
from scoreonce.stages.scoring.model_scorer import ModelScorer

LOGPS = ("sampler_logps", "ref_logps")
CONVERSATIONS = [
    {
        "prompt": [{"role": "user", "content": f"What is {number} + {number}?"}],
        "chosen": [{"role": "assistant", "content": f"It is {2 * number}."}],
        "rejected": [{"role": "assistant", "content": "Nobody knows."}],
    }
    for number in range(8)
]


def make_policy(run, label="dpo", noise=0.05):
    """What `train` would have written: the reference with noise on its weights."""
    model = LlamaForCausalLM.from_pretrained(run.reference.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    folder = RunPaths.of(run).out / "train" / label / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a prepared run and a policy; each test works on a copy."""
    folder = tmp_path_factory.mktemp("sample")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREONCE_CACHE", str(folder / "cache"))
        run = text_run(folder, test_share=0.5, workers=1)
        prepare(run)
        make_policy(run)
    return folder


@pytest.fixture
def run(prepared, tmp_path):
    """Seven held-out prompts, two completions of up to 10 tokens each, in batches of few rows."""
    shutil.copytree(prepared / "out", tmp_path / "out")
    made = text_run(prepared, test_share=0.5, workers=1)
    settings = {"sample.n": 2, "sample.max_new_tokens": 10, "sample.tokens_per_batch": 160}
    return made.replace({"out": str(tmp_path / "out"), **settings})


def drawn(frame: pl.DataFrame) -> pl.DataFrame:
    """The samples without their scores, which another layout of rows rounds otherwise."""
    return frame.drop(LOGPS)


def plain_logps(model, row) -> float:
    ids = torch.tensor([[*row["prompt_ids"], *row["completion_ids"]]])
    with torch.inference_mode():
        logps = model(ids).logits[0].double().log_softmax(-1)
    start = len(row["prompt_ids"])
    return sum(logps[start + place - 1, token].item() for place, token in enumerate(row["completion_ids"]))


def test_what_is_written(run, capsys):
    """Every held-out prompt twice, in order, with the log-probs of plain forward passes of both models."""
    made = sample(run)
    paths = RunPaths.of(run)
    assert [each.label for each in made] == ["reference", "dpo"] == sampled_labels(paths)[::1]
    frame = read_samples(paths, "dpo")
    Sample.validate(frame)
    test = pl.read_parquet(paths.pairs("test"))
    assert frame["prompt_id"].to_list() == [each for each in test["prompt_id"] for _ in range(2)]
    assert frame["prompt"].to_list() == [each for each in test["prompt"] for _ in range(2)]
    assert frame["sample"].to_list() == [0, 1] * test.height
    assert frame["conversation"].null_count() == frame.height
    reference = LlamaForCausalLM.from_pretrained(run.reference.model).eval()
    policy = LlamaForCausalLM.from_pretrained(paths.policy).eval()
    for row in frame.iter_rows(named=True):
        assert row["completion_len"] == len(row["completion_ids"]) <= 10
        assert row["sampler_logps"] == pytest.approx(plain_logps(policy, row), abs=1e-3)
        assert row["ref_logps"] == pytest.approx(plain_logps(reference, row), abs=1e-3)
    own = made[0].samples()
    assert own["sampler_logps"].equals(own["ref_logps"])
    differences = (frame["sampler_logps"] - frame["ref_logps"]).to_numpy()
    assert made[1].figures.kl.mean == pytest.approx(differences.mean())
    printed = capsys.readouterr().out
    assert (
        f"dpo: {frame.height} completions of {test.height} prompts ({frame.height} sampled now, 0 there before)"
        in printed
    )
    assert "KL to the reference" in printed
    assert not (paths.samples("dpo") / "parts").exists()


def test_the_manifest_says_how_and_vouches(run):
    sample(run, labels=["dpo"])
    paths = RunPaths.of(run)
    manifest = samples_manifest(paths, "dpo")
    assert manifest.files == {"samples.parquet": sha256(paths.samples("dpo") / "samples.parquet")}
    assert manifest.generation == {
        "do_sample": True,
        "max_new_tokens": 10,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    assert (manifest.n, manifest.seed, manifest.whole_distribution, manifest.realigned) == (2, 0, True, None)
    assert manifest.prompts.pairs_manifest_sha256 == sha256(paths.pairs_manifest)
    assert manifest.model == str(paths.policy)
    assert manifest.reference.model == run.reference.model
    path = paths.samples("dpo") / "samples.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="not what `scoreonce sample` wrote"):
        read_samples(paths, "dpo")


def test_the_same_again_loads_no_model(run, monkeypatch):
    before = [each.samples() for each in sample(run)]
    monkeypatch.setattr(generation, "load_reference", None)
    monkeypatch.setattr(ModelScorer, "load", None)
    again = sample(run)
    assert [each.sampled for each in again] == [0, 0]
    assert all(each.samples().equals(frame) for each, frame in zip(again, before, strict=True))


def test_more_completions_and_prompts_add_to_those_that_are_there(run):
    """Fewer leave the others, for when they are asked for again; another batching changes nothing."""
    few = run.replace({"sample.n": 1, "sample.limit": 3})
    first = sample(few, labels=["dpo"])[0].samples()
    assert first.height == 3
    whole = sample(run, labels=["dpo"])[0]
    both = whole.samples()
    assert whole.sampled == both.height - 3
    kept = both.filter(pl.col("sample") == 0, pl.col("prompt_id").is_in(first["prompt_id"].to_list()))
    assert drawn(kept).equals(drawn(first))
    assert sample(few, labels=["dpo"])[0].samples().height == 3
    assert sample(run, labels=["dpo"])[0].sampled == 0
    other = run.replace({"sample.tokens_per_batch": 10_000})
    assert drawn(sample(other, labels=["dpo"], restart=True)[0].samples()).equals(drawn(both))


@pytest.mark.parametrize("moment", ["batch", "table", "manifest"])
def test_killed_and_resumed_it_ends_with_the_same_samples(run, tmp_path, moment):
    """Killed before the third batch is written, and before and after the table of a second command is replaced."""
    paths = RunPaths.of(run)
    elsewhere = run.replace({"out": str(tmp_path / "other")})
    shutil.copytree(paths.out, tmp_path / "other")
    expected = sample(elsewhere, labels=["dpo"])[0].samples()
    calls = []
    if moment == "batch":
        with dying(Parts, "add", lambda *_: calls.append(None) or len(calls) == 3):
            sample(run, labels=["dpo"])
        done = 2
        assert len(list((paths.samples("dpo") / "parts").glob("*.parquet"))) == done
    else:
        from scoreonce.stages.sample import table

        sample(run.replace({"sample.n": 1}), labels=["dpo"])
        owner, name = (table, "write_parquet") if moment == "table" else (table.manifests, "write")
        with dying(owner, name, lambda *_: True):
            sample(run, labels=["dpo"])
    resumed = sample(run, labels=["dpo"])[0]
    assert resumed.sampled < expected.height
    assert drawn(resumed.samples()).equals(drawn(expected))
    assert not (paths.samples("dpo") / "parts").exists()


def test_a_damaged_part_is_sampled_again(run, capsys):
    calls = []
    with dying(Parts, "add", lambda *_: calls.append(None) or len(calls) == 3):
        sample(run, labels=["dpo"])
    path = RunPaths.of(run).samples("dpo") / "parts" / "00000.parquet"
    contents = bytearray(path.read_bytes())
    contents[20] ^= 1
    path.write_bytes(contents)
    rows = read_json(path.with_suffix(".json"))["rows"]
    resumed = sample(run, labels=["dpo"])[0]
    assert "damaged samples" in "".join(capsys.readouterr())
    assert resumed.sampled > rows
    assert resumed.samples()["completion"].null_count() == 0


def test_other_settings_are_refused_until_restart(run):
    sample(run, labels=["dpo"])
    changed = run.replace({"sample.temperature": 0.5, "sample.seed": 3})
    with pytest.raises(InputError, match="made otherwise") as caught:
        sample(changed, labels=["dpo"])
    assert "generation.temperature: sampled with 1.0, now 0.5" in caught.value.found
    assert "seed: sampled with 0, now 3" in caught.value.found
    assert "--restart" in caught.value.fix
    again = sample(changed, labels=["dpo"], restart=True)[0]
    assert again.sampled == again.samples().height
    assert samples_manifest(RunPaths.of(run), "dpo").whole_distribution is False


def test_greedy_samples_are_transformers_own(run):
    greedy = run.replace({"sample.temperature": 0, "sample.n": 1})
    frame = sample(greedy, labels=["dpo"])[0].samples()
    policy = LlamaForCausalLM.from_pretrained(RunPaths.of(run).policy).eval()
    ends = samples_manifest(RunPaths.of(run), "dpo").ends
    for row in frame.iter_rows(named=True):
        prompt = torch.tensor([row["prompt_ids"]])
        theirs = policy.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        assert row["completion_ids"] == theirs[0, prompt.shape[1] :].tolist()


def test_realigned_policies_have_labels_of_their_own(run):
    """λ = 1 writes what the policy writes, λ = 0 what the reference does, with the same log-probs."""
    plain = {each.label: each.samples() for each in sample(run)}
    realigned = run.replace({"sample.realign": [0, 1.0, 0.5]})
    made = {each.label: each.samples() for each in sample(realigned, labels=["dpo", "reference"])}
    assert list(made) == ["dpo-realign-0", "dpo-realign-1", "dpo-realign-0.5", "reference"]
    for label, same in (("dpo-realign-1", "dpo"), ("dpo-realign-0", "reference")):
        assert drawn(made[label]).equals(drawn(plain[same]))
        for name in LOGPS:
            assert made[label][name].to_list() == pytest.approx(plain[same][name].to_list(), abs=1e-3)
    assert not drawn(made["dpo-realign-0.5"]).equals(drawn(plain["dpo"]))
    manifest = samples_manifest(RunPaths.of(run), "dpo-realign-0.5")
    assert (manifest.label, manifest.realigned) == ("dpo-realign-0.5", 0.5)


def test_conversations_keep_their_messages(tmp_path):
    """The prompt as the template writes it, and the messages that it was made of; without the data only the text."""
    run = text_run(tmp_path, CONVERSATIONS, CHATML, test_share=0.5, workers=1).replace({"sample.max_new_tokens": 4})
    prepare(run)
    frame = sample(run, labels=["reference"])[0].samples()
    for row in frame.iter_rows(named=True):
        (message,) = json.loads(row["conversation"])
        assert message["role"] == "user"
        assert row["prompt"] == f"<|im_start|>user\n{message['content']}<|im_end|>\n<|im_start|>assistant\n"
    (tmp_path / "pairs.jsonl").unlink()
    bare = sample(run, labels=["reference"], restart=True)[0].samples()
    assert drawn(bare.drop("conversation")).equals(drawn(frame.drop("conversation")))
    assert bare["conversation"].null_count() == bare.height


def test_prompts_of_a_file(run, tmp_path):
    """Equal prompts count once, and what stands in a text file is the prompt, as in the pairs."""
    test = pl.read_parquet(RunPaths.of(run).pairs("test"))
    (tmp_path / "mine.txt").write_text(f"{test['prompt'][0]}\n\nHello\n{test['prompt'][0]}\n")
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Hello"}\n{"prompt": "Bye", "source": "x"}\n')
    text = run.replace({"sample.prompts": str(tmp_path / "mine.txt")})
    frame = sample(text, labels=["reference"])[0].samples()
    assert frame["prompt"].unique(maintain_order=True).to_list() == [test["prompt"][0], "Hello"]
    assert frame["prompt_id"][0] == test["prompt_id"][0]
    lines = run.replace({"sample.prompts": str(tmp_path / "mine.jsonl"), "sample.limit": 1})
    made = sample(lines, labels=["reference"])[0]
    assert made.sampled == 0  # "Hello" was answered before
    assert made.samples()["prompt"].to_list() == ["Hello", "Hello"]
    assert samples_manifest(RunPaths.of(run), "reference").prompts.pairs_manifest_sha256 is None


def test_messages_of_a_file_go_through_the_template(tmp_path):
    """An answer at the end is left out."""
    run = text_run(tmp_path, CONVERSATIONS, CHATML, workers=1)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    rows = [{"messages": turns}, {"prompt": [turns[0]]}, {"prompt": "Hi"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = run.replace({"sample.prompts": str(tmp_path / "mine.jsonl"), "sample.max_new_tokens": 3})
    frame = sample(asked, labels=["reference"])[0].samples()
    assert frame["prompt"].to_list() == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hi"]
    assert json.loads(frame["conversation"][0]) == turns[:1]


def test_a_model_by_name_has_a_label_of_its_own(run, tmp_path):
    other = shutil.copytree(RunPaths.of(run).policy, tmp_path / "rival")
    assert sample(run, model=str(other))[0].label == "rival"
    assert sample(run, model=str(other), labels=["mine"])[0].label == "mine"
    with pytest.raises(InputError, match="A training run has this label"):
        sample(run, model=str(other), labels=["dpo"])
    with pytest.raises(InputError, match="One model has one label"):
        sample(run, model=str(other), labels=["a", "b"])


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"sample.generation": {"min_pp": 0.1}}, "cannot have 'min_pp'", "GenerationConfig"),
        ({"sample.generation": {"top_p": 0.1}}, "cannot have 'top_p'", "sample.top_p"),
        ({"sample.generation": {"num_beams": 4}}, "Only samples and the most likely tokens", "num_beams"),
        ({"sample.generation": {"min_p": 7.0}}, "transformers refuses a setting|must be", "Correct it"),
        ({"sample.temperature": 0}, "all completions of a prompt are the same", "sample.n = 1"),
        ({"sample.prompts": "absent.jsonl"}, "no such file of prompts", "heldout"),
        ({"sample.max_new_tokens": 10, "train.label": "none"}, "no trained policy to sample", "scoreonce train"),
    ],
)
def test_wrong_input_is_refused(run, settings, what, fix):
    with pytest.raises(InputError, match=what) as caught:
        sample(run.replace(settings), labels=["none"] if "train.label" in settings else None)
    assert fix in caught.value.fix
    assert caught.value.where


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"question": "x"}', "neither text nor messages"),
        ('{"prompt": ""}', "neither text nor messages"),
        ('{"prompt": [{"role": "robot", "content": "x"}]}', "unknown_role|role 'robot'"),
        ("{", "line 1 of mine.jsonl"),
    ],
)
def test_a_bad_line_of_a_file_is_named(run, tmp_path, line, found):
    path = tmp_path / "mine.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match="A file of prompts cannot be used") as caught:
        sample(run.replace({"sample.prompts": str(path)}), labels=["reference"])
    assert caught.value.where == str(path)
    import re

    assert re.search(found, caught.value.found)


def test_absent_samples_name_those_that_are_there(run):
    sample(run.replace({"sample.limit": 1}), labels=["reference"])
    with pytest.raises(InputError, match="no samples of this label") as caught:
        read_samples(RunPaths.of(run), "dpo")
    assert "reference" in caught.value.fix


def test_one_process_writes_samples_of_a_label(run, monkeypatch):
    paths = RunPaths.of(run)
    with (
        locked(paths, paths.samples("dpo"), "the samples dpo"),
        pytest.raises(InputError, match="The samples dpo is in use"),
    ):
        sample(run, labels=["dpo"], lock_timeout=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="Sampling runs in one process"):
        sample(run)
