"""Holding out prompts."""

from scoreonce.pipeline.text.held_out import is_held_out

PROMPTS = [f"{number:032x}" for number in range(4000)]


def test_the_share_of_prompts_is_held_out():
    """Binomial(4000, 0.2): mean 800, standard deviation 25; five of them either way."""
    assert 675 < sum(is_held_out(prompt, 0.2, 0) for prompt in PROMPTS) < 925


def test_nothing_at_share_zero():
    assert not any(is_held_out(prompt, 0.0, 0) for prompt in PROMPTS)


def test_a_larger_share_keeps_what_is_held_out():
    small = {prompt for prompt in PROMPTS if is_held_out(prompt, 0.1, 3)}
    assert small < {prompt for prompt in PROMPTS if is_held_out(prompt, 0.3, 3)}


def test_the_seed_decides():
    """Independent halves agree on half of the prompts: 2000 of 4000, standard deviation 32."""
    agree = sum(is_held_out(prompt, 0.5, 0) == is_held_out(prompt, 0.5, 1) for prompt in PROMPTS)
    assert 1800 < agree < 2200


def test_the_rule_stays_as_it_is():
    """A change here would move prompts of every prepared dataset to the other side."""
    assert [is_held_out(prompt, 0.5, 0) for prompt in PROMPTS[:12]] == [bool(int(bit)) for bit in "001111000011"]
