"""The language of a text by its function words: a sentence or two of each, and texts that have none."""

import polars as pl
import pytest

from scoreonce.pipeline.audit.measures.languages import FUNCTION_WORDS, LANGUAGES, language_mix, languages
from scoreonce.pipeline.audit.measures.words import words

SENTENCES = {
    "English": "I would like to know whether there is a train that leaves before noon, because we have to be there.",
    "German": "Ich möchte wissen, ob es einen Zug gibt, der vor Mittag fährt, weil wir nicht zu spät sein dürfen.",
    "French": "Je voudrais savoir s'il y a un train qui part avant midi, parce que nous devons y être pour le repas.",
    "Spanish": "Me gustaría saber si hay un tren que salga antes del mediodía, porque los demás ya están allí.",
    "Portuguese": "Eu gostaria de saber se há um comboio que saia antes do meio-dia, porque não podemos chegar tarde.",
    "Italian": "Vorrei sapere se c'è un treno che parte prima di mezzogiorno, perché gli altri sono già nella città.",
    "Dutch": "Ik wil graag weten of er een trein is die voor de middag vertrekt, want wij moeten er op tijd zijn.",
    "Swedish": "Jag skulle vilja veta om det finns ett tåg som går före lunch, eftersom vi inte får komma för sent.",
    "Danish or Norwegian": "Jeg vil gerne vide, om der er et tog, som kører før middag, fordi vi ikke må komme.",
    "Finnish": "Haluaisin tietää, lähteekö juna ennen puoltapäivää, koska meidän on oltava siellä, mutta se ei ole "
    "helppoa kuin ennen.",
    "Polish": "Chciałbym wiedzieć, czy jest pociąg, który odjeżdża przed południem, ale nie wiem, jak się do tego "
    "zabrać.",
    "Czech or Slovak": "Chtěl bych vědět, jestli jede vlak před polednem, protože už jsme měli být na místě, ale "
    "také nevím, jak se tam dostat.",
    "Romanian": "Aș vrea să știu dacă este un tren care pleacă înainte de prânz, pentru că nu putem să ajungem târziu.",
    "Hungarian": "Szeretném tudni, hogy van-e vonat, ami dél előtt indul, mert nekünk már ott kell lennünk, és nem "
    "akarunk késni.",
    "Turkish": "Öğleden önce kalkan bir tren var mı bilmek istiyorum, çünkü bu kadar geç olarak gitmek bizim için iyi "
    "değil ve daha erken.",
    "Indonesian or Malay": "Saya ingin tahu apakah ada kereta yang berangkat sebelum siang, karena kami tidak bisa "
    "datang terlambat dan sudah ditunggu.",
}


def told(*texts: str | None) -> list[str | None]:
    return languages(words(pl.Series(texts, dtype=pl.String))).to_list()


def test_a_sentence_of_each_language():
    assert told(*SENTENCES.values()) == list(SENTENCES)
    assert tuple(SENTENCES) == LANGUAGES


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "Yes!",
        "the",
        "Paris, London, Madrid, Rome",
        "12345 " * 50,
        "Съешь же ещё этих мягких булок",
        "def f(n):\n    d = n\n    l = [d, n, d]\n    return l[n] + d * n - l[d]",
        "北京是中华人民共和国的首都",
        "nicht the eine and auch that",
    ],
)
def test_no_language_where_little_is_known_or_two_come_close(text):
    assert told(text) == [None]


def test_only_the_start_of_a_text_is_looked_at():
    assert told(f"{SENTENCES['Dutch']} {SENTENCES['Dutch']} " + SENTENCES["French"] * 5) == ["Dutch"]


def test_by_hand():
    """`muy` and `pero` are Spanish alone, 1 each; `con`, of two languages, is 1/2; `de`, of many, nothing. 2.5 will do,
    where it is a tenth of the words too: of 25, not of 26.
    """
    assert told("muy pero con", "muy pero x", "muy pero de de de") == ["Spanish", None, None]
    assert told("muy pero con " + "x " * 22, "muy pero con " + "x " * 23) == ["Spanish", None]
    assert [name for name, known in FUNCTION_WORDS.items() if "con" in known.split()] == ["Spanish", "Italian"]


def test_nothing_at_all():
    assert told() == []


def test_the_mix_of_languages():
    """Two prompts in English, one untold; a completion-only row has no rejected side to count."""
    pairs = pl.LazyFrame(
        {
            "prompt_language": ["English", "English", None],
            "chosen_language": ["English", "French", None],
            "rejected_language": ["French", None, None],
            "rejected_len": [3, 0, 4],
        }
    )
    assert language_mix(pairs) == [
        {"language": "English", "prompt": 2, "chosen": 1, "rejected": 0},
        {"language": "unknown", "prompt": 1, "chosen": 1, "rejected": 1},
        {"language": "French", "prompt": 0, "chosen": 1, "rejected": 1},
    ]
    nobody = pl.LazyFrame(
        {f"{side}_language": [None] for side in ("prompt", "chosen", "rejected")} | {"rejected_len": [1]}
    )
    assert language_mix(nobody) == []
