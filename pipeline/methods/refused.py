"""Methods that cannot be trained from cached columns, each with the reason."""

from __future__ import annotations

from scoreonce.pipeline.methods.pieces.hyperparameters import WHERE
from scoreonce.schemas.errors import InputError

_MOVES = (
    "Its reference moves during training (it is overwritten by, or mixed with, the policy), so that log-probs "
    "scored once would be wrong after the first update."
)
_TWO_POLICIES = "It trains a second live policy beside the first, so that a cache of one frozen reference does not do."
_ONLINE = "It is not offline preference optimisation: it learns from completions sampled during training."
_DIFFUSION = "It is written for diffusion models, whose likelihood is not a sum of token log-probs."

REFUSED = {
    "tr_dpo": ("TR-DPO", _MOVES),
    "humanline_synced": (
        "humanline with a reference that is synced with the policy",
        f"{_MOVES} Its clamp of token log-ratios is the method humanline; where the reference is to follow every k "
        "steps, score the policy again and train on, k steps at a time.",
    ),
    "ofs_dpo": ("OFS-DPO", _TWO_POLICIES),
    "q_sharp": (
        "Q♯",
        "It is not offline preference optimisation: it learns a value function that guides decoding, and "
        "leaves the policy as it is.",
    ),
    "diffusion_dpo": ("Diffusion-DPO", _DIFFUSION),
    "diffusion_kto": ("Diffusion-KTO", _DIFFUSION),
    "see_dpo": ("SEE-DPO", _DIFFUSION),
    "online_dpo": ("Online DPO", _ONLINE),
    "hyper_dpo": (
        "HyperDPO",
        "It trains a policy that is conditioned on preference weights, which an ordinary "
        "language model does not take as an input.",
    ),
}
_SPELLINGS = {
    "trdpo": "tr_dpo",
    "humanlinesynced": "humanline_synced",
    "humanlinesync": "humanline_synced",
    "syncedhumanline": "humanline_synced",
    "ofsdpo": "ofs_dpo",
    "q#": "q_sharp",
    "q♯": "q_sharp",
    "qsharp": "q_sharp",
    "seedpo": "see_dpo",
    "hyperdpo": "hyper_dpo",
    "diffusiondpo": "diffusion_dpo",
}


def refuse(name: str) -> None:
    """Raise `InputError` with the reason where the name is that of a refused method; else nothing."""
    plain = name.lower().replace("-", "_")
    known = _SPELLINGS.get(plain.replace("_", ""), plain)
    if known in REFUSED:
        title, reason = REFUSED[known]
        raise InputError(
            f"{title} cannot be trained from cached columns. {reason}",
            found=f"method {name!r}",
            where=WHERE,
            fix="Give another method: `scoreonce methods` lists them.",
        )
