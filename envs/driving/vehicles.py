"""What passenger cars of 1:10 scale look like: geoms to draw, without mass or contact."""

from __future__ import annotations

import math

import mujoco

LENGTH_M, WIDTH_M = 0.52, 0.28
"""Of the body of a car with the usual wheelbase."""
WHEEL_M, TRACK_M = 0.055, 0.12
"""Radius of the wheels, and their distance from the middle of the car."""
PAINT = (
    (0.85, 0.16, 0.13, 1),
    (0.14, 0.34, 0.75, 1),
    (0.93, 0.93, 0.9, 1),
    (0.95, 0.68, 0.1, 1),
    (0.18, 0.2, 0.23, 1),
    (0.1, 0.5, 0.42, 1),
    (0.62, 0.64, 0.68, 1),
    (0.48, 0.16, 0.44, 1),
)
"""Colours of cars, in turn."""
_GLASS, _TYRE, _RIM = (0.1, 0.13, 0.17, 1), (0.06, 0.06, 0.07, 1), (0.75, 0.76, 0.78, 1)
_HEADLIGHT, _TAIL_LIGHT, _DARK = (1.0, 0.97, 0.8, 1), (0.85, 0.05, 0.05, 1), (0.12, 0.12, 0.13, 1)


def add_car(
    body: mujoco.MjsBody,
    paint: tuple[float, ...],
    wheelbase: float = 0.33,
    rear_x: float = -0.165,
    front: mujoco.MjsBody | None = None,
) -> None:
    """Add the geoms of a car to a body that moves at wheel height.

    Args:
        body: of the car; x points forwards.
        paint: its colour.
        wheelbase: distance of the axles, m.
        rear_x: where the rear axle is, m before the origin of the body.
        front: the body of the steered axle, at its middle; None: the front wheels do not turn.
    """
    middle, stretch = rear_x + wheelbase / 2, wheelbase / 0.33

    def box(size: tuple[float, ...], pos: tuple[float, ...], rgba: tuple[float, ...], tilt: float = 0.0) -> None:
        place = [middle + stretch * pos[0], *pos[1:]]
        _add(body, mujoco.mjtGeom.mjGEOM_BOX, [stretch * size[0], *size[1:]], place, rgba, (1, tilt))

    half = LENGTH_M / 2
    box((half, 0.122, 0.026), (0, 0, 0.008), paint)
    box((0.2, WIDTH_M / 2, 0.022), (0, 0, 0.036), paint)
    box((half - 0.012, 0.128, 0.014), (0, 0, 0.046), paint)
    box((half + 0.006, 0.118, 0.012), (0, 0, -0.016), _DARK)
    box((0.105, 0.104, 0.03), (-0.04, 0, 0.086), _GLASS)
    box((0.09, 0.098, 0.006), (-0.045, 0, 0.119), paint)
    box((0.05, 0.1, 0.004), (0.082, 0, 0.084), _GLASS, 0.62)
    box((0.042, 0.1, 0.004), (-0.155, 0, 0.088), _GLASS, -0.72)
    for side in (1, -1):
        box((0.008, 0.026, 0.01), (half - 0.006, 0.088 * side, 0.036), _HEADLIGHT)
        box((0.008, 0.03, 0.01), (0.006 - half, 0.086 * side, 0.038), _TAIL_LIGHT)
        box((0.012, 0.012, 0.009), (0.07, 0.148 * side, 0.078), paint)
        _add_wheel(body, [rear_x, TRACK_M * side, 0])
        _add_wheel(front or body, [0 if front else rear_x + wheelbase, TRACK_M * side, 0])


def _add_wheel(body: mujoco.MjsBody, pos: list[float]) -> None:
    lying = (0, math.pi / 2)
    _add(body, mujoco.mjtGeom.mjGEOM_CYLINDER, [WHEEL_M, 0.024, 0], pos, _TYRE, lying)
    _add(body, mujoco.mjtGeom.mjGEOM_CYLINDER, [0.6 * WHEEL_M, 0.025, 0], pos, _RIM, lying)


def _add(
    body: mujoco.MjsBody,
    kind: mujoco.mjtGeom,
    size: list[float],
    pos: list[float],
    rgba: tuple[float, ...],
    turn: tuple[int, float],
) -> None:
    """Add a geom, turned about the x axis (0) or the y axis (1) by an angle in rad."""
    axis, angle = turn
    quat = [math.cos(angle / 2), 0.0, 0.0, 0.0]
    quat[1 + axis] = math.sin(angle / 2)
    body.add_geom(type=kind, size=size, pos=pos, quat=quat, rgba=rgba, contype=0, conaffinity=0, mass=0)
