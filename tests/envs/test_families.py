"""`families`: one layout over nine kinds of task, which of them are held out, rewards, success, its expert."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from envs.manipulation import arm7, families, layout
from envs.manipulation.families_tables import ABOVE_M, AWAY_M, FAMILIES, FIXTURES, NUM_TRAINED, PUSH, REACH
from metarl.env import Noise
from tests.envs.manipulation_tools import both_engines, expert_success, play_expert, started, tasks_with
from tests.slow import slow_but

SPEC = families.make_spec()
MODEL = SPEC.physics.model
BLOCK = MODEL.geom("block").id
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def one_of_each(split_seed: int = 0) -> Tensor:
    """One task of each of the nine families."""
    tasks = SPEC.tasks.split("test", len(FAMILIES), split_seed)
    tasks[:, 0] = torch.arange(len(FAMILIES))
    return tasks


def test_training_draws_six_families_and_the_others_are_held_out():
    assert NUM_TRAINED == 6 and len(FAMILIES) == 9
    for split in ("train", "validation", "test", "interpolation"):
        assert set(SPEC.tasks.split(split, 200)[:, 0].tolist()) == set(range(6))
    for split in ("extrapolation", "families"):
        assert set(SPEC.tasks.split(split, 200)[:, 0].tolist()) == {6, 7, 8}


def test_what_a_task_does_not_need_is_far_away():
    env = started(SPEC, one_of_each())
    mocap, qpos = env.engine.data("mocap_pos"), env.engine.data("qpos")
    names = [fixture.name for fixture in FIXTURES]
    needs = ["", "", "", "door", "drawer", "button", "door", "drawer", "window"]
    for world, needed in enumerate(needs):
        for i, name in enumerate(names):
            is_away = torch.equal(mocap[world, i], torch.tensor(AWAY_M))
            assert is_away == (name != needed), (world, name)
        assert torch.equal(qpos[world, 9:12], torch.tensor(ABOVE_M)) == (world not in (1, 2))
    for _ in range(50):
        env.step(torch.zeros(9, 4))
    torch.testing.assert_close(qpos[3, 9:12], torch.tensor(ABOVE_M), atol=1e-3, rtol=0)
    assert qpos[1:3, 11].abs().max() < 2e-3


def test_the_observation_shows_the_part_that_the_task_is_about():
    env = started(SPEC, tasks_with(SPEC, 9, family=[float(i) for i in range(9)], view_x=0.01, frame_y=0.02))
    seen = layout.read(env.reset(), "object_pos")
    assert torch.equal(seen[REACH], torch.zeros(3))
    for world in range(1, 9):
        assert seen[world, 1] == pytest.approx(0.02, abs=1e-5)
    torch.testing.assert_close(seen[PUSH], torch.tensor([0.49, 0.02, 0.0]), atol=1e-5, rtol=0)
    fixture = layout.read(env.reset(), "fixture")[:, 0]
    torch.testing.assert_close(fixture[[0, 1, 2, 3, 4, 5, 8]], torch.zeros(7))
    assert fixture[6] == pytest.approx(0.9) and fixture[7] == pytest.approx(0.24)
    assert torch.equal(layout.read(env.reset(), "goal"), torch.zeros(9, 3))


def test_the_first_observation_does_not_tell_what_is_hidden():
    common = {"family": [float(i) for i in range(9)], "amount": 0.5}
    low = {"friction": 0.5, "damping": 0.5, "mass": 0.5, "direction": -2.0}
    high = {"friction": 2.0, "damping": 2.0, "mass": 2.0, "direction": 2.0}
    first = []
    for values in (low, high, low | {"amount": 0.9}):
        env = started(SPEC, tasks_with(SPEC, 9, **(common | values)))
        env.generator.manual_seed(0)
        first.append(env.reset())
    torch.testing.assert_close(first[0], first[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(first[0], first[2], atol=1e-5, rtol=0)


def test_rewards_are_those_of_the_families_own_environments():
    env = started(SPEC, tasks_with(SPEC, 9, family=[float(i) for i in range(9)], amount=0.5, direction=1.0))
    data = {name: value.clone() for name, value in env._data.items()}
    task = env._task
    site = task["handle_site"][:, 0, 0]
    handles = data["site_xpos"][torch.arange(9), site].clone()
    data["site_xpos"][:, arm7.TCP] = handles + torch.tensor([0.0, 0.0, 0.1])
    data["site_xpos"][:3, arm7.TCP] = task["goal"][:3] + torch.tensor([0.0, 0.0, 0.1])
    data["site_xpos"][:, arm7.PINCH] = data["geom_xpos"][:, BLOCK]
    ahead = torch.tensor([math.cos(1.0), math.sin(1.0), 0.0])  # from the box to its goal
    data["qpos"][1, 9:12] += 0.04 * ahead
    data["geom_xpos"][1, BLOCK] += 0.04 * ahead
    data["site_xpos"][1, arm7.TCP] = data["geom_xpos"][1, BLOCK] - 0.075 * ahead
    data["sensordata"][2, 3:5] = 1.0
    data["qpos"][2, 11] = 0.05
    # Door angles of 0.4 rad, openings of 10.5 cm, 12 cm of the window, 2.7 cm of the button are asked for.
    positions = torch.tensor([0.3, 0.095, 0.009, 0.45, 0.12, 0.11])
    data["qpos"][torch.arange(3, 9), task["joint_position"][3:, 0]] = positions
    reward = SPEC.step(task, data, env._state, torch.zeros(9, 4), NONE).reward
    near = 1 - math.tanh(0.5)
    closeness = torch.tensor([0.5, 0.8, 0.009 / 0.027, 0.75, 0.7, 0.8])
    expected = [near, 0.25 + 0.75 * 0.04 / 0.16, 0.2 + 0.2 + 0.6 * 0.5]
    torch.testing.assert_close(reward[:3], torch.tensor(expected), atol=1e-4, rtol=0)
    reach = torch.tensor([0.6 * near + 0.4, *[near] * 5])  # the door has been moved
    torch.testing.assert_close(reward[3:], 0.25 * reach + 0.75 * closeness, atol=1e-4, rtol=0)


def test_metrics_tell_the_success_of_each_family():
    env = started(SPEC, one_of_each())
    play_expert(env)
    metrics = env.metrics()
    assert torch.equal(~metrics.isnan(), torch.eye(9, dtype=torch.bool))
    assert metrics.nansum(1).min() == 1.0


@pytest.mark.parametrize("split", slow_but(["test", "interpolation", "extrapolation"], "extrapolation"))
def test_the_expert_solves_at_least_95_percent(split: str):
    assert expert_success(SPEC, split, 100) >= 0.95


@pytest.mark.slow
def test_both_engines_do_the_same():
    steps, _ = both_engines(SPEC, one_of_each(), 100)
    for cpu, warp in zip(steps[0][:60], steps[1][:60], strict=True):
        torch.testing.assert_close(cpu.reward, warp.reward, atol=0.03, rtol=0)
