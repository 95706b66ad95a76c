"""Words that differ, what is folded away, and what becomes visible of characters that nobody sees."""

import pytest

from scoreonce.pipeline.pages.diff import BUDGET, CAP, CONTEXT, LEAD, compare, excerpts, passage
from scoreonce.pipeline.pages.text import advice, visible


def marked(side):
    """The text of a side with its changed words in brackets."""
    pieces = [piece for block in side.blocks for piece in block.pieces]
    return "".join(f"[{piece.text}]" if piece.changed else piece.text for piece in pieces)


def layout(side):
    return [(block.folded, block.characters) for block in side.blocks]


@pytest.mark.parametrize(
    ("left", "right", "shown_left", "shown_right"),
    [
        ("the cat sat here", "the dog sat here", "the [cat ]sat here", "the [dog ]sat here"),
        ("one two three", "one three", "one [two ]three", "one three"),
        ("the cat sat on a mat", "the dog sat at a mat", "the [cat ]sat [on ]a mat", "the [dog ]sat [at ]a mat"),
        ("It is 4.", "It is 5.", "It is [4].", "It is [5]."),
        ("same words", "same words", "same words", "same words"),
        # Only the white space differs: then it is what is marked.
        ("a b c", "a  b c", "[a ]b c", "[a  ]b c"),
        # Chinese has no spaces: characters are compared.
        ("我喜欢猫和茶", "我喜欢狗和茶", "我喜欢[猫]和茶", "我喜欢[狗]和茶"),
        # Equal words shorter than the changes around them belong to these.
        (
            "alpha beta of gamma delta end of the story",
            "one two of three four end of the story",
            "[alpha beta of gamma delta ]end of the story",
            "[one two of three four ]end of the story",
        ),
    ],
)
def test_differing_words_by_hand(left, right, shown_left, shown_right):
    found = compare(left, right)
    assert (marked(found.left), marked(found.right)) == (shown_left, shown_right)
    assert found.marked


def test_frequent_words_are_matched_too():
    """300 words, two thirds of them of two kinds only: `difflib` by itself would ignore such frequent ones."""
    found = compare(*("".join(f"{side}{i} the long " for i in range(100)) for side in "ab"))
    assert "[a7 ]the long [a8 ]the long" in marked(found.left)


def test_texts_with_little_in_common_are_not_marked():
    """Of 2 x 23 characters the full stop is common: 2 of 47 are fewer than a fifth."""
    found = compare("nothing here is alike.", "other words stand there.")
    assert not found.marked
    assert marked(found.left) == "nothing here is alike."


def test_an_empty_side():
    found = compare("", "words")
    assert layout(found.left) == []
    assert layout(found.right) == [(False, 5)]


def test_equal_stretches_are_folded_so_that_the_difference_is_in_view():
    """1,200 equal characters, one word, 1,200 equal characters: only what stands beside the word is shown."""
    before, after = "word " * 240, "tail " * 240
    found = compare(f"{before}yes {after}", f"{before}no {after}")
    assert layout(found.left) == [(True, 1200 - CONTEXT), (False, 2 * CONTEXT + len("yes ")), (True, 1200 - CONTEXT)]
    assert layout(found.right) == [(True, 1200 - CONTEXT), (False, 2 * CONTEXT + len("no ")), (True, 1200 - CONTEXT)]


def test_a_long_text_is_cut_at_a_word_and_can_be_unfolded():
    text = "word " * 1000
    shown, folded = compare(text, "other").left.blocks
    assert not shown.folded
    assert folded.folded
    assert BUDGET - 5 < shown.characters <= BUDGET
    assert shown.pieces[0].text.endswith("word")
    assert shown.characters + folded.characters == 5000


def test_a_megabyte_is_held_only_around_its_difference():
    same = "0123456789" * 90_000
    found = compare(f"{same} left {same}", f"{same} right")
    assert found.left.before == found.right.before == 900_001 - LEAD  # the space is alike too
    assert sum(block.characters for block in found.left.blocks) == CAP
    assert found.left.before + CAP + found.left.after == 1_800_006
    assert found.right.after == 0
    assert "[left ]" in marked(found.left) or "[left" in marked(found.left)


@pytest.mark.parametrize(
    ("left", "right"),
    [("no " * 4000, "no maybe " * 2000), ("x " * 4000, "x y " * 2000), ("!" * 9000, "!?" * 4500), ("a" * 10**6, "b")],
)
def test_repetition_is_compared_as_any_text(left, right):
    """Every text comes out whole up to the cap; comparing each word with each other would take minutes."""
    found = compare(left, right)
    assert marked(found.left).replace("[", "").replace("]", "") == left[:CAP]


def test_a_prompt_keeps_its_beginning_and_its_end():
    side = passage("first " + "middle " * 200 + "the question")
    assert [block.folded for block in side.blocks] == [False, True, False]
    assert marked(side).startswith("first ")
    assert side.blocks[2].pieces[0].text.endswith("the question")
    assert sum(block.characters for block in side.blocks) == 6 + 1400 + 12
    assert layout(passage("short")) == [(False, 5)]
    assert passage("x" * (CAP + 7)).before == 7


def test_excerpts_begin_a_little_before_the_texts_part():
    left, right = excerpts("a" * 500 + "LEFT" + "c" * 500, "a" * 500 + "RIGHT", width=80)
    assert left == "… " + "a" * 20 + "LEFT" + "c" * 56 + " …"
    assert right == "… " + "a" * 20 + "RIGHT"
    assert excerpts("abc", "abd", width=80) == ("abc", "abd")


# ---- characters ----


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x07b", "BEL"),
        ("\x00\x00\x00", "NUL×3"),
        ("\x7f", "U+007F"),
        ("\x9f", "U+009F"),
        ("\u202eevil", "U+202E"),
        ("a\u200db", "U+200D"),
        ("soft\xadhyphen", "U+00AD"),
        ("\u2066x\u2069", "U+2066"),
        ("\ufeff", "U+FEFF"),
        ("\U000e0041", "U+E0041"),
        ("\ud83d", "U+D83D"),
        ("\uffff", "U+FFFF"),
        ("line\r\n", "CR"),
    ],
)
def test_characters_that_nobody_sees_are_written_out(text, shown):
    html = visible(text)
    assert f">{shown}</bdi>" in html
    assert not any(character in html for character in text if not character.isprintable() and character != "\n")


@pytest.mark.parametrize("text", ["tab\tand\nline", "👩‍👩‍👧 é 你好 שלום", "क्‍ष", "a\xa0b"])
def test_ordinary_text_stays_as_it_is(text):
    assert visible(text) == text


def test_settings_in_an_advice_are_code():
    shown = advice('Raise data.max_length, or [train] where = "NOT <b>".')
    assert shown == "Raise data.max_length, or <code>[train] where = &#34;NOT &lt;b&gt;&#34;</code>."
    assert advice('[train] drop = ["<b>"] helps.') == "<code>[train] drop = [&#34;&lt;b&gt;&#34;]</code> helps."


def test_markup_is_escaped():
    assert visible("<b>&\"'") == "&lt;b&gt;&amp;&#34;&#39;"
