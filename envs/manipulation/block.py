"""A free block on the table: its start, its model fields, what the observation shows of it."""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from envs.manipulation import layout
from envs.manipulation.arm7 import NUM_JOINTS
from metarl.types import Arrays

_POS, _VEL = slice(NUM_JOINTS, NUM_JOINTS + 3), slice(NUM_JOINTS, NUM_JOINTS + 6)
"""Of a block that is added to a scene right after the arm: position in qpos, velocities in qvel."""


def lying(x: Tensor, y: Tensor, yaw: Tensor) -> Tensor:
    """Joint positions of a block that lies on the table, (N, 7): x, y, 0 and a quaternion; three times (N,)."""
    zero, half = torch.zeros_like(x), 0.5 * yaw
    return torch.stack([x, y, zero, half.cos(), zero, zero, half.sin()], 1)


def position(data: Arrays) -> Tensor:
    """The middle of the bottom of the block, (N, 3) m."""
    return data["qpos"][:, _POS]


def velocity(data: Arrays) -> Tensor:
    """Linear (m/s, of the middle of the bottom) and angular velocity (rad/s, in the block's frame), (N, 6)."""
    return data["qvel"][:, _VEL]


def parts(data: Arrays, body_id: int, goal: Tensor | None = None) -> layout.Parts:
    """What the observation shows of a block; reads qpos, qvel and xmat."""
    rotation = layout.first_columns(data["xmat"][:, body_id])
    return layout.Parts(position(data), rotation, velocity(data), goal=goal)


def set_mass(
    fields: Arrays, body_id: int, mass: Tensor, half_size: Tensor, com_shift: Tensor | None = None
) -> dict[str, Tensor]:
    """Mass, inertia and centre of mass of a block.

    Args:
        fields: body_mass, body_inertia, body_ipos of each world, changed in place.
        body_id: the block's.
        mass: (N,) kg, evenly spread.
        half_size: (N, 3) m.
        com_shift: (N, 2) m, of the centre of mass from the middle, along the block's x and y.

    Returns:
        The three fields.
    """
    square = half_size.square()
    fields["body_mass"][:, body_id] = mass
    # I_x = m (h_y^2 + h_z^2) / 3
    fields["body_inertia"][:, body_id] = mass.unsqueeze(1) / 3.0 * (square.sum(1, keepdim=True) - square)
    fields["body_ipos"][:, body_id, 2] = half_size[:, 2]
    if com_shift is not None:
        fields["body_ipos"][:, body_id, :2] = com_shift
    return {name: fields[name] for name in ("body_mass", "body_inertia", "body_ipos")}


def body_and_geom(model: mujoco.MjModel, name: str) -> tuple[int, int]:
    """Ids of a block and its box."""
    return model.body(name).id, model.geom(name).id
