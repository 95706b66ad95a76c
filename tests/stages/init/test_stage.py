"""`scoreonce init`: what it finds, what it writes and why, what it refuses, and that its files train."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from scoreonce.schemas.errors import InputError
from scoreonce.stages import cli, config
from scoreonce.stages.compare.plan import plan
from scoreonce.stages.config import Run, load
from scoreonce.stages.init.stage import init


def made(data="pairs.jsonl", model="models/model", **options):
    written = init(model, data, **options)
    return written, load(written.path)


def text_of(written):
    return written.path.read_text("utf-8")


def why(written, key):
    """The comment of a key: behind it, or the lines above it."""
    lines = text_of(written).splitlines()
    number = next(place for place, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key} = "))
    behind = lines[number].partition("  # ")[2]
    above = []
    while not behind and lines[number - len(above) - 1].startswith("# "):
        above.insert(0, lines[number - len(above) - 1].removeprefix("# "))
    return behind or " ".join(above)


def test_what_is_found_is_written(place):
    written, run = made()
    assert written.path == Path("run.toml")
    assert (run.out, run.data.source, run.reference.model) == ("runs/run", "pairs.jsonl", "models/model")
    assert (run.reference.dtype, run.train.method, run.data.max_length) == ("float32", "dpo", 64)
    assert run.train.hyperparameters["beta"] == 0.1
    # Two layers: q and o 32 x 32, k and v 16 x 32, 3 x 48 x 32, two norms; embeddings and head of 97 words, a norm.
    assert f"{2 * (2048 + 1024 + 4608 + 64) + 2 * 97 * 32 + 32:,} parameters" in why(written, "model")
    assert "40 rows" in why(written, "source")
    assert "pairs (" in why(written, "format")
    assert "prompt, chosen, rejected" in why(written, "format")
    report = "\n".join(written.report)
    assert "40 pairs" in report
    assert "scoreonce prepare run.toml --preview 2" in report


def test_every_line_says_why(place):
    for options in (
        {},
        {"method": "epsilon_dpo"},
        {"method": "kto"},
        {"method": "simpo", "sets": ["train.lora_rank=4"]},
    ):
        written, _ = made(replace=True, **options)
        lines = text_of(written).splitlines()
        for before, line in zip(lines, lines[1:], strict=False):
            if re.match(r"(# )?\w+ = ", line):
                assert "  # " in line or before.startswith("# "), line


def test_the_learning_rate_names_its_source(place):
    """22 k parameters: far from the 0.5 B of the nearest recipe."""
    written, run = made()
    assert run.train.learning_rate == 5e-7
    assert "no source for" in why(written, "learning_rate")
    assert "Qwen2-0.5B-Instruct: TRL 1.16" in why(written, "learning_rate")
    written, run = made(replace=True, sets=["train.lora_rank=4"])
    assert run.train.learning_rate == 5e-6
    assert run.train.lora_rank == 4
    assert why(written, "lora_rank") == "given with --set"


def test_hyperparameters_of_the_recipe_and_of_the_method(place):
    _, run = made(method="simpo")
    assert run.train.hyperparameters["beta"] == 2.5
    assert run.train.hyperparameters["gamma_beta_ratio"] == 0.1
    written, run = made(method="simpo", replace=True, sets=["train.beta=3"])
    assert run.train.hyperparameters["beta"] == 3
    assert "given with --set" in why(written, "beta")


def test_several_methods_are_to_be_compared_each_with_its_own_settings(place):
    written = init("models/model", "pairs.jsonl", method="dpo, simpo,sft", out=Path("four.toml"))
    run = config.load("four.toml")
    assert (run.train.method, run.compare.methods, run.compare.seeds) == ("dpo", ["dpo", "simpo", "sft"], 3)
    assert run.compare.vary == {
        "dpo.train.learning_rate": [5e-7, 5e-6, 5e-5],
        "simpo.train.learning_rate": [5e-7, 5e-6, 5e-5],
        "simpo.train.beta": [2.5],
        "simpo.train.gamma_beta_ratio": [0.1],
        "sft.train.learning_rate": [5e-7, 5e-6, 5e-5],
    }
    trials = {each.name: each.trial(run, 0).train for each in plan(run).candidates}
    assert len(trials) == 9
    assert trials["dpo-learning_rate5e-07"].hyperparameters["beta"] == 0.1
    assert trials["simpo-learning_rate5e-07-beta2.5-gamma_beta_ratio0.1"].hyperparameters["beta"] == 2.5
    assert any("SimPO's README" in line for line in written.report)
    assert written.report[-2].endswith("scoreonce compare four.toml --dry-run")


def test_what_a_method_needs_of_the_reference(place):
    assert made(method="epsilon_dpo")[1].score.full_vocab == "hidden"
    assert made(method="kto", replace=True)[1].score.mismatched is True


def test_max_length_covers_nearly_all(place):
    """199 pairs of 1 + 2 + 1 tokens and one of 1 + 100 + 1: 64 leave 99.5 % whole."""
    rows = [{"prompt": "p1", "chosen": f" p{n % 90} yes", "rejected": f" p{n % 90} no"} for n in range(199)]
    long = {"prompt": "p1", "chosen": " yes" * 100, "rejected": " no" * 100}
    written, run = made(place("long.jsonl", [*rows, long]))
    assert run.data.max_length == 64
    assert "leaves 99.5 % of 200 pairs" in why(written, "max_length")
    assert "the longest has 102 tokens" in why(written, "max_length")


def test_max_length_is_at_most_the_positions(place):
    rows = [{"prompt": f"p{n}", "chosen": " yes" * 300, "rejected": " no" * 300} for n in range(5)]
    written, run = made(place("long.jsonl", rows))
    assert run.data.max_length == 256
    assert "leaves 0.0 % of 5 pairs" in why(written, "max_length")
    assert "which cuts the others" in why(written, "max_length")


def test_messages_and_the_template(place):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"p{n}"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for n in range(8)
    ]
    place("chat.jsonl", rows)
    written, _ = made("chat.jsonl")
    assert "written by the tokenizer's own template" in why(written, "chat_template")
    with pytest.raises(InputError, match="has no chat template"):
        init("models/bare", "chat.jsonl", out=Path("other.toml"))
    assert not Path("other.toml").exists()


def test_plain_text_beside_a_template(place):
    assert "make them messages" in why(made()[0], "chat_template")
    written, run = made(model="models/bare", out=Path("b.toml"))
    assert "not needed" in why(written, "chat_template")
    assert run.reference.dtype == "bfloat16"
    assert run.out == "runs/b"


def test_columns_that_are_named_by_hand(place):
    rows = [{"asked": f"p{n}", "good": " yes", "bad": " no"} for n in range(8)]
    place("own.jsonl", rows)
    with pytest.raises(InputError, match="lacks a column"):
        init("models/model", "own.jsonl")
    names = '{prompt="asked", chosen="good", rejected="bad"}'
    _, run = made("own.jsonl", sets=[f"data.columns={names}", "data.test_share=0.25"])
    assert run.data.columns == {"prompt": "asked", "chosen": "good", "rejected": "bad"}
    assert run.data.test_share == 0.25


def test_nothing_is_overwritten(place):
    Path("run.toml").write_text("mine")
    with pytest.raises(InputError, match="replaces none"):
        made()
    assert Path("run.toml").read_text() == "mine"
    made(replace=True)
    Path("folder").mkdir()
    with pytest.raises(InputError, match="replaces none"):
        made(out=Path("folder"), replace=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "./absent"}, "No such model"),
        ({"data": "absent.jsonl"}, "No such dataset"),
        ({"data": "empty.jsonl"}, "no row to read"),
        ({"data": "blank.jsonl"}, "None of the first 3 rows"),
        ({"data": "one_sided.jsonl"}, "trains on pairs, and the data have none"),
        ({"method": "odpo"}, "reads chosen_score"),
        ({"method": "dppo"}, "no such method"),
        ({"method": "tr_dpo"}, "TR-DPO"),
        ({"sets": ["train.betta=1"]}, "unknown key"),
        ({"sets": ["train.beta=-1"]}, "beta"),
        ({"sets": ["beta"]}, "section.key=value"),
        ({"model": ""}, "needs a model and data"),
    ],
)
def test_what_cannot_be_used(place, options, said):
    place("empty.jsonl", [])
    place("blank.jsonl", [{"prompt": "p1", "chosen": "", "rejected": ""}] * 3)
    place("one_sided.jsonl", [{"prompt": f"p{n}", "completion": " yes"} for n in range(5)])
    with pytest.raises(InputError, match=said) as caught:
        made(**options)
    assert all((caught.value.found, caught.value.where, caught.value.fix))
    assert not Path("run.toml").exists()


def test_unpaired_data_are_for_methods_that_take_them(place):
    rows = [{"prompt": f"p{n}", "completion": f" p{n}", "label": n % 2 == 0} for n in range(8)]
    place("unpaired.jsonl", rows)
    with pytest.raises(InputError, match="trains on pairs"):
        made("unpaired.jsonl")
    assert made("unpaired.jsonl", method="bco")[1].train.method == "bco"


def test_the_command(place, capsys):
    assert cli.run_command(["init", "--model", "models/model", "--data", "pairs.jsonl", "--out", "a/b.toml"]) == 0
    assert "Written to a/b.toml" in capsys.readouterr().out
    assert cli.run_command(["init", "--data", "pairs.jsonl"]) == 2
    assert "no --model" in capsys.readouterr().err
    assert cli.run_command(["init", "--from-trl", "a.yaml", "--from-axolotl", "b.yaml"]) == 2


TRL = {
    "model_name_or_path": "models/model",
    "dataset_name": "pairs.jsonl",
    "loss_type": ["sigmoid"],
    "beta": 0.2,
    "learning_rate": "5e-4",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "bf16": False,
    "max_length": 32,
    "max_steps": 1,
    "warmup_steps": 0,
    "logging_steps": 10,
}
AXOLOTL = {
    "base_model": "models/model",
    "datasets": [{"path": "json", "data_files": "pairs.jsonl"}],
    "rl": "ipo",
    "learning_rate": 5e-4,
    "micro_batch_size": 8,
    "bf16": False,
    "sequence_len": 32,
    "max_steps": 1,
}
LLAMAFACTORY = {
    "model_name_or_path": "models/model",
    "stage": "dpo",
    "finetuning_type": "full",
    "pref_loss": "simpo",
    "learning_rate": 5e-4,
    "per_device_train_batch_size": 8,
    "cutoff_len": 32,
    "max_steps": 1,
    "dataset": "mine",
    "dataset_dir": ".",
}
WRITERS = {
    "look": lambda: init("models/model", "pairs.jsonl", sets=["train.batch_pairs=8"]),
    "trl": lambda: translate("trl", TRL),
    "axolotl": lambda: translate("axolotl", AXOLOTL),
    "llamafactory": lambda: translate("llamafactory", LLAMAFACTORY),
}


def translate(tool, values, **options):
    Path("theirs.yaml").write_text(yaml.safe_dump(values))
    return init(configurations={tool: Path("theirs.yaml")}, **options)


@pytest.mark.slow
@pytest.mark.parametrize("tool", WRITERS)
def test_a_file_of_init_trains(place, tool):
    """One step of 8 pairs, from data to policy, and the rate of the file in its metrics."""
    from scoreonce import prepare, score, train

    Path("dataset_info.json").write_text(json.dumps({"mine": {"file_name": "pairs.jsonl", "ranking": True}}))
    run = Run.load(WRITERS[tool]().path, {"train.max_steps": 1, "compute.device": "cpu", "train.verify_pairs": 4})
    prepare(run)
    score(run)
    trained = train(run)
    (row,) = trained.metrics.to_dicts()
    assert row["step"] == 1
    assert trained.steps().height == 8
    assert (trained.paths.policy / "model.safetensors").is_file()


def test_a_translation_says_what_became_of_every_key(place):
    written = translate("trl", {**TRL, "deepspeed": "z.json", "novel": 1}, sets=["train.beta=0.3"])
    run = load(written.path)
    assert run.train.hyperparameters["beta"] == 0.3
    assert run.train.batch_pairs == 8
    for text in ("\n".join(written.report), text_of(written)):
        assert 'deepspeed = "z.json"' in text
        assert "novel" in text
        assert "logging_steps" in text
    assert "14 keys: 11 are in the run file, 1 not needed, 1 not supported, 1 unknown" in written.report[0]
    tomllib.loads(text_of(written))


def test_a_translation_takes_no_method_and_one_file(place):
    for options in ({"method": "dpo"}, {"processes": 0}):
        with pytest.raises(InputError, match="translated as it is"):
            translate("trl", TRL, **options)


def test_a_translation_is_checked_as_a_run_file_is(place):
    with pytest.raises(InputError, match="learning_rate cannot be used"):
        translate("trl", {**TRL, "learning_rate": -1})
    assert not Path("run.toml").exists()
