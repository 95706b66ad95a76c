"""MPO: Wang et al. 2024, "Enhancing the Reasoning Ability of MLLMs via Mixed Preference Optimization"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.bco import bco
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.papers.sft import sft

method(
    "mpo",
    "Weighted sum: 0.8 preference (DPO), 0.2 quality (BCO), 1.0 generation (SFT)",
    paper=Paper(
        "Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference Optimization",
        "2411.10442",
        "arXiv 2024",
    ),
    objective={dpo: 0.8, bco: 0.2, sft: 1.0},
)
