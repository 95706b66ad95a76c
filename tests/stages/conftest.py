"""A small world for the stages: tiny models, and prepared pairs made of random tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from written import pairs_manifest

from scoreonce.schemas import identity
from scoreonce.schemas.tables import Pair
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import write_parquet
from scoreonce.stages.common.messages import verbose
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run

VOCABULARY = 97
SCORES = ("chosen_score", "rejected_score", "chosen_preference", "rejected_preference")
Ids = list[int]
TokenPair = tuple[Ids, Ids, Ids | None]


class World:
    """A folder with a tiny reference model and the run that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, **sections: Any) -> Run:
        """A run file as it was loaded; `sections` override."""
        tree = {
            "out": str(self.folder / "out"),
            "data": {"source": "none", "max_length": 64},
            "reference": {"model": str(self.model())},
            "compute": {"device": "cpu", "tokens_per_microbatch": 512},
            "score": {"shard_completions": 16},
        }
        return Run.model_validate({**tree, **{key: {**tree.get(key, {}), **value} for key, value in sections.items()}})

    @property
    def paths(self) -> RunPaths:
        return RunPaths.of(self.run())

    def model(self, name: str = "model", *, seed: int = 0, **settings: Any) -> Path:
        """A Llama of two layers whose next-token distributions are far from uniform."""
        folder = self.folder / name
        if not folder.exists():
            import torch
            from transformers import LlamaConfig, LlamaForCausalLM

            torch.manual_seed(seed)
            shape = {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "initializer_range": 0.3,
            }
            LlamaForCausalLM(LlamaConfig(**shape | settings)).save_pretrained(folder)
        return folder

    def random_pairs(
        self, count: int, *, seed: int = 0, longest: int = 12, vocabulary: int = VOCABULARY
    ) -> list[TokenPair]:
        """Pairs of distinct completions; every fourth shares its prompt with the one before."""
        random = np.random.default_rng(seed)
        pairs: list[TokenPair] = []
        for number in range(count):

            def ids() -> Ids:
                return random.integers(0, vocabulary, random.integers(1, longest + 1)).tolist()

            prompt = pairs[-1][0] if number % 4 == 3 else [1, number % vocabulary, number // vocabulary, *ids()]
            pairs.append((prompt, [*ids(), number % vocabulary, 2], [*ids(), number % vocabulary, 3]))
        return pairs

    def prepare(self, train: Sequence[TokenPair], test: Sequence[TokenPair] = ()) -> RunPaths:
        """Write what `prepare` writes."""
        paths = self.paths
        for split, pairs in zip(SPLITS, (train, test), strict=True):
            self._write(paths, split, pairs)
        manifests.write(paths.pairs_manifest, pairs_manifest(self.run()))
        return paths

    def _write(self, paths: RunPaths, split: Any, pairs: Sequence[TokenPair]) -> None:
        prompts, chosen, rejected = zip(*pairs, strict=True) if pairs else ((), (), ())
        chosen_id = [identity.completion_id(p, c) for p, c in zip(prompts, chosen, strict=True)]
        rejected_id = [
            None if r is None else identity.completion_id(p, r) for p, r in zip(prompts, rejected, strict=True)
        ]
        pair_id = [identity.pair_id(c, r) for c, r in zip(chosen_id, rejected_id, strict=True)]
        columns = {
            "pair_id": pair_id,
            "chosen_id": chosen_id,
            "rejected_id": rejected_id,
            "prompt_id": [identity.prompt_id(p) for p in prompts],
            "row": list(range(len(pairs))),
            "prompt_len": [len(p) for p in prompts],
            "chosen_len": [len(c) for c in chosen],
            "rejected_len": [len(r or []) for r in rejected],
        }
        frame = pl.DataFrame(columns, schema={name: Pair.create_empty().schema[name] for name in columns})
        text = [pl.lit("text").alias(name) for name in ("prompt", "chosen", "rejected")]
        empty = [pl.lit(None).alias(name) for name in ("source", *SCORES)]
        flags = [name for name in Pair.column_names() if name.endswith(("truncated", "merged"))]
        whole = frame.with_columns(*text, *empty, *(pl.lit(False).alias(name) for name in flags))
        validated = Pair.validate(whole.select(Pair.column_names()), cast=True)
        write_parquet(paths.pairs(split), validated.to_arrow(compat_level=pl.CompatLevel.oldest()))
        ids = pa.list_(pa.field("item", pa.int32(), nullable=False))
        sides = {"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": [r or [] for r in rejected]}
        table = pa.table(
            {
                "pair_id": pa.array(pair_id, pa.string()),
                **{name: pa.array(list(values), ids) for name, values in sides.items()},
            }
        )
        with pa.OSFile(str(paths.tokens(split)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)


@pytest.fixture(autouse=True)
def messages_shown() -> Iterator[None]:
    """Stages say on the terminal what the command line shows."""
    verbose()
    yield
    verbose(False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are remembered for this test alone."""
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world that the tests of a file share, each with labels of its own."""
    return World(tmp_path_factory.mktemp("world"))
