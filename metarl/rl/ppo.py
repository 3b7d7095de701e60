"""Proximal policy optimisation: the loss as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PolicyObjective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(log_prob, old_log_prob, advantage) -> the summands of what a policy ascends on, in their shape."""


class PPOLoss(NamedTuple):
    """Parts of the PPO loss, each a scalar averaged over the valid steps.

    `kl` is the estimate of KL(old || new) of http://joschu.net/blog/kl-approx.html, (ratio - 1) - log ratio.
    """

    policy: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    value_target: Tensor,
    valid: Tensor,
    clip: float,
    objective: PolicyObjective | None = None,
) -> PPOLoss:
    """Clipped surrogate objective, or another one, and value loss.

    Source: Schulman et al. 2017, eq. 7. The value loss is the squared error, unclipped; it counts every
    step, the policy terms count the valid ones only (an action after the end of an episode does nothing).

    Args:
        log_prob, entropy, value: (T, N), of the policy that is being trained.
        old_log_prob: (T, N), of the policy that acted.
        advantage, value_target: (T, N).
        valid: (T, N) bool.
        clip: half-width of the interval around 1 in which the ratio is not clipped.
        objective: what takes the place of the clipped surrogate; `clip_fraction` counts all the same.
    """
    weight = valid.to(value.dtype) / valid.sum().clamp(min=1)
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    if objective is None:
        surrogate = clipped_surrogate(log_prob, old_log_prob, advantage, clip)
    else:
        surrogate = objective(log_prob, old_log_prob, advantage)
    return PPOLoss(
        policy=-(surrogate * weight).sum(),
        value=0.5 * (value - value_target).square().mean(),
        entropy=(entropy * weight).sum(),
        kl=((ratio - 1 - log_ratio).detach() * weight).sum(),
        clip_fraction=(((ratio - 1).abs() > clip).to(value.dtype) * weight).sum(),
    )


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The summands of PPO's objective, to ascend on, in the shape of the arguments."""
    ratio = (log_prob - old_log_prob).exp()
    # L^CLIP = E[min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)]
    return torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def normalize_advantage(advantage: Tensor, valid: Tensor) -> Tensor:
    """Shift and scale advantages to mean 0 and variance 1 over the valid steps."""
    weight = valid.to(advantage.dtype) / valid.sum().clamp(min=1)
    mean = (advantage * weight).sum()
    variance = ((advantage - mean).square() * weight).sum()
    return (advantage - mean) / (variance.sqrt() + 1e-8)
