"""The one observation of all manipulation environments, so that one policy can be trained on several of them.

    name             size  what                                                        unit    scale
    joint_pos           9  seven joints; two fingers, from home and open               rad; m  1; 20
    joint_vel           9  the same                                                    1/s     0.3; 5
    tcp                 3  where the controller believes the hand to be                m       2
    opening             1  of the gripper, both fingers together                       m       10
    object_pos          3  middle of the bottom of the object, or the handle           m       2
    object_rotation     6  first two columns of its rotation matrix, row by row        1       1
    object_velocity     6  linear, angular                                             m/s, rad/s  1; 0.2
    fixture             2  position and velocity of a door, drawer, ... from closed    rad or m, 1/s  1
    goal                3  goal minus object (reach: minus tcp); zeros where hidden    m       5
    hand_lag            3  commanded hand position minus tcp; zeros with joint targets m       20
    action          4 or 9  the previous action, zeros at the start                    1       1
    49 numbers with hand actions, 54 with joint targets. What an environment does not have is zero.

`hand_lag` makes the observation complete: the controller remembers the commanded position from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from envs.manipulation import arm7

_BLOCKS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("joint_pos", (1.0,) * 7 + (20.0,) * 2),
    ("joint_vel", (0.3,) * 7 + (5.0,) * 2),
    ("tcp", (2.0,) * 3),
    ("opening", (10.0,)),
    ("object_pos", (2.0,) * 3),
    ("object_rotation", (1.0,) * 6),
    ("object_velocity", (1.0,) * 3 + (0.2,) * 3),
    ("fixture", (1.0,) * 2),
    ("goal", (5.0,) * 3),
    ("hand_lag", (20.0,) * 3),
)
"""Names and scales, in the order of the columns; the previous action follows."""
_SIZES = {name: len(block) for name, block in _BLOCKS}


class Parts(NamedTuple):
    """What an environment adds to the observation of the arm, unscaled; None: zeros.

    Attributes:
        object_pos: (N, 3) m.
        object_rotation: (N, 6), see `first_columns`.
        object_velocity: (N, 6) m/s, rad/s.
        fixture: (N, 2) position and velocity of a fixture's joint.
        goal: (N, 3) goal minus object, m.
    """

    object_pos: Tensor | None = None
    object_rotation: Tensor | None = None
    object_velocity: Tensor | None = None
    fixture: Tensor | None = None
    goal: Tensor | None = None


def scales(action_dim: int) -> list[float]:
    """The scale of every column."""
    return [scale for _, block in _BLOCKS for scale in block] + [1.0] * action_dim


def slices() -> Iterator[tuple[str, slice]]:
    """Names and columns, without those of the previous action."""
    start = 0
    for name, block in _BLOCKS:
        yield name, slice(start, start + len(block))
        start += len(block)


def columns(name: str) -> slice:
    """The columns of a block, such as `columns("tcp")`."""
    return dict(slices())[name]


def read(obs: Tensor, name: str) -> Tensor:
    """A block of an observation in its own unit, for experts: (N, O) -> (N, size of the block).

    Blocks whose columns differ in scale are given in the unit of their first column.
    """
    return obs[:, columns(name)] / dict(_BLOCKS)[name][0]


def assemble(
    joint_pos: Tensor, joint_vel: Tensor, tcp: Tensor, parts: Parts, hand_lag: Tensor, action: Tensor, scale: Tensor
) -> Tensor:
    """Put an observation together.

    Args:
        joint_pos, joint_vel: (N, 9).
        tcp: (N, 3).
        parts: what the environment adds.
        hand_lag: (N, 3).
        action: (N, A), the previous one.
        scale: (N, O) or (O,), from `scales`.

    Returns:
        (N, O).
    """
    opening = joint_pos[:, arm7.NUM_ARM_JOINTS :].sum(1, keepdim=True) + 2.0 * arm7.FINGER_TRAVEL_M
    blocks = [joint_pos, joint_vel, tcp, opening]
    for name, part in zip(Parts._fields, parts, strict=True):
        blocks.append(tcp.new_zeros(len(tcp), _SIZES[name]) if part is None else part)
    return torch.cat([*blocks, hand_lag, action], 1) * scale


def first_columns(matrix: Tensor) -> Tensor:
    """The first two columns of rotation matrices, row by row: (N, 9) -> (N, 6).

    Source: Zhou et al. 2019, "On the continuity of rotation representations in neural networks".
    """
    return matrix.unflatten(1, (3, 3))[:, :, :2].flatten(1)
