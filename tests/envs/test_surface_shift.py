"""`surface-shift`: where patches lie, the grip that each axle gets, its metrics, and what knowing the grip is worth."""

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

SPEC = shift.make_spec()
TASK = {
    "grip": torch.tensor([0.8]),
    "num_patches": torch.tensor([2.0]),
    "patch_ratio": torch.tensor([[0.5, 0.25, 0.9]]),
    "patch_place": torch.tensor([[0.0, 1.0, 0.5]]),
    "patch_length": torch.tensor([[3.0, 4.0, 5.0]]),
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


def believing(grip: Callable[[Arrays], Tensor]) -> EnvSpec:
    """The environment whose expert takes another grip, (N, NUM_POINTS), for the true one."""
    return replace(SPEC, expert=lambda task, obs: shift.expert(task | {"worst_grip": grip(task)}, obs))


def test_each_part_of_the_road_behind_the_start_has_its_patch():
    # Parts of 14 m from 2 m on: the first patch at the beginning of its part, the second at the end of its own.
    begin, end, ratio = shift.patches(TASK)
    torch.testing.assert_close(begin[0, :2], torch.tensor([2.0, 26.0]))
    torch.testing.assert_close(end[0, :2], torch.tensor([5.0, 30.0]))
    assert ratio.tolist() == [[0.5, 0.25, 1.0]]  # the third does not exist
    grip = shift.grip_table(TASK)[0]
    at = torch.tensor([1.9, 2.1, 4.9, 5.1, 25.9, 26.1, 29.9])
    expected = torch.tensor([0.8, 0.4, 0.4, 0.8, 0.8, 0.2, 0.2])
    torch.testing.assert_close(grip[(at / roads.SPACING_M).round().long()], expected)


def test_each_axle_has_the_grip_of_the_place_it_stands_on():
    task = TASK | shift.derive(TASK)
    state = {"distance": torch.tensor([1.95]), "acceleration": torch.zeros(1), "off_road": torch.tensor([False])}
    data = {"sensordata": torch.tensor([[0.0, 0.0, 3.0, 0.0]])}
    limit = shift.control(task, data, state, torch.zeros(1, 2))["actuator_forcerange"][0, :, 1]
    load = task["load"][0, :, 1]
    torch.testing.assert_close(limit[car.TYRE_FRONT], 0.4 * load[car.TYRE_FRONT])
    torch.testing.assert_close(limit[car.TYRE_REAR], 0.8 * load[car.TYRE_REAR])
    torch.testing.assert_close(limit[car.BRAKE], 0.8 * load[car.BRAKE])
    # The whole car on ice a lap later: 0.2 * 36.3 N.
    state["distance"] = torch.tensor([58.0])
    limit = shift.control(task, data, state, torch.zeros(1, 2))["actuator_forcerange"][0, :, 1]
    torch.testing.assert_close(limit, 0.2 * load)


def test_a_patch_slides_the_car_that_the_asphalt_holds():
    """Full steering at 3 m/s: the lateral acceleration ends at grip * g."""
    env = BatchedEnv(SPEC, 2)
    env.set_tasks(torch.cat([row(), row(grip=torch.tensor([0.4]))]))
    env.reset()
    for _ in range(10):
        env.step(torch.tensor([[0.6, 0.3]]).expand(2, 2))
    yaw_rate, speed = env._data["qvel"][:, 2], env._data["qvel"][:, :2].norm(dim=1)
    assert (yaw_rate * speed)[0] > 1.5 * (yaw_rate * speed)[1]


def test_observation_has_the_place_along_the_lap_and_nothing_of_the_grip():
    icy = row(grip=torch.tensor([0.4]), patch_ratio=torch.full((1, 3), 0.3), num_patches=torch.tensor([3.0]))
    env = BatchedEnv(SPEC, 2)
    env.set_tasks(torch.cat([row(), icy]))
    start = SPEC.reset(env._task, env._draw((2, 0)))
    state = start.state | {"distance": torch.tensor([7.5, 7.5]), "pose": torch.zeros(2, 2)}
    data = {name: value[:1].expand(2, *value.shape[1:]) for name, value in env._data.items()}
    obs = SPEC.observe(env._task, data, state)
    torch.testing.assert_close(obs[0], obs[1])
    torch.testing.assert_close(obs[:, 16:], torch.tensor([[0.0, 1.0], [0.0, 1.0]]), atol=1e-6, rtol=0)


def shifted(progress: list[float], grips: list[float], gone: bool = False) -> Arrays:
    """The memory of the shift after steps with these ways, m, over places with these grips."""
    table = torch.full((1, roads.NUM_POINTS), 0.8)
    table[:, : len(grips)] = torch.tensor(grips)
    task = TASK | {"grip_table": table}
    state = {"shift": torch.tensor([[0.0, 0.0, 0.12, 0.0]]), "phase": torch.zeros(1, 3, dtype=torch.bool)}
    state["off_road"] = torch.tensor([gone])
    for number, way in enumerate(progress):
        after = {"advance": torch.tensor([way]), "distance": torch.tensor([number * roads.SPACING_M])}
        state |= shift._shift(task, state, after)
    return state


def metrics_of(state: Arrays) -> list[float]:
    return shift.metrics(TASK, {}, {**state, "record": torch.zeros(1, 4)})[0, 4:].tolist()


def test_recovery_time_counts_from_the_patch_until_progress_is_back():
    # 0.12 m a step before; the mean of a second, +4 % of the difference a step, falls below 0.108 m and comes back.
    ways, grips = [0.12] * 5 + [0.0] * 10 + [0.16] * 30, [0.8] * 5 + [0.4] * 40
    recent, waited = 0.12, 0
    for way in ways[5:]:
        recent += (way - recent) * 0.04
        waited += 1
        if recent >= 0.9 * 0.12 and waited > 10:
            break
    recovery, off_track = metrics_of(shifted(ways, grips))
    assert recovery == pytest.approx(0.04 * (waited - 1), abs=1e-6) and off_track == 0.0


def test_recovery_time_is_zero_without_a_loss_and_nan_without_a_patch_or_a_recovery():
    assert metrics_of(shifted([0.12] * 9, [0.8] * 4 + [0.4] * 5)) == [0.0, 0.0]
    assert all(value != value for value in metrics_of(shifted([0.12] * 9, [0.8] * 9)))
    recovery, off_track = metrics_of(shifted([0.12] * 4 + [0.0] * 5, [0.8] * 4 + [0.4] * 5))
    assert recovery != recovery and off_track == 0.0
    frozen = shifted([0.12] * 9, [0.4] * 9, gone=True)
    assert not frozen["phase"].any() and frozen["shift"][0, 0] == 0.0


@pytest.mark.parametrize("split", SPEC.tasks.splits())
def test_the_expert_stays_on_the_road(split: str):
    _, off_track, metrics = driven(SPEC, split)
    assert off_track <= 0.1
    assert metrics[:, 2].mean().item() == pytest.approx(off_track)
    laps = metrics[:, 1]
    assert (~laps.isnan()).float().mean() >= 0.9 and 5.0 < laps.nanmean() < 14.0


def test_knowing_the_grip_pays():
    told = driven(SPEC, "test")[0]
    others = {
        "nominal": believing(lambda task: torch.full_like(task["grip_table"], 0.75)),
        "no patches": believing(lambda task: task["grip"].unsqueeze(1).expand_as(task["grip_table"])),
        "careful": believing(lambda task: torch.full_like(task["grip_table"], 0.4)),
        "worst": believing(lambda task: torch.full_like(task["grip_table"], 0.16)),
    }
    returns = {name: driven(spec, "test") for name, spec in others.items()}
    assert returns["nominal"][0] < 0.8 * told and returns["nominal"][1] > 0.25
    assert returns["no patches"][0] < 0.85 * told and returns["no patches"][1] > 0.2
    assert returns["careful"][0] < 0.9 * told and returns["worst"][0] < 0.65 * told


def test_patches_are_drawn_and_only_there():
    colours = scene.slippery(0.9, 1.0, -1.0, torch.arange(3).numpy()), scene.slippery(0.2, 1.0, -1.0, None)
    assert sum(colours[0].rgba[:3]) < sum(colours[1].rgba[:3])
    model = shift.draw({name: value[0] for name, value in TASK.items()})
    names = [model.geom(i).name for i in range(model.ngeom)]
    assert [name for name in names if name.startswith("stripe")] == ["stripe_0", "stripe_1"]
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
