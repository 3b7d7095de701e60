"""The linear feature baseline: a value function per task, fitted in closed form for all tasks at once."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.rl.returns import discounted_returns, generalized_advantage

_MAX_OBS = 10.0


def linear_baseline(obs: Tensor, returns: Tensor, valid: Tensor, ridge: float = 1e-5) -> Tensor:
    """Fit the returns of each task by least squares on features of observation and time, and predict them.

    Source: Duan et al. 2016, "Benchmarking Deep RL for Continuous Control", appendix 2. Features: the observation
    clipped to [-10, 10], its square, t/100 to the first, second and third power, and 1.

    Args:
        obs: (H, B, E, O).
        returns: (H, B, E), what is left to come at each step.
        valid: (H, B, E) bool, the steps that count; later ones get a prediction too.
        ridge: added to the diagonal of the normal equations.

    Returns:
        (H, B, E) predictions, in the dtype of `returns`.
    """
    horizon = obs.shape[0]
    features = _features(obs).permute(1, 0, 2, 3).flatten(1, 2)  # (B, H*E, F)
    weight = valid.permute(1, 0, 2).flatten(1, 2).unsqueeze(-1).to(features.dtype)  # (B, H*E, 1)
    target = returns.permute(1, 0, 2).flatten(1, 2).unsqueeze(-1).to(features.dtype)  # (B, H*E, 1)
    weighted = (features * weight).mT  # (B, F, H*E)
    normal = weighted @ features + ridge * torch.eye(features.shape[-1], dtype=features.dtype, device=obs.device)
    coefficients = _solve(normal, weighted @ target)  # (B, F, 1)
    prediction = (features @ coefficients).squeeze(-1)  # (B, H*E)
    return prediction.unflatten(1, (horizon, -1)).permute(1, 0, 2).to(returns.dtype)


def task_advantage(
    obs: Tensor, reward: Tensor, valid: Tensor, ended: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages over the linear feature baseline of each task, mean 0 and deviation 1 over its steps that count.

    Time limits are ends.

    Args:
        obs: (H, B, E, O).
        reward: (H, B, E).
        valid, ended: (H, B, E) bool: the steps that count, and those with which an episode truly ended.
        discount, gae_lambda: of the generalised advantage estimator.

    Returns:
        Advantages (H, B, E), zero where steps do not count, and weights (H, B, E) that sum to one over each task.
    """
    value = linear_baseline(obs, discounted_returns(reward, discount), valid)
    advantage = generalized_advantage(reward, value, torch.zeros_like(value[-1]), discount, gae_lambda, ended)
    weight = valid.to(reward.dtype) / valid.sum((0, 2), keepdim=True)
    mean = (weight * advantage).sum((0, 2), keepdim=True)
    variance = (weight * (advantage - mean).square()).sum((0, 2), keepdim=True)
    return torch.where(valid, (advantage - mean) * (variance + 1e-8).rsqrt(), 0.0), weight


def _features(obs: Tensor) -> Tensor:
    """(H, B, E, 2 O + 4) float64: the normal equations of float32 features would lose the small ones."""
    clipped = obs.clamp(-_MAX_OBS, _MAX_OBS).double()
    time = torch.arange(len(obs), dtype=torch.float64, device=obs.device) / 100.0
    powers = torch.stack([time, time**2, time**3, torch.ones_like(time)], -1)  # (H, 4)
    return torch.cat([clipped, clipped.square(), powers[:, None, None].expand(*obs.shape[:-1], 4)], -1)


def _solve(normal: Tensor, right: Tensor) -> Tensor:
    """Solve positive semi-definite systems; singular ones get the least-squares solution of least norm."""
    factor, info = torch.linalg.cholesky_ex(normal)
    if bool((info == 0).all()):
        return torch.cholesky_solve(right, factor)
    return torch.linalg.pinv(normal, hermitian=True) @ right
