"""What reaching environments tell a learned loss: how far the goal is, how fast it comes near, what goes astray."""

from __future__ import annotations

import torch
from torch import Tensor

SIGNAL_NAMES = ("log_distance", "closing_speed", "lateral_speed")
_EPS_M = 1e-4


def safe_norm(vector: Tensor) -> Tensor:
    """The length of (..., 2 or 3) vectors, m, as sqrt(x^2 + y^2 + (0.1 mm)^2): it has a gradient at zero, too."""
    return (vector.square().sum(-1) + _EPS_M**2).sqrt()


def reaching_signals(offset: Tensor, velocity: Tensor, typical_m: float, typical_m_s: float) -> Tensor:
    """Distance and speed in the frame of the goal, which no rotation or shift of the scene changes.

    Args:
        offset: (N, 2) from the tip to the goal, m.
        velocity: (N, 2) of the tip, m/s.
        typical_m: distance from which on only its logarithm counts.
        typical_m_s: speed that is 1.

    Returns:
        (N, 3): log(1 + d / typical), v.u / typical, |v.w| / typical; u is the unit vector to the goal, w across it.
    """
    distance = safe_norm(offset)
    towards = offset / distance.unsqueeze(-1)  # (N, 2)
    closing = (velocity * towards).sum(-1)
    lateral = (velocity[..., 0] * towards[..., 1] - velocity[..., 1] * towards[..., 0]).abs()
    return torch.stack([(distance / typical_m).log1p(), closing / typical_m_s, lateral / typical_m_s], -1)


def spatial_reaching_signals(offset: Tensor, velocity: Tensor, typical_m: float, typical_m_s: float) -> Tensor:
    """The same in space.

    Args:
        offset: (N, 3) from the tip to the goal, m.
        velocity: (N, 3) of the tip, m/s.
        typical_m: distance from which on only its logarithm counts.
        typical_m_s: speed that is 1.

    Returns:
        (N, 3): log(1 + d / typical), v.u / typical, |v - (v.u) u| / typical; u is the unit vector to the goal.
    """
    distance = safe_norm(offset)
    towards = offset / distance.unsqueeze(-1)  # (N, 3)
    closing = (velocity * towards).sum(-1)
    lateral = safe_norm(velocity - closing.unsqueeze(-1) * towards)
    return torch.stack([(distance / typical_m).log1p(), closing / typical_m_s, lateral / typical_m_s], -1)
