"""The goal, reward, success and signals of `reach`, and its expert."""

from __future__ import annotations

import math

import pytest
import torch

from envs.manipulation import arm7, reach
from metarl.env import Noise
from tests.envs.manipulation_tools import both_engines, expert_success, play_expert, started, tasks_with

SPEC = reach.make_spec()
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def test_reward_is_one_at_the_goal_and_falls_with_the_hyperbolic_tangent_of_the_distance():
    env = started(SPEC, tasks_with(SPEC, goal_x=0.5, goal_y=0.1, goal_z=0.2))
    for offset, expected in [((0.0, 0.0, 0.0), 1.0), ((0.0, 0.06, 0.08), 1 - math.tanh(0.5))]:
        data = {name: value.clone() for name, value in env._data.items()}
        data["site_xpos"][:, arm7.TCP] = torch.tensor([0.5, 0.1, 0.2]) + torch.tensor(offset)
        outcome = SPEC.step(env._task, data, env._state, torch.zeros(1, 4), NONE)
        assert float(outcome.reward) == pytest.approx(expected, abs=1e-5)
        assert not bool(outcome.terminated)


@pytest.mark.parametrize(("distance", "age", "succeeds"), [(0.029, 149, True), (0.031, 149, False), (0.0, 148, False)])
def test_success_is_to_be_within_three_centimetres_after_the_last_step(distance: float, age: int, succeeds: bool):
    env = started(SPEC, tasks_with(SPEC, goal_x=0.5, goal_y=0.1, goal_z=0.2))
    data = {name: value.clone() for name, value in env._data.items()}
    data["site_xpos"][:, arm7.TCP] = torch.tensor([0.5, 0.1, 0.2 + distance])
    state = {**env._state, "age": torch.full((1,), float(age))}
    assert bool(SPEC.step(env._task, data, state, torch.zeros(1, 4), NONE).success) == succeeds


def test_signals_are_the_distance_and_the_speeds_of_the_hand_in_the_frame_of_the_goal():
    env = started(SPEC, tasks_with(SPEC, goal_x=0.5, goal_y=0.3, goal_z=0.2))
    data = {name: value.clone() for name, value in env._data.items()}
    data["site_xpos"][:, arm7.TCP] = torch.tensor([0.5, 0.1, 0.2])
    data["sensordata"][:, :3] = torch.tensor([0.3, 0.25, 0.4])
    expected = torch.tensor([[math.log(3.0), 0.5, 1.0]])  # 0.2 m away along y; 0.25 towards, 0.5 across
    torch.testing.assert_close(SPEC.signals.compute(env._task, data, {}), expected, atol=1e-4, rtol=0)


def test_the_sensor_measures_the_velocity_of_the_hand():
    env = started(SPEC, tasks_with(SPEC))
    for _ in range(10):
        before = env._data["site_xpos"][:, arm7.TCP].clone()
        env.step(torch.tensor([[0.0, 0.7, 0.0, 0.0]]))
    mean = (env._data["site_xpos"][:, arm7.TCP] - before) / 0.02
    torch.testing.assert_close(env._data["sensordata"][:, arm7.TCP_VELOCITY], mean, atol=0.06, rtol=0)


@pytest.mark.parametrize("split", SPEC.tasks.splits())
def test_the_expert_solves_the_tasks(split: str):
    assert expert_success(SPEC, split) >= 0.95


def test_metrics_tell_the_last_distance():
    env = started(SPEC, SPEC.tasks.split("test", 4))
    play_expert(env)
    assert float(env.metrics().max()) < 0.003


def test_both_engines_reach_the_same():
    steps, _ = both_engines(SPEC, SPEC.tasks.split("extrapolation", 6), 100)
    for cpu, warp in zip(*steps, strict=True):
        torch.testing.assert_close(cpu.obs, warp.obs, atol=1e-4, rtol=0)
        torch.testing.assert_close(cpu.reward, warp.reward, atol=1e-5, rtol=0)
