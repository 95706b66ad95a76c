"""Names of the methods' hyperparameters as plain data: a run file is checked without the methods, which load torch.

The signatures of the methods declare meaning and range; a test compares the names here with them.
"""

from __future__ import annotations

HYPERPARAMETERS: tuple[str, ...] = (
    "a",
    "alpha",
    "alpha_scale",
    "beta",
    "beta_floor",
    "clamp",
    "cpo_alpha",
    "dead_band",
    "delta",
    "desirable_weight",
    "divergence",
    "divergence_alpha",
    "epsilon",
    "gamma_beta_ratio",
    "keep",
    "l1_norm_param_d",
    "l1_norm_param_u",
    "label_smoothing",
    "lam",
    "ld_alpha",
    "momentum",
    "normalisation",
    "offset",
    "order",
    "r_max",
    "sft_weight",
    "step_dtype",
    "target",
    "tau",
    "temperature",
    "tie",
    "undesirable_weight",
    "update",
    "z_score",
)

# Other names of them, in papers and in other libraries; which method takes which is declared with the method.
OTHER_NAMES: tuple[str, ...] = (
    "R_max",
    "beta0",
    "beta_init",
    "beta_pi",
    "discopop_tau",
    "eps",
    "f_divergence_type",
    "gamma",
    "lambda",
    "lambda_d",
    "lambda_u",
    "ls",
    "rho",
    "rmax",
)
