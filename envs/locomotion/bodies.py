"""gymnasium's MuJoCo bodies, how they start, and what videos need: a camera, softer colours, marks on the ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources

import mujoco
import torch
from torch import Tensor

GREEN = (0.2, 0.65, 0.35, 1.0)
RED = (0.85, 0.25, 0.2, 1.0)
LIGHT_ORANGE = (0.93, 0.62, 0.28, 1.0)
DEAD = (0.2, 0.2, 0.24, 1.0)
"""Of a limb without a motor."""
DARK_ORANGE = (0.86, 0.42, 0.22, 1.0)

_DRAWN_EXTENT_M = 8.0
"""MuJoCo's own would grow with the marks on the ground, and shadows get coarse."""


def load_body(file_name: str) -> mujoco.MjSpec:
    """Read one of the model files that gymnasium ships, such as "ant.xml"."""
    text = resources.files("gymnasium").joinpath("envs", "mujoco", "assets", file_name).read_text()
    return mujoco.MjSpec.from_string(text)


def around(pose: Sequence[float], jitter: Tensor) -> Tensor:
    """A pose plus a deviation from it for each world, (N, n)."""
    # Number by number: a tensor made from numbers here would be a copy to the GPU that no graph can capture.
    return torch.stack([jitter[:, i] + value for i, value in enumerate(pose)], 1)


def with_unit_quaternion(qpos: Tensor) -> Tensor:
    """Positions of a free body and its joints, (N, nq), with the body's quaternion made one."""
    quaternion = torch.nn.functional.normalize(qpos[:, 3:7], dim=1)
    return torch.cat([qpos[:, :3], quaternion, qpos[:, 7:]], 1)


def sense_contact_forces(spec: mujoco.MjSpec) -> None:
    """Add an accelerometer to the torso: nobody reads it, but it makes MuJoCo compute `cfrc_ext`."""
    spec.body("torso").add_site(name="torso")
    spec.add_sensor(
        name="contact_forces",
        type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname="torso",
    )


def add_camera(
    spec: mujoco.MjSpec,
    follows: str | None,
    pos: tuple[float, float, float],
    down: float,
    fovy: float = 45.0,
) -> None:
    """Add the camera "video", which looks along y and downwards.

    Args:
        spec: the body to add it to.
        follows: the body that it keeps in view; None: it stands still.
        pos: where it is (m), relative to what it follows.
        down: metres that its line of sight falls per metre ahead.
        fovy: vertical field of view (degrees).
    """
    body = spec.worldbody if follows is None else spec.body(follows)
    mode = mujoco.mjtCamLight.mjCAMLIGHT_FIXED if follows is None else mujoco.mjtCamLight.mjCAMLIGHT_TRACK
    camera = body.add_camera(name="video", mode=mode, fovy=fovy)
    camera.pos = pos
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = (1.0, 0.0, 0.0, 0.0, down, 1.0)


def paint_ground(spec: mujoco.MjSpec) -> None:
    """Give sky and ground softer colours than the files' black and white, which flicker in a video."""
    sky, _, ground = spec.textures
    sky.rgb1, sky.rgb2 = (0.62, 0.74, 0.86), (0.87, 0.92, 0.96)
    ground.rgb1, ground.rgb2 = (0.36, 0.42, 0.38), (0.42, 0.48, 0.44)
    spec.material("MatPlane").reflectance = 0.0
    spec.material("MatPlane").specular = 0.1
    spec.geom("floor").rgba = (1.0, 1.0, 1.0, 1.0)
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.25, 0.25, 0.25)
    spec.worldbody.lights[0].diffuse = (0.6, 0.6, 0.6)
    spec.worldbody.lights[0].dir = (-0.3, 0.4, -1.0)
    spec.stat.extent = _DRAWN_EXTENT_M


def add_post(
    spec: mujoco.MjSpec, x: float, y: float, rgba: tuple[float, ...] = GREEN, height_m: float = 0.6, foot_m: float = 0.0
) -> None:
    """Add a post that nothing collides with, its foot at the height `foot_m`."""
    half_m = height_m / 2
    add_mark(spec, mujoco.mjtGeom.mjGEOM_CAPSULE, (0.03, half_m, 0.0), (x, y, foot_m + half_m), rgba)


def add_chevron(spec: mujoco.MjSpec, x: float, y: float, angle_rad: float, rgba: tuple[float, ...] = GREEN) -> None:
    """Paint an arrow head on the ground, its tip at (x, y) and pointing along `angle_rad`."""
    half_length_m = 0.18
    for side in (-1.0, 1.0):
        arm = angle_rad + side * math.radians(140.0)
        pos = (x + half_length_m * math.cos(arm), y + half_length_m * math.sin(arm), 0.0)
        mark = add_mark(spec, mujoco.mjtGeom.mjGEOM_BOX, (half_length_m, 0.035, 0.006), pos, rgba)
        mark.quat = (math.cos(arm / 2), 0.0, 0.0, math.sin(arm / 2))


def add_mark(
    spec: mujoco.MjSpec,
    kind: mujoco.mjtGeom,
    size: tuple[float, float, float],
    pos: tuple[float, float, float],
    rgba: tuple[float, ...],
) -> mujoco.MjsGeom:
    """Add something to look at, without mass, that nothing collides with."""
    return spec.worldbody.add_geom(type=kind, size=size, pos=pos, rgba=rgba, contype=0, conaffinity=0, mass=0.0)
