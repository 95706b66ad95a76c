"""A comparison from prepared pairs: one reference pass, what is done again, failures, rounds, processes, the page."""

import json
import shutil

import polars as pl
import pytest
from html_page import Page
from remote_run import Place
from sample_tables import sample_rows, write_samples

from scoreonce.pipeline.pages.compare.data import Trial
from scoreonce.schemas.errors import InputError
from scoreonce.stages.compare import estimate as estimation
from scoreonce.stages.compare import stage as comparison
from scoreonce.stages.compare import table, trials
from scoreonce.stages.compare.plan import plan
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.judge.stage import judge
from scoreonce.stages.models import folders
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.scoring import model_scorer
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.estimate import TrainingEstimate

FAST = {"batch_pairs": 8, "max_steps": 2, "learning_rate": 1e-3, "verify_pairs": 0, "warmup_ratio": 0}


@pytest.fixture
def prepared(world, monkeypatch):
    """Pairs that are there already; `prepare` would look for their source."""
    monkeypatch.setattr(prepare, "prepare", lambda run, **_: None)
    pairs = world.random_pairs(40)
    world.prepare(pairs[:24], pairs[24:])
    return world


@pytest.fixture
def trained(monkeypatch):
    """The labels that were trained, in order."""
    labels, honest = [], train.train

    def noting(run, **options):
        made = honest(run, **options)
        if made.steps_done:
            labels.append(run.train.label)
        return made

    monkeypatch.setattr(train, "train", noting)
    return labels


def two(world, **more):
    return world.run(train=FAST, compare={"methods": ["dpo", "ipo"], "seeds": 2, **more})


def test_the_reference_is_loaded_once_and_what_is_done_is_not_done_again(prepared, trained, monkeypatch, caplog):
    caplog.set_level("INFO", logger="scoreonce")
    loaded, honest = [], model_scorer.load_reference

    def noting(reference, device):
        loaded.append(reference.model)
        return honest(reference, device)

    monkeypatch.setattr(model_scorer, "load_reference", noting)
    made = comparison.compare(two(prepared))
    assert trained == ["dpo-s0", "dpo-s1", "ipo-s0", "ipo-s1"]
    assert loaded.count(str(prepared.model())) == 1
    assert len(loaded) == 1 + 4
    table = made.trials()
    assert table["label"].to_list() == trained
    for label, accuracy in table.select("label", "accuracy").iter_rows():
        pairs = pl.read_parquet(prepared.folder / "out/evaluate" / label / "pairs.parquet")
        assert accuracy == pytest.approx(((pairs["margin"] > 0) + 0.5 * (pairs["margin"] == 0)).mean())
    assert [message for message in caplog.messages if message.startswith("[4/4] ipo-s1: accuracy")]
    assert not [message for message in caplog.messages if "steps of" in message]  # of the trainings themselves
    best = made.recommended or made.standings.rows[0].name
    policies = made.policies(best)
    assert list(policies) == [f"{best}-s0", f"{best}-s1"]
    assert all((folder / "config.json").is_file() for folder in policies.values())
    assert caplog.messages[-1].endswith(f"--label {best}-s0")
    assert caplog.messages[-2].endswith(str(policies[f"{best}-s0"]))
    # One more method: only its trainings are new.
    caplog.clear()
    again = comparison.compare(prepared.run(train=FAST, compare={"methods": ["dpo", "ipo", "rdpo"], "seeds": 2}))
    assert trained[4:] == ["rdpo-s0", "rdpo-s1"]
    assert len(loaded) == 5 + 2
    assert {row.name for row in again.standings.rows} == {"dpo", "ipo", "rdpo"}
    document = json.loads((prepared.folder / "out/compare/compare.json").read_text())
    assert document["recommended"] == again.recommended
    assert [row["name"] for row in document["standings"]] == [row.name for row in again.standings.rows]


def checkpoints(world):
    """Of each training that there is, how many checkpoints are left."""
    trainings = (world.folder / "out/train").glob("[!.]*")
    return {path.name: len(list(path.glob("checkpoints/step-*"))) for path in trainings}


def test_checkpoints_of_evaluated_trainings_are_removed_unless_asked_for(prepared, trained, caplog):
    keeping = two(prepared, keep_checkpoints=True)
    comparison.compare(keeping)
    assert checkpoints(prepared) == dict.fromkeys(["dpo-s0", "dpo-s1", "ipo-s0", "ipo-s1"], 2)
    # As those of a comparison that was stopped before it removed them.
    first = comparison.compare(two(prepared))
    assert checkpoints(prepared) == dict.fromkeys(["dpo-s0", "dpo-s1", "ipo-s0", "ipo-s1"], 0)
    assert len(trained) == 4
    # A model that is damaged is trained again from the start, to the same figures.
    weights = first.policies("dpo")["dpo-s0"] / "model.safetensors"
    *kept, last = weights.read_bytes()
    weights.write_bytes(bytes([*kept, last ^ 1]))
    again = comparison.compare(two(prepared))
    assert trained[4:] == ["dpo-s0"]
    assert "written again from the first step" in caplog.text
    measured = ["seconds", "peak_memory"]
    assert again.trials().drop(measured).equals(first.trials().drop(measured))
    assert checkpoints(prepared)["dpo-s0"] == 0


def test_a_training_that_failed_keeps_its_checkpoints(prepared, monkeypatch):
    def fails(run):
        if run.train.label == "dpo-s1":
            raise InputError("No.", found="", where="", fix="")
        return honest(run)

    honest = evaluate.evaluate
    monkeypatch.setattr(evaluate, "evaluate", fails)
    comparison.compare(prepared.run(train=FAST, compare={"seeds": 2}))
    assert checkpoints(prepared) == {"dpo-s0": 0, "dpo-s1": 2}


def test_a_judge_of_all_trainings_leads(prepared, trained, tmp_path, caplog):
    """The judge counts letters: samples of ipo's seeds have more than the reference's, those of dpo's have fewer."""
    caplog.set_level("INFO", logger="scoreonce")
    run = two(prepared)
    assert comparison.compare(run).ranked_by == "held-out accuracy"
    paths, prompts = prepared.paths, [f"prompt {number}" for number in range(30)]
    (tmp_path / "judge.py").write_text("def score(prompt, completion):\n    return len(completion)\n")
    judging = run.replace({"judge.function": f"{tmp_path / 'judge.py'}:score"})
    for label, words in {"reference": "bb", "dpo-s0": "a", "dpo-s1": "a", "ipo-s0": "ccc", "ipo-s1": "ccc"}.items():
        write_samples(paths, label, sample_rows({prompt: [words] for prompt in prompts}))
    for label in trained[:3]:
        judge(judging, label=label, against="reference", allow_judge_function=True)
    partly = comparison.compare(run)
    assert partly.ranked_by == "held-out accuracy"
    assert "note: The win rate against the reference is known of 3 of 4 trainings" in caplog.text
    judge(judging, label=trained[3], against="reference", allow_judge_function=True)
    made = comparison.compare(run)
    assert len(trained) == 4  # nothing is trained again
    assert made.ranked_by == "win rate against the reference"
    assert made.recommended == "ipo"
    assert [(row.name, row.grade.mean) for row in made.standings.rows] == [("ipo", 1.0), ("dpo", 0.0)]
    assert "ranked by the win rate against the reference" in caplog.messages
    assert "Ranked by the win rate against the reference" in Page(made.page.read_text()).text
    document = json.loads((prepared.folder / "out/compare/compare.json").read_text())
    assert document["ranked_by"] == made.ranked_by


def test_how_long_it_takes_is_said_before(prepared, trained, caplog, monkeypatch):
    """By hand: 24 pairs train and 16 are held out, for a third of a step's time each."""
    caplog.set_level("INFO", logger="scoreonce")
    run = prepared.run(train={**FAST, "max_steps": 3}, compare={"methods": ["dpo", "ipo"], "seeds": 2})
    before = estimation.estimate(run)
    a_pair = before.scoring / 40
    assert before.training["dpo"] == pytest.approx(2 * (3 * 24 + 16) * a_pair)
    assert before.trainings == {"dpo": 2, "ipo": 2}
    assert before.seconds == pytest.approx(before.scoring + 4 * (3 * 24 + 16) * a_pair)
    assert "3 forward passes" in caplog.messages[-1]
    assert trained == []
    comparison.compare(run.replace({"compare.methods": ["dpo"]}))
    measured = TrainingEstimate(steps=3, tokens=1, seconds=12.0, memory=1)
    monkeypatch.setattr(train, "estimate", lambda run, **_: measured)
    after = estimation.estimate(run)  # dpo's trainings are done
    assert (after.scoring, after.trainings) == (0, {"ipo": 2})
    assert after.seconds == pytest.approx(2 * (12 + 12 / 24 * 16 / 3))
    assert caplog.messages[-1].endswith("one after the other, measured here")
    assert estimation.estimate(run.replace({"compare.methods": ["dpo"]})).trainings == {}
    halving = {"compare.search": "halving", "compare.vary": {"train.beta": [0.1, 0.2]}, "compare.keep": 2}
    halved = estimation.estimate(run.replace(halving))  # four, the best two, the best one
    assert sum(halved.trainings.values()) == 2 * (4 + 2 + 1)


def test_trainings_with_other_settings_are_refused_and_with_restart_trained_again(prepared, trained):
    run = two(prepared)
    comparison.compare(run)
    del trained[:]
    changed = run.replace({"train.learning_rate": 5e-4})
    for refused in (comparison.compare, estimation.estimate):
        with pytest.raises(InputError, match="under the labels of this comparison") as error:
            refused(changed)
        assert "dpo-s0: train.learning_rate: trained with 0.001, now 0.0005, and 3 more" in error.value.found
    assert trained == []
    assert estimation.estimate(changed, restart=True).trainings == {"dpo": 2, "ipo": 2}
    one = comparison.compare(changed.replace({"compare.methods": ["dpo"]}), restart=True)
    assert trained == ["dpo-s0", "dpo-s1"]
    assert {recorded(path)["learning_rate"] for path in one.policies("dpo").values()} == {5e-4}
    comparison.compare(changed, restart=True)  # what has these settings already is not done again
    assert trained == ["dpo-s0", "dpo-s1", "ipo-s0", "ipo-s1"]
    comparison.compare(changed)
    assert len(trained) == 4


@pytest.mark.long
def test_another_machine_knows_the_trainings_at_an_address(tmp_path, monkeypatch, capsys):
    place = Place(tmp_path, monkeypatch, f"file://{tmp_path}/remote")
    assert place.on("one")("compare", "--method", "dpo", "--seeds", "1") == 0
    assert (tmp_path / "remote/train/dpo-s0/model/model.safetensors").exists()
    assert not list((tmp_path / "remote/train/dpo-s0").glob("checkpoints/*/*"))
    changed = ("--method", "dpo", "--seeds", "1", "--set", "train.learning_rate=2e-3")
    capsys.readouterr()
    assert place.on("two")("compare", *changed) == 2
    assert "dpo-s0: train.learning_rate: trained with 0.001, now 0.002" in capsys.readouterr().err
    assert place.on("two")("compare", *changed, "--restart") == 0
    assert place.on("three")("compare", *changed) == 0


def recorded(policy):
    """What a policy was trained with."""
    return json.loads((policy.parent / "lineage.json").read_text())["train"]


def test_the_time_left_is_said_of_trainings_that_are_new(caplog):
    caplog.set_level("INFO", logger="scoreonce")
    ticks = iter([0.0, 30.0, 80.0])
    show = table.Progress(4, ["b-s0", "c-s0", "d-s0"], clock=lambda: next(ticks))
    figures = {"accuracy": 0.5, "margin": 0.1, "cross_entropy_increase": 0.0}
    for name in "abcd":
        show(Trial(name, 0, f"{name}-s0", figures, 9.0))
    assert [message.partition("; ")[2] for message in caplog.messages] == [
        *("", "2 left, about 1 minute", "1 left, about 40 seconds", "")
    ]


def test_a_training_that_fails_is_named_and_the_others_are_ranked(prepared, caplog):
    run = prepared.run(train=FAST, compare={"vary": {"train.learning_rate": [1e-3, 1e30]}})
    made = comparison.compare(run)
    assert [row.name for row in made.standings.rows] == ["dpo-learning_rate0.001"]
    assert made.trials()["failure"].is_null().to_list() == [True, False]
    assert any("dpo-learning_rate1e+30-s0: failed:" in message for message in caplog.messages)
    assert "dpo-learning_rate1e+30-s0" in Page(made.page.read_text()).text
    with pytest.raises(InputError, match="No candidate could be trained"):
        comparison.compare(run.replace({"train.learning_rate": 1e30, "compare.vary": {}}))


@pytest.mark.slow
def test_successive_halving_goes_on_with_the_largest_margins(prepared, trained, monkeypatch):
    """Nine candidates for a ninth of 9 steps, three for a third, one for all of it."""
    margins = {}
    honest = evaluate.evaluate

    def evaluated(run, **options):
        made = honest(run, **options)
        margins[run.train.label] = made.summary["margin"]
        return made

    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    betas = [0.01 * 2**power for power in range(9)]
    run = prepared.run(train={**FAST, "max_steps": 9}, compare={"vary": {"train.beta": betas}, "search": "halving"})
    made = comparison.compare(run)
    assert [label.split("-part")[1][:5] for label in trained[:9]] == ["0.111"] * 9
    first = sorted(trained[:9], key=lambda label: -margins[label])[:3]
    assert {label.split("-part")[0] for label in trained[9:12]} == {label.split("-part")[0] for label in first}
    second = max(trained[9:12], key=lambda label: margins[label]).split("-part")[0]
    assert trained[12:] == [f"{second}-s0"]
    assert [row.name for row in made.standings.rows] == [second]


def test_where_the_last_round_fails_it_is_said(prepared):
    """Shorter trainings of the same candidate did not fail; they are not what is compared."""
    run = prepared.run(compare={"search": "halving"})
    ended = {"seconds": 1.0, "figures": {"margin": 1.0}}
    ran = [Trial("dpo-part0.333", 0, "dpo-part0.333-s0", **ended), Trial("dpo", 0, "dpo-s0", {}, 0.0, "not finite")]
    with pytest.raises(InputError, match="No candidate could be trained") as caught:
        comparison._ranked(ran, plan(run), prepared.paths)
    assert "dpo-s0: not finite" in caught.value.found


def test_consent_reaches_the_trainings(prepared, monkeypatch, forgets_methods):
    """A method file runs only with consent, which processes of their own are given too."""
    file = prepared.folder / "mine.py"
    file.write_text(
        "from scoreonce.pipeline.methods import method, objective\n"
        "@objective('mine')\n"
        "def mine(margin, *, beta: float = 0.1):\n    return -margin\n"
        "method('mine', title='Mine', objective=mine)\n"
    )
    run = prepared.run(train={**FAST, "method_file": str(file)}, compare={"methods": ["dpo"]})
    with pytest.raises(InputError, match="allow-method-file"):
        comparison.compare(run)
    assert trials._flags(False) == {"train": [], "evaluate": []}
    monkeypatch.setattr(folders, "trust_remote_code", True)
    assert trials._flags(True) == {
        "train": ["--trust-remote-code", "--allow-method-file"],
        "evaluate": ["--trust-remote-code"],
    }


def test_processes_of_a_launcher_are_refused(prepared, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="starts its trainings itself") as caught:
        comparison.compare(two(prepared))
    assert "--jobs" in caught.value.fix


@pytest.mark.long
def test_two_at_a_time_give_what_one_gives(prepared):
    shutil.copytree(prepared.folder / "out", prepared.folder / "both")
    alone = comparison.compare(two(prepared))
    both = comparison.compare(two(prepared).replace({"out": str(prepared.folder / "both")}), jobs=2)
    assert both.trials()["label"].to_list() == alone.trials()["label"].to_list()
    for mine, theirs in zip(both.trials()["margin"], alone.trials()["margin"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert (prepared.folder / "both/compare/logs/ipo-s1.log").read_text().strip()
    changed = two(prepared).replace({"out": str(prepared.folder / "both"), "train.learning_rate": 5e-4})
    again = comparison.compare(changed, jobs=2, restart=True)
    assert again.trials()["failure"].is_null().all()
    assert {recorded(path)["learning_rate"] for path in again.policies("dpo").values()} == {5e-4}


def test_the_page(prepared, browser):
    run = prepared.run(train=FAST, compare={"methods": ["dpo", "ipo"], "vary": {"train.beta": [0.05, 0.5]}})
    run = run.replace({"evaluate.every": 1, "evaluate.pairs": 8})
    made = comparison.compare(run)
    html = made.page.read_text()
    # Along each of four trainings there are three evaluations: before the first step and after each.
    specs = json.loads(html.partition('id="charts">')[2].partition("</script>")[0])
    lines, steps = specs["margin-drift"]["layer"][:2]
    assert len(steps["data"]["values"]) == 3 * 4
    assert [row["drift"] for row in lines["data"]["values"] if row["step"] == 0] == pytest.approx([0] * 4, abs=1e-6)
    page = Page(html)
    assert page.loads_nothing()
    for row in made.standings.rows:
        assert row.name in page.text
    assert made.reason in page.text
    drawn = browser.dom(made.page).partition("<script")[0]
    still = html.partition("<script")[0].count("<svg ")
    assert still == 4 + 1  # a strip for each candidate, and their axis
    assert drawn.count("<svg ") - still == html.count('class="chart"') == 3
    assert "could not be drawn" not in drawn
