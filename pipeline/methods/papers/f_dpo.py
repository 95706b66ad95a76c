"""f-DPO: Wang et al. 2024, "Beyond Reverse KL: Generalizing DPO with Diverse Divergence Constraints"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo

method(
    "f_dpo",
    "DPO under a divergence other than the reverse KL",
    paper=Paper(
        "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence Constraints",
        "2309.16240",
        "ICLR 2024",
    ),
    objective=dpo,
    defaults={"divergence": "js"},
    synonyms={"alpha": "divergence_alpha", "f_divergence_type": "divergence"},
)
