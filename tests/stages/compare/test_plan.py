"""Which trainings a comparison is made of, and what the command line says of them."""

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.compare.options import settings_of, varied
from scoreonce.stages.compare.plan import not_taken_over, plan, shares, shortened


def names(run):
    return [candidate.name for candidate in plan(run).candidates]


def test_every_combination(world):
    run = world.run(
        train={"beta": 0.3},
        compare={
            "methods": ["dpo", "ipo"],
            "vary": {"train.beta": [0.05, 0.1], "train.learning_rate": [1e-6]},
            "seeds": 2,
        },
    )
    found = plan(run)
    assert names(run) == [f"{name}-beta{beta}-learning_rate1e-06" for name in ("dpo", "ipo") for beta in (0.05, 0.1)]
    assert found.seeds == (0, 1)
    trial = found.candidates[1].trial(run, 1)
    assert (trial.train.method, trial.train.hyperparameters["beta"], trial.train.seed) == ("dpo", 0.1, 1)
    assert trial.train.label == "dpo-beta0.1-learning_rate1e-06-s1"
    assert trial.compare.methods == []


def test_what_a_method_does_not_have_is_left_out_for_it(world):
    vary = {"train.momentum": [0.5, 0.9], "train.learning_rate": [1e-6, 1e-5]}
    run = world.run(compare={"methods": ["dpo", "beta_dpo"], "vary": vary})
    assert names(run)[:2] == ["dpo-learning_rate1e-06", "dpo-learning_rate1e-05"]
    assert len(names(run)) == 2 + 4
    assert plan(run).notes == ("dpo has no momentum",)


def test_the_run_files_own_pieces_and_labels_are_not_taken_over(world):
    run = world.run(
        train={"calibration": "batch_beta", "label": "mine"},
        evaluate={"label": "other"},
        compare={"methods": ["ipo"]},
    )
    (candidate,) = plan(run).candidates
    trial = candidate.trial(run, 0)
    assert (trial.train.calibration, trial.train.label, trial.evaluate.label) == (None, "ipo-s0", None)


def test_the_run_files_hyperparameters_are_its_own_methods(world):
    """SimPO and α-DPO at a β for DPO would be other methods under their names."""
    compare = {"methods": ["dpo", "simpo", "alpha_dpo"], "vary": {"train.learning_rate": [1e-5]}}
    run = world.run(train={"beta": 0.3, "divergence": "js", "epochs": 2}, compare=compare)
    found = {each.method: each.trial(run, 0).train for each in plan(run).candidates}
    assert found["dpo"].hyperparameters == {"beta": 0.3, "divergence": "js"}
    assert found["simpo"].hyperparameters == found["alpha_dpo"].hyperparameters == {}
    assert {each.epochs for each in found.values()} == {2}
    said = not_taken_over(run)
    assert said.startswith("beta, divergence of the run file: for dpo alone; simpo, alpha_dpo begin with")
    assert not_taken_over(world.run(compare=compare)) is None
    assert not_taken_over(world.run(train={"beta": 0.3}, compare={"methods": ["dpo"]})) is None


def test_values_for_one_method_replace_those_for_all(world):
    vary = {"train.beta": [0.05, 0.1], "simpo.train.beta": [2.0], "simpo.train.learning_rate": [1e-5, 1e-4]}
    run = world.run(compare={"methods": ["dpo", "ipo", "simpo"], "vary": vary})
    assert names(run) == [
        *("dpo-beta0.05", "dpo-beta0.1", "ipo-beta0.05", "ipo-beta0.1"),
        *("simpo-beta2-learning_rate1e-05", "simpo-beta2-learning_rate0.0001"),
    ]
    assert plan(run).notes == ()
    trial = plan(run).candidates[-1].trial(run, 0).train
    assert (trial.hyperparameters, trial.learning_rate) == ({"beta": 2.0}, 1e-4)


@pytest.mark.parametrize(
    ("compare", "what"),
    [
        ({"methods": ["dpo", "ipo"], "vary": {"simpo.train.beta": [2.0]}}, "a method that is not compared"),
        ({"methods": ["dpo"], "vary": {"dpo.train.momentum": [0.9]}}, "nothing to vary"),
        ({"methods": ["dpo"], "vary": {"dpo.train.bta": [0.9]}}, "unknown key"),
        ({"methods": ["dpo"], "vary": {"dpo.train.seed": [1, 2]}}, "pairs and reference are the same"),
        ({"methods": ["dpo"], "vary": {"dpo.beta": [0.1, 0.2]}}, "pairs and reference are the same"),
        ({"vary": {"data.max_length": [64, 128]}}, "pairs and reference are the same"),
        ({"vary": {"train.seed": [0, 1]}}, "pairs and reference are the same"),
        ({"vary": {"train.beta": [0.1, -1]}}, "beta"),
        ({"methods": ["dpoo"]}, "no such method"),
        ({"vary": {"train.lerning_rate": [1e-6, 1e-5]}}, "unknown key"),
        ({"vary": {"train.learning_rate": [1e-6, 0]}}, "learning_rate"),
        ({"vary": {"train.momentum": [0.5, 0.9]}}, "nothing to vary"),
        ({"vary": {"train.beta": []}}, "nothing to vary"),
    ],
)
def test_what_cannot_be_compared(world, compare, what):
    run = world.run(compare=compare)
    with pytest.raises(InputError, match=what):
        plan(run)


def test_random_draws_are_distinct_and_repeatable(world):
    vary = {"train.beta": [0.01, 0.05, 0.1, 0.5], "train.learning_rate": [1e-7, 1e-6, 1e-5]}
    asked = {"search": "random", "trials": 5, "methods": ["dpo", "ipo"], "vary": vary}
    first = names(world.run(compare=asked))
    assert len(set(first)) == 5
    assert names(world.run(compare=asked)) == first
    assert names(world.run(compare={**asked, "seed": 1})) != first
    assert len(names(world.run(compare={**asked, "trials": 99}))) == 24


def test_halving_by_hand(world):
    """Nine candidates, a third of which goes on: 1/9 of the training, 1/3, all of it."""
    assert shares(9, 3) == pytest.approx([1 / 9, 1 / 3, 1])
    assert shares(8, 3) == pytest.approx([1 / 3, 1])
    assert shares(1, 3) == [1]
    run = world.run(train={"epochs": 3})
    (candidate,) = plan(run).candidates
    assert shortened(candidate, run, 1) is candidate
    short = shortened(candidate, run, 1 / 3)
    assert short.trial(run, 0).train.epochs == pytest.approx(1)
    assert short.name != candidate.name
    steps = world.run(train={"max_steps": 10})
    assert shortened(candidate, steps, 0.25).trial(steps, 0).train.max_steps == 2


def test_long_names_become_a_digest(world):
    vary = {"train.where": ["chosen_len > 3 AND " * 10 + "true", "chosen_len > 4"]}
    first, second = names(world.run(compare={"vary": vary}))
    assert len(first) < 30
    assert second == "dpo-wherechosen_len-4"


def test_options_of_the_command_line(world):
    fixed, vary = varied(["train.beta=0.05,0.1", "train.max_steps=3", 'train.drop=["a","b"]', "train.where=a,b"])
    assert fixed == ["train.max_steps=3", 'train.drop=["a","b"]']
    assert vary == {"train.beta": [0.05, 0.1], "train.where": ["a", "b"]}
    own = ["train.beta=0.3", "simpo.train.beta=2", "simpo.train.learning_rate=1e-5,1e-4", "train.learning_rate=1e-6"]
    assert varied(own) == (
        ["train.learning_rate=1e-6"],
        {"train.beta": [0.3], "simpo.train.beta": [2], "simpo.train.learning_rate": [1e-5, 1e-4]},
    )
    assert varied(['train.drop=["a","b"],[]'])[1] == {"train.drop": [["a", "b"], []]}
    run = settings_of(
        world.run(compare={"vary": {"train.beta": [1.0]}}), vary, {"methods": ["dpo,ipo", "kto"], "seeds": None}
    )
    assert run.compare.methods == ["dpo", "ipo", "kto"]
    assert run.compare.vary == vary
    assert run.compare.seeds == 1
    with pytest.raises(InputError, match=r"compare\.seeds"):
        settings_of(run, {}, {"seeds": 0})
