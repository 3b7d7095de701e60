"""A hidden way to run, of ants and humanoids: the task's parameter, the speed along it, arrow heads that show it."""

from __future__ import annotations

import math

import mujoco
from torch import Tensor

from envs.locomotion.bodies import add_chevron
from metarl.tasks import Choice, Parameter, Uniform
from metarl.types import Arrays

_LANE_M = 2.0


def forward_or_backward() -> Parameter:
    """The parameter `direction`, along x."""
    return Parameter("direction", "1", Choice((-1.0, 1.0)), "1 to run forward, -1 backward")


def any_way() -> Parameter:
    """The parameter `angle`, anywhere on the circle."""
    return Parameter("angle", "rad", Uniform(0.0, 2 * math.pi), "direction to run, from the x axis")


def speed_along(task: Arrays, velocity: Tensor) -> Tensor:
    """The part of a velocity, (N, 2) m/s, that goes the task's way, (N,)."""
    if "direction" in task:
        return task["direction"] * velocity[:, 0]
    return velocity[:, 0] * task["angle"].cos() + velocity[:, 1] * task["angle"].sin()


def add_lanes(spec: mujoco.MjSpec, task: Arrays) -> None:
    """Paint arrow heads on the ground, 1 m apart, along the way of one task; along x where it has none."""
    angle_rad = float(task["angle"]) if "angle" in task else math.pi * float(task.get("direction", 1.0) < 0)
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    for side_m in (-_LANE_M, 0.0, _LANE_M):
        for ahead_m in range(-2, 60):
            add_chevron(spec, ahead_m * cos - side_m * sin, ahead_m * sin + side_m * cos, angle_rad)
