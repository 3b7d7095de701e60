"""What a video of a road shows: grass, the surface and its stripes, edge lines, kerbs, a start line and the car."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

GRAVEL, ASPHALT = (0.52, 0.48, 0.42, 1), (0.3, 0.3, 0.31, 1)
LINE, RED, SWEPT = (0.93, 0.93, 0.9, 1), (0.78, 0.1, 0.1, 1), (0.33, 0.32, 0.31, 1)
WET, ICE = np.array([0.13, 0.16, 0.22, 1]), np.array([0.5, 0.66, 0.8, 1])
"""Colours of a patch that is a little slippery, and of one that has hardly any grip."""
LINE_M, KERB_M, SWEPT_M = 0.05, 0.12, 0.2
"""Widths of the edge lines, of the kerbs and of the swept line."""
KERB_CURVATURE = 0.45
"""Corners sharper than this, 1/m, have kerbs."""
KERB_POINTS = 5
"""Table points per block of a kerb."""


class Stripe(NamedTuple):
    """A part of the road's surface that looks different.

    Attributes:
        left, right: its edges, m to the left of the centreline, left > right.
        rgba: its colour.
        points: the table points that it runs along; None: all of the closed road.
    """

    left: float
    right: float
    rgba: tuple[float, ...]
    points: np.ndarray | None = None


def without_geoms(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """What is to be stepped: geoms are for drawing only and their kinematics would cost a fifth of a step."""
    for geom in list(spec.geoms):
        spec.delete(geom)
    return spec.compile()


def car_on_road(model_file: Path, road: np.ndarray, width: float, line: float) -> mujoco.MjModel:
    """The car on gravel with a swept line, `line` metres to the left of the centreline; others as `on_road`."""
    swept = Stripe(line + SWEPT_M / 2, line - SWEPT_M / 2, SWEPT)
    return on_road(mujoco.MjSpec.from_file(str(model_file)), road, width, GRAVEL, [swept])


def slippery(ratio: float, left: float, right: float, points: np.ndarray) -> Stripe:
    """A patch with `ratio` of the grip beside it: from dark and wet at .9 to ice at .2."""
    share = float(np.clip((0.9 - ratio) / 0.7, 0.0, 1.0))
    return Stripe(left, right, tuple((1 - share) * WET + share * ICE), points)


def on_road(
    spec: mujoco.MjSpec,
    road: np.ndarray,
    width: float,
    surface: tuple[float, ...] = ASPHALT,
    stripes: Sequence[Stripe] = (),
) -> mujoco.MjModel:
    """What drives, on its road.

    The road is made of thin meshes and boxes, all geoms of the world body, so that every renderer draws them.

    Args:
        spec: what drives; the road is added to it.
        road: (NUM_POINTS, 4) centreline: x (m), y (m), heading (rad), curvature (1/m).
        width: of the road, m.
        surface: colour of the road.
        stripes: parts of the surface that look different, the later above the earlier.
    """
    add_surroundings(spec)
    half, everywhere = width / 2, np.append(np.arange(len(road)), 0)
    add_ribbon(spec, "surface", road, half, -half, 0.004, surface, [everywhere])
    for number, stripe in enumerate(stripes):
        points = everywhere if stripe.points is None else stripe.points
        height = 0.005 + 0.0002 * number
        add_ribbon(spec, f"stripe_{number}", road, stripe.left, stripe.right, height, stripe.rgba, [points])
    add_ribbon(spec, "line_left", road, half, half - LINE_M, 0.007, LINE, [everywhere])
    add_ribbon(spec, "line_right", road, LINE_M - half, -half, 0.007, LINE, [everywhere])
    for colour, rgba, blocks in [("red", RED, _kerb_blocks(road, 0)), ("white", LINE, _kerb_blocks(road, 1))]:
        if blocks:
            add_ribbon(spec, f"kerb_left_{colour}", road, half + KERB_M, half - 0.01, 0.012, rgba, blocks)
            add_ribbon(spec, f"kerb_right_{colour}", road, 0.01 - half, -half - KERB_M, 0.012, rgba, blocks)
    _add_start_line(spec, road[0], half)
    return spec.compile()


def add_surroundings(spec: mujoco.MjSpec) -> None:
    """Sky, grass and sun."""
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=64, height=64)
    sky.builtin, sky.rgb1, sky.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, [0.62, 0.75, 0.88], [0.9, 0.94, 0.97]
    grass = spec.add_texture(name="grass", type=mujoco.mjtTexture.mjTEXTURE_2D, width=128, height=128)
    grass.builtin, grass.rgb1, grass.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_CHECKER, [0.33, 0.5, 0.24], [0.36, 0.54, 0.26]
    material = spec.add_material(name="grass", texrepeat=[0.5, 0.5], texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "grass"
    world = spec.worldbody
    world.add_geom(name="grass", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[15, 15, 1], material="grass")
    sun = world.add_light(name="sun", pos=[-6, -8, 14], dir=[0.4, 0.5, -1.0], castshadow=True)
    sun.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    sun.diffuse, sun.specular = [0.75, 0.73, 0.68], [0.15, 0.15, 0.15]


def add_ribbon(
    spec: mujoco.MjSpec,
    name: str,
    road: np.ndarray,
    left: float,
    right: float,
    height: float,
    rgba: tuple[float, ...],
    runs: list[np.ndarray],
) -> None:
    """Add a thin solid along the road, between two lateral offsets (left > right), over runs of table points."""
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for run in runs:
        first, last = sum(len(v) for v in vertices), len(run) - 1
        vertices.append(_sections(road[run], left, right, height))
        ring = first + 4 * np.arange(last)[:, None] + np.arange(4)  # (segments, 4) corners of each section
        corner, following = ring, np.roll(ring, -1, 1)
        faces.append(np.stack([corner, corner + 4, following], 2).reshape(-1, 3))
        faces.append(np.stack([following, corner + 4, following + 4], 2).reshape(-1, 3))
        end = first + 4 * last
        faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + first)
        faces.append(np.array([[0, 2, 1], [0, 3, 2]]) + end)
    mesh = spec.add_mesh(name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    mesh.uservert = np.concatenate(vertices).ravel()
    mesh.userface = np.concatenate(faces).ravel()
    geom = spec.worldbody.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, rgba=rgba)
    geom.contype = geom.conaffinity = 0


def _sections(points: np.ndarray, left: float, right: float, height: float) -> np.ndarray:
    """Four corners of the solid at each point, counter-clockwise seen along the road, (4 * points, 3)."""
    x, y, heading, curvature = points.T
    bend = np.maximum(np.abs(curvature), 1e-6)
    # An edge beyond the centre of a corner would fold over.
    inner, outer = np.where(curvature > 0, 0.97 / bend, np.inf), np.where(curvature < 0, -0.97 / bend, -np.inf)
    corners = []
    for offset, z in [(left, height), (left, -0.01), (right, -0.01), (right, height)]:
        side = np.clip(offset, outer, inner)
        corners.append(np.stack([x - side * np.sin(heading), y + side * np.cos(heading), np.full_like(x, z)], 1))
    return np.stack(corners, 1).reshape(-1, 3)


def _kerb_blocks(road: np.ndarray, parity: int) -> list[np.ndarray]:
    """Runs of KERB_POINTS segments in the sharp corners: every other one, which pairs with its neighbour."""
    pairs = np.arange(0, len(road) - 2 * KERB_POINTS, 2 * KERB_POINTS)
    sharp = pairs[np.abs(road[pairs + KERB_POINTS, 3]) > KERB_CURVATURE]
    return [np.arange(start, start + KERB_POINTS + 1) for start in sharp + parity * KERB_POINTS]


def _add_start_line(spec: mujoco.MjSpec, start: np.ndarray, half_width: float) -> None:
    """A chequered line, two rows of eight fields."""
    x, y, heading, _ = start
    forwards, leftwards = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    field = (half_width - LINE_M) / 8  # half the width of a field
    for row in range(2):
        for column in range(8):
            across, ahead = (2 * column - 7) * field, (2 * row - 1) * field
            centre = np.array([x, y]) + across * leftwards + ahead * forwards
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[field, field, 0.008],
                pos=[*centre, 0.0],
                quat=[np.cos(heading / 2), 0, 0, np.sin(heading / 2)],
                rgba=LINE if (row + column) % 2 else (0.03, 0.03, 0.03, 1),
                contype=0,
                conaffinity=0,
            )
