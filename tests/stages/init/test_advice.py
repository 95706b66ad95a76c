"""Learning rates: each from a source that the catalogue of methods knows too, and chosen by size."""

import pytest

from scoreonce.stages.init.advice import RECIPES, advise


def test_the_nearest_model_decides():
    """1.7 B is nearer to 1.5 B than 0.5 B and 2.8 B; 13 B is nearest to 7.2 B, by a factor of 1.8."""
    found = advise("dpo", 1_500_000_000, lora=False)
    assert (found.learning_rate, found.settings) == (1e-6, {"beta": 0.5})
    assert found.why == "SmolLM2-1.7B: alignment-handbook, recipes/smollm2/dpo"
    found = advise("dpo", 13_000_000_000, lora=False)
    assert (found.learning_rate, found.settings) == (5e-7, {"beta": 0.01})
    assert "no source" not in found.why


def test_a_size_without_a_source_is_said():
    """70.6 B is 9.8 times 7.2 B."""
    found = advise("dpo", 70_600_000_000, lora=False)
    assert found.why.startswith("no source for 71 B parameters is known here, the nearest is Zephyr-7B")


def test_models_of_one_size_are_named_beside():
    found = advise("simpo", 8_030_000_000, lora=False)
    assert found.learning_rate == 1e-6
    assert found.why.endswith("6e-7 for Llama-3-8B-Base")


def test_lora_without_a_recipe_of_its_own():
    """Ten times SimPO's 5e-7."""
    found = advise("simpo", 7_200_000_000, lora=True)
    assert found.learning_rate == 5e-6
    assert "LoRA Without Regret" in found.why
    assert advise("dpo", 7_200_000_000, lora=True).learning_rate == 5e-6
    assert "Regret" not in advise("dpo", 7_200_000_000, lora=True).why


@pytest.mark.parametrize("method", ["discopop", "nca_pair"])
def test_a_method_without_a_recipe_borrows_dpos_rate_and_no_beta(method):
    """NCA's is a QLoRA."""
    found = advise(method, 7_200_000_000, lora=False)
    assert found.learning_rate == 5e-7
    assert found.why.startswith(f"no source for {method} is known here, this is DPO's")
    assert found.settings == {}


def test_recipes_and_the_table_of_methods_agree():
    from scoreonce.pipeline.methods import table

    told = {row["name"]: row["learning_rate"] for row in table()}
    rates = {name: [recipe.learning_rate for recipe in RECIPES if recipe.method == name] for name in told}
    assert [name for name in told if told[name] and not rates[name]] == []
    for name, text in told.items():
        found = [float(word.strip("(),;")) for word in text.split() if word[:1].isdigit() and "e-" in word]
        assert not found or set(found) & set(rates[name]), f"{name}: {text}"


def test_recipes_name_hyperparameters_of_their_method():
    from scoreonce.pipeline.methods import resolve

    for recipe in RECIPES:
        resolve(recipe.method, recipe.settings)


def test_rates_to_compare_are_about_the_sources_and_above_it_for_a_small_model():
    assert advise("dpo", 7_000_000_000, lora=False).tried()[0] == [1.7e-7, 5e-7, 1.5e-6]
    assert advise("dpo", 300_000_000_000, lora=False).tried()[0] == [1.7e-7, 5e-7, 1.5e-6]
    rates, why = advise("dpo", 3_000_000, lora=False).tried()
    assert rates == [5e-7, 5e-6, 5e-5]
    assert "a guess" in why
