"""Doors, drawers, buttons, levers and windows: what a hand that points down can move, built of primitives.

Each fixture hangs on a mocap body of its name, so that `reset` places it anywhere in both engines; what moves is the
body `<name>_part` with one joint `<name>` (0 where it rests), and the site `<name>_handle` is where a hand takes hold.
In the fixture's frame x points into it, away from the hand, y to the left, z up; the origin lies on the table below the
handle at joint position 0. Nothing collides but with the hand, and nothing is moved by gravity.

    name    joint                                                             range            handle
    door    hinge along z, on the right (`side` 1) or the left (-1), 0.24 m   0 .. 1.6 rad     post, open above
            beside the handle; turns towards the hand
    drawer  slide along -x, towards the hand                                  0 .. 0.32 m      bar across, on two stems
    button  slide along -z, down                                              0 .. 0.05 m      plunger
    lever   hinge along y, 5 cm above the table, upright at 0; positive:      -1.1 .. 1.1 rad  rod with a knob
            the knob moves away from the hand
    window  slide along y, to the left                                        -0.26 .. 0.26 m  post, open above

A post or bar of 2 cm stands 5.6 cm in front of a panel: the closed fingers (3.6 x 3.2 cm) fit in between and hook it;
the open gripper straddles a post. Nothing reaches above 17 cm, where the hand starts, so that it may start above a
fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from envs.manipulation import scene

HANDLE_RADIUS_M = 0.01
PANEL_M = 0.066
"""From the middle of a post or bar to the face of the panel behind it."""
POST_LOW_M, POST_HIGH_M, POST_GRASP_M = 0.06, 0.15, 0.115
DOOR_RADIUS_M, DOOR_AXIS_M = 0.24, 0.074
"""Handle to hinge, along y and x."""
DOOR_RANGE_RAD = 1.6
DRAWER_GRASP_M, DRAWER_RANGE_M = 0.095, 0.32
BUTTON_TOP_M, BUTTON_RANGE_M = 0.115, 0.05
LEVER_PIVOT_M, LEVER_GRASP_M, LEVER_RANGE_RAD = 0.05, 0.085, 1.1
"""Height of the pivot; from there along the rod to where it is taken; largest angle."""
WINDOW_RANGE_M = 0.26

_BOX, _CAPSULE, _SPHERE = (getattr(mujoco.mjtGeom, f"mjGEOM_{kind}") for kind in ("BOX", "CAPSULE", "SPHERE"))
_TOUCHES_HAND = {"contype": 0, "conaffinity": 2, "mass": 0.0}
_TOUCHES_NOTHING = {"contype": 0, "conaffinity": 0, "mass": 0.0}
_SHELL: scene.Rgba = (0.87, 0.88, 0.9, 1)
_PANEL: scene.Rgba = (0.3, 0.52, 0.74, 1)
_INSIDE: scene.Rgba = (0.55, 0.43, 0.31, 1)
_GLASS: scene.Rgba = (0.55, 0.78, 0.92, 0.45)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Fixture:
    """A kind of fixture.

    Attributes:
        name: of its mocap body and joint.
        add: (scene, is_drawn): adds it; what only pictures need where `is_drawn`.
        handle: (position of the joint (N,), side (N,)) -> where the handle is, (N, 3) m in the fixture's frame.
        tangent: the same -> how the handle moves with the joint, (N, 3) m/rad or 1.
    """

    name: str
    add: Callable[[mujoco.MjSpec, bool], None]
    handle: Callable[[Tensor, Tensor], Tensor]
    tangent: Callable[[Tensor, Tensor], Tensor]


def _frame(spec: mujoco.MjSpec, name: str, position: Triple) -> mujoco.MjsBody:
    return spec.worldbody.add_body(name=name, mocap=True, pos=position)


def _part(
    frame: mujoco.MjsBody,
    name: str,
    kind: mujoco.mjtJoint,
    axis: Triple,
    limits: tuple[float, float],
    mass_kg: float,
    middle: Triple,
    inertia: Triple,
    pivot: Triple = (0.0, 0.0, 0.0),
) -> mujoco.MjsBody:
    """The body that moves: its inertia is its own, not that of its geoms, so that mirroring it is a change of sign."""
    body = frame.add_body(name=f"{name}_part", gravcomp=1.0)
    body.explicitinertial, body.mass, body.ipos, body.inertia = True, mass_kg, middle, inertia
    body.add_joint(
        name=name,
        type=kind,
        axis=axis,
        pos=pivot,
        limited=True,
        range=limits,
        armature=0.002,
        damping=[1.0, 0, 0],
        frictionloss=0.1,
        solimp_friction=[0.99, 0.99, 0.001, 0.5, 2],  # stiction that hardly creeps
        solimp_limit=[0.99, 0.999, 0.001, 0.5, 2],  # stops that hardly yield
    )
    return body


def _box(body: mujoco.MjsBody, middle: Triple, half: Triple, rgba: scene.Rgba, touches: bool = True) -> None:
    contact = _TOUCHES_HAND if touches else _TOUCHES_NOTHING
    body.add_geom(type=_BOX, pos=middle, size=half, rgba=rgba, **contact)


def _rod(body: mujoco.MjsBody, start: Triple, end: Triple, radius: float, rgba: scene.Rgba = scene.ORANGE) -> None:
    body.add_geom(type=_CAPSULE, fromto=[*start, *end], size=[radius, 0, 0], rgba=rgba, **_TOUCHES_HAND)


def _site(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, position: Triple) -> None:
    """The handle's site, and a sensor of its velocity."""
    body.add_site(name=f"{name}_handle", pos=position)
    spec.add_sensor(
        name=f"{name}_handle",
        type=mujoco.mjtSensor.mjSENS_FRAMELINVEL,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname=f"{name}_handle",
    )


def _post(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str) -> None:
    """A post in front of a panel, on a stem at its lower end."""
    _rod(body, (0, 0, POST_LOW_M), (0, 0, POST_HIGH_M), HANDLE_RADIUS_M)
    _rod(body, (0, 0, POST_LOW_M), (PANEL_M, 0, POST_LOW_M), 0.008)
    _site(spec, body, name, (0, 0, POST_GRASP_M))


def _plate_inertia(mass: float, half: Triple) -> Triple:
    x, y, z = (h * h for h in half)
    return mass * (y + z) / 3, mass * (x + z) / 3, mass * (x + y) / 3


# Door


def _add_door(spec: mujoco.MjSpec, is_drawn: bool = False) -> None:
    frame = _frame(spec, "door", (0.6, 0, 0))
    middle, half = (DOOR_AXIS_M, -0.1, 0.087), (0.008, 0.14, 0.075)
    for y in (-0.248, 0.048):
        _box(frame, (0.182, y, 0.084), (0.1, 0.008, 0.084), _SHELL)
    _box(frame, (0.182, -0.1, 0.166), (0.1, 0.156, 0.004), _SHELL)
    if is_drawn:
        _box(frame, (0.182, -0.1, 0.012), (0.1, 0.14, 0.004), _SHELL, touches=False)
        _box(frame, (0.278, -0.1, 0.085), (0.004, 0.14, 0.078), _INSIDE, touches=False)
        _box(frame, (0.19, -0.1, 0.085), (0.085, 0.138, 0.004), _INSIDE, touches=False)
        _box(frame, (0.182, -0.1, 0.004), (0.09, 0.13, 0.004), scene.DARK, touches=False)
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    pivot = (DOOR_AXIS_M, -DOOR_RADIUS_M, 0.0)
    limits = (0.0, DOOR_RANGE_RAD)
    part = _part(frame, "door", hinge, (0, 0, 1), limits, 1.0, middle, _plate_inertia(1.0, half), pivot)
    _box(part, middle, half, _PANEL)
    if is_drawn:
        _box(part, (0.065, -0.1, 0.087), (0.002, 0.115, 0.05), (0.36, 0.6, 0.82, 1), touches=False)
    _post(spec, part, "door")


def _door_handle(angle: Tensor, side: Tensor) -> Tensor:
    """The post turns around the hinge at (a, -s r): x = a - a cos q - r sin q, y = s (r cos q - a sin q - r)."""
    sin, cos = angle.sin(), angle.cos()
    x = DOOR_AXIS_M * (1.0 - cos) - DOOR_RADIUS_M * sin
    y = side * (DOOR_RADIUS_M * (cos - 1.0) - DOOR_AXIS_M * sin)
    return torch.stack([x, y, torch.full_like(x, POST_GRASP_M)], 1)


def _door_tangent(angle: Tensor, side: Tensor) -> Tensor:
    sin, cos = angle.sin(), angle.cos()
    x = DOOR_AXIS_M * sin - DOOR_RADIUS_M * cos
    y = -side * (DOOR_RADIUS_M * sin + DOOR_AXIS_M * cos)
    return torch.stack([x, y, torch.zeros_like(x)], 1)


# Drawer


def _add_drawer(spec: mujoco.MjSpec, is_drawn: bool = False) -> None:
    frame = _frame(spec, "drawer", (0.6, 0, 0))
    _box(frame, (0.242, 0, 0.08), (0.16, 0.15, 0.08), _SHELL)
    slide = mujoco.mjtJoint.mjJNT_SLIDE
    limits = (0.0, DRAWER_RANGE_M)
    middle, half = (0.12, 0.0, 0.09), (0.1, 0.13, 0.06)
    part = _part(frame, "drawer", slide, (-1, 0, 0), limits, 1.0, middle, _plate_inertia(1.0, half))
    _box(part, (0.074, 0, 0.095), (0.008, 0.135, 0.062), _PANEL)
    for y in (-0.065, 0.065):
        _rod(part, (0, y, 0.1), (PANEL_M, y, 0.1), 0.008)
    _rod(part, (0, -0.065, 0.1), (0, 0.065, 0.1), HANDLE_RADIUS_M)
    _site(spec, part, "drawer", (0, 0, DRAWER_GRASP_M))
    if is_drawn:
        _box(frame, (0.242, 0, 0.164), (0.168, 0.158, 0.004), scene.WOOD, touches=False)
        _box(frame, (0.08, 0, 0.016), (0.004, 0.135, 0.012), _PANEL, touches=False)
        _box(part, (0.24, 0, 0.04), (0.158, 0.128, 0.004), _INSIDE, touches=False)
        for y in (-0.126, 0.126):
            _box(part, (0.24, y, 0.09), (0.158, 0.004, 0.05), _INSIDE, touches=False)
        _box(part, (0.065, 0, 0.095), (0.002, 0.115, 0.042), (0.36, 0.6, 0.82, 1), touches=False)


def _drawer_handle(opening: Tensor, side: Tensor) -> Tensor:
    zero = torch.zeros_like(opening)
    return torch.stack([-opening, zero, zero + DRAWER_GRASP_M], 1)


def _drawer_tangent(opening: Tensor, side: Tensor) -> Tensor:
    zero = torch.zeros_like(opening)
    return torch.stack([zero - 1.0, zero, zero], 1)


# Button


def _add_button(spec: mujoco.MjSpec, is_drawn: bool = False) -> None:
    frame = _frame(spec, "button", (0.5, 0, 0))
    _box(frame, (0, 0, 0.025), (0.07, 0.07, 0.025), _SHELL)
    slide, limits = mujoco.mjtJoint.mjJNT_SLIDE, (0.0, BUTTON_RANGE_M)
    part = _part(frame, "button", slide, (0, 0, -1), limits, 0.1, (0, 0, 0.07), (1e-4, 1e-4, 1e-4))
    _rod(part, (0, 0, 0.03), (0, 0, BUTTON_TOP_M - 0.02), 0.02, scene.RED)
    _site(spec, part, "button", (0, 0, BUTTON_TOP_M))
    if is_drawn:
        _box(frame, (0, 0, 0.0505), (0.055, 0.055, 0.0012), (0.97, 0.8, 0.2, 1), touches=False)
        _box(frame, (0, 0, 0.004), (0.078, 0.078, 0.004), scene.DARK, touches=False)


def _button_handle(depth: Tensor, side: Tensor) -> Tensor:
    zero = torch.zeros_like(depth)
    return torch.stack([zero, zero, BUTTON_TOP_M - depth], 1)


def _button_tangent(depth: Tensor, side: Tensor) -> Tensor:
    zero = torch.zeros_like(depth)
    return torch.stack([zero, zero, zero - 1.0], 1)


# Lever


def _add_lever(spec: mujoco.MjSpec, is_drawn: bool = False) -> None:
    frame = _frame(spec, "lever", (0.5, 0, 0))
    _box(frame, (0, 0, 0.022), (0.07, 0.05, 0.022), _SHELL)
    hinge, limits = mujoco.mjtJoint.mjJNT_HINGE, (-LEVER_RANGE_RAD, LEVER_RANGE_RAD)
    pivot = (0.0, 0.0, LEVER_PIVOT_M)
    part = _part(frame, "lever", hinge, (0, 1, 0), limits, 0.2, (0, 0, 0.1), (4e-4, 4e-4, 5e-5), pivot)
    _rod(part, pivot, (0, 0, 0.14), HANDLE_RADIUS_M, scene.WHITE)
    part.add_geom(type=_SPHERE, pos=[0, 0, 0.152], size=[0.017, 0, 0], rgba=scene.ORANGE, **_TOUCHES_HAND)
    _site(spec, part, "lever", (0, 0, LEVER_PIVOT_M + LEVER_GRASP_M))
    if is_drawn:
        for y in (-0.026, 0.026):
            _box(frame, (0, y, 0.052), (0.03, 0.01, 0.016), scene.DARK, touches=False)
        _box(frame, (0, 0, 0.004), (0.078, 0.058, 0.004), scene.DARK, touches=False)


def _lever_handle(angle: Tensor, side: Tensor) -> Tensor:
    x, z = LEVER_GRASP_M * angle.sin(), LEVER_GRASP_M * angle.cos()
    return torch.stack([x, torch.zeros_like(x), z + LEVER_PIVOT_M], 1)


def _lever_tangent(angle: Tensor, side: Tensor) -> Tensor:
    x, z = LEVER_GRASP_M * angle.cos(), -LEVER_GRASP_M * angle.sin()
    return torch.stack([x, torch.zeros_like(x), z], 1)


# Window


def _add_window(spec: mujoco.MjSpec, is_drawn: bool = False) -> None:
    frame = _frame(spec, "window", (0.6, 0, 0))
    _box(frame, (0.08, 0, 0.012), (0.025, 0.36, 0.012), _SHELL)
    _box(frame, (0.08, 0, 0.164), (0.012, 0.36, 0.006), _SHELL)
    slide, limits = mujoco.mjtJoint.mjJNT_SLIDE, (-WINDOW_RANGE_M, WINDOW_RANGE_M)
    middle, half = (0.074, 0.0, 0.091), (0.006, 0.09, 0.066)
    part = _part(frame, "window", slide, (0, 1, 0), limits, 1.0, middle, _plate_inertia(1.0, half))
    _box(part, middle, half, _GLASS if is_drawn else _PANEL)
    _post(spec, part, "window")
    if is_drawn:
        for y in (-0.352, 0.352):
            _box(frame, (0.08, y, 0.09), (0.016, 0.008, 0.08), _SHELL, touches=False)
        for y in (-0.082, 0.082):
            _box(part, (0.073, y, 0.091), (0.008, 0.009, 0.066), _PANEL, touches=False)
        for z in (0.034, 0.148):
            _box(part, (0.073, 0, z), (0.008, 0.09, 0.009), _PANEL, touches=False)
        _box(part, (0.07, 0, POST_LOW_M), (0.006, 0.02, 0.02), _PANEL, touches=False)


def _window_handle(shift: Tensor, side: Tensor) -> Tensor:
    zero = torch.zeros_like(shift)
    return torch.stack([zero, shift, zero + POST_GRASP_M], 1)


def _window_tangent(shift: Tensor, side: Tensor) -> Tensor:
    zero = torch.zeros_like(shift)
    return torch.stack([zero, zero + 1.0, zero], 1)


DOOR = Fixture("door", _add_door, _door_handle, _door_tangent)
DRAWER = Fixture("drawer", _add_drawer, _drawer_handle, _drawer_tangent)
BUTTON = Fixture("button", _add_button, _button_handle, _button_tangent)
LEVER = Fixture("lever", _add_lever, _lever_handle, _lever_tangent)
WINDOW = Fixture("window", _add_window, _window_handle, _window_tangent)


def turned(local: Tensor, turn: Tensor) -> Tensor:
    """Vectors of a fixture's frame in that of the world, (N, 3); `turn` holds cosine and sine of its yaw, (N, 2)."""
    x, y, z = local.unbind(1)
    cos, sin = turn.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], 1)
