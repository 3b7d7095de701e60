"""Objects in front of a camera, drawn with MuJoCo: which of a few shown ones is this, from another side?

Every object is a loose pile of three to five primitives (boxes, balls, cylinders, capsules, ellipsoids) in four
colours, some 10 cm high. It stands somewhere on a patterned floor, turned by any angle about the vertical; the camera
looks at it from `DISTANCE_M`, 20 to 65 degrees above the horizon, not quite at its middle. A sample is such a crop.

Objects of the test and of the validation are in no training task. All are of one group.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.errors import ConfigError
from metarl.fewshot.data.pack import PackedData, Split, cached
from metarl.render import Renderer

if TYPE_CHECKING:
    import mujoco

DISTANCE_M = (0.38, 0.55)
ELEVATION_RAD = (0.35, 1.13)
_SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
_PER_MODEL = 25
_COLORS = ((0.80, 0.22, 0.20), (0.20, 0.45, 0.75), (0.90, 0.75, 0.25), (0.55, 0.58, 0.60))
_FLOOR_M = 1.5
_SUPERSAMPLING = 2
_AWAY_M = -50.0


@dataclass(frozen=True)
class ObjectsOptions:
    """Options of rendered objects."""

    num_objects: int = 160
    """How many objects there are in all splits together."""
    num_views: int = 20
    """Pictures of each object."""
    image_size: int = 32
    """Pixels of a side."""

    def __post_init__(self) -> None:
        if self.num_objects < 20 or self.num_views < 2 or self.image_size < 16:
            raise ConfigError(
                "num_objects must be at least 20, num_views at least 2 and image_size at least 16, "
                f"got {self.num_objects}, {self.num_views} and {self.image_size}."
            )


def load(options: ObjectsOptions, data_dir: Path | None = None, skips_broken: bool = False) -> PackedData:
    """Draw the objects, once; there are no files to name or to skip.

    Raises:
        RenderError: this machine cannot draw.
    """
    return cached("objects", asdict(options), partial(_draw, options))


def _draw(options: ObjectsOptions) -> PackedData:
    pictures = []
    for start in range(0, options.num_objects, _PER_MODEL):
        seeds = range(start, min(start + _PER_MODEL, options.num_objects))
        pictures.append(_views(seeds, options.num_views, options.image_size))
    count = options.num_objects
    class_ids = torch.arange(count).repeat_interleave(options.num_views)
    ends = np.cumsum([round(share * count) for share in _SHARES.values()])
    ends[-1] = count
    starts = (0, *ends[:-1])
    return PackedData(
        name="objects",
        x=torch.cat(pictures),
        class_ids=class_ids,
        group_ids=torch.zeros_like(class_ids),
        class_names=tuple(f"object {i}" for i in range(count)),
        group_names=("all",),
        splits={
            name: Split(((class_ids >= int(a)) & (class_ids < int(b))).nonzero()[:, 0])
            for name, a, b in zip(_SHARES, starts, ends, strict=True)
        },
    )


def _views(seeds: range, num_views: int, size: int) -> Tensor:
    """Pictures of some objects, (objects * views, 3, size, size) uint8."""
    model = scene(seeds)
    generator = np.random.default_rng(seeds.start)
    large = size * _SUPERSAMPLING
    pictures = []
    with Renderer(model, large, large, camera="crop") as renderer:
        for index in range(len(seeds)):
            for _ in range(num_views):
                position, quaternion = _pose(generator, index, len(seeds))
                frame = renderer.draw(np.zeros(model.nq), position, quaternion)
                pictures.append(torch.from_numpy(frame.copy()))
    x = torch.stack(pictures).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(x, _SUPERSAMPLING).round().to(torch.uint8)


def _pose(generator: np.random.Generator, index: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where the objects and the camera (the last mocap body) are: one object in view, the others far away."""
    position, quaternion = np.zeros((count + 1, 3)), np.tile((1.0, 0, 0, 0), (count + 1, 1))
    position[:, 2] = _AWAY_M
    position[index] = (*generator.uniform(-0.6 * _FLOOR_M, 0.6 * _FLOOR_M, 2), 0)
    yaw, azimuth = generator.uniform(0, 2 * np.pi, 2)
    quaternion[index] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
    elevation, distance = generator.uniform(*ELEVATION_RAD), generator.uniform(*DISTANCE_M)
    toward = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )  # from the object to the camera
    target = position[index] + (0, 0, 0.05) + generator.normal(0, 0.012, 3)
    position[-1] = target + distance * toward
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    quaternion[-1] = _quaternion(np.column_stack([right, np.cross(toward, right), toward]))
    return position, quaternion


def scene(seeds: range) -> mujoco.MjModel:
    """A floor, a sun, a camera named "crop" and one body that can be moved for each object."""
    import mujoco

    spec = mujoco.MjSpec()
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.25, 0.25, 0.25)
    texture = spec.add_texture(name="floor", type=mujoco.mjtTexture.mjTEXTURE_2D, width=128, height=128)
    texture.builtin, texture.rgb1, texture.rgb2 = (
        mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        (0.5, 0.5, 0.5),
        (0.4, 0.42, 0.45),
    )
    material = spec.add_material(name="floor", texrepeat=(12, 12))
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "floor"
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    spec.worldbody.add_geom(type=plane, size=(2 * _FLOOR_M, 2 * _FLOOR_M, 0.1), material="floor")
    spec.worldbody.add_light(pos=(-1, -1.5, 3), dir=(0.3, 0.45, -1.0), castshadow=True)
    for index, seed in enumerate(seeds):
        add_object(spec.worldbody.add_body(name=f"object{index}", mocap=True), seed)
    camera = spec.worldbody.add_body(name="camera", mocap=True)
    camera.add_camera(name="crop", fovy=25)
    return spec.compile()


def add_object(body: mujoco.MjsBody, seed: int) -> None:
    """Pile primitives up in a body; the same object for the same seed."""
    import mujoco

    kinds = mujoco.mjtGeom
    generator = np.random.default_rng((7, seed))
    height = 0.0
    for _ in range(generator.integers(3, 6)):
        kind = (
            kinds.mjGEOM_BOX,
            kinds.mjGEOM_SPHERE,
            kinds.mjGEOM_CYLINDER,
            kinds.mjGEOM_CAPSULE,
            kinds.mjGEOM_ELLIPSOID,
        )[generator.integers(5)]
        size = generator.uniform(0.012, 0.034, 3)
        if kind == kinds.mjGEOM_CAPSULE:
            size[0] = 0.6 * size[0]
        half = {kinds.mjGEOM_SPHERE: size[0], kinds.mjGEOM_CYLINDER: size[1], kinds.mjGEOM_CAPSULE: size[0]}.get(
            kind, size[2]
        )
        turn = generator.uniform(0, np.pi)
        quaternion = np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)])
        if kind == kinds.mjGEOM_CAPSULE:  # lying
            quaternion = np.array([np.cos(turn / 2), np.sin(turn / 2), np.cos(turn / 2), np.sin(turn / 2)]) / np.sqrt(2)
        offset = generator.uniform(-0.02, 0.02, 2) if height else np.zeros(2)
        color = (*_COLORS[generator.integers(len(_COLORS))], 1.0)
        body.add_geom(type=kind, size=size, pos=(*offset, height + half), quat=quaternion, rgba=color)
        height += 1.6 * half
        if height > 0.13:
            break


def _quaternion(rotation: NDArray[Any]) -> NDArray[Any]:
    import mujoco

    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion
