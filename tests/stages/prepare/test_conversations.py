"""prepare on conversations: tools, system columns, templates of the run file, the end of a turn, and the preview."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_tokenizers import CHATML, LLAMA_3, R1, TOOLS, chat_tokenizer

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cli import run_command
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data import encoding
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.prepare import stage

ASKED = [{"role": "user", "content": "Weather in Rome?"}]
ROW = {"prompt": ASKED, "chosen": "It is sunny.", "rejected": "No."}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}


class Place:
    """A folder with rows and a tokenizer, and the run that prepares them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {"test_share": 0}

    def write(self, template: str | None, *rows: dict, generation: dict | None = None) -> "Place":
        model = self.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        self.tokenizer = chat_tokenizer(template)
        self.tokenizer.save_pretrained(model)
        if generation is not None:
            (model / "generation_config.json").write_text(json.dumps(generation))
        source = self.folder / "raw.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.data |= {"source": str(source)}
        return self

    def run(self, **data: Any) -> Run:
        reference = {"model": str(self.folder / "model")}
        tree = {"out": str(self.folder / "out"), "reference": reference, "data": {**self.data, **data}}
        return Run.model_validate(tree)

    def texts(self, **data: Any) -> list[tuple[str, str, str | None]]:
        """What the token ids of the training pairs decode to."""
        tokens = TokenFile(stage.prepare(self.run(**data)).paths.tokens("train"))
        return [
            tuple(
                self.tokenizer.decode(tokens.row(index, side)) for side in ("prompt_ids", "chosen_ids", "rejected_ids")
            )
            for index in range(len(tokens))
        ]

    def reasons(self) -> list[tuple[str, str]]:
        return pl.read_parquet(RunPaths.of(self.run()).quarantine).select("reason", "detail").rows()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER])])
def test_tools_stand_in_the_prompt_as_transformers_writes_them(place, tools):
    calling = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}
    place.write(TOOLS, {**ROW, "tools": tools, "chosen": [calling]})
    expected = place.tokenizer.apply_chat_template(ASKED, tools=[WEATHER], add_generation_prompt=True, tokenize=False)
    assert place.texts() == [(expected, "<call>weather{}</call><|im_end|>", "No.<|im_end|>")]


def test_a_system_column_of_text_pairs_needs_a_chat_template(place):
    row = {"system": "Be kind.", "prompt": "Hi", "chosen": "Hello", "rejected": "Go"}
    place.write(CHATML, row, {**row, "system": None, "prompt": "Ho"})
    start = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    assert [prompt for prompt, _, _ in place.texts()] == [
        f"{start}Hi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHo<|im_end|>\n<|im_start|>assistant\n",
    ]
    place.write(None, row)
    with pytest.raises(InputError, match="a system or tools column") as caught:
        place.texts()
    assert 'columns = { system = "" }' in caught.value.fix
    assert place.texts(columns={"system": ""}) == [("Hi", "Hello</s>", "Go</s>")]


def test_columns_that_say_nothing_ask_for_no_template(place, caplog):
    place.write(None, {"system": "", "tools": [], "prompt": "Hi", "chosen": "Hello", "rejected": "Go"})
    with caplog.at_level("INFO", logger="scoreonce"):
        assert place.texts() == [("Hi", "Hello</s>", "Go</s>")]
    assert "system, tools of" in caplog.text
    assert "empty in the first 1 rows, and not read" in caplog.text


@pytest.mark.parametrize("form", ["pairs", "implicit"])
def test_a_format_that_would_drop_a_column_is_refused(place, form):
    place.write(CHATML, {"system": "Be kind.", "prompt": "Hi", "chosen": "Hi a", "rejected": "Hi b"})
    with pytest.raises(InputError, match=f"format {form} has no place for a column: system") as caught:
        place.texts(format=form)
    assert 'columns = { system = "" }' in caught.value.fix


def test_transcripts_with_a_system_column_are_refused(place):
    place.write(CHATML, {"system": "Be kind.", "chosen": "Hi\n\nAssistant: a", "rejected": "Hi\n\nAssistant: b"})
    with pytest.raises(InputError, match="no place for a column: system"):
        place.texts()


def test_the_source_of_messages_is_read_as_messages_and_said(place, capsys):
    sides = [json.dumps([*ASKED, {"role": "assistant", "content": text}]) for text in ("Sunny.", "No.")]
    place.write(LLAMA_3, {"prompt": "Weather in Rome?", "chosen": sides[0], "rejected": sides[1]})
    assert run_command(["prepare", place_file(place), "--preview", "0"]) == 0
    assert "Text in chosen, rejected of" in capsys.readouterr().out
    assert [sides for _, *sides in place.texts()] == [["Sunny.<|eot_id|>", "No.<|eot_id|>"]]


def test_a_prompt_that_the_completions_repeat_is_cut_off_and_said(place, caplog):
    rows = [
        {"prompt": f"Name {name}.", "chosen": f"Name {name}. Yes.", "rejected": f"Name {name}. No."}
        for name in ("one", "two")
    ]
    place.write(None, *rows, {"prompt": "Name three.", "chosen": "Yes.", "rejected": "No."})
    with caplog.at_level("INFO", logger="scoreonce"):
        assert place.texts() == [
            ("Name one.", " Yes.</s>", " No.</s>"),
            ("Name two.", " Yes.</s>", " No.</s>"),
            ("Name three.", "Yes.</s>", "No.</s>"),
        ]
    assert "The prompt is repeated at the start of chosen, rejected of" in caplog.text


def test_an_end_of_the_generation_config_is_an_end_in_plain_text_too(place):
    """EOS is </s>; <|eot_id|> ends a turn by generation_config alone."""
    row = {"prompt": "Hi", "chosen": "Hello<|eot_id|>\n", "rejected": "Go"}
    number = chat_tokenizer(None).convert_tokens_to_ids("<|eot_id|>")
    place.write(None, row, generation={"eos_token_id": [number, 70]})
    assert place.texts() == [("Hi", "Hello<|eot_id|>", "Go</s>")]
    place.tokenizer.save_pretrained(place.folder / "tokenizer")
    place.data |= {"tokenizer": str(place.folder / "tokenizer")}
    assert place.texts(seed=1) == [("Hi", "Hello<|eot_id|>", "Go</s>")]  # the reference model's
    del place.data["tokenizer"]
    place.write(None, row, generation={"eos_token_id": None})
    assert place.texts() == [("Hi", "Hello<|eot_id|>\n</s>", "Go</s>")]


def test_a_damaged_generation_config(place):
    place.write(None, ROW)
    (place.folder / "model" / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match="generation config cannot be read"):
        place.texts()


def test_a_generation_prompt_that_opens_a_think_block(place):
    place.write(R1, ROW)
    with pytest.raises(InputError, match="Not one row"):
        place.texts()
    shown = stage.preview(place.run(), 2)
    assert (shown.pairs, shown.refused[0].reason) == ((), "template_rewrites_prompt")
    assert "<think>\\n', which opens a think block" in shown.refused[0].detail
    assert "Set data.chat_template, or data.chat_template_kwargs" in shown.refused[0].detail
    expected = [("<s><|User|>Weather in Rome?<|Assistant|>", "It is sunny.</s>", "No.</s>")]
    assert place.texts(chat_template_kwargs={"thinking": False}) == expected


def test_the_template_of_the_run_file_is_part_of_what_decides_the_pairs(place):
    """By path or as text; a file whose text changes makes the pairs out of date, for `prepare` and for later stages."""
    file = place.folder / "chat.jinja"
    place.write(LLAMA_3, ROW)
    plain = place.texts()
    file.write_text(CHATML)
    assert place.texts(chat_template=str(file)) != plain
    assert place.texts(chat_template=CHATML) == place.texts(chat_template=str(file))
    run = place.run(chat_template=str(file))
    before = require_pairs(run)
    file.write_text(CHATML.replace("<|im_start|>", "<|end|>"))
    with pytest.raises(InputError, match="other data or settings") as caught:
        require_pairs(run)
    assert "chat.jinja" in caught.value.found
    stage.prepare(run)
    after = require_pairs(run)
    assert after.tokenizer.digest != before.tokenizer.digest
    file.unlink()
    require_pairs(run)  # the pairs are good without it
    with pytest.raises(InputError, match="chat template cannot be read"):
        stage.prepare(run)
    with pytest.raises(InputError) as caught:
        require_pairs(place.run(chat_template=str(file), chat_template_kwargs={"thinking": True}))
    assert "data.chat_template_kwargs" in caught.value.found


def test_parquet_gives_the_prompts_of_json(place):
    """Parquet gives both tools, and both messages, the keys of the other with null."""
    tools = [WEATHER, {"type": "function", "function": {"name": "time", "parameters": {"zone": "string"}}}]
    turns = [
        *ASKED,
        {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": {"zone": "CET"}}}]},
    ]
    turns += [{"role": "tool", "content": "noon", "tool_call_id": "1"}]
    place.write(TOOLS, {**ROW, "tools": tools, "prompt": turns})
    expected = place.texts()
    table = pa.Table.from_pylist([{**ROW, "tools": tools, "prompt": turns}])
    pq.write_table(table, place.folder / "raw.parquet")
    assert "zone" in str(table.schema.field("tools").type)
    assert place.texts(source=str(place.folder / "raw.parquet")) == expected


def test_a_template_that_does_not_end_costs_a_row_its_place_and_no_more(place, monkeypatch):
    monkeypatch.setattr(encoding, "SECONDS_PER_CONVERSATION", 0.05)
    endless = "{% if 'loop' in messages[0].content %}" + "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    place.write(endless + "{% endif %}" + CHATML, {**ROW, "prompt": [{"role": "user", "content": "loop"}]}, ROW)
    assert len(place.texts()) == 1
    assert place.reasons() == [("template_refuses", "not finished after 0.05 s")]


def place_file(place: Place) -> str:
    file = place.folder / "run.toml"
    data = "\n".join(f"{key} = {json.dumps(value)}" for key, value in place.data.items())
    file.write_text(f'out = "{place.folder}/out"\n[data]\n{data}\n[reference]\nmodel = "{place.folder}/model"\n')
    return str(file)


def test_the_command_shows_two_pairs_or_as_many_as_asked_for(place, capsys):
    place.write(CHATML, *({**ROW, "prompt": [{**ASKED[0], "content": f"Question {number}?"}]} for number in range(4)))
    file = place_file(place)
    assert run_command(["prepare", file, "--preview", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  prompt   | <|im_start|>user\\n\n           | Question ") == 3
    assert printed.count("  chosen   | It is sunny.<|im_end|>\n") == 3
    assert "3 pairs; 0 rows before them cannot be used; nothing is written\n" in printed
    assert not (place.folder / "out").exists()
    assert run_command(["prepare", file]) == 0
    assert capsys.readouterr().out.count("  chosen   | It is sunny.<|im_end|>\n") == 2
    assert run_command(["prepare", file, "--set", "data.seed=1", "--preview", "0"]) == 0
    assert "  chosen   |" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("data.chat_template='no/such.jinja'", "chat template cannot be read"),
        ("data.chat_template=''", "chat template cannot be read"),
        ("data.chat_template='{% if %}'", "not valid Jinja"),
        ("data.chat_template_kwargs={date = 2024-07-26}", "data.chat_template_kwargs"),
        ("data.chat_template_kwargs={messages = []}", "no variable 'messages'"),
    ],
)
def test_template_settings_that_cannot_be_used(place, capsys, setting, what):
    place.write(CHATML, {**ROW, "prompt": ASKED})
    assert run_command(["prepare", place_file(place), "--set", setting]) == 2
    assert what in capsys.readouterr().err
    assert not (place.folder / "out").exists() or not list((place.folder / "out" / "pairs").iterdir())


def test_the_preview_names_the_rows_that_cannot_be_used(place, capsys):
    place.write(CHATML, {**ROW, "chosen": [{"role": "narrator", "content": "\x1b[2J"}]}, ROW, {**ROW, "chosen": ""})
    assert run_command(["prepare", place_file(place), "--preview", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 pairs; 1 rows before them cannot be used" in printed
    assert "  row 0: unknown_role: chosen[0] has the role 'narrator'" in printed
