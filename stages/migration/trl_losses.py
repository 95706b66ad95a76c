"""TRL's losses, and what modifies them, as a method of ours with its hyperparameters."""

from __future__ import annotations

from scoreonce.schemas.errors import did_you_mean
from scoreonce.stages.migration import settings
from scoreonce.stages.migration.mapped import Given
from scoreonce.stages.migration.settings import copied, told
from scoreonce.stages.migration.trl_keys import DIVERGENCES, LINKED, LOSSES, SMOOTHED
from scoreonce.stages.run_text import Line


def objective(given: Given) -> list[Line]:
    """The method and its hyperparameters, which are all written: a paper's defaults may differ from TRL's.

    Raises `InputError` for losses and combinations of them that are no method here.
    """
    types = loss_types(given)
    used = tuple(name for name in ("loss_type", "loss_weights") if name in given.values)
    why = told(given, "loss_type")
    beta = copied(given, "beta", "train.beta", given.number("beta", 0.1))
    if len(types) > 1:
        return [*_weighted_sum(given, types, used), beta, *_hyperparameters(given, types)]
    kind = types[0]
    if given.has("loss_weights") and given.values["loss_weights"] not in ([1], [1.0]):
        raise given.refused("loss_weights", "One loss needs no weight.", "Leave loss_weights out; scale learning_rate.")
    special = [name for name in ("ld_alpha", "use_weighting") if given.has(name) and given.values[name] is not False]
    if special:
        return [*_special(given, kind, special, used), beta]
    method, _ = LOSSES[kind]
    lines = [Line("train.method", method, f"{why}: {kind}", used)]
    return lines if kind == "sft" else [*lines, beta, *_hyperparameters(given, types)]


def loss_types(given: Given) -> list[str]:
    """TRL's names of the losses. Raises `InputError` for one that TRL 1.16 does not have."""
    types = given.texts("loss_type") or ["sigmoid"]
    for kind in types:
        if kind not in LOSSES:
            raise given.refused(
                "loss_type",
                f"TRL 1.16 has no loss type {kind!r}, and what it trained in another version is not certain.",
                f"Give one of: {', '.join(LOSSES)}.{did_you_mean(kind, list(LOSSES))} `scoreonce methods` lists ours.",
            )
    return types


def _weighted_sum(given: Given, types: list[str], used: tuple[str, ...]) -> list[Line]:
    weights = given.values.get("loss_weights") or [1.0] * len(types)
    sound = isinstance(weights, list) and len(weights) == len(types) == len(set(types))
    if not sound or given.has("ld_alpha") or given.flag("use_weighting", False):
        raise given.refused(
            "loss_type",
            "This sum of losses cannot be said in a run file.",
            "Give each loss once, with one weight each, and leave out ld_alpha and use_weighting.",
        )
    if given.number("label_smoothing", 0.0) and {"sigmoid"} & set(types) and set(SMOOTHED) & set(types):
        raise given.refused(
            "label_smoothing",
            "In a weighted sum, label_smoothing is one setting of all its losses; TRL leaves it out of sigmoid.",
            "Set label_smoothing to 0, or leave out one of the losses.",
        )
    named = {LOSSES[kind][1]: float(weight) for kind, weight in zip(types, weights, strict=True)}
    return [
        Line("train.method", "dpo", "its objective is replaced below", used),
        Line("train.objective", settings.objective(named), f"{told(given, 'loss_type')}, by loss_weights", used),
        Line("train.label", "+".join(named), "the folder of this training run"),
    ]


def _special(given: Given, kind: str, special: list[str], used: tuple[str, ...]) -> list[Line]:
    """LD-DPO and WPO, which TRL has as options of any loss; papers and methods here have them with DPO's."""
    divergence = given.text("f_divergence_type", "reverse_kl")
    if kind != "sigmoid" or len(special) > 1 or (special[0] == "ld_alpha" and divergence != "reverse_kl"):
        raise given.refused(
            special[0],
            f"{' and '.join(special)} with the loss {kind} is no method here.",
            "Use it with loss_type: sigmoid and the reverse KL, as in its paper, or leave it out.",
        )
    if special[0] == "ld_alpha":
        method, setting = (
            "ld_dpo",
            Line("train.ld_alpha", given.number("ld_alpha", 1.0), "ld_alpha there", ("ld_alpha",)),
        )
    else:
        method = "wpo"
        setting = Line("train.clamp", "none", "TRL does not bound the weight by 1", ("use_weighting",))
    divergences = _divergence(given) if method == "wpo" else []
    return [Line("train.method", method, f"from {special[0]}, with the loss sigmoid", used), setting, *divergences]


def _hyperparameters(given: Given, types: list[str]) -> list[Line]:
    lines = []
    if set(types) & set(SMOOTHED):
        smoothing = given.number("label_smoothing", 0.0)
        if "exo_pair" in types and smoothing == 0:
            raise given.refused(
                "label_smoothing",
                "exo_pair needs label_smoothing above 0, in TRL too.",
                "Set it to 0.001, as the paper.",
            )
        lines.append(copied(given, "label_smoothing", "train.label_smoothing", smoothing))
    if "discopop" in types:
        lines.append(copied(given, "discopop_tau", "train.tau", given.number("discopop_tau", 0.05)))
    return [*lines, *(_divergence(given) if set(types) <= set(LINKED) | {"sft"} and set(types) != {"sft"} else [])]


def _divergence(given: Given) -> list[Line]:
    name = given.text("f_divergence_type", "reverse_kl").rpartition(".")[2].lower()
    if name not in DIVERGENCES:
        raise given.refused("f_divergence_type", "No such divergence.", f"Give one of: {', '.join(DIVERGENCES)}.")
    if name == "reverse_kl":
        return []
    lines = [copied(given, "f_divergence_type", "train.divergence", DIVERGENCES[name])]
    if name == "alpha_divergence":
        alpha = 1 - given.number("f_alpha_divergence_coef", 0.5)
        lines.append(copied(given, "f_alpha_divergence_coef", "train.divergence_alpha", alpha, "1 minus it"))
    return lines
