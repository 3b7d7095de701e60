"""Returns and advantages."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantage(
    reward: Tensor, value: Tensor, last_value: Tensor, discount: float, gae_lambda: float, cut: Tensor | None = None
) -> Tensor:
    """Generalised advantage estimation.

    Source: Schulman et al. 2016, eq. 16: A_t = delta_t + discount * gae_lambda * A_{t+1} with
    delta_t = r_t + discount * V(s_{t+1}) - V(s_t).

    Args:
        reward: (T, N).
        value: (T, N), V of the state that each action was taken in.
        last_value: (N,), V of the state after the last step; zeros where nothing follows.
        discount, gae_lambda: in [0, 1].
        cut: (T, N) bool, nothing of later steps counts for this step (a true end). None: no cuts.

    Returns:
        (T, N) advantages; `advantage + value` are the targets of the value function.
    """
    advantage = torch.zeros_like(reward)
    running, next_value = torch.zeros_like(last_value), last_value
    follows = torch.ones_like(reward) if cut is None else 1.0 - cut.to(reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        delta = reward[t] + discount * next_value * follows[t] - value[t]
        running = delta + discount * gae_lambda * follows[t] * running
        advantage[t], next_value = running, value[t]
    return advantage


def discounted_returns(reward: Tensor, discount: float) -> Tensor:
    """Sum of discounted rewards from each step on, (T, N) -> (T, N)."""
    returns = torch.zeros_like(reward)
    running = torch.zeros_like(reward[0])
    for t in range(reward.shape[0] - 1, -1, -1):
        running = reward[t] + discount * running
        returns[t] = running
    return returns
