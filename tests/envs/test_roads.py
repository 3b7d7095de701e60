"""The centreline tables of `track` and how its roads are drawn."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import mujoco
import pytest
import torch
from torch import Tensor

from envs.driving import car, roads, track

SPEC = track.make_spec()


@functools.cache
def many_roads(num_tasks: int = 256) -> tuple[dict[str, Tensor], Tensor]:
    """Tasks of all splits with their centrelines."""
    task = SPEC.tasks.unpack(torch.cat([SPEC.tasks.split(name, num_tasks) for name in SPEC.tasks.splits()]))
    return task, track.derive(task)["road"].double()


def test_centrelines_close_within_a_millimetre():
    task, road = many_roads()
    x, y, heading, curvature = road[:, -1].unbind(1)
    middle = heading + curvature * roads.SPACING_M / 2
    gap = torch.hypot(
        x + roads.SPACING_M * middle.cos() - road[:, 0, 0], y + roads.SPACING_M * middle.sin() - road[:, 0, 1]
    )
    assert gap.max() < 1e-3
    turned = heading + curvature * roads.SPACING_M - road[:, 0, 2]
    torch.testing.assert_close(turned, 2 * math.pi * task["direction"].double(), atol=5e-3, rtol=0)


def test_centreline_points_are_uniform_in_arc_length():
    _, road = many_roads()
    step = road.roll(-1, 1)[..., :2] - road[..., :2]
    chord = step.norm(dim=2)
    arc = chord * (1 + (road[..., 3] * chord) ** 2 / 24)
    assert (arc - roads.SPACING_M).abs().max() < 2e-4


def test_heading_and_curvature_are_the_derivatives_of_the_centreline():
    _, road = many_roads()
    inner = road[:, 1:-1]
    along = (road[:, 2:, :2] - road[:, :-2, :2]) / (2 * roads.SPACING_M)
    tangent = torch.stack([inner[..., 2].cos(), inner[..., 2].sin()], 2)
    assert (along - tangent).norm(dim=2).max() < 5e-3
    bend = (road[:, 2:, 2] - road[:, :-2, 2]) / (2 * roads.SPACING_M)
    assert (bend - inner[..., 3]).abs().max() < 0.03


def test_the_sharpest_corner_has_the_curvature_of_the_task():
    task, road = many_roads()
    ratio = road[..., 3].abs().amax(1) / task["max_curvature"]
    assert ratio.max() < 1.03
    assert (ratio > 0.97).double().mean() > 0.99


def test_roads_never_touch_themselves():
    task, road = many_roads(64)
    points = road[:, ::8, :2]
    index = torch.arange(points.shape[1])
    apart = (index - index.unsqueeze(1)).abs()
    apart = torch.minimum(apart, len(index) - apart) * 8 * roads.SPACING_M
    distance = torch.cdist(points, points).masked_fill(apart < 4.0, 99.0)
    assert (distance.amin((1, 2)) > task["width"]).all()


def test_direction_mirrors_the_road():
    shape, curvature = torch.linspace(-1.0, 1.0, roads.SHAPE_SIZE).unsqueeze(0), torch.tensor([0.9])
    one, other = (roads.centreline(shape, curvature, torch.tensor([d])) for d in (1.0, -1.0))
    assert torch.equal(one * torch.tensor([1.0, -1.0, -1.0, -1.0]), other)


@pytest.mark.parametrize("world", range(3))
def test_the_drawn_road_lies_where_the_car_drives(world: int):
    task = {name: value[world] for name, value in SPEC.tasks.unpack(SPEC.tasks.split("test", 3)).items()}
    scene, model = SPEC.physics.scene(task), SPEC.physics.model
    data = mujoco.MjData(scene)
    mujoco.mj_forward(scene, data)
    road = roads.centreline(*(task[n].unsqueeze(0) for n in ("shape", "max_curvature", "direction")))[0].double()

    def seen_from_above(point: Tensor, lateral: float) -> str:
        x, y, heading, _ = point.tolist()
        spot = [x - lateral * math.sin(heading), y + lateral * math.cos(heading), 5.0]
        geom = torch.zeros(1, dtype=torch.int32).numpy()
        mujoco.mj_ray(scene, data, spot, [0.0, 0.0, -1.0], None, 1, -1, geom)
        return scene.geom(int(geom[0])).name

    half = float(task["width"]) / 2
    line = half * float(task["swept_line"])
    for point in road[40:480:40]:
        assert seen_from_above(point, line) == "stripe_0"
        assert seen_from_above(point, line - math.copysign(0.3, line)) == "surface"
        assert seen_from_above(point, half - 0.1) == seen_from_above(point, 0.1 - half) == "surface"
        assert seen_from_above(point, half - 0.025) == "line_left"
        assert seen_from_above(point, 0.025 - half) == "line_right"
        assert seen_from_above(point, math.copysign(half + 0.15, -point[3])) == "grass"
    assert [scene.joint(i).name for i in range(scene.njnt)] == [model.joint(i).name for i in range(model.njnt)]
    assert scene.nq == model.nq and model.ngeom == 0
    assert {"video", "overview", "chase"} <= {scene.camera(i).name for i in range(scene.ncam)}


def test_the_model_file_is_installed_with_the_package():
    assert Path(car.MODEL_FILE).suffix == ".xml" and Path(car.MODEL_FILE).exists()
