"""What a video of `park` shows: a parking lot with a row of marked slots, one of them the goal, and the car."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco

from envs.driving import vehicles

SLOT_LENGTH_M, SLOT_WIDTH_M, LINE_M = 0.8, 0.48, 0.03
_LINE, _GOAL = (0.93, 0.93, 0.9, 1), (0.16, 0.55, 0.35, 1)
_TARGET = (0.95, 0.8, 0.15, 1)


def car_on_lot(model_file: Path, wheelbase: float) -> mujoco.MjModel:
    """The car on the lot; the goal slot's rear axle is the origin.

    Args:
        model_file: the car without geoms.
        wheelbase: m.
    """
    spec = mujoco.MjSpec.from_file(str(model_file))
    car, front = spec.body("car"), spec.body("front")
    front.pos[0] = wheelbase
    vehicles.add_car(car, vehicles.PAINT[0], wheelbase, 0.0, front)
    _add_ground(spec)
    centre = 0.165  # the middle of a car of the usual wheelbase
    for slot in range(-3, 4):
        _flat(spec, [SLOT_LENGTH_M / 2, LINE_M / 2], [centre, (slot + 0.5) * SLOT_WIDTH_M], _LINE, 1)
    _flat(spec, [SLOT_LENGTH_M / 2, LINE_M / 2], [centre, -3.5 * SLOT_WIDTH_M], _LINE, 1)
    _flat(spec, [LINE_M / 2, 3.5 * SLOT_WIDTH_M], [centre + SLOT_LENGTH_M / 2, 0.0], _LINE, 1)
    _flat(spec, [(SLOT_LENGTH_M - LINE_M) / 2, (SLOT_WIDTH_M - LINE_M) / 2], [centre - LINE_M / 2, 0.0], _GOAL, 1)
    # An arrow in the slot: the front of the car belongs at its tip.
    _flat(spec, [0.16, 0.02], [centre - 0.04, 0.0], _TARGET, 2)
    for side in (1, -1):
        _flat(spec, [0.075, 0.02], [centre + 0.1, 0.045 * side], _TARGET, 2, yaw=-0.7 * side)
    for row in (-1.0, 1.0):
        for step in range(-5, 6):
            _flat(spec, [0.12, LINE_M / 2], [0.55 * step, 2.4 * row], _LINE, 1)
    return spec.compile()


def _add_ground(spec: mujoco.MjSpec) -> None:
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=64, height=64)
    sky.builtin, sky.rgb1, sky.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, [0.62, 0.75, 0.88], [0.9, 0.94, 0.97]
    asphalt = spec.add_texture(name="asphalt", type=mujoco.mjtTexture.mjTEXTURE_2D, width=128, height=128)
    asphalt.builtin = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    asphalt.rgb1, asphalt.rgb2 = [0.285, 0.292, 0.305], [0.295, 0.302, 0.315]
    material = spec.add_material(name="asphalt", texrepeat=[4, 4], texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "asphalt"
    spec.worldbody.add_geom(
        name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[12, 12, 1], material="asphalt", contype=0, conaffinity=0
    )
    sun = spec.worldbody.add_light(name="sun", pos=[-4, -5, 9], dir=[0.4, 0.5, -1.0], castshadow=True)
    sun.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    sun.diffuse, sun.specular = [0.75, 0.73, 0.68], [0.15, 0.15, 0.15]


def _flat(
    spec: mujoco.MjSpec,
    half: list[float],
    centre: list[float],
    rgba: tuple[float, ...],
    layer: int,
    yaw: float = 0.0,
) -> None:
    """Paint a rectangle on the ground; higher layers cover lower ones."""
    geom = spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=[*half, 0.002 * layer], pos=[*centre, 0.0], rgba=rgba
    )
    geom.contype = geom.conaffinity = 0
    geom.quat = [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
