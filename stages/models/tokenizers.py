"""A model's tokenizer, and the control tokens that it and the generation config name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.models import folders

if TYPE_CHECKING:
    from scoreonce.schemas.manifests import SpecialTokens

# Digits, contractions, accents, line ends and runs of spaces: where the rules of tokenizers differ.
PROBES = (
    "In 2023, 650841823 people",
    "don't, we'LL",
    "naïve café: 漢字 🙂",
    "if x:\n\n\n    return\t  y  ",
    "Ångström",
)


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name. Raises `InputError` if there is none."""
    folder = folders.folder_of(name, revision, weights=False)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=folders.trust_remote_code)
    except Exception as error:  # of any kind, where a file of the folder has another form than transformers expects
        raise InputError(
            "The tokenizer cannot be loaded.",
            found=first_line(error),
            where=str(folder),
            fix=folders.code_fix(error) or "Set data.tokenizer to a folder with tokenizer.json, or a Hub name.",
        ) from None


def other_rules(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """That a text becomes other tokens than by the rules of the tokenizer's tokenizer.json; None where none does.

    From version 5 on, transformers may choose a class by the model's type, and put the class's rules in the place of
    the file's (its issue 45920).
    """
    file = Path(tokenizer.name_or_path) / "tokenizer.json"
    if not tokenizer.is_fast or not file.is_file():
        return None
    stated = Tokenizer.from_file(str(file))
    stated.no_padding()
    stated.no_truncation()
    for text in PROBES:
        used, own = (each.encode(text, add_special_tokens=False) for each in (tokenizer.backend_tokenizer, stated))
        if used.ids != own.ids:
            return (
                f"The tokenizer does not follow its tokenizer.json: as {type(tokenizer).__name__}, which transformers "
                f"makes of it, {text!r} is {used.tokens}; by {file} it is {own.tokens}."
            )
    return None


def special_tokens(tokenizer: PreTrainedTokenizerBase, ends: Iterable[int] = ()) -> SpecialTokens:
    """The ids of a tokenizer's control tokens; `ends` are those that end a completion, EOS where none is given."""
    from scoreonce.schemas.manifests import SpecialTokens  # pydantic

    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    last = sorted(ends) or [tokenizer.eos_token_id]
    every = sorted({*tokenizer.all_special_ids, *added, *last})
    return SpecialTokens(bos=tokenizer.bos_token_id, ends=last, every=every)


def end_ids(tokenizer: PreTrainedTokenizerBase, *folders: Path) -> list[int]:
    """The control tokens at which generation ends, by the generation config of the first folder that has one.

    Raises `InputError` if it cannot be read.
    """
    file = next((file for folder in folders if (file := folder / "generation_config.json").is_file()), None)
    if file is None:
        return []
    try:
        stated = json.loads(file.read_text("utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            "The generation config cannot be read.",
            found=str(error),
            where=str(file),
            fix="Download the model again, or remove this file.",
        ) from None
    # The config of a tiny or converted model may name a token that is ordinary text.
    known = tokenizer.added_tokens_decoder
    return [
        each for each in (stated if isinstance(stated, list) else [stated]) if isinstance(each, int) and each in known
    ]
