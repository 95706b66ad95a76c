"""What is fuzzed: functions of bytes that raise nothing but `InputError`, whatever the bytes.

Each checks more than that nothing breaks: a row is a pair or in quarantine, a text is cut without loss, a run file that
is accepted can be written down.
"""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scoreonce.pipeline.templates.renderer import chat_renderer
from scoreonce.pipeline.text.quarantine import REASONS, RowError
from scoreonce.pipeline.text.rows_to_pairs import prepare_rows
from scoreonce.pipeline.text.tokenize import text_encoder
from scoreonce.pipeline.text.transcripts import split_transcripts
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Pair, arrow_schema
from scoreonce.stages import config, run_file
from scoreonce.stages.config import Data, Run
from scoreonce.stages.data.dataset import dataset_of
from scoreonce.stages.data.encoding import Encoding
from scoreonce.stages.prepare.pair_files import pair_columns
from scoreonce.stages.raw import raw_files
from scoreonce.stages.raw.raw_data import RawData

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROLES = ("user", "assistant", "system", "tool", "human", "")
Target = Callable[[bytes], None]


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that every text has tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate([*alphabet, "</s>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = CHATML
    return tokenizer


def _prepare(rows: list[Any], **data: Any) -> None:
    """What `prepare` does with raw rows; no row vanishes."""
    raw = RawData("fuzzed", {}, len(rows), lambda _: iter([rows]))
    recipe = dataset_of(raw, Data(source="fuzzed", max_length=128, **data), _encoding()).recipe
    pairs, refused = prepare_rows(rows, 0, recipe)
    assert {pair.row for pair in pairs} | {row.row for row in refused} == set(range(len(rows)))
    assert {row.reason for row in refused} <= REASONS.keys()
    pa.Table.from_pydict(pair_columns(pairs), schema=arrow_schema(Pair))
    pa.array([text for row in refused for text in (row.detail, row.source)], pa.string())


@cache
def _encoding() -> Encoding:
    return Encoding(text_encoder(_tokenizer()), chat_renderer(_tokenizer()))


def jsonl(content: bytes) -> None:
    """A JSON or JSONL file, in whatever format it seems to have."""
    with suppress(InputError):
        with raw_files.readable(Path("fuzzed")):
            rows = list(raw_files._json_rows(io.BytesIO(content[1:]), "fuzzed", may_be_array=content[:1] > b"\x7f"))
        _prepare(rows, preference_from_scores=1.0 if content[:1] > b"\xbf" else None)


def hh(content: bytes) -> None:
    """Two transcripts that share a prompt: nothing of either is lost. The first byte allows lone surrogates."""
    try:
        text = content[1:].decode("utf-8", "surrogatepass" if content[:1] > b"\x7f" else "replace")
    except UnicodeDecodeError:
        return
    first, _, second = text.partition("\0")
    with suppress(RowError):
        prompt, chosen, rejected = split_transcripts(first, second)
        assert (prompt + chosen, prompt + rejected) == (first, second)
    with suppress(InputError):
        _prepare([{"chosen": first, "rejected": second}], format="implicit")


def chat(content: bytes) -> None:
    """Conversations, a line per message. Its first character chooses the role, or JSON in place of text or message."""
    messages: list[Any] = []
    for line in content.decode("utf-8", "replace").split("\n"):
        number = ord(line[0]) if line else 0
        value: Any = line[1:]
        if number % 16 == 15:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = None
        messages.append({"role": ROLES[number % len(ROLES)], "content": value} if number % 32 < 30 else value)
    half = len(messages) // 2
    row = {"prompt": messages[:half], "chosen": messages[half:], "rejected": messages[half + 1 :]}
    shapes = [row, {"chosen": messages, "rejected": messages[:-1]}, {"messages": messages}, row | {"chosen": "text"}]
    for shape in shapes:
        with suppress(InputError):
            _prepare([shape])


def run_text(content: bytes) -> None:
    """A run file: what is accepted can be written down and read again."""
    try:
        tree = run_file._parsed(content.decode("utf-8"))
    except ValueError:  # also text that is not UTF-8; `run_file.read` gives it four parts
        return
    try:
        run = config.checked(tree, "fuzzed")
    except InputError:
        return
    text = tomli_w.dumps(run.model_dump(exclude_none=True))
    assert Run.model_validate(run_file._parsed(text)) == run


TARGETS: dict[str, Target] = {"jsonl": jsonl, "hh": hh, "chat": chat, "run_file": run_text}
SEEDS: dict[str, list[bytes]] = {
    "jsonl": [
        b'1{"prompt": "p", "chosen": "yes", "rejected": "no", "chosen_score": 2, "rejected_score": 1}\n' * 2,
        b'1{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: a\\n\\nAssistant: c"}\n',
        b'1{"prompt": "p", "response_1": "a", "response_2": "b", "preference": 0.5, "source": "s"}\n',
        b'\xc0[{"prompt": "p", "responses": ["a", "b", null], "scores": [1, 2.5, -1e300]}]',
        b'1{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}]}\n',
        b'1{"prompt": "p", "completion": "c", "label": true}\n{"messages": [{"role": "user", "content": "\\ud800"}]}\n',
        b"\xc0[" + b"9" * 400 + b", NaN, -Infinity, 1e999]",
    ],
    "hh": [
        b"1\n\nHuman: a\n\nAssistant: b\0\n\nHuman: a\n\nAssistant: c",
        b"\xff<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na\0<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nb",
        "1ünï 👩‍👩‍👧 cödé a\0ünï 👩‍👩‍👧 cödé b".encode(),
    ],
    "chat": [b"0hello\n1hi\n0more\n1yes\n1no", b'?[1]\n?{"a": null}\n>x\n0q\n1a', b"2system\n0q\n1a\n1b"],
    "run_file": [
        b'out = "o"\n[data]\nsource = "d"\ncolumns = {prompt = "q"}\n[reference]\nmodel = "m"\n[train]\nbeta = 0.1\n',
        b'out = "s3://x"\n[data]\nsource = ""\nseed = 18446744073709551616\n[reference]\nmodel = "~x/m"\n',
        b'out = "o"\ndata.source = "d"\nreference.model = "m"\ntrain.objective = {dpo = 1, sft = inf}\n',
    ],
}
