"""Drift functions of mirror learning: what keeps a policy near the one that acted.

A policy ascends on E[ratio * A - D(ratio, A)]. With D >= 0, and D and its slope zero at ratio 1, every such D improves
monotonically in the exact case (Kuba et al. 2022, mirror learning), and the first step is the policy gradient.

ppo_drift      gives PPO's clipped surrogate (Schulman et al. 2017)
dpo_drift      the closed form that was found by looking at a learned one (Lu et al. 2022)
learned_drift  a network: PPO's drift and what evolution adds to it (Lu et al. 2022)

All take the log ratio log pi(a|s) - log pi_old(a|s) and the advantage, of the same shape, and return D in that shape.
A log ratio beyond +-`MAX_LOG_RATIO` counts as that bound, where the ratio still is a finite float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Drift = Callable[[Tensor, Tensor], Tensor]
"""(log ratio, advantage) -> D, elementwise, in their shape."""

MAX_LOG_RATIO = 20.0
MAX_LOG_RATIO_INPUT = 5.0
MAX_ADVANTAGE_INPUT = 10.0
_MARGIN = 1e-4


def mirror_objective(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, drift: Drift) -> Tensor:
    """The summands of the objective of mirror learning, to ascend on, in the shape of the arguments.

    Args:
        log_prob: of the policy that is being trained.
        old_log_prob: of the policy that acted.
        advantage: of the actions.
        drift: D.
    """
    log_ratio = log_prob - old_log_prob
    # E[ratio * A - D(ratio, A)]
    return _ratio(log_ratio) * advantage - drift(log_ratio, advantage)


def ppo_drift(log_ratio: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """The drift with which the objective is PPO's clipped surrogate.

    Source: Lu et al. 2022. `clip` is the half-width of the interval around 1 in which the ratio is free.
    """
    ratio = _ratio(log_ratio)
    # D = ReLU((ratio - clip(ratio, 1 - eps, 1 + eps)) * A)
    return torch.relu((ratio - ratio.clamp(1 - clip, 1 + clip)) * advantage)


def dpo_drift(log_ratio: Tensor, advantage: Tensor, alpha: float = 2.0, beta: float = 0.6) -> Tensor:
    """Discovered policy optimisation in closed form.

    Source: Lu et al. 2022, with the two constants of their code.
    """
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # A >= 0: D = ReLU((ratio - 1) * A - alpha * tanh((ratio - 1) * A / alpha))
    good = (log_ratio.exp() - 1) * advantage
    # A < 0:  D = ReLU(log(ratio) * A - beta * tanh(log(ratio) * A / beta))
    bad = log_ratio * advantage
    drift = torch.where(advantage >= 0, good - alpha * (good / alpha).tanh(), bad - beta * (bad / beta).tanh())
    return torch.relu(drift)


def init_drift(generator: torch.Generator, hidden_dim: int = 128, scale: float = 0.01) -> dict[str, Tensor]:
    """Draw the parameters of a `learned_drift` that is near PPO's.

    Args:
        generator: of the weights.
        hidden_dim: width of the hidden layer, D.
        scale: about the largest value that the network adds to PPO's drift at first.

    Returns:
        hidden (8, D) and output (D,), float32.
    """
    hidden = torch.randn(8, hidden_dim, generator=generator, device=generator.device) / math.sqrt(8)
    output = torch.randn(hidden_dim, generator=generator, device=generator.device) * scale / math.sqrt(hidden_dim)
    return {"hidden": hidden, "output": output}


def learned_drift(parameters: Mapping[str, Tensor], log_ratio: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """PPO's drift and what a network without biases adds to it.

    All inputs of the network vanish at ratio 1 and it has no biases, so it is zero there; the margin keeps ReLU shut
    around it, and so value and slope of D are zero whatever the parameters are.

    Source: Lu et al. 2022 and their code. Deviation: the network's inputs are bounded, the log ratio by
    `MAX_LOG_RATIO_INPUT` and the advantage by `MAX_ADVANTAGE_INPUT`, so that a rare action does not decide what
    the network sees; with tanh before its output it adds at most sum |output| to PPO's drift anywhere.

    Args:
        parameters: hidden (8, D) and output (D,), see `init_drift`. One drift; a population goes through
            `torch.func.vmap`.
        log_ratio, advantage: any shape.
        clip: of PPO's drift.
    """
    bounded = log_ratio.clamp(-MAX_LOG_RATIO_INPUT, MAX_LOG_RATIO_INPUT)
    fall = 1 - bounded.exp()
    inputs = torch.stack([bounded, bounded.square(), fall, fall.square()], -1)  # (..., 4)
    weight = advantage.clamp(-MAX_ADVANTAGE_INPUT, MAX_ADVANTAGE_INPUT).unsqueeze(-1)
    inputs = torch.cat([inputs, inputs * weight], -1)  # (..., 8)
    addition = (inputs @ parameters["hidden"]).tanh() @ parameters["output"]
    # D = ReLU(D_ppo + net - 1e-4)
    return torch.relu(ppo_drift(log_ratio, advantage, clip) + addition - _MARGIN)


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
