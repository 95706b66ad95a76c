"""gamma-PO: Sun et al. 2025, "Robust Preference Optimization via Dynamic Target Margins"."""

from __future__ import annotations

from typing import Annotated

import torch

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo_norm
from scoreonce.pipeline.methods.papers.simpo import simpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta, GammaBetaRatio
from scoreonce.pipeline.methods.pieces.registry import calibration, statistic
from scoreonce.pipeline.methods.pieces.shapes import PerPair, PerStep, Queue, StepColumn

UPDATES = 19  # the code makes 20 passes, and reads the margins at the top of each
NOTHING = 1e-10  # added to a share of the margin before its logarithm, as in the code
LONGEST_QUEUE, LARGEST_POOL = 2048, 256
Spread = Annotated[float, Allowed("how evenly the margin is shared out; a large one gives all pairs the same", above=0)]
Normals = Annotated[
    int, Allowed("standard normals that fill the queue before the first step (the code's 8)", at_least=0)
]
QueueSeed = Annotated[int, Allowed("the seed of the normals, and of the draws from a long queue", at_least=0)]


def shared_margins(gaps: Queue, gamma: float, tau: float) -> Queue:
    """gamma N p for a pool of N `gaps`, p on the simplex after 19 exponentiated-gradient steps from 1 / N.

    They descend mean softplus(gamma N p - g) + tau sum p log(N p), so that small gaps get small margins, and the mean
    margin stays gamma. Units: those of `gaps`.
    """
    count = len(gaps)
    shares = torch.full_like(gaps, 1 / count)
    rate = min(0.5 / tau, 1.0)
    for _ in range(UPDATES):
        slope = tau * (1 + (count * (shares + NOTHING)).log()) + gamma * (gamma * count * shares - gaps).sigmoid()
        shares = (shares.log() - rate * slope).softmax(0)
    return gamma * count * shares


def _queue(queue: Queue, steps: PerStep, normals: int, seed: int) -> Queue:
    """The gaps of earlier steps, at first the seeded normals."""
    first = normals > 0 and not bool(steps > 0) and not queue.numel()
    drawn = torch.randn(normals, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(queue.device) if first else queue


def _after(queue: Queue, gaps: PerPair) -> Queue:
    return torch.cat([queue, gaps])[-LONGEST_QUEUE:]


def _margins(queue: Queue, gaps: PerPair, gamma: float, tau: float, draw: int) -> PerPair:
    """The margin of each gap in a pool with gaps of the queue: all, or some drawn where there are too many."""
    room = max(0, LARGEST_POOL - len(gaps))
    if len(queue) > room:
        # On the CPU, so that the draw is the same on every device.
        picked = torch.randperm(len(queue), generator=torch.Generator().manual_seed(draw))[:room]
        queue = queue[picked.sort().values.to(queue.device)]
    return shared_margins(torch.cat([queue, gaps]), gamma, tau)[len(queue) :]


def _draw(seed: int, steps: PerStep) -> int:
    return 1_000_003 * (seed + 1) + int(steps)


@statistic(initial={"policy_gap_queue": (), "policy_gap_steps": 0.0}, after={})
def policy_gaps(
    normalised_policy_margin: StepColumn,
    policy_gap_queue: Queue,
    policy_gap_steps: StepColumn,
    *,
    beta: Beta,
    queue_normals: Normals = 0,
    queue_seed: QueueSeed = 0,
) -> tuple[Queue, StepColumn]:
    """The last 2,048 gaps beta u, oldest first, and the number of steps; moved after use."""
    queue = _queue(policy_gap_queue, policy_gap_steps, queue_normals, queue_seed)
    return _after(queue, beta * normalised_policy_margin), policy_gap_steps + 1


@statistic(initial={"gap_queue": (), "gap_steps": 0.0}, after={})
def logratio_gaps(
    normalised_margin: StepColumn,
    gap_queue: Queue,
    gap_steps: StepColumn,
    *,
    beta: Beta,
    queue_normals: Normals = 0,
    queue_seed: QueueSeed = 0,
) -> tuple[Queue, StepColumn]:
    """The last 2,048 gaps beta Delta, Delta as in `dpo_norm`, oldest first, and the step's number; moved after use."""
    queue = _queue(gap_queue, gap_steps, queue_normals, queue_seed)
    return _after(queue, beta * normalised_margin), gap_steps + 1


@calibration("target_margin", batch_coupled=True)
def shared_policy_margin(
    normalised_policy_margin: StepColumn,
    policy_gap_queue: Queue,
    policy_gap_steps: StepColumn,
    *,
    beta: Beta = 0.1,
    gamma_beta_ratio: GammaBetaRatio = 0.4,
    tau: Spread = 10.0,
    queue_normals: Normals = 0,
    queue_seed: QueueSeed = 0,
) -> StepColumn:
    """gamma_i / beta, per pair, without gradient, of the gaps g = beta u of the step in a pool with earlier ones.

    gamma_i = gamma_0 N p_i, gamma_0 = beta `gamma_beta_ratio`, and p minimises mean softplus(gamma_i - g_i) +
    tau sum p log(N p) by 19 exponentiated-gradient steps, as in the code: a small gap gets a small margin, and the mean
    over the pool is gamma_0. The pool has at most 256 gaps, the step's own and draws from a queue of the last 2,048 in
    the state, keyed by `queue_seed` and the step. The queue begins empty; the code fills it with 8 unseeded standard
    normals, `queue_normals = 8` with seeded ones. Evaluation reads the queue and does not move it; the code's does.
    """
    queue = _queue(policy_gap_queue, policy_gap_steps, queue_normals, queue_seed)
    draw = _draw(queue_seed, policy_gap_steps)
    return _margins(queue, beta * normalised_policy_margin, beta * gamma_beta_ratio, tau, draw) / beta


@calibration("target_margin", batch_coupled=True)
def shared_margin(
    normalised_margin: StepColumn,
    gap_queue: Queue,
    gap_steps: StepColumn,
    *,
    beta: Beta = 0.1,
    gamma_beta_ratio: GammaBetaRatio = 0.4,
    tau: Spread = 1.0,
    queue_normals: Normals = 0,
    queue_seed: QueueSeed = 0,
) -> StepColumn:
    """(gamma_i - gamma_0) / beta, per pair, without gradient: `shared_policy_margin` of g = beta Delta, with mean 0.

    Delta is per token, as in the code, also on DPO; `normalisation = "sum"` takes the sums. gamma_0 is
    beta `gamma_beta_ratio`.
    """
    queue, draw = _queue(gap_queue, gap_steps, queue_normals, queue_seed), _draw(queue_seed, gap_steps)
    margins = _margins(queue, beta * normalised_margin, beta * gamma_beta_ratio, tau, draw)
    return margins / beta - gamma_beta_ratio


GAMMA_PO = Paper("Robust Preference Optimization via Dynamic Target Margins", "2506.03690", "ACL Findings 2025")
method(
    "gamma_simpo",
    "SimPO with a target margin per pair, shared out over the last pairs (gamma-PO)",
    paper=GAMMA_PO,
    objective=simpo,
    calibration=shared_policy_margin,
    defaults={"beta": 10.0},
    aliases={"gamma_po": {}},
    learning_rate="1e-6 (Llama-3-Instruct; Qwen2.5-7B: ratio 0.3, tau 3), 8e-7 (Gemma-2-9B: ratio 0.5, tau 20), 6e-7 "
    "(Mistral-Instruct: beta 2.5, ratio 0.15)",
)
method(
    "gamma_dpo",
    "DPO on log-ratios per token with a target margin per pair, shared out over the last pairs (gamma-PO)",
    paper=GAMMA_PO,
    objective=dpo_norm,
    calibration=shared_margin,
    defaults={"beta": 10.0, "gamma_beta_ratio": 0.4},
)
