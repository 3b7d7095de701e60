"""The car, reward, success, metrics and planner of `park`, by hand, and its expert."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from envs.driving import park, reeds_shepp
from metarl.env import BatchedEnv, Noise
from tests.envs.driving_tools import drive, ends_of_ranges, first_observations, on_both_engines
from tests.slow import slow_but

SPEC = park.make_spec()
NOMINAL = {"wheelbase": 0.33, "steer_limit": 0.4, "steer_delay": 0.0, "steer_offset": 0.0, "motor_lag": 0.05}
NOMINAL |= {"power": 1.0, "mass": 1.0, "view_x": 0.0, "view_y": 0.0}
NOMINAL |= {"slot_distance": 2.0, "slot_bearing": 0.5, "slot_heading": -1.0}
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def tasks_with(num: int = 1, **values: float | list[float]) -> Tensor:
    columns = [torch.as_tensor(values.get(p.name, NOMINAL[p.name])).expand(num) for p in park.PARAMETERS]
    return torch.stack(columns, 1)


def make_env(tasks: Tensor) -> BatchedEnv:
    env = BatchedEnv(SPEC, len(tasks), num_threads=1)
    env.set_tasks(tasks)
    env.reset()
    return env


def held(env: BatchedEnv, steering: float, pedal: float, num_steps: int) -> Tensor:
    """Observations while an action is held, (num_steps, N, O)."""
    action = torch.tensor([[steering, pedal]]).expand(env.num_worlds, 2)
    return torch.stack([env.step(action).obs for _ in range(num_steps)])


def test_actuators_bodies_and_sensors_have_the_ids_that_the_functions_use():
    model = SPEC.physics.model
    names = [model.actuator(i).name for i in (park.STEER, park.DRIVE, park.TYRE_FRONT, park.TYRE_REAR)]
    assert names == ["steer", "drive", "tyre_front", "tyre_rear"]
    assert [model.body(i).name for i in (park.CHASSIS, park.FRONT_AXLE)] == ["car", "front"]
    assert [model.sensor(i).name for i in range(2)] == ["steer_angle", "velocity"]
    assert SPEC.physics.control_dt_s == pytest.approx(park.CONTROL_DT_S)


def test_the_slot_in_the_frame_of_the_car():
    pose = torch.tensor([[-1.0, 0.0, 0.0], [0.0, -2.0, math.pi / 2], [1.0, 1.0, math.pi]])
    expected = torch.tensor([[1.0, 0.0, 1.0, 0.0], [2.0, 0.0, 0.0, -1.0], [1.0, 1.0, -1.0, 0.0]])
    torch.testing.assert_close(park.slot_from(pose), expected, atol=1e-6, rtol=0)


def test_the_episode_starts_where_the_task_says():
    env = make_env(tasks_with(slot_distance=2.0, slot_bearing=0.5, slot_heading=-1.0))
    state = SPEC.reset(env._task, Noise(torch.full((1, 3), 0.5), torch.zeros(1, 0))).state
    expected = [2 * math.cos(0.5), 2 * math.sin(0.5), math.cos(-1.0), math.sin(-1.0)]
    torch.testing.assert_close(state["slot"], torch.tensor([expected]), atol=1e-5, rtol=0)


def test_the_slot_is_seen_in_a_wrong_place():
    # The car stands 2 m before the slot and looks at it, whatever the heading of the slot.
    for heading in (0.0, -2.0):
        env = make_env(tasks_with(slot_distance=2.0, slot_bearing=0.0, slot_heading=heading, view_x=0.3, view_y=-0.2))
        state = SPEC.reset(env._task, Noise(torch.full((1, 3), 0.5), torch.zeros(1, 0))).state
        data = {"sensordata": torch.zeros(1, 2)}
        obs, signals = (f(env._task, data, state) for f in (SPEC.observe, SPEC.signals.compute))
        expected = torch.tensor([2.3 / 2, -0.2 / 2, math.cos(heading), math.sin(heading)])
        torch.testing.assert_close(obs[0, :4], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(signals[0, :2], torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_parking_where_the_slot_is_seen_is_no_success():
    no_error = dict.fromkeys(park.SHIFTS["view"], torch.zeros(64))
    blind = replace(SPEC, expert=lambda task, obs: park.expert(task | no_error, obs))
    assert drive(blind, "test", 64).success.double().mean() < 0.3


# The car


@pytest.mark.parametrize(("wheelbase", "limit"), [(0.25, 0.5), (0.42, 0.3), (0.5, 0.22)])
@pytest.mark.parametrize("pedal", [0.6, -0.6])
def test_the_turning_radius_is_that_of_wheelbase_and_steering_limit(wheelbase: float, limit: float, pedal: float):
    env = make_env(tasks_with(wheelbase=wheelbase, steer_limit=limit))
    held(env, 1.0, pedal, 75)
    before = env._data["qpos"][:, :3].clone()
    held(env, 1.0, pedal, 5)
    moved = env._data["qpos"][:, :3] - before
    radius = moved[:, :2].norm(dim=1) / moved[:, 2].abs()
    assert radius.item() == pytest.approx(wheelbase / math.tan(limit), rel=0.06)
    assert float(moved[0, 2]) * pedal > 0  # to the left forwards, tail to the left backwards


def test_full_pedal_ends_at_a_metre_per_second_and_no_pedal_stops_the_car():
    env = make_env(tasks_with(3, power=[1.0, 0.7, 1.3]))
    assert held(env, 0.0, 1.0, 100)[-1, :, 4] == pytest.approx(torch.tensor([1.0, 0.7, 1.3]), rel=0.02)
    # exp(-9 / 3.7 * 1 s) = 0.088, from a little later on because of the motor's lag
    assert held(env, 0.0, 0.0, 25)[-1, 0, 4].item() == pytest.approx(0.088, abs=0.03)
    assert held(env, 0.0, -1.0, 100)[-1, 0, 4].item() == pytest.approx(-1.0, rel=0.02)


@pytest.mark.parametrize(("delay", "silent_steps"), [(0.0, 0), (0.04, 1), (0.12, 3)])
def test_steering_answers_after_its_delay(delay: float, silent_steps: int):
    angle = held(make_env(tasks_with(steer_delay=delay)), 1.0, 0.0, 6)[:, 0, 5]
    assert (angle[:silent_steps].abs() < 1e-3).all() and angle[silent_steps] > 0.05


def test_a_steering_offset_turns_the_car_with_the_servo_in_the_middle():
    env = make_env(tasks_with(2, steer_offset=[0.0, 0.04]))
    start = env._data["qpos"][:, 2].clone()
    obs = held(env, 0.0, 0.5, 75)
    turned = env._data["qpos"][:, 2] - start
    assert abs(turned[0]) < 1e-4 and obs[:, :, 5].abs().max() < 0.02
    driven = 0.04 * obs[:, 1, 4].sum()
    assert turned[1].item() == pytest.approx(float(driven) * math.tan(0.04) / 0.33, rel=0.06)


def test_the_first_observation_hides_the_vehicle():
    first = first_observations(
        SPEC, ends_of_ranges(SPEC, {*park.SHIFTS["view"], "slot_distance", "slot_bearing", "slot_heading"})
    )
    torch.testing.assert_close(first[0], first[1], atol=1e-6, rtol=0)


# Reward, success, metrics


def outcome(x: float, y: float, yaw: float, speed: float = 0.0):
    """One `step` that ends with the car at a pose in the frame of the slot."""
    data = {"qpos": torch.tensor([[x, y, yaw, 0.0]]), "sensordata": torch.tensor([[0.0, speed, 0.0, 0.0]])}
    state = {"time": torch.tensor([1.0]), "time_to_success": torch.tensor([park.NEVER_S])}
    return SPEC.step({}, data, state, torch.zeros(1, 2), NONE)


def test_reward_is_the_root_of_the_weighted_distance():
    assert outcome(0.0, 0.0, 0.0).reward.item() == pytest.approx(0.0, abs=1e-6)
    # 1.2 m / 4 + (1 - 0.5) / 8
    assert outcome(0.0, -1.2, math.pi / 3).reward.item() == pytest.approx(-math.sqrt(0.3625), abs=1e-6)
    assert outcome(9.0, 9.0, math.pi).reward.item() == -1.0
    assert not outcome(9.0, 9.0, math.pi).terminated


@pytest.mark.parametrize(
    ("pose", "speed", "is_success"),
    [
        ((0.14, 0.0, math.radians(9.5)), 0.0, True),
        ((0.0, -0.14, math.radians(-9.5)), -0.09, True),
        ((0.11, 0.11, 0.0), 0.0, False),
        ((0.0, 0.0, math.radians(10.5)), 0.0, False),
        ((0.0, 0.0, math.pi), 0.0, False),
        ((0.0, 0.0, 0.0), 0.11, False),
    ],
)
def test_success_is_near_parallel_and_slow(pose, speed: float, is_success: bool):
    assert outcome(*pose, speed).success.item() == is_success


def test_metrics_keep_the_first_success_and_the_last_errors():
    first = outcome(0.1, 0.0, 0.1).state
    assert first["time_to_success"].item() == pytest.approx(1.04)
    slot = park.slot_from(torch.tensor([[0.3, -0.4, 0.25]]))
    values = park.metrics({}, {}, first | {"slot": slot})
    torch.testing.assert_close(values, torch.tensor([[1.04, 0.5, 0.25]]))
    never = park.metrics({}, {}, outcome(1.0, 0.0, 0.0).state)
    assert math.isnan(never[0, 0])


# The planner


def plan(x: float, y: float, heading: float, gear: float = 0.0) -> reeds_shepp.Piece:
    goal, one = torch.tensor([[x, y, heading]]), torch.ones(1)
    return reeds_shepp.first_piece(goal, one.unsqueeze(1), gear * one, 0.01 * one)


def test_a_goal_straight_ahead_or_behind_is_driven_to_straight():
    for x, gear in ((2.0, 1.0), (-2.0, -1.0)):
        piece = plan(x, 0.0, 0.0)
        assert piece.curvature.item() == pytest.approx(0.0, abs=1e-6) and piece.gear.item() == gear
        assert piece.until_stop.item() == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_a_goal_on_the_circle_is_reached_by_an_arc(turn: float):
    piece = plan(1.0, turn, turn * math.pi / 2)
    assert piece.curvature.item() == pytest.approx(turn) and piece.gear.item() == 1.0
    assert piece.until_stop.item() == pytest.approx(math.pi / 2, abs=1e-3)
    assert piece.cost.item() == pytest.approx(math.pi / 2, abs=1e-3)


@pytest.mark.slow
def test_following_the_first_piece_leads_to_the_goal():
    generator = torch.Generator().manual_seed(0)
    span = torch.tensor([4.0, 4.0, 2 * math.pi])
    pose = ((torch.rand(80, 3, generator=generator) - 0.5) * span).double()
    radius = 0.5 + 1.5 * torch.rand(80, generator=generator).double()
    radii = torch.stack([1.2 * radius, radius], 1)
    gear, arrived = torch.zeros_like(radius), torch.zeros(80, dtype=torch.bool)
    for _ in range(700):
        slot = park.slot_from(pose)
        error = torch.atan2(slot[:, 3], slot[:, 2])
        arrived |= (slot[:, :2].norm(dim=1) < 0.05) & (error.abs() < 0.08)
        goal = torch.cat([slot[:, :2], error.unsqueeze(1)], 1)
        piece = reeds_shepp.first_piece(goal, radii, gear, torch.full_like(radius, 0.02))
        gear = piece.gear
        way = gear * piece.until_stop.clamp(0.005, 0.02)
        turn = way * piece.curvature
        middle = pose[:, 2] + turn / 2
        pose = pose + torch.stack([way * middle.cos(), way * middle.sin(), turn], 1)
    assert arrived.double().mean() >= 0.97


# The whole environment


@pytest.mark.parametrize("split", slow_but(SPEC.tasks.splits(), "test", "extrapolation"))
def test_the_expert_parks(split: str):
    result = drive(SPEC, split, 64)
    assert result.success.double().mean() >= 0.95 and not result.failed.any()
    assert 3.0 < result.metrics["time_to_success_s"].nanmean() < 8.0
    assert result.metrics["final_distance_m"].median() < park.NEAR_M


def test_the_car_needs_both_gears():
    env = make_env(SPEC.tasks.split("test", 32))
    speed = torch.stack([env.step(env.expert_action()).obs[:, 4] for _ in range(SPEC.horizon)])
    both = (speed.amax(0) > 0.2) & (speed.amin(0) < -0.2)
    assert both.double().mean() > 0.5


@pytest.mark.parametrize("split", ["test", "extrapolation"])
def test_both_engines_drive_the_same(split: str):
    for cpu, warp in zip(*on_both_engines(SPEC, split, 6, 100), strict=True):
        torch.testing.assert_close(cpu.obs, warp.obs, atol=2e-3, rtol=0)
        torch.testing.assert_close(cpu.reward, warp.reward, atol=1e-3, rtol=0)
