"""`surface-shift`: where water and dry lanes lie, the grip of each axle, its metrics, what knowledge is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from envs.driving import car, roads, scene
from envs.driving import surface_shift as shift
from metarl.env import BatchedEnv, EnvSpec
from metarl.expert import Expert
from metarl.types import Arrays
from tests.slow import slow_but

SPEC = shift.make_spec()
TASK = {
    "grip": torch.tensor([0.8]),
    "water_grip": torch.tensor([[0.5, 0.25]]),
    "dry_lane": torch.tensor([[-0.5, 0.5]]),
    "max_curvature": torch.tensor([0.9]),
    "width": torch.tensor([1.2]),
    "direction": torch.tensor([1.0]),
    "shape": torch.linspace(-1.0, 1.0, roads.SHAPE_SIZE).unsqueeze(0),
}


def row(**values: Tensor) -> Tensor:
    return torch.cat([(TASK | values)[p.name].reshape(1, -1) for p in shift.PARAMETERS], 1)


def driven(spec: EnvSpec, split: str, num_tasks: int = 100) -> tuple[float, float, Tensor]:
    """Mean return of the spec's expert, share of tasks in which the car left the road, metrics."""
    env = BatchedEnv(spec, num_tasks)
    env.set_tasks(spec.tasks.split(split, num_tasks))
    rollout = Expert().trial(env, 1, None)
    off_track = rollout.terminated.any(0).float().mean().item()
    return rollout.episode_returns().mean().item(), off_track, env.metrics()


def believing(**tables: Callable[[Arrays], Tensor]) -> EnvSpec:
    """The environment whose expert takes other tables, each (N, NUM_POINTS), for the true ones."""

    def expert(task: Arrays, obs: Tensor) -> Tensor:
        return shift.expert(task | {name: table(task) for name, table in tables.items()}, obs)

    return replace(SPEC, expert=expert)


def at(*metres: float) -> Tensor:
    """The points of the centreline at these ways from the start line."""
    return (torch.tensor(metres) / roads.SPACING_M).round().long()


def test_stretches_in_the_sun_and_in_the_shade_take_turns():
    lost = shift.lost_grip(TASK)[0]
    # 0.8 * (1 - 0.5) from 1.5 to 5 m, 0.8 * (1 - 0.25) from 6.5 to 10 m, and so on.
    expected = torch.tensor([0.0, 0.4, 0.4, 0.0, 0.0, 0.6, 0.6, 0.0, 0.4, 0.6])
    torch.testing.assert_close(lost[at(1.4, 1.6, 4.9, 5.1, 6.4, 6.6, 9.9, 10.1, 24.0, 29.0)], expected)


def test_the_line_keeps_to_each_lane_and_goes_over_between_them():
    line = shift.lanes(TASK)[0]
    # +-0.5 of half of 1.2 m; half way through the part without water, 5 to 6.5 m and 10 to 11.5 m: 0.
    expected = torch.tensor([-0.3, -0.3, 0.3, 0.3, 0.0, 0.0, -0.3, 0.3])
    torch.testing.assert_close(line[at(1.6, 4.9, 6.6, 9.9, 5.75, 10.75, 24.0, 29.0)], expected, atol=0.02, rtol=0)
    assert (line[at(5.1, 5.5, 6.0, 6.4)].diff() > 0).all()


def test_water_deepens_beside_the_lane_and_only_where_there_is_any():
    task = {name: value.expand(6, *value.shape[1:]) for name, value in TASK.items()}
    task = task | shift.derive(task)
    # The lane in the sun runs at -0.3 m: dry to 10 cm beside it, deep from 60 cm on.
    beside = torch.tensor([0.0, 0.1, 0.35, -0.35, 0.6, 0.7])
    state = {"distance": torch.full((6,), 33.0), "pose": torch.stack([beside - 0.3, torch.zeros(6)], 1)}
    torch.testing.assert_close(shift.water(task, state), torch.tensor([0, 0, 0.5, 0.5, 1, 1]), atol=1e-5, rtol=0)
    assert not shift.water(task, state | {"distance": torch.full((6,), 31.0)}).any()


def test_each_axle_has_the_grip_of_the_place_it_stands_on():
    task = TASK | shift.derive(TASK)
    state = {"distance": torch.tensor([1.45]), "acceleration": torch.zeros(1), "off_road": torch.tensor([False])}
    state["pose"] = torch.tensor([[0.5, 0.0]])  # far from the lane
    data = {"sensordata": torch.tensor([[0.0, 0.0, 3.0, 0.0]])}
    control = shift.control(task, data, state, torch.zeros(1, 2))
    limit, load = control["actuator_forcerange"][0, :, 1], task["load"][0, :, 1]
    torch.testing.assert_close(limit[car.TYRE_FRONT], 0.4 * load[car.TYRE_FRONT])
    torch.testing.assert_close(limit[car.TYRE_REAR], 0.8 * load[car.TYRE_REAR])
    torch.testing.assert_close(limit[car.BRAKE], 0.8 * load[car.BRAKE])
    assert control["ctrl"][0, car.BRAKE] == 0.0  # the middle is not in the water yet
    # The whole car in deep water in the shade a lap later: 0.2 * 36.3 N, and a drag of 16 N per m/s.
    state |= {"distance": torch.tensor([38.0]), "pose": torch.tensor([[-0.5, 0.0]])}
    control = shift.control(task, data, state, torch.zeros(1, 2))
    torch.testing.assert_close(control["actuator_forcerange"][0, :, 1], 0.2 * load)
    assert control["ctrl"][0, car.BRAKE] == pytest.approx(shift.WATER_N_PER_M_S / car.BRAKE_N_PER_M_S)
    # In its lane it is as on dry asphalt.
    state["pose"] = torch.tensor([[0.32, 0.0]])
    control = shift.control(task, data, state, torch.zeros(1, 2))
    torch.testing.assert_close(control["actuator_forcerange"][0, :, 1], 0.8 * load)
    assert control["ctrl"][0, car.BRAKE] == 0.0


def test_water_slows_the_car_that_a_dry_lane_does_not():
    """Full pedal for a second, steered along the lanes or 0.5 m beside them."""
    speeds = []
    for beside in (0.0, 0.5):
        env = BatchedEnv(believing(planned_line=lambda task, beside=beside: task["planned_line"] + beside), 1)
        env.set_tasks(row(grip=torch.tensor([1.1]), width=torch.tensor([1.7]), dry_lane=torch.zeros(1, 2)))
        env.reset()
        for _ in range(25):
            env.step(torch.cat([env.expert_action()[:, :1], torch.ones(1, 1)], 1))
        assert 2.0 < env._state["distance"].item() < 5.0 and not env._state["off_road"].any()
        speeds.append(env._data["qvel"][0, :2].norm().item())
    assert speeds[0] > 1.5 * speeds[1]


def test_observation_has_sun_or_shade_and_nothing_of_grip_water_and_lanes():
    icy = row(grip=torch.tensor([0.4]), water_grip=torch.full((1, 2), 0.3), dry_lane=torch.tensor([[0.7, -0.1]]))
    env = BatchedEnv(SPEC, 2)
    env.set_tasks(torch.cat([row(), icy]))
    start = SPEC.reset(env._task, env._draw((2, 0)))
    state = start.state | {"distance": torch.tensor([32.5, 32.5]), "pose": torch.zeros(2, 2)}
    data = {name: value[:1].expand(2, *value.shape[1:]) for name, value in env._data.items()}
    obs = SPEC.observe(env._task, data, state)
    torch.testing.assert_close(obs[0], obs[1])
    torch.testing.assert_close(obs[:, 16:], torch.tensor([[0.0, 1.0], [0.0, 1.0]]), atol=1e-5, rtol=0)


def shifted(progress: list[float], wet: list[bool], gone: bool = False, lateral: float = 0.0) -> Arrays:
    """The memory of the shift after steps with these ways, m, over dry and wet places whose lane is the centreline."""
    lost = torch.zeros(1, roads.NUM_POINTS)
    lost[:, : len(wet)] = 0.4 * torch.tensor(wet)
    task = TASK | {"lost_grip": lost, "lane_m": torch.zeros(1, roads.NUM_POINTS)}
    state = {"shift": torch.tensor([[0.0, 0.0, 0.12, 0.0, 0.0, 0.0]]), "phase": torch.zeros(1, 3, dtype=torch.bool)}
    state["off_road"] = torch.tensor([gone])
    for number, way in enumerate(progress):
        after = {"advance": torch.tensor([way]), "distance": torch.tensor([number * roads.SPACING_M])}
        after["pose"] = torch.tensor([[lateral, 0.0]])
        state |= shift._shift(state, after, *shift._water(task, after))
    return state


def metrics_of(state: Arrays) -> list[float]:
    return shift.metrics(TASK, {}, {**state, "record": torch.zeros(1, 4)})[0, 4:].tolist()


def test_recovery_time_counts_from_the_patch_until_progress_is_back():
    # 0.12 m a step before; the mean of a second, +4 % of the difference a step, falls below 0.108 m and comes back.
    ways, wet = [0.12] * 5 + [0.0] * 10 + [0.16] * 30, [False] * 5 + [True] * 40
    recent, waited = 0.12, 0
    for way in ways[5:]:
        recent += (way - recent) * 0.04
        waited += 1
        if recent >= 0.9 * 0.12 and waited > 10:
            break
    recovery, off_track, _ = metrics_of(shifted(ways, wet))
    assert recovery == pytest.approx(0.04 * (waited - 1), abs=1e-6) and off_track == 0.0


def test_recovery_time_is_zero_without_a_loss_and_nan_without_water_or_a_recovery():
    assert metrics_of(shifted([0.12] * 9, [False] * 4 + [True] * 5))[:2] == [0.0, 0.0]
    assert all(value != value for value in metrics_of(shifted([0.12] * 9, [False] * 9)))
    recovery, off_track, _ = metrics_of(shifted([0.12] * 4 + [0.0] * 5, [False] * 4 + [True] * 5))
    assert recovery != recovery and off_track == 0.0
    frozen = shifted([0.12] * 9, [True] * 9, gone=True)
    assert not frozen["phase"].any() and frozen["shift"][0, 0] == 0.0 and frozen["shift"][0, 5] == 0.0


def test_water_is_the_mean_depth_where_there_is_any():
    for lateral, depth in [(0.0, 0.0), (0.35, 0.5), (-0.7, 1.0)]:
        state = shifted([0.12] * 9, [False] * 4 + [True] * 5, lateral=lateral)
        assert metrics_of(state)[2] == pytest.approx(depth)
        assert state["shift"][0, 5] == 5.0


@pytest.mark.parametrize("split", slow_but(SPEC.tasks.splits(), "test", "extrapolation"))
def test_the_expert_stays_on_the_road(split: str):
    _, off_track, metrics = driven(SPEC, split)
    assert off_track <= 0.1
    assert metrics[:, 2].mean().item() == pytest.approx(off_track)
    laps = metrics[:, 1]
    assert (~laps.isnan()).float().mean() >= 0.9 and 5.0 < laps.nanmean() < 14.0


@pytest.mark.slow
def test_knowing_the_surface_pays():
    told = driven(SPEC, "test")[0]
    centre = believing(planned_line=lambda task: torch.zeros_like(task["planned_line"]))
    nominal = believing(planned_grip=lambda task: torch.full_like(task["planned_grip"], 0.75))
    careful = believing(planned_grip=lambda task: torch.full_like(task["planned_grip"], 0.3))
    assert driven(centre, "test")[0] < 0.8 * told
    slides = driven(nominal, "test")
    assert slides[0] < 0.95 * told and slides[1] > 0.1
    assert driven(careful, "test")[0] < 0.9 * told


def test_water_is_drawn_beside_each_lane_and_only_there():
    colours = scene.slippery(0.9, 1.0, -1.0, torch.arange(3).numpy()), scene.slippery(0.2, 1.0, -1.0, None)
    assert sum(colours[0].rgba[:3]) < sum(colours[1].rgba[:3])
    # Four ribbons in each of six stretches; a lane at the edge of the road has water to one side only.
    for edge, stripes in [(0.0, 24), (0.85, 18)]:
        task = {name: value[0] for name, value in TASK.items()} | {"dry_lane": torch.tensor([edge, 0.0])}
        model = shift.draw(task)
        names = [model.geom(i).name for i in range(model.ngeom)]
        assert len([name for name in names if name.startswith("stripe")]) == stripes
    assert SPEC.physics.model.ngeom == 0


@pytest.mark.slow
def test_both_engines_drive_the_same():
    tasks = torch.cat([SPEC.tasks.split("test", 4), SPEC.tasks.split("extrapolation", 4)])
    worlds = [BatchedEnv(SPEC, 8, engine=engine) for engine in ("batch", "warp")]
    for env in worlds:
        env.set_tasks(tasks)
        env.reset()
    for _ in range(100):
        action = worlds[0].expert_action()
        steps = [env.step(action) for env in worlds]
        assert torch.equal(steps[0].terminated, steps[1].terminated)
        # Half way between two table points, rounding decides which curvature and which grip there are.
        torch.testing.assert_close(steps[0].obs[:, :7], steps[1].obs[:, :7], atol=2e-3, rtol=0)
        torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=2e-3, rtol=0)
