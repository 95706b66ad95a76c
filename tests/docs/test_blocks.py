"""Every command and snippet of README and docs runs as it stands, on small models and data.

Where a page names what only its reader has (a key, a number of GPUs), the test says what it puts there. Programs of
others that the tests do not install are stand-ins, which want the files that the page hands them.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, RUN_FILE, Folder, blocks, user_folder
from hub_server import serving
from s3_server import ENVIRONMENT, emptied, s3_server

# Blocks that other tests run.
ELSEWHERE = {
    "audits.md": (range(11), "tests/docs/test_audits.py"),
    "compare.md": (range(2, 6), "tests/stages/compare/test_recipe.py"),
    "exchange.md": (range(1, 2), "tests/stages/exchange/test_trl.py"),
    "iterate.md": (range(5), "tests/stages/pairs/test_iterate.py"),
    "judge.md": (range(3, 4), "tests/stages/train/test_lm_eval.py"),
    "method-file.md": (range(1), "tests/stages/train/test_stage.py"),
    "python.md": (range(2), "tests/stages/api/test_public_package.py"),
    "quickstart.md": (range(1, 4), "tests/docs/test_site.py"),
}
HERE: dict[tuple[str, int], str] = {}
STAGES = "scoreonce prepare RUN.toml\nscoreonce score RUN.toml\n"


def runs(page: str, *numbers: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """These blocks of a page run in this test, all of them."""

    def of(test: Callable[..., None]) -> Callable[..., None]:
        HERE.update(((page, number), test.__name__) for number in numbers)
        return pytest.mark.long(test)

    return of


def needs(module: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module}: pip install '{package}'")


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Folder]:
    made = user_folder(tmp_path)
    yield made
    assert made.ran == {block for block, test in HERE.items() if test == request.function.__name__}


def test_every_block_runs_in_a_test() -> None:
    there = {(page.name, number) for page in PAGES for number in range(len(blocks(page.name)))}
    others = {(page, number) for page, (numbers, _) in ELSEWHERE.items() for number in numbers}
    assert not HERE.keys() & others
    assert HERE.keys() | others == there
    for page, (_, test) in ELSEWHERE.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), f"{test} says nothing of {page}"


# ---- README and the first pages ----


def with_make(folder: Folder) -> None:
    """The files that our Makefile reads, and an environment that is ready."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "benchmarks"):
        (folder.path / name).symlink_to(ROOT / name)
    (folder.path / ".venv").mkdir()
    for each in Path(sys.executable).parents[1].iterdir():
        if each.name != ".ready":
            (folder.path / ".venv" / each.name).symlink_to(each)
    (folder.path / ".venv" / ".ready").touch()
    folder.environment |= {"MAKEFLAGS": "", "MAKELEVEL": "", "MFLAGS": ""}


@runs("README.md", 0, 1, 2, 3)
def test_readme(folder: Folder) -> None:
    """The demo and the tests are only expanded: CI runs the second, and both take minutes."""
    with_make(folder)
    said = folder.run("README.md", 0, {"make ": "make -n "})
    assert "scoreonce demo task configs/demo_sft.toml" in said
    assert "pytest" in said
    (folder.path / "configs" / "mine.toml").unlink()
    small = "--set train.max_steps=2 --set train.batch_pairs=4 --set data.test_share=0.4"
    folder.run("README.md", 1, {"--out configs/mine.toml": f"--out configs/mine.toml {small}"})
    folder.run("README.md", 2)
    page = (folder.path / "runs" / "mine" / "report.html").read_text(encoding="utf-8")
    assert all(label in page for label in ("beta_dpo", "minor_dpo", "alpha_dpo", "dpo-gentle"))
    shutil.rmtree(folder.path / "runs")
    said = folder.run("README.md", 3)
    assert "report.html" in said


@runs("quickstart.md", 0)
def test_quickstart(folder: Folder) -> None:
    with_make(folder)
    assert "scoreonce" in folder.run("quickstart.md", 0)


@runs("errors.md", 0)
def test_doctor(folder: Folder) -> None:
    folder.do(STAGES)
    assert "store" in folder.run("errors.md", 0)


@runs("chat.md", 0)
def test_preview(folder: Folder) -> None:
    assert "pair 20" in folder.run("chat.md", 0, {"--preview 20": "--preview 20 --set data.test_share=0"})
    assert not (folder.path / "runs" / "mine" / "pairs").exists()


@runs("formats.md", 0)
def test_formats(folder: Folder) -> None:
    with (folder.path / "pairs.jsonl").open("a") as file:
        file.write('{"prompt": "p", "chosen": "", "rejected": "x"}\n')
    folder.do("scoreonce prepare RUN.toml")
    assert "chosen_is_blank" in folder.run("formats.md", 0)


@runs("migration.md", 0)
def test_migration(folder: Folder) -> None:
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    (theirs,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (folder.path / "run.toml").unlink()
    (folder.path / "dpo_config.yaml").write_text(theirs)
    (folder.path / "config.yaml").write_text(
        "base_model: models/sft\nrl: dpo\nlearning_rate: 5e-6\ndatasets: [{path: org/d, split: train}]\n"
    )
    (folder.path / "llama3_dpo.yaml").write_text("model_name_or_path: m\nstage: dpo\nfinetuning_type: full\n")
    folder.run("migration.md", 0)
    for name, source in (("mine.toml", "data/pairs"), ("run.toml", "org/d"), ("llama3.toml", "pairs.jsonl")):
        assert f'source = "{source}"' in (folder.path / name).read_text()


@runs("scale.md", 0)
def test_estimate(folder: Folder) -> None:
    assert "GiB" in folder.run("scale.md", 0)


@runs("benchmarks.md", 0)
def test_bench(folder: Folder) -> None:
    """What takes hours is only expanded, and the shortest runs at its tiny size: test_smoke.py has them all."""
    with_make(folder)
    hours = {"make bench  ": "make -n bench ", 'make bench ONLY="': 'make -n bench ONLY="'}
    said = folder.run("benchmarks.md", 0, {**hours, "ONLY=peers BENCH_ARGS": "ONLY=columns BENCH_ARGS"})
    assert "in peers growth;" in said
    assert "Measured" in said


# ---- The cache ----


@runs("cache.md", 0, 3)
def test_parts_and_the_store(folder: Folder) -> None:
    folder.run("cache.md", 0)
    folder.do("scoreonce score RUN.toml")
    (key,) = [each.name for each in (folder.path / "runs" / "mine" / "store").iterdir() if each.is_dir()]
    assert key in folder.run("cache.md", 3, {"KEY": key})
    assert not (folder.path / "runs" / "mine" / "store" / key).exists()


@needs("ray", "scoreonce[ray]")
@runs("cache.md", 1)
def test_ray(folder: Folder) -> None:
    """A cluster is started and ended by tests/stages/score/test_ray.py; here the command starts its own."""
    folder.program("ray", '[ "$*" = "start --head" ]')
    folder.program("pip", "")
    folder.environment |= {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled"}
    (folder.path / "RUN.toml").write_text(RUN_FILE + "[score]\nshard_completions = 8\n")
    folder.do("scoreonce prepare RUN.toml")
    folder.run("cache.md", 1, {"--group-size 8": "--group-size 2"})
    assert "nothing" in folder.do("scoreonce score RUN.toml")


@needs("s3fs", "scoreonce[s3]")
@runs("cache.md", 2)
def test_s3(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "cache.md").read_text(encoding="utf-8").partition("## A store at an address")[2]
    (said,) = re.findall(r"^```toml\n(.*?)^```", page.partition("## A run at")[0], re.DOTALL | re.MULTILINE)
    source, store = re.findall(r'"(s3://\S+)"', said)
    text = RUN_FILE.replace('"pairs.jsonl"', f'"{source}"') + f'[score]\nstore = "{store}"\n'
    (folder.path / "RUN.toml").write_text(text)
    with s3_server() as server:
        emptied(server, monkeypatch)
        server.system.put(str(folder.path / "pairs.jsonl"), "bucket/pairs/pairs.jsonl")
        (folder.path / "aws").write_text(
            f"[profile training]\nendpoint_url = {server.url}\nregion = {ENVIRONMENT['AWS_DEFAULT_REGION']}\n"
            f"aws_access_key_id = {ENVIRONMENT['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}\n"
        )
        for name in [*ENVIRONMENT, "AWS_ENDPOINT_URL"]:
            monkeypatch.delenv(name)
        folder.environment |= {"AWS_CONFIG_FILE": str(folder.path / "aws"), "AWS_EC2_METADATA_DISABLED": "true"}
        folder.program("pip", "")
        folder.run("cache.md", 2)
        assert server.count("PUT", ".parquet")


# ---- Training, samples and judgements ----


@runs("training.md", 0, 1, 2)
def test_training(folder: Folder) -> None:
    folder.do(STAGES + "scoreonce train RUN.toml --set train.label=lora --set train.lora_rank=2")
    folder.run("training.md", 0)
    assert (folder.path / "runs" / "mine" / "train" / "lora" / "merged" / "config.json").is_file()
    folder.run("training.md", 1, {"--nproc_per_node 8": "--nproc_per_node 2"})
    folder.do("scoreonce train RUN.toml --method beta_dpo")
    assert "beta_dpo" in folder.run("training.md", 2)


@runs("sample.md", 0, 1)
def test_sample(folder: Folder) -> None:
    folder.do(STAGES + "scoreonce train run.toml")
    folder.run("sample.md", 0)
    assert (folder.path / "runs" / "mine" / "report.html").is_file()
    assert re.match(r"\[\(1, 0\.4\d+, 0\.0\)", folder.run("sample.md", 1))


@runs("judge.md", 0, 1, 2)
def test_judge(folder: Folder) -> None:
    folder.do(STAGES + "scoreonce train RUN.toml\nscoreonce sample RUN.toml")
    assert "win rate" in folder.run("judge.md", 0)
    folder.run("judge.md", 1)
    (folder.path / "question.jsonl").write_text(
        "".join(f'{{"question_id": "{n}", "turns": [{{"content": "What is {n}?"}}]}}\n' for n in range(24))
    )
    folder.run("judge.md", 2)
    assert (folder.path / "outputs.json").is_file()
    assert (folder.path / "dpo.jsonl").is_file()


@runs("compare.md", 0, 1, 6)
def test_compare(folder: Folder) -> None:
    with_make(folder)
    folder.do(STAGES)
    folder.run("compare.md", 0)
    assert "win rate" in folder.run("compare.md", 1)
    assert "dpo" in folder.run("compare.md", 6)


# ---- Others' programs ----


@runs("publish.md", 0, 1, 2)
def test_publish(folder: Folder) -> None:
    (folder.path / "RUN.toml").write_text(RUN_FILE.replace("[train]\n", "[train]\nlora_rank = 2\n"))
    folder.do(STAGES + "scoreonce train run.toml\nscoreonce train RUN.toml --set train.label=lora\n")
    with serving() as hub:
        folder.environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"}
        folder.environment |= {"HF_HUB_OFFLINE": "0"}
        folder.do("scoreonce merge RUN.toml --label lora")
        folder.run("publish.md", 0)
        assert "config.json" in hub.repositories["ORG/NAME"]["main"]
    folder.program(
        "vllm",
        'shift; for each in "$@"; do case $each in mine=*) ls "${each#mine=}/adapter_config.json";;\n'
        '--*) ;; *) ls "$each/config.json";; esac; done',
    )
    (folder.path / "ORG").mkdir()
    (folder.path / "ORG" / "BASE").symlink_to(folder.path / "models" / "sft")
    folder.run("publish.md", 1)
    (folder.path / "convert_hf_to_gguf.py").write_text(
        "import pathlib, sys\nassert pathlib.Path(sys.argv[1], 'config.json').is_file()\n"
        "pathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).touch()\n"
    )
    folder.program("llama-quantize", 'ls "$1" && [ "$3" = Q4_K_M ]')
    folder.run("publish.md", 2)


@needs("trl", "trl")
@runs("exchange.md", 0, 2, 3)
def test_exchange(folder: Folder) -> None:
    (folder.path / "RUN.toml").write_text(RUN_FILE.replace("test_share = 0.4", "test_share = 0"))
    folder.do(STAGES)
    trainer = blocks("exchange.md")[1][1]
    here = "from trl import DPOTrainer, DPOConfig\nfrom datasets import load_dataset\n"
    folder.run("exchange.md", 0, {"scoreonce import-reference": "exit 0\n#"})
    export = folder.path / "runs" / "mine" / "export"
    assert {each.name for each in export.iterdir()} == {"trl", "fairseq2", "jsonl"}
    folder.run("exchange.md", 2, {"max_length=None)": "max_length=None, use_cpu=True, bf16=False)"}, before=trainer)
    # What the page leaves out at the dots.
    given = '"models/sft", train_dataset=load_dataset("json", data_files="pairs.jsonl")["train"]'
    folder.run(
        "exchange.md",
        3,
        {
            "DPOTrainer(..., ": f"DPOTrainer({given}, ",
            "ref_log_probs=True": "ref_log_probs=True, use_cpu=True, bf16=False",
        },
        before=here,
    )
    line = next(line for line in blocks("exchange.md")[0][1].splitlines() if "import-reference" in line)
    folder.do("rm -r runs\nscoreonce prepare RUN.toml\n" + line.partition("#")[0])
    written = json.loads((folder.path / "runs" / "mine" / "reference" / "manifest.json").read_text())
    assert written["imported"]
