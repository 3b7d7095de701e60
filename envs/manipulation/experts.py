"""What the scripted experts of manipulation share: hand actions that bring the hand to a point."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.manipulation import layout
from envs.manipulation.arm_env import HAND_STEP_M


def steer(obs: Tensor, point: Tensor, grip: Tensor, speed: float | Tensor = 1.0) -> Tensor:
    """The hand action that moves the commanded position of the hand to a point, as fast as it may.

    Args:
        obs: (N, O).
        point: (N, 3) where tcp should be, m.
        grip: (N,) the gripper's action.
        speed: largest step, as a share of `HAND_STEP_M`; a number or (N, 1).

    Returns:
        (N, 4).
    """
    commanded = layout.read(obs, "tcp") + layout.read(obs, "hand_lag")
    offset = (point - commanded) / HAND_STEP_M
    # All three axes slow down together, so that the way is straight.
    shrink = (speed / offset.abs().amax(1, keepdim=True)).clamp(max=1.0)
    return torch.cat([offset * shrink, grip.unsqueeze(1)], 1)
