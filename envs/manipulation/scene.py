"""Objects of manipulation scenes, and how scenes look: materials, lights, the table, the arm's shells, the camera."""

from __future__ import annotations

import mujoco
import numpy as np

from envs.manipulation import arm7

Rgba = tuple[float, float, float, float]

WHITE: Rgba = (0.93, 0.93, 0.91, 1)
DARK: Rgba = (0.13, 0.14, 0.16, 1)
BLUE: Rgba = (0.16, 0.45, 0.78, 1)
ORANGE: Rgba = (0.97, 0.58, 0.13, 1)
RED: Rgba = (0.88, 0.2, 0.2, 1)
GREEN: Rgba = (0.18, 0.66, 0.4, 1)
WOOD: Rgba = (0.72, 0.56, 0.4, 1)

VIDEO_EYE_M, VIDEO_TARGET_M, VIDEO_FOVY_DEG = (1.75, -1.05, 0.98), (0.3, 0.02, 0.24), 34.0

_NO_CONTACT = {"contype": 0, "conaffinity": 0, "mass": 0.0}


def add_block(
    spec: mujoco.MjSpec,
    name: str,
    half_size_m: tuple[float, float, float],
    mass_kg: float,
    position_m: tuple[float, float] = (0.5, 0.0),
    rgba: Rgba = ORANGE,
    condim: int = 3,
) -> mujoco.MjsBody:
    """Add a free box on the table. Its frame is the middle of its bottom, so that its place does not tell its height.

    Its friction holds in all its contacts (priority 1).
    """
    body = spec.worldbody.add_body(name=name, pos=[*position_m, 0.0])
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=half_size_m,
        pos=[0, 0, half_size_m[2]],
        mass=mass_kg,
        rgba=rgba,
        priority=1,
        condim=condim,
        friction=[0.6, 0.005, 0.0001],
    )
    return body


def add_goal(spec: mujoco.MjSpec, name: str, shape: mujoco.mjtGeom, size: tuple[float, ...], rgba: Rgba = RED) -> None:
    """Add a goal that touches nothing: a geom on a mocap body, which `reset` puts where the task wants it."""
    body = spec.worldbody.add_body(name=name, mocap=True)
    body.add_geom(name=name, type=shape, size=[*size, *[0.0] * (3 - len(size))], rgba=rgba, **_NO_CONTACT)


def add_touch_sensors(spec: mujoco.MjSpec, body: str) -> None:
    """Add two sensors, one per finger: how many contacts it has with a body (0: none)."""
    for finger in arm7.FINGERS:
        spec.add_sensor(
            name=f"{finger}_touches_{body}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=finger,
            reftype=mujoco.mjtObj.mjOBJ_BODY,
            refname=body,
            intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1],
        )


def decorate(spec: mujoco.MjSpec) -> None:
    """Add what only pictures need: nothing that moves otherwise or touches anything.

    For `Physics.scene`: the model that is stepped has no such geoms, whose kinematics would cost time.
    """
    _add_materials(spec)
    spec.visual.headlight.ambient = [0.42, 0.42, 0.43]
    spec.visual.headlight.diffuse = [0.22, 0.22, 0.22]
    spec.visual.headlight.specular = [0.05, 0.05, 0.05]
    spec.visual.map.znear = 0.01
    world = spec.worldbody
    key = world.add_light(name="key", pos=[0.9, -1.1, 2.2], dir=[-0.3, 0.5, -1.0], castshadow=True)
    key.diffuse, key.specular = [0.68, 0.66, 0.62], [0.25, 0.25, 0.25]
    fill = world.add_light(name="fill", pos=[-0.6, 1.4, 1.8], dir=[0.5, -0.8, -1.0], castshadow=False)
    fill.diffuse, fill.specular = [0.18, 0.2, 0.24], [0.0, 0.0, 0.0]
    camera = world.add_camera(name="video", pos=VIDEO_EYE_M, fovy=VIDEO_FOVY_DEG)
    camera.quat = look_at(VIDEO_EYE_M, VIDEO_TARGET_M)
    _add_table(spec)
    _add_shells(spec)


def look_at(eye_m: tuple[float, float, float], target_m: tuple[float, float, float]) -> np.ndarray:
    """Quaternion of a camera at `eye_m` that looks at `target_m`, upright."""
    back = np.subtract(eye_m, target_m)
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right = right / np.linalg.norm(right)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], 1).ravel())
    return quat


def _add_materials(spec: mujoco.MjSpec) -> None:
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=64, height=64)
    sky.builtin, sky.rgb1, sky.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, [0.86, 0.9, 0.94], [0.52, 0.58, 0.66]
    floor = spec.add_texture(name="floor", type=mujoco.mjtTexture.mjTEXTURE_2D, width=256, height=256)
    floor.builtin, floor.rgb1, floor.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_CHECKER, [0.74, 0.75, 0.77], [0.68, 0.69, 0.72]
    material = spec.add_material(name="floor", texrepeat=[2, 2], texuniform=True, specular=0.0)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "floor"
    top = spec.add_texture(name="table", type=mujoco.mjtTexture.mjTEXTURE_2D, width=256, height=256)
    top.builtin, top.rgb1, top.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_CHECKER, [0.42, 0.47, 0.53], [0.39, 0.44, 0.5]
    material = spec.add_material(name="table", texrepeat=[10, 10], texuniform=True, specular=0.1)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
    for name, rgba in (("white", WHITE), ("dark", DARK), ("blue", BLUE), ("wood", WOOD)):
        spec.add_material(name=name, rgba=rgba, specular=0.4, shininess=0.6)


def _add_table(spec: mujoco.MjSpec) -> None:
    """The table under the plane, the floor, the mount of the arm."""
    table = spec.geom("table")
    table.material = "table"
    box, capsule, cylinder = (getattr(mujoco.mjtGeom, f"mjGEOM_{kind}") for kind in ("BOX", "CAPSULE", "CYLINDER"))
    world, (x, _, _), (half_x, half_y, _) = spec.worldbody, table.pos, table.size
    world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[6, 6, 1], pos=[0, 0, -0.72], material="floor", **_NO_CONTACT)
    world.add_geom(type=box, size=[half_x, half_y, 0.02], pos=[x, 0, -0.0215], material="wood", **_NO_CONTACT)
    for side_x in (-1, 1):
        for side_y in (-1, 1):
            leg = [x + side_x * (half_x - 0.06), side_y * (half_y - 0.06)]
            world.add_geom(
                type=capsule, fromto=[*leg, -0.04, *leg, -0.7], size=[0.028, 0, 0], material="wood", **_NO_CONTACT
            )
    world.add_geom(type=cylinder, size=[0.1, 0.012, 0], pos=[0, 0, 0.012], material="dark", **_NO_CONTACT)
    world.add_geom(type=cylinder, size=[0.07, 0.07, 0], pos=[0, 0, 0.08], material="white", **_NO_CONTACT)


def _add_shells(spec: mujoco.MjSpec) -> None:
    """White links with blue joint caps, a dark hand."""
    cylinder, box = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_BOX
    sideways = [np.sqrt(0.5), np.sqrt(0.5), 0, 0]  # a cylinder along y
    for i in range(arm7.NUM_ARM_JOINTS):
        link = spec.geom(f"link{i}")
        link.material = "white"
        radius, body = float(link.size[0]), spec.body(f"link{i}")
        if i % 2:  # a pitch joint
            size = [radius + 0.008, radius + 0.018, 0]
            body.add_geom(type=cylinder, size=size, quat=sideways, material="blue", **_NO_CONTACT)
            cap = [radius * 0.7, radius + 0.021, 0]
            body.add_geom(type=cylinder, size=cap, quat=sideways, material="dark", **_NO_CONTACT)
        else:
            size = [radius + 0.004, 0.012, 0]
            body.add_geom(type=cylinder, size=size, pos=[0, 0, 0.02], material="dark", **_NO_CONTACT)
    hand = spec.body(arm7.HAND)
    spec.geom("palm").material = "dark"
    hand.add_geom(type=box, size=[0.02, 0.062, 0.018], pos=[0, 0, 0.005], material="dark", **_NO_CONTACT)
    for name, side in zip(arm7.FINGERS, (1.0, -1.0), strict=True):
        for suffix in ("front", "back"):
            spec.geom(f"{name}_{suffix}").material = "dark"
        finger = spec.body(name)
        finger.add_geom(
            type=box, size=[0.01, 0.005, 0.035], pos=[0, side * 0.009, 0.035], material="white", **_NO_CONTACT
        )
