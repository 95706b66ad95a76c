"""Run files, overrides and options that no command accepts."""

import os

import pytest
from bad_input import BARE, Case

DEEP = "[" * 5000 + "]" * 5000

CASES = [
    # ---- the file ----
    Case("prepare absent.toml", ("The run file does not exist.", "absent.toml", "run.toml")),
    Case("prepare {own}", ("The run file cannot be read.", "is a folder")),
    Case("audit {own}/pipe.toml", ("is a pipe or a device",), make=lambda own: os.mkfifo(own / "pipe.toml")),
    Case("score /dev/null", ("is a pipe or a device",)),
    Case("train {own}/" + "x" * 300, ("The run file cannot be read.", "too long")),
    Case("evaluate {own}/a.toml", ("not valid TOML", "invalid start byte"), {"a.toml": b"\xff\xfe"}),
    Case("report {own}/a.toml", ("not valid TOML", "at end of document"), {"a.toml": "out"}),
    Case("sql {own}/a.toml SELECT", ("not valid TOML", "more than 16 deep"), {"a.toml": f"a = {DEEP}"}),
    Case(
        "path {own}/a.toml out", ("more than 16 deep",), {"a.toml": BARE + "x = " + "{x = " * 5000 + "1" + "}" * 5000}
    ),
    Case("store list {own}/a.toml", ("5,000 dots",), {"a.toml": BARE + "[" + "a." * 5000 + "b]"}),
    Case("prepare {own}/a.toml", ("a number has more than 4,300 digits",), {"a.toml": BARE + "limit = " + "1" * 5000}),
    Case("prepare {own}/a.toml", ("a run file has at most 262,144",), {"a.toml": "#" * 300_000}),
    Case("prepare {own}/a.toml", ("out cannot be used: field required", "nothing"), {"a.toml": ""}),
    Case("prepare {own}/a.toml", ("data cannot be used",), {"a.toml": 'out = "o"\ndata = 5\n[reference]\nmodel = "m"'}),
    Case("prepare {own}/a.toml", ("reference.model cannot be used",), {"a.toml": BARE.replace('model = "m"', "")}),
    Case("prepare {own}/a.toml", ("unknown key: extra",), {"a.toml": "extra = 1\n" + BARE}),
    Case("prepare {own}/a.toml", ("Cannot overwrite",), {"a.toml": BARE + 'model = "n"\n'}),
    Case(
        "prepare {own}/a.toml", ("data.source cannot be used: it has a NUL",), {"a.toml": BARE.replace("d.", "\\u0000")}
    ),
    # ---- keys: all of them in every command ----
    *(
        Case(f"{command} --set train.lerning_rate=1", ("Did you mean 'train.learning_rate'?",))
        for command in (
            "prepare RUN",
            "audit RUN",
            "score RUN",
            "train RUN",
            "evaluate RUN",
            "report RUN",
            "sql RUN SELECT",
            "path RUN out",
            "store list RUN",
            "store verify RUN",
            "store gc RUN",
            "store compact RUN",
            "demo task RUN",
        )
    ),
    Case("prepare RUN --set train.epoch=1", ("Did you mean 'train.epochs'?",)),
    Case("prepare RUN --set train.labl_smoothing=0", ("Did you mean 'train.label_smoothing'?",)),
    Case("prepare RUN --set beta=0.1", ("Did you mean 'train.beta'?",)),
    Case("prepare RUN --set data.model=x", ("unknown key: data.model", "Did you mean 'reference.model'?")),
    Case("prepare RUN --set a.b.c.d=1", ("unknown key: a",)),
    Case("prepare RUN --set .=1", ("unknown key",)),
    # ---- a first one ----
    Case("init --model model --data pairs.jsonl", ("There is a file of that name", "--replace")),
    Case("init --out {own}/new.toml", ("needs a model and data", "no --model")),
    Case("init --out {own}/new.toml --model model --data absent.jsonl", ("No such dataset", "absent.jsonl")),
    Case(
        "init --out {own}/new.toml --model model --data pairs.jsonl --method dppo",
        ("no such method", "Did you mean 'dpo'?"),
    ),
    Case("init --out {own}/new.toml --from-trl {own}/a.yaml", ("TRL configuration cannot be read", "a.yaml")),
    Case("init --out {own}/new.toml --from-trl {own}/a.yaml", ("is not a mapping",), {"a.yaml": "- 1"}),
    Case("init --out {own}/new.toml --from-trl {own}/a.yaml", ("(TR-DPO)",), {"a.yaml": "sync_ref_model: true"}),
    Case("init --out {own}/n --from-axolotl {own}/a.yaml", ("no learning rate",), {"a.yaml": "rl: grpo"}),
    Case("init --out {own}/n --from-llamafactory {own}/a.yaml", ("names no dataset",), {"a.yaml": "stage: sft"}),
    # ---- overrides ----
    Case("prepare RUN --set data.limit", ("not of the form section.key=value",)),
    Case("prepare RUN --set =5", ("not of the form section.key=value",)),
    Case("prepare RUN --set out.x=1", ("not a section",)),
    Case("prepare RUN --set data=5", ("data cannot be used: it should be a section",)),
    Case("prepare RUN --set data.limit=" + "9" * 5000, ("more than 4,300 digits",)),
    Case("prepare RUN --set data.columns=" + DEEP, ("more than 16 deep",)),
    Case("prepare RUN --set data.source=\udcff", ("data.source cannot be used: it is not valid Unicode",)),
    # ---- values ----
    Case("prepare RUN --set data.limit=0", ("data.limit cannot be used", "greater than or equal to 1")),
    Case("prepare RUN --set data.limit=x", ("data.limit cannot be used", "valid integer")),
    Case("prepare RUN --set data.limit=1.5", ("data.limit cannot be used", "fractional")),
    Case("prepare RUN --set data.limit=99999999999", ("data.limit cannot be used: it is over 4,294,967,295",)),
    Case("prepare RUN --set data.format=xml", ("data.format cannot be used", "'xml'")),
    Case("prepare RUN --set data.test_share=1", ("data.test_share cannot be used", "less than 1")),
    Case("prepare RUN --set data.test_share=nan", ("data.test_share cannot be used", "finite")),
    Case("prepare RUN --set data.columns={prompt=1}", ("data.columns.prompt cannot be used",)),
    Case("prepare RUN --set data.max_prompt_length=99", ("leaves no room for a completion",)),
    Case("prepare RUN --set data.min_gap=inf", ("data.min_gap cannot be used", "finite")),
    Case("prepare RUN --set data.seed=18446744073709551616", ("data.seed cannot be used",)),
    Case("train RUN --set train.seed=18446744073709551616", ("train.seed cannot be used: it is over",)),
    Case("train RUN --set train.seed=-1", ("train.seed cannot be used",)),
    Case("train RUN --set train.epochs=inf", ("train.epochs cannot be used: input should be a finite number",)),
    Case("train RUN --set train.epochs=0", ("train.epochs cannot be used",)),
    Case("train RUN --set train.learning_rate=inf", ("train.learning_rate cannot be used",)),
    Case("train RUN --set train.learning_rate=-1", ("train.learning_rate cannot be used",)),
    Case("train RUN --set train.adam_beta1=1", ("train.adam_beta1 cannot be used",)),
    Case("train RUN --set train.batch_pairs=0", ("train.batch_pairs cannot be used",)),
    Case("train RUN --set train.scope=epoch", ("train.scope cannot be used",)),
    Case("train RUN --set train.dtype=float8", ("train.dtype cannot be used",)),
    Case("train RUN --set train.objective={dpo=inf}", ("train.objective cannot be used",)),
    Case("train RUN --set train.method_file=", ("train.method_file cannot be used: it is empty",)),
    Case("train RUN --set evaluate.every=1.5", ("evaluate.every cannot be used: a number of steps is a whole number",)),
    Case("train RUN --set evaluate.every=0", ("evaluate.every cannot be used", "greater than 0", "share of an epoch")),
    Case("train RUN --set evaluate.metric=bleu", ("evaluate.metric cannot be used", "'bleu'", "'accuracy'")),
    Case("train RUN --set evaluate.patience=0", ("evaluate.patience cannot be used", "greater than or equal to 1")),
    Case("score RUN --full-vocab some", ("score.full_vocab cannot be used", "'some'")),
    Case("score RUN --set score.topk=0", ("score.topk cannot be used",)),
    Case("score RUN --set compute.device=tpu", ("compute.device cannot be used",)),
    Case("audit RUN --set audit.similarity=2", ("audit.similarity cannot be used",)),
    Case("audit RUN --set audit.ngram=1", ("audit.ngram cannot be used",)),
    Case("audit RUN --contamination " + "x" * 5000, ("audit.contamination", "too long")),
    # ---- names of files and folders ----
    *(
        Case(f"prepare RUN --set {key}={name}", (f"{key} cannot be used: it", reason))
        for key in ("out", "score.store", "data.source", "data.test_source", "data.tokenizer", "reference.model")
        for name, reason in (("", "is empty"), ("a\0b", "NUL"), ("x" * 5000, "too long"))
    ),
    Case("prepare RUN --set data.source=~nobody_at_all/x", ("there is no user ~nobody_at_all",)),
    Case("evaluate RUN --model " + "x" * 5000, ("evaluate.model cannot be used", "too long")),
    *(
        Case(f"{stage} RUN --set {key}={address}", (f"{key} cannot be used: it", reason))
        for stage, key in (("prepare", "data.source"), ("score", "score.store"), ("train", "out"))
        for address, reason in (
            ("ftp://host/x", "of a kind that is not read; these are: s3://, gs://, hf://, file://"),
            ("s3://key:secret@bucket/x", "may hold credentials"),
            ("s3://bucket/x?signature=1", "may hold credentials"),
            ("file://x", "the whole path"),
            ("s3://", "no bucket"),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(refused, case):
    refused(case)


@pytest.mark.parametrize("stage", ["prepare", "audit", "score", "train", "evaluate", "report"])
@pytest.mark.parametrize("key", ["out", "score.store"])
def test_what_can_be_no_folder(refused, stage, key):
    message = refused(Case(f"{stage} RUN --set {key}={{own}}/file/below", (f"{key} is not a folder.",), {"file": ""}))
    assert "/file is a file" in message


@pytest.mark.parametrize("name", ["/dev/null", "/dev/null/x"])
def test_a_device_is_no_folder(refused, name):
    refused(Case(f"prepare RUN --set out={name}", ("out is not a folder.", "/dev/null is a device or a pipe")))
