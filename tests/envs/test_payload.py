"""`payload`: the trailer's loads, its effect on the car, its brakes, its board, and what knowing them is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from envs.driving import car, payload, roads
from metarl.env import BatchedEnv, EnvSpec, Noise
from metarl.expert import Expert
from tests.slow import slow_but

SPEC = payload.make_spec()
NOMINAL = {"payload": 0.75, "grip": 0.85, "brake_bias": 0.0, "drag": 1.0, "max_curvature": 0.5, "width": 1.4}
NOMINAL |= {"direction": 1.0, "side": 1.0, "overhang": 0.9}
NAMES = [parameter.name for parameter in payload.PARAMETERS]


def tasks_with(num: int = 1, **values: float | list[float]) -> Tensor:
    columns = []
    for name in NAMES:
        if name == "shape":
            columns.append(torch.linspace(-1.0, 1.0, roads.SHAPE_SIZE).repeat(num, 1))
        else:
            value = torch.as_tensor(values.get(name, NOMINAL[name]))
            columns.append(value.expand(num).reshape(num, 1))
    return torch.cat(columns, 1)


def make_env(tasks: Tensor, spec: EnvSpec = SPEC, engine: str = "auto") -> BatchedEnv:
    env = BatchedEnv(spec, len(tasks), engine=engine)
    env.set_tasks(tasks)
    env.reset()
    return env


def driven(spec: EnvSpec, split: str, num_tasks: int = 100) -> tuple[float, float, Tensor]:
    """Mean return of the spec's expert, share of tasks in which the car left the road, metrics."""
    env = make_env(spec.tasks.split(split, num_tasks), spec)
    rollout = Expert().trial(env, 1, None)
    return rollout.episode_returns().mean().item(), rollout.terminated.any(0).float().mean().item(), env.metrics()


def believing(**values: float) -> EnvSpec:
    """The environment whose expert takes other parameters of the trailer for the true ones."""

    def expert(task: dict[str, Tensor], obs: Tensor) -> Tensor:
        believed = task | {name: torch.full_like(task[name], value) for name, value in values.items()}
        return payload.expert(believed | payload.derive_car(believed), obs)

    return replace(SPEC, expert=expert)


def test_bodies_and_actuators_have_the_ids_that_the_functions_use():
    model = SPEC.physics.model
    assert model.body(payload.TRAILER).name == "trailer_body"
    assert model.actuator(payload.TRAILER_TYRE).name == "trailer_tyre"
    assert model.actuator(payload.TRAILER_DRAG).name == "trailer_drag"
    assert model.jnt_qposadr[model.joint("trailer_hitch").id] == payload.HITCH_ANGLE
    assert model.body("trailer_body").pos.tolist() == [-payload.HITCH_M, 0.0, 0.0]
    assert model.body("trailer_body").ipos.tolist() == [-payload.LOAD_M, 0.0, 0.0]
    assert model.site("trailer_axle").pos[0] == -payload.TRAILER_AXLE_M
    assert model.body("trailer_body").mass[0] == payload.EMPTY_KG


def test_three_quarters_of_the_trailer_rest_on_the_hitch():
    task = SPEC.tasks.unpack(tasks_with(payload=1.5))
    load = payload.derive(task)["load"][0, :, 1]
    weight = (0.4 + 1.5 * 3.7) * 9.81
    on_hitch = 0.75 * weight
    assert load[payload.TRAILER_TYRE].item() == pytest.approx(0.25 * weight, rel=1e-5)
    # Moments about the front axle, 0.33 m before the rear one and 0.165 + 0.25 m before the hitch.
    rear = (3.5 * 9.81 * 0.165 + on_hitch * 0.415) / 0.33
    assert load[car.TYRE_REAR].item() == pytest.approx(rear, rel=1e-4)
    assert load[car.TYRE_FRONT].item() == pytest.approx(3.7 * 9.81 + on_hitch - rear, rel=1e-4)


def test_brakes_and_tyres_end_at_grip_times_load():
    env = make_env(tasks_with(grip=0.9))
    state = env._state | {"acceleration": torch.zeros(1)}
    limit = SPEC.control(env._task, env._data, state, torch.zeros(1, 2))["actuator_forcerange"][0, :, 1]
    torch.testing.assert_close(limit, 0.9 * env._task["load"][0, :, 1])
    # All that does not slide at 9.81 m/s^2: car and trailer.
    whole = (3.7 + 0.4 + 0.75 * 3.7) * 9.81
    assert limit[[car.TYRE_FRONT, car.TYRE_REAR, payload.TRAILER_TYRE]].sum().item() == pytest.approx(0.9 * whole)


def test_a_heavy_trailer_makes_everything_slower():
    env = make_env(tasks_with(2, payload=[0.0, 1.5], drag=0.0))
    env._state["pose"].zero_()
    speeds = []
    for pedal in (1.0, -1.0):
        for _ in range(12):
            obs = env.step(torch.tensor([[0.0, pedal]]).expand(2, 2)).obs
        speeds.append(5.0 * obs[:, 2])
    gained, lost = speeds[0] - 3.0, speeds[0] - speeds[1]
    assert gained[0] > 1.8 * gained[1] and lost[0] > 1.5 * lost[1]


def test_drag_of_the_trailer_slows_it_down():
    # v' = -(1.4 + drag) v / m for a car that rolls straight on: exp(-(1.4 + drag) 0.4 s / 4.1 kg).
    env = make_env(tasks_with(2, payload=0.0, drag=[0.0, 2.0]))
    start = torch.cat([env._data["qpos"][:, :3], torch.zeros(2, 2)], 1)
    env.engine.write("qpos", start)
    for _ in range(10):
        obs = env.step(torch.zeros(2, 2)).obs
    expected = 3.0 * torch.exp(-torch.tensor([1.4, 3.4]) * 0.4 / 4.1)
    torch.testing.assert_close(5.0 * obs[:, 2], expected, atol=0.03, rtol=0)


def test_uneven_brakes_turn_the_car_to_the_side_that_brakes_more():
    env = make_env(tasks_with(3, brake_bias=[-0.3, 0.0, 0.3], payload=0.0))
    for _ in range(4):
        env.step(torch.tensor([[0.0, -1.0]]).expand(3, 2))
    yaw_rate = env._data["qvel"][:, 2]
    assert yaw_rate[0] < yaw_rate[1] - 0.02 and yaw_rate[2] > yaw_rate[1] + 0.02


def test_the_trailer_starts_straight_and_follows_through_bends():
    env = make_env(tasks_with())
    assert env._data["qpos"][0, payload.HITCH_ANGLE] == 0
    for _ in range(25):
        env.step(torch.tensor([[0.4, 0.3]]))
    # In a bend to the left the trailer points to the outside of the car's tail, turned to the right of it.
    assert -0.8 < env._data["qpos"][0, payload.HITCH_ANGLE] < -0.02
    assert env.metrics()[0, 4] > 0.01


@pytest.mark.parametrize("split", slow_but(SPEC.tasks.splits(), "test", "extrapolation"))
def test_the_expert_stays_on_the_road(split: str):
    _, off_track, metrics = driven(SPEC, split)
    assert off_track <= 0.1
    assert (~metrics[:, 1].isnan()).float().mean() >= 0.9
    assert (metrics[:, 5] <= payload.SPARED_SHARE).float().mean() >= 0.9


def test_the_board_scrapes_along_the_hedge_that_it_sticks_into():
    def scraping(lateral: float, side: float, heading_error: float = 0.0, hitch_angle: float = 0.0) -> float:
        task = SPEC.tasks.unpack(tasks_with(side=side, overhang=0.9, width=1.4))
        pose = torch.tensor([[lateral, heading_error]])
        return payload.scraping(task, torch.tensor([hitch_angle]), pose).item()

    assert scraping(-0.21, 1.0) == 0.0 and scraping(0.11, 1.0) == 1.0
    assert scraping(-0.1, 1.0) == pytest.approx(0.5, abs=1e-5) == scraping(0.1, -1.0)
    # The end lies at -0.1 - 0.25 sin(.1) - 0.1 sin(.3) + 0.9 cos(.3) = 0.7053 m.
    assert scraping(-0.1, 1.0, 0.1, 0.2) == pytest.approx(0.0053 / 0.2, abs=1e-3)


def test_only_the_reward_tells_on_which_side_the_board_is():
    env = make_env(tasks_with(2, side=[-1.0, 1.0]))
    env._state["pose"][:] = 0.0
    start = env._data["qpos"][:1].expand(2, -1).clone()
    env.engine.write("qpos", start)
    env.engine.write("qvel", env._data["qvel"][:1].expand(2, -1).clone())
    for _ in range(25):
        action = SPEC.expert(env._task, env._obs)[1:].expand(2, 2)
        step = env.step(action)
        assert torch.equal(step.obs[0, :5], step.obs[1, :5])
    assert step.reward[1] > step.reward[0] + 0.4
    assert env.metrics()[0, 5] > env.metrics()[1, 5] + 0.3


def test_a_lap_is_no_success_where_the_board_was_ruined():
    env = make_env(tasks_with())
    state = env._state | {"distance": torch.tensor([29.99]), "advance": torch.tensor([0.12])}
    qpos = torch.cat([env._task["road"][:, 1, :3], torch.zeros(1, 2)], 1)
    record = torch.tensor([[29.0, 200.0, 200.0, 0.0]])
    for scraped, success in ((38.0, True), (42.0, False)):
        now = state | {"scrape": torch.tensor([scraped]), "record": record}
        outcome = SPEC.step(env._task, env._data | {"qpos": qpos}, now, torch.zeros(1, 2), Noise(None, None))
        assert float(outcome.state["distance"]) > roads.LENGTH_M
        assert bool(outcome.success) == success


@pytest.mark.slow
def test_knowing_the_load_pays():
    told = driven(SPEC, "test")[0]
    nominal, full = driven(believing(payload=0.75), "test"), driven(believing(payload=1.5), "test")
    assert nominal[0] < 0.9 * told and nominal[1] > 0.2
    assert full[0] < 0.8 * told
    told, empty = driven(SPEC, "load"), driven(believing(payload=0.0), "load")
    assert empty[0] < 0.9 * told[0] and empty[1] > told[1] + 0.25


@pytest.mark.slow
def test_knowing_the_side_pays():
    told, middle, left = (driven(spec, "test")[0] for spec in (SPEC, believing(side=0.0), believing(side=1.0)))
    assert middle < 0.7 * told and left < 0.75 * told


def test_a_heavier_load_is_a_higher_box():
    def height(load: float) -> float:
        task = {name: value[0] for name, value in SPEC.tasks.unpack(tasks_with(payload=load)).items()}
        return float(payload.draw(task).geom("trailer_load").size[2])

    assert height(0.1) < height(1.0) and SPEC.physics.model.ngeom == 0


@pytest.mark.slow
def test_both_engines_drive_the_same():
    tasks = torch.cat([SPEC.tasks.split("test", 4), SPEC.tasks.split("extrapolation", 4)])
    worlds = [make_env(tasks, engine=engine) for engine in ("batch", "warp")]
    for env in worlds:
        env.generator.manual_seed(0)
        env.reset()
    for _ in range(100):
        action = worlds[0].expert_action()
        steps = [env.step(action) for env in worlds]
        assert torch.equal(steps[0].terminated, steps[1].terminated)
        torch.testing.assert_close(steps[0].obs[:, :7], steps[1].obs[:, :7], atol=2e-3, rtol=0)
        torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=2e-3, rtol=0)
