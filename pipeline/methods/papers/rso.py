"""RSO: Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization".

The paper's losses are DPO's and the hinge with its gamma for beta; what it brings is how the pairs are sampled.
"""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.papers.hinge import hinge

RSO = Paper("Statistical Rejection Sampling Improves Preference Optimization", "2309.06657", "ICLR 2024")
GAMMA = 0.05

method(
    "rso",
    "DPO's loss with RSO's gamma, for pairs from statistical rejection sampling (sigmoid-norm)",
    paper=RSO,
    objective=dpo,
    defaults={"beta": GAMMA},
    synonyms={"gamma": "beta"},
    learning_rate="1e-5 (Adafactor, T5-XXL, batch 32)",
)
method(
    "rso_hinge",
    "The hinge with RSO's gamma, for pairs from statistical rejection sampling (hinge-norm)",
    paper=RSO,
    objective=hinge,
    defaults={"beta": GAMMA},
    synonyms={"gamma": "beta"},
    learning_rate="1e-5 (Adafactor, T5-XXL, batch 32)",
)
