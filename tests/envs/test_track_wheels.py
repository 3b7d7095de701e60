"""The car on four wheels of `track-wheels`: forces by hand, what it shares with `track`, and its driver."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from envs.driving import car, track, track_wheels
from metarl.env import BatchedEnv, EnvSpec
from tests.envs.driving_tools import drive, on_both_engines
from tests.slow import slow_but

SPEC, SINGLE = track_wheels.make_spec(), track.make_spec()
NAMES = [parameter.name for parameter in track.PARAMETERS]
NOMINAL = car.NOMINAL | {"grip": 0.9, "swept_line": 0.0, "steer_delay": 0.0, "width": 1.6, "max_curvature": 0.6}


def tasks_with(num: int = 1, **values: float | list[float]) -> Tensor:
    tasks = SPEC.tasks.split("train", 1).repeat(num, 1)
    for name, value in (NOMINAL | values).items():
        tasks[:, NAMES.index(name)] = torch.as_tensor(value)
    return tasks


def make_env(tasks: Tensor, spec: EnvSpec = SPEC) -> BatchedEnv:
    env = BatchedEnv(spec, len(tasks), num_threads=1)
    env.set_tasks(tasks)
    env.reset()
    return env


def cornering(tasks: Tensor, steer_rad: float, speed: float = 4.0) -> Tensor:
    """Sensors in the order of `car` after 2 s at a steering angle and a speed, far from any road, (N, 5)."""
    env = make_env(tasks)
    engine, num = env.engine, len(tasks)
    engine.reset()
    velocity = torch.zeros(num, 11)
    velocity[:, 0], velocity[:, [6, 7, 9, 10]] = speed, speed / track_wheels.WHEEL_M
    engine.write("qvel", velocity)
    engine.forward()
    zero = torch.zeros(num)
    for _ in range(50):
        ahead = track_wheels.planar(env._data)["sensordata"][:, car.SPEED]
        engine.write("ctrl", torch.stack([zero + steer_rad, (4 * (speed + 0.1 - ahead)).clamp(0, 1), zero, zero], 1))
        engine.step()
    assert not engine.failed.any()
    return track_wheels.planar(env._data)["sensordata"]


def test_ids_of_the_model_are_those_that_the_functions_use():
    model = SPEC.physics.model
    names = [model.actuator(i).name for i in range(model.nu)]
    assert names == ["steer", "drive", "brake", "gravel"]
    assert [model.body(i).name for i in (track_wheels.CHASSIS, track_wheels.FRONT_AXLE)] == ["car", "front"]
    assert model.joint("steer").qposadr[0] == track_wheels.STEER_JOINT
    assert [model.pair(i).name for i in range(4)] == ["rear_left", "rear_right", "front_left", "front_right"]
    assert SPEC.physics.control_dt_s == pytest.approx(car.CONTROL_DT_S)
    assert model.body_mass.sum() == pytest.approx(car.MASS_KG)


def test_a_policy_of_track_fits():
    assert SPEC.obs_dim == SINGLE.obs_dim and SPEC.action_space == SINGLE.action_space
    assert SPEC.tasks == SINGLE.tasks and SPEC.horizon == SINGLE.horizon
    assert SPEC.signals.names == SINGLE.signals.names and SPEC.metrics.names == SINGLE.metrics.names


def test_the_first_observation_is_that_of_track():
    tasks = SPEC.tasks.split("test", 8)
    first = []
    for spec in (SPEC, SINGLE):
        env = make_env(tasks, spec)
        env.generator.manual_seed(3)
        first.append(env.reset())
    torch.testing.assert_close(*first, atol=1e-5, rtol=0)


def test_masses_centre_of_mass_and_yaw_inertia_are_those_of_the_single_track_car():
    env = make_env(tasks_with(com_shift=0.03))
    model, fields = SPEC.physics.model, track_wheels.configure(env._task, env._model_defaults)
    mass = torch.tensor(model.body_mass, dtype=torch.float32)
    place = torch.tensor([[0.0, 0, 0], [0, 0, 0], [-0.165, 0.13, 0], [-0.165, -0.13, 0], [0.165, 0, 0]])
    place = torch.cat([place, torch.tensor([[0.165, 0.13, 0], [0.165, -0.13, 0]])])
    centre = (mass.unsqueeze(1) * (place + fields["body_ipos"][0])).sum(0) / mass.sum()
    assert centre[2].item() + track_wheels.WHEEL_M == pytest.approx(car.COM_HEIGHT_M, abs=1e-3)
    assert centre[0].item() == pytest.approx((2.9 * 0.03 + 0.2 * 0.165) / 3.7, abs=1e-4)
    own = torch.tensor(model.body_inertia[:, 2], dtype=torch.float32)
    yaw_inertia = (own + mass * place[:, :2].square().sum(1)).sum()
    assert yaw_inertia.item() == pytest.approx(0.102 + 0.0012 + 0.2 * 0.165**2, rel=0.04)  # car_st


def test_lateral_acceleration_saturates_at_the_grip_as_on_the_single_track():
    grip = [0.6, 1.0, 1.5]
    sensors = cornering(tasks_with(3, grip=grip, power=1.2), 0.25)
    acceleration = sensors[:, car.SPEED] * sensors[:, car.YAW_RATE]
    assert (acceleration < torch.tensor(grip) * 9.81 * 1.02).all()
    # What tests/envs/test_track.py expects of the car of one track.
    torch.testing.assert_close(acceleration, torch.tensor([5.35, 8.93, 11.93]), rtol=0.1, atol=0)


def test_tyres_give_way_by_their_stiffness():
    sensors = cornering(tasks_with(3, tyre_stiffness_rear=[0.6, 1.0, 1.6], grip=1.1), 0.12)
    force = car.MASS_KG / 2 * sensors[:, car.SPEED] * sensors[:, car.YAW_RATE]
    slip = sensors[:, car.LATERAL_SPEED] - car.AXLE_M * sensors[:, car.YAW_RATE]
    torch.testing.assert_close(-force / slip, 60.0 * torch.tensor([0.6, 1.0, 1.6]), rtol=0.15, atol=0)


def test_brake_stops_the_car_and_does_not_reverse_it():
    env = make_env(tasks_with(swept_line=0.0))
    speed = [3.0, *(5.0 * env.step(torch.tensor([[0.0, -1.0]])).obs[0, 2].item() for _ in range(59))]
    assert speed[5] / speed[0] == pytest.approx(math.exp(-9.4 / 3.7 * 0.2), rel=0.25)
    assert min(speed) > -0.02 and speed[-1] < 0.05


def test_drag_of_the_gravel_is_that_of_track():
    tasks = tasks_with(2, swept_line=[0.0, 0.75])
    speeds = [torch.stack([env.step(torch.zeros(2, 2)).obs[:, 2] for _ in range(8)])[-1] for env in (
        make_env(tasks), make_env(tasks, SINGLE))]  # fmt: skip
    for speed in speeds:
        assert speed[1] < 0.85 * speed[0]
    torch.testing.assert_close(speeds[0], speeds[1], rtol=0.12, atol=0)  # wheels have inertia of their own


@pytest.mark.parametrize("name", [*car.NOMINAL, "grip"])
def test_each_parameter_of_the_vehicle_changes_what_happens(name: str):
    prior = track.PARAMETERS[NAMES.index(name)].distribution
    ends = {"wind_direction": (0.0, 2.0), "grip": (0.2, 0.6)}.get(name, (prior.low, prior.high))
    others = {"wind_speed": 6.0} if name == "wind_direction" else {}
    env = make_env(tasks_with(2, **(others | {name: list(ends)})))
    env.generator.manual_seed(0)
    place = env._data["qpos"][:1, :7].expand(2, -1)
    qpos = torch.cat([place, torch.zeros(2, 5)], 1)
    env.engine.write("qpos", qpos)
    env.engine.write("qvel", env.engine.data("qvel")[:1].expand(2, -1).clone())
    env.engine.forward()
    env._state = {key: value[:1].expand_as(value).clone() for key, value in env._state.items()}
    action = torch.tensor([[0.6, 0.9]]).expand(2, 2)
    obs = torch.stack([env.step(action * math.cos(0.4 * t)).obs for t in range(40)])
    assert (obs[:, 0] - obs[:, 1]).abs().max() > 0.01


@pytest.mark.parametrize("split", slow_but(SPEC.tasks.splits(), "extrapolation"))
def test_the_driver_of_track_drives_it_nearly_as_far_and_stays_on_the_road(split: str):
    wheels, single = drive(SPEC, split, 100), drive(SINGLE, split, 100)
    assert not wheels.failed.any()
    assert wheels.metrics["off_track"].mean() <= 0.1
    share = wheels.metrics["progress_m"].mean() / single.metrics["progress_m"].mean()
    assert 0.92 < share < 1.02


def test_the_car_stays_on_its_wheels_at_the_ends_of_the_ranges():
    env = make_env(SPEC.tasks.split("extrapolation", 32))
    generator = torch.Generator().manual_seed(0)
    for action in 2 * torch.rand(SPEC.horizon // 5, 32, 2, generator=generator) - 1:
        for _ in range(5):
            assert not env.step(action).failed.any()
    qpos = env._data["qpos"]
    upright = 1.0 - 2.0 * (qpos[:, 4].square() + qpos[:, 5].square())
    assert upright.min() > 0.9 and (qpos[:, 2] - track_wheels.WHEEL_M).abs().max() < 0.02


@pytest.mark.parametrize("split", slow_but(["test", "extrapolation"], "extrapolation"))
def test_both_engines_drive_the_same_for_100_substeps_and_more(split: str):
    for cpu, warp in zip(*on_both_engines(SPEC, split, 6, 30), strict=True):
        assert not warp.failed.any()
        # The centreline is a table: from one point of it to the next the curvature ahead jumps.
        torch.testing.assert_close(cpu.obs[:, :7], warp.obs[:, :7], atol=0.04, rtol=0)
        torch.testing.assert_close(cpu.obs[:, 7:], warp.obs[:, 7:], atol=0.1, rtol=0)
        torch.testing.assert_close(cpu.reward, warp.reward, atol=0.04, rtol=0)
