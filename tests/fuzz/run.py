"""Coverage-guided fuzzing of one target for some time: `python tests/fuzz/run.py jsonl --seconds 60`.

Needs the extra `fuzz` (atheris). What breaks a target is written to the folder where it runs, as crash-*; found inputs
go to build/fuzz/<target> and are where the next run starts.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scoreonce", "tomllib"]):
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
    import fuzz_targets as targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    corpus = Path("build") / "fuzz" / given.target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.SEEDS[given.target]):
        (corpus / f"seed-{number}").write_bytes(seed)
        targets.TARGETS[given.target](seed)  # what is loaded at first use counts for no input
    options = [f"-max_total_time={given.seconds}", "-max_len=4096", "-timeout=60", f"-artifact_prefix={corpus}/../"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], targets.TARGETS[given.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
