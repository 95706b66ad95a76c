"""Every causal architecture of the installed transformers, as a tiny model of random weights: is scoreonce exact?

    python benchmarks/architectures.py [MODEL_TYPE ...]

Each model is saved, loaded as `score` loads it, and scored in the layout that `auto` chooses on a CPU. Token log-probs
are compared with those of plain transformers, one sequence at a time, and gradients with plain autograd: in float32,
and in float64, in which also that is computed which a model's code asks to be in float32. Without arguments it writes
benchmarks/results/architectures.md and the table of docs/architectures.md; it fails where something is not exact.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import tiny_configs
import torch
import transformers as tr
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.layout_probe import Probe, choose_layout
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError
from scoreonce.stages.models.loading import load_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "architectures.md", ROOT / "docs" / "architectures.md"
START, END = "<!-- made by benchmarks/architectures.py -->\n", "<!-- /made -->"
LARGEST_DIFFERENCE = 1e-5  # nats per token, in float32, where transformers' own rounding is not larger
OF_ROUNDING = 4.0
NEIGHBOURS = 4  # float32 models for the figure of rounding; of one alone, another processor changes it eightfold
LARGEST_IN_DOUBLE = 1e-6  # nats per token; of gradients, relative. Tables in files are rounded: MiniMax's decays


@dataclass(frozen=True)
class Measured:
    """What was found of one architecture. Differences are the largest of all tokens, in nats."""

    model_type: str
    name: str
    refused: str = ""  # why, where it is
    layout: str = ""
    why: str = ""  # it is not packed
    difference: float = 0.0  # float32 in our layout to float64 in plain transformers
    rounding: float = 0.0  # float32 to float64, both in plain transformers, and of weights an ulp away
    in_double: float = 0.0  # both in float64
    gradient: float = 0.0  # the norm of the difference in float64, relative
    untrained: tuple[str, ...] = ()  # parameters that plain autograd gives a gradient, and we do not

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding differs, or the architecture is refused."""
        in_single = self.difference <= max(LARGEST_DIFFERENCE, OF_ROUNDING * self.rounding)
        in_double = self.in_double <= LARGEST_IN_DOUBLE and self.gradient <= LARGEST_IN_DOUBLE
        return in_single and in_double and not self.untrained


class _Double(TorchFunctionMode):
    """Float64 in the place of float32, in calls of torch."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.float:
            function = Tensor.double
        given = {name: _doubled(value) for name, value in (kwargs or {}).items()}
        return function(*(_doubled(value) for value in args), **given)


def _doubled(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def in_double() -> Iterator[None]:
    """Have models of float64 compute in float64 also what their code says to compute in float32.

    Parts in float32 would differ by rounding wherever they are cut into other chunks, and hide what else differs.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(before)


def measured(model_type: str, rows: Sequence[PromptRow] | None = None) -> Measured:
    """Measure one architecture."""
    rows = rows or random_rows()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = _save(model_type, folder)
        try:
            model = load_model(folder, dtype="float32", device="cpu")
            probe = choose_layout(model, "auto", max(row.tokens for row in rows), continues=True)
        except InputError as error:
            return Measured(model_type, name, refused=error.what)
        plain = _plain(model_type, folder)
        ours, single = scored(model, probe, rows), [plain_logps(each, rows) for each in neighbours(plain)]
        for each in (model, plain):
            each.config.get_text_config()._experts_implementation = "eager"  # the others have no float64
            each.double()
        with in_double():
            exact, ours_in_double = plain_logps(plain, rows), scored(model, probe, rows)
            gradient, untrained = gradients(model, plain, probe, rows)
    return Measured(
        model_type,
        name,
        "",
        probe.layout,
        why(model, probe),
        _largest(ours, exact),
        max(_largest(each, exact) for each in single),
        _largest(ours_in_double, exact),
        gradient,
        untrained,
    )


def _save(model_type: str, folder: str) -> str:
    """Save a model of random weights; returns its class."""
    config = tiny_configs.config_of(model_type)
    torch.manual_seed(0)
    model = _class(model_type).from_config(config).float()
    if model.num_parameters() > tiny_configs.MOST_PARAMETERS:
        raise ValueError(f"{model_type} has {model.num_parameters():,} parameters: a size kept its default")
    model.save_pretrained(folder)
    return type(model).__name__


def _plain(model_type: str, folder: str) -> tr.PreTrainedModel:
    return _class(model_type).from_pretrained(folder).eval()


def _class(model_type: str) -> type:
    """The class that has all of a model's parts."""
    return tr.AutoModelForMultimodalLM if model_type in tiny_configs.multimodal_types() else tr.AutoModelForCausalLM


def random_rows(count: int = 5, longest: int = 24) -> list[PromptRow]:
    """Random prompts with one to three completions."""
    random = np.random.default_rng(0)

    def ids() -> np.ndarray:
        return random.integers(3, tiny_configs.VOCABULARY, random.integers(1, longest), dtype=np.int32)

    return [PromptRow(ids(), tuple(ids() for _ in range(random.integers(1, 4)))) for _ in range(count)]


@torch.no_grad()
def scored(model: tr.PreTrainedModel, probe: Probe, rows: Sequence[PromptRow]) -> Tensor:
    """Log-probs of all completion tokens in the layout that the probe chose."""
    scorer = TokenScorer(model, probe.layout)
    # Together, prompts that are not of similar lengths would hardly be computed once.
    batches = [[row] for row in rows] if probe.layout == "continued" else [rows]
    return torch.cat([scorer(batch).token_logps for batch in batches]).double()


def neighbours(model: tr.PreTrainedModel) -> Iterator[tr.PreTrainedModel]:
    """The model, then `NEIGHBOURS` of it: each weight the next float32 above it or below, at random.

    The largest difference of a hundred tokens is one draw. Where it is of several, that of one more is seldom far off.
    """
    yield model
    random = torch.Generator().manual_seed(0)
    for _ in range(NEIGHBOURS):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for weight in moved.parameters():
                up = torch.rand(weight.shape, generator=random) < 0.5
                weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf)))
        yield moved


@torch.no_grad()
def plain_logps(model: tr.PreTrainedModel, rows: Sequence[PromptRow]) -> Tensor:
    """The same in plain transformers, one sequence at a time and without padding."""
    return torch.cat([_plain_logps(model, row.prompt, each) for row in rows for each in row.completions])


def _plain_logps(model: tr.PreTrainedModel, prompt: np.ndarray, completion: np.ndarray) -> Tensor:
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
    logps = model(input_ids=ids[None], use_cache=False).logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, ids[len(prompt) :, None]).squeeze(1)


def gradients(
    model: tr.PreTrainedModel, plain: tr.PreTrainedModel, probe: Probe, rows: Sequence[PromptRow]
) -> tuple[float, tuple[str, ...]]:
    """How far gradients differ from plain autograd, relative, and the parameters that have none.

    Of the sum of log-probs, each completion with a factor of its own. Models that score continued rows train padded
    ones.
    """
    factors = [k + 1.0 for row in rows for k in range(len(row.completions))]
    sums = TokenScorer(model, "padded" if probe.layout == "continued" else probe.layout)(rows).sums()
    (sums * torch.tensor(factors, dtype=sums.dtype)).sum().backward()
    completions = [(row.prompt, each) for row in rows for each in row.completions]
    sum(f * _plain_logps(plain, *each).sum() for f, each in zip(factors, completions, strict=True)).backward()
    ours, theirs = ({n: p.grad for n, p in each.named_parameters() if p.grad is not None} for each in (model, plain))
    untrained = tuple(name for name, gradient in theirs.items() if gradient.any() and name not in ours)
    both = [name for name in theirs if name in ours]
    off = torch.stack([(ours[name] - theirs[name]).double().norm() for name in both]).norm()
    return float(off / torch.stack([theirs[name].double().norm() for name in both]).norm()), untrained


def why(model: tr.PreTrainedModel, probe: Probe) -> str:
    """Why rows are not packed, in a few words."""
    if probe.layout == "packed":
        return ""
    if architecture.windows(model) is None:
        known = {"full_attention", "sliding_attention"}
        return "layers of kind " + ", ".join(sorted(set(architecture.settings(model)["layer_types"]) - known))
    if probe.layout == "shared":
        own = model.config._attn_implementation
        return "a sliding window" if own == "sdpa" else f"its attention is {own}"
    by_mask = probe.reason.partition("continued: ")[0]
    return "differs with a shared prompt" if "differs" in by_mask else "takes no such mask"


def _largest(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def table(found: Iterable[Measured]) -> list[str]:
    """The measured architectures, then the refused ones, then those left out."""
    taken, refused = [], []
    for each in found:
        (refused if each.refused else taken).append(each)
    return [
        f"{len(taken)} architectures:",
        "",
        "| model type | layout | why not packed | difference | rounding | in float64 | gradient |",
        "|---|---|---|---:|---:|---:|---:|",
        *map(_row, taken),
        "",
        f"{len(refused)} are refused:",
        "",
        "| model type | error |",
        "|---|---|",
        *(f"| `{each.model_type}` | {each.refused} |" for each in refused),
        "",
        "Left out:",
        "",
        "| model types | why |",
        "|---|---|",
        *(f"| {', '.join(f'`{name}`' for name in names.split())} | {reason} |" for reason, names in LEFT_OUT),
    ]


LEFT_OUT = tiny_configs.LEFT_OUT.items()


def _row(each: Measured) -> str:
    numbers = (each.difference, each.rounding, each.in_double, each.gradient)
    cells = [f"`{each.model_type}`", each.layout, each.why, *(f"{number:.0e}" for number in numbers)]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_types", nargs="*")
    asked = parser.parse_args().model_types
    tr.logging.set_verbosity_error()
    found = []
    for model_type in asked or tiny_configs.model_types():
        found.append(measured(model_type))
        print(found[-1], flush=True)
    if not asked:
        lines = table(found)
        machine.write_page(RESULTS, "Architectures", "python benchmarks/architectures.py", lines)
        text = PAGE.read_text(encoding="utf-8")
        before, after = text[: text.index(START)], text[text.index(END) :]
        made = RESULTS.read_text(encoding="utf-8").partition("`. ")[2]
        PAGE.write_text(f"{before}{START}\n{made}{after}", encoding="utf-8")
    wrong = [each for each in found if not each.exact]
    for each in wrong:
        print(f"not exact: {each}", file=sys.stderr)
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
