"""Completions against transformers' own, and that they depend on nothing but their own prompt and seed."""

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, tiny_model
from transformers import GenerationConfig

from scoreonce.pipeline.generation.decoding import Reference, complete
from scoreonce.pipeline.generation.noise import GumbelNoise, noise_seed
from scoreonce.pipeline.generation.realignment import mixture

END = 2


def config(*, sampled: bool = True, **settings) -> GenerationConfig:
    own = {"top_k": 0, "max_new_tokens": 12} | settings if sampled else {"max_new_tokens": 12} | settings
    return GenerationConfig(do_sample=sampled, eos_token_id=[END], pad_token_id=END, **own)


@pytest.fixture(scope="module")
def models():
    return tiny_model("llama"), tiny_model("llama", seed=1)


@pytest.fixture(scope="module")
def prompts():
    random = np.random.default_rng(0)
    return [random.integers(3, VOCABULARY, length, dtype=np.int32) for length in (5, 9, 3, 9, 1, 6)]


def ids(completions) -> list[list[int]]:
    return [each.ids.tolist() for each in completions]


SEEDS = [11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("name", ["llama", "gpt2_absolute_positions", "mistral_sliding", "mamba"])
def test_greedy_is_transformers_own(name, prompts):
    """Alone and unpadded: a row of a padded batch is the same text."""
    model = tiny_model(name)
    batch = prompts if name != "mamba" else [prompts[1], prompts[3]]  # whose state takes in what is padded
    ours = ids(complete(model, batch, config(sampled=False), seeds=[0] * len(batch)))
    for prompt, found in zip(batch, ours, strict=True):
        theirs = model.generate(
            torch.from_numpy(prompt).long()[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=END,
            pad_token_id=END,
        )
        assert found == theirs[0, len(prompt) :].tolist()


def test_a_sample_does_not_depend_on_its_batch(models, prompts):
    together = complete(models[0], prompts, config(), seeds=SEEDS)
    alone = [
        complete(models[0], [prompt], config(), seeds=[seed])[0] for prompt, seed in zip(prompts, SEEDS, strict=True)
    ]
    backwards = complete(models[0], prompts[::-1], config(), seeds=SEEDS[::-1])[::-1]
    assert ids(together) == ids(alone) == ids(backwards)
    assert ids(complete(models[0], prompts, config(), seeds=[seed + 100 for seed in SEEDS])) != ids(together)


def test_a_completion_ends_at_an_end_token_or_is_cut(models, prompts):
    """With two ends, and a prompt that holds one."""
    settings = config()
    settings.eos_token_id = [END, *range(50, 90)]
    found = complete(models[0], [np.append(prompts[0], np.int32(60)), *prompts[1:]], settings, seeds=SEEDS)
    for each in found:
        assert all(token not in settings.eos_token_id for token in each.ids[:-1].tolist())
        assert each.finished == (each.ids[-1] in settings.eos_token_id)
        assert each.finished or len(each.ids) == 12
    assert any(each.finished for each in found)


def test_noise_samples_the_distribution():
    """Three tokens of probability 0.5, 0.3, 0.2 and one of 0: a chi-squared statistic of 2 degrees of freedom.

    Its 99.9 % point is 13.8; the noise is the same each time.
    """
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    count = 10_000
    noise = GumbelNoise([noise_seed(0, "p", 0)], torch.device("cpu"))
    drawn = torch.cat([noise(torch.empty(1, 0), probabilities.log()[None]).argmax(-1) for _ in range(count)])
    counts = torch.bincount(drawn, minlength=4).double()
    assert counts[3] == 0
    expected = probabilities[:3].double() * count
    assert ((counts[:3] - expected) ** 2 / expected).sum() < 13.8


def test_the_first_token_has_the_models_probabilities_after_temperature_and_top_p(models):
    """1,000 seeds: no token outside of the kept ones, and the shares within 4 standard errors."""
    prompt = np.array([5, 9, 11], np.int32)
    settings = config(temperature=0.7, top_p=0.8, max_new_tokens=1)
    logits = models[0](torch.from_numpy(prompt).long()[None]).logits[0, -1] / 0.7
    ordered, places = logits.softmax(-1).sort(descending=True)
    kept = places[: int((ordered.cumsum(0) < 0.8).sum()) + 1]
    expected = logits[kept].softmax(-1)
    count = 1000
    found = complete(models[0], [prompt] * count, settings, seeds=[noise_seed(3, "p", each) for each in range(count)])
    tokens = torch.tensor([each.ids[0].item() for each in found])
    assert set(tokens.tolist()) <= set(kept.tolist())
    shares = torch.stack([(tokens == token).double().mean() for token in kept])
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt() + 1e-3).all()


def test_the_models_own_generation_settings_play_no_part(models, prompts):
    before = ids(complete(models[0], prompts, config(), seeds=SEEDS))
    models[0].generation_config = GenerationConfig(do_sample=True, temperature=0.1, top_k=1, repetition_penalty=3.0)
    assert ids(complete(models[0], prompts, config(), seeds=SEEDS)) == before


def test_seeds_differ_by_seed_prompt_and_number():
    assert len({noise_seed(seed, prompt, number) for seed in (0, 1) for prompt in "ab" for number in range(9)}) == 36


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3}])
def test_realignment_at_0_and_1_is_the_reference_and_the_policy(models, prompts, settings):
    policy, reference = models
    for weight, model in ((1.0, policy), (0.0, reference)):
        mixed = complete(policy, prompts, config(**settings), seeds=SEEDS, reference=Reference(reference, weight))
        assert ids(mixed) == ids(complete(model, prompts, config(**settings), seeds=SEEDS))


@pytest.mark.parametrize("sampled", [True, False])
def test_realigned_completions_have_the_mixtures_log_probs(models, prompts, sampled):
    """Each token by plain forward passes of both models, without a cache: softmax of 1.5 policy − 0.5 reference."""
    policy, reference = models
    settings = config(temperature=0.7) if sampled else config(sampled=False)
    found = complete(policy, prompts, settings, seeds=SEEDS, reference=Reference(reference, 1.5))
    for prompt, each in zip(prompts, found, strict=True):
        whole = torch.from_numpy(np.concatenate([prompt, each.ids])).long()[None]
        with torch.inference_mode():
            logits = 1.5 * policy(whole).logits[0].double() - 0.5 * reference(whole).logits[0].double()
        logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        own = whole[0, len(prompt) :]
        assert each.logps == pytest.approx(logps.gather(1, own[:, None]).sum().item(), abs=1e-3)
        if not sampled:
            assert own.tolist() == logps.argmax(-1).tolist()


def test_a_mixture_by_hand():
    """√(0.8 · 0.2) = √(0.2 · 0.8) = 0.4: even. Squared policy over reference: 3.2 and 0.05, of 3.25."""
    policy, reference = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.2, 0.8]).log()
    assert mixture(policy, reference, 0.5).softmax(-1).tolist() == pytest.approx([0.5, 0.5])
    assert mixture(policy, reference, 2.0).softmax(-1).tolist() == pytest.approx([3.2 / 3.25, 0.05 / 3.25])


def test_what_one_model_rules_out_the_mixture_rules_out():
    policy, reference = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.5, 0.0, 0.5]).log()
    assert mixture(policy, reference, 0.5).softmax(-1).tolist() == [1.0, 0.0, 0.0]
    assert mixture(policy, reference, 0.0).softmax(-1).tolist() == pytest.approx([0.5, 0.0, 0.5])
