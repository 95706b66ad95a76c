"""The text of a run file: what is refused, and which key was meant."""

import os

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.hyperparameters import HYPERPARAMETERS, OTHER_NAMES
from scoreonce.stages import config, run_file
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run

BARE = 'out = "runs/mine"\n[data]\nsource = "pairs.jsonl"\n[reference]\nmodel = "models/sft"\n'


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(BARE)
    return file


def refused(path, *overrides: str) -> InputError:
    with pytest.raises(InputError) as raised:
        config.load(path, list(overrides))
    return raised.value


def test_the_names_of_hyperparameters_are_those_of_the_methods():
    from scoreonce.pipeline.methods import table  # torch
    from scoreonce.pipeline.methods.pieces.hyperparameters import SYNONYMS
    from scoreonce.pipeline.methods.pieces.registry import PIECES

    declared = {name for pieces in PIECES.values() for piece in pieces.values() for name in piece.hyperparameters}
    others = {*SYNONYMS, *(name for row in table() for name in row["synonyms"])}
    assert list(HYPERPARAMETERS) == sorted(declared)
    assert list(OTHER_NAMES) == sorted(others - declared)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.lerning_rate", "train.learning_rate"),
        ("train.epoch", "train.epochs"),
        ("train.bta", "train.beta"),
        ("train.gama", "train.gamma"),
        ("data.sauce", "data.source"),
        ("data.learning_rate", "train.learning_rate"),
        ("data.beta", "train.beta"),
        ("learning_rate", "train.learning_rate"),
        ("trian.beta", "train"),
        ("source", "data.source"),
        ("train.source", "data.source"),
        ("score.topkk", "score.topk"),
    ],
)
def test_one_did_you_mean_over_keys_and_hyperparameters(path, key, meant):
    error = refused(path, f"{key}=1")
    assert f"Did you mean '{meant}'?" in error.found
    assert "unknown key" in error.what
    with pytest.raises(InputError, match="unknown key"):
        Run.load(path).replace({key: 1})


def test_a_key_that_resembles_nothing_gets_no_suggestion(path):
    assert refused(path, "train.zzzzqqqq=1").found == "train.zzzzqqqq = 1."


def test_hyperparameters_of_a_method_file_are_known_without_running_it(path, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        'raise SystemExit("run")\ndef loss(margin, *, slack=1.0): ...\nmethod("m", synonyms={"give": "slack"})\n'
    )
    given = f"train.method_file={mine}"
    assert config.load(path, [given, "train.slack=2", "train.give=3"]).train.hyperparameters == {"slack": 2, "give": 3}
    assert "Did you mean 'train.slack'?" in refused(path, given, "train.slak=2").found
    assert config.load(path, ["train.method_file=absent.py", "train.other=1"]).train.hyperparameters == {"other": 1}
    mine.write_text("(" * 5000)
    assert config.load(path, [given, "train.other=1"]).train.hyperparameters == {"other": 1}


@pytest.mark.parametrize("value", ["18446744073709551616", "4294967296", "-1"])
def test_whole_numbers_have_a_range(path, value):
    assert "train.seed cannot be used" in refused(path, f"train.seed={value}").what
    assert config.load(path, ["train.seed=4294967295"]).train.seed == 2**32 - 1


@pytest.mark.parametrize(
    "key",
    [
        f"{section}.{name}"
        for section, names in run_file.keys(Run).items()
        for name in names
        if section and "float" in str((Run.model_fields[section].annotation).model_fields[name].annotation)
    ],
)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_every_number_is_finite(path, key, value):
    given = f"{key}={{dpo={value}}}" if key == "train.objective" else f"{key}={value}"
    assert f"{key} cannot be used" in refused(path, given).what


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BARE + "[a]\nb = " + "[" * 5000 + "]" * 5000, "lists or tables are more than 16 deep"),
        (BARE + "a = " + "{a=" * 5000 + "1" + "}" * 5000, "lists or tables are more than 16 deep"),
        (BARE + "a = " + "[" * 17 + "]" * 17, "lists or tables are more than 16 deep"),
        (BARE + "[" + "a." * 20 + "b]", "lists or tables are more than 16 deep"),
        ("[" + "a." * 100_000 + "b]\n" + BARE, "line 1 has 100,000 dots"),
        (BARE + "seed = " + "1" * 5000, "a number has more than 4,300 digits"),
        (BARE + "day = 2026-13-45", "at line 6"),
        (BARE + "model = 'twice'\n", "Cannot overwrite a value"),
        ("out = 'no end", "at end of document"),
    ],
    ids=lambda text: text[-30:],
)
def test_text_that_is_no_run_file(path, text, reason):
    path.write_text(text)
    error = refused(path)
    assert error.what == "The run file is not valid TOML."
    assert reason in error.found
    assert len(str(error)) < 1000


def test_what_is_no_file_is_not_opened(tmp_path):
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    assert "is a pipe or a device" in refused(pipe).found
    assert "is a folder" in refused(tmp_path).found
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (run_file.LARGEST + 1))
    assert "262,145 bytes, and a run file has at most 262,144" in refused(large).found
    assert refused(tmp_path / "absent.toml").fix.startswith("Give one of: ")
    assert "too long" in refused(tmp_path / ("x" * 5000)).found
    assert refused(tmp_path / "a\0b").what == "The run file does not exist."


@pytest.mark.parametrize("name", ["", " ", "a\0b", "a" * 256, "b/" * 1800, "\udcff", "~no_such_user_/runs"])
@pytest.mark.parametrize(
    "key", ["out", "score.store", "data.source", "reference.model", "train.method_file", "audit.contamination"]
)
def test_names_that_no_file_can_have(path, key, name):
    with pytest.raises(InputError) as raised:
        Run.load(path, {key: [name] if key == "audit.contamination" else name})
    assert "cannot be used: it is" in raised.value.what or "NUL" in raised.value.what or "no user" in raised.value.what


@pytest.mark.parametrize("key", ["data.source", "data.test_source", "score.store", "out"])
def test_data_scores_and_outputs_may_be_at_an_address(path, key):
    section, _, name = key.rpartition(".")
    run = Run.load(path, {key: "s3://bucket/run/"})
    assert getattr(getattr(run, section) if section else run, name) == "s3://bucket/run"
    assert "not read; these are: s3://" in refused(path, f"{key}=ftp://host/x").what
    error = refused(path, f"{key}=s3://me:hidden@bucket/x")
    assert "it may hold credentials" in error.what
    assert "hidden" not in str(error)


def test_the_copy_of_a_store_is_in_the_cache(path, monkeypatch, tmp_path):
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path))
    paths = [RunPaths.of(Run.load(path, {"score.store": at})) for at in ("s3://a/scores", "s3://b/scores")]
    assert [each.store_name for each in paths] == ["s3://a/scores", "s3://b/scores"]
    assert {each.store.parent for each in paths} == {tmp_path / "stores"}
    assert len({each.store for each in paths}) == 2
    assert all(each.store.name.startswith("scores-") for each in paths)


def test_the_copy_of_a_run_is_in_the_cache_and_its_store_below_its_address(path, monkeypatch, tmp_path):
    """Unless score.store says where the store is."""
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path))
    one, other = (RunPaths.of(Run.load(path, {"out": at, "score.store": None})) for at in ("s3://a/run", "s3://b/run"))
    assert one.address == "s3://a/run"
    assert one.out.name == other.out.name == "run"
    assert one.out.parent.parent == other.out.parent.parent == tmp_path / "runs"
    assert one.out != other.out
    assert one.store_address == "s3://a/run/store"
    assert one.store.parent == tmp_path / "stores"
    local = RunPaths.of(Run.load(path, {"out": "s3://a/run", "score.store": "/x/store"}))
    assert (str(local.store), local.store_address, local.address) == ("/x/store", None, "s3://a/run")


@pytest.mark.parametrize("key", ["out", "score.store"])
def test_a_folder_that_cannot_be_made_is_refused_at_once(path, tmp_path, key):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, what in [("file", "a file"), ("file/below", "a file"), ("dangling", "a link that leads nowhere")]:
        with pytest.raises(InputError) as raised:
            RunPaths.of(Run.load(path, {key: str(tmp_path / name)}))
        assert (raised.value.what, raised.value.found.rpartition(" is ")[2]) == (f"{key} is not a folder.", what)
    with pytest.raises(InputError, match="is not a folder"):
        RunPaths.of(Run.load(path, {key: "/dev/null"}))


def test_a_home_folder_is_found(path, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = RunPaths.of(Run.load(path, {"out": "~/runs", "score.store": "~/store"}))
    assert (paths.out, paths.store) == (tmp_path / "runs", tmp_path / "store")


def test_replace_refuses_a_key_inside_a_value(path):
    with pytest.raises(InputError, match="not a section"):
        Run.load(path).replace({"out.beta": 1})
    with pytest.raises(InputError, match="unknown key"):
        Run.load(path).replace({".".join("a" * 300): 1})
