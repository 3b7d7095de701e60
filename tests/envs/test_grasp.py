"""The block, the grip, reward and success of `grasp`, what its hidden parameters do, and its expert."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from envs.manipulation import arm7, grasp, layout
from metarl.env import BatchedEnv, Noise
from tests.envs.manipulation_tools import both_engines, expert_success, play_expert, started, tasks_with
from tests.slow import slow_but

SPEC = grasp.make_spec()
BLOCK, HAND = SPEC.physics.model.body("block").id, SPEC.physics.model.body(arm7.HAND).id
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def placed(env: BatchedEnv, apart: float, touches: tuple[float, float], height: float) -> dict[str, Tensor]:
    """Data with the block at a height, the pads some way above it, and contacts of the fingers."""
    data = {name: value.clone() for name, value in env._data.items()}
    data["qpos"][:, 11] = height
    data["site_xpos"][:, arm7.PINCH] = data["xipos"][:, BLOCK] + torch.tensor([0.0, 0.0, apart])
    data["sensordata"][:, grasp.TOUCH] = torch.tensor(touches)
    return data


@pytest.mark.parametrize(
    ("apart", "touches", "height", "expected"),
    [
        (0.1, (0.0, 0.0), 0.0, 0.2 * (1 - math.tanh(0.5))),
        (0.0, (2.0, 0.0), 0.05, 0.2),
        (0.0, (2.0, 1.0), 0.0, 0.4),
        (0.0, (2.0, 1.0), 0.05, 0.7),
        (0.0, (1.0, 1.0), 0.2, 1.0),
    ],
)
def test_reward_is_reaching_touching_and_lifting(apart, touches, height, expected):
    env = started(SPEC, tasks_with(SPEC))
    outcome = SPEC.step(env._task, placed(env, apart, touches, height), env._state, torch.zeros(1, 4), NONE)
    assert float(outcome.reward) == pytest.approx(expected, abs=1e-5)


def test_success_is_to_hold_the_block_up_for_ten_steps():
    env = started(SPEC, tasks_with(SPEC))
    state, seen = env._state, []
    for height, touch in [(0.11, 1.0)] * 5 + [(0.09, 1.0)] + [(0.11, 1.0)] * 5 + [(0.11, 0.0)] + [(0.11, 1.0)] * 10:
        data = placed(env, 0.0, (touch, 1.0), height)
        outcome = SPEC.step(env._task, data, state, torch.zeros(1, 4), NONE)
        state = outcome.state
        seen.append(bool(outcome.success))
    assert seen == [False] * 21 + [True]
    lift, time = SPEC.metrics.compute(env._task, data, state)[0].tolist()
    assert (lift, time) == (pytest.approx(0.11), pytest.approx(22 * 0.02))


def test_size_mass_and_inertia_are_those_of_a_cube_that_stands_on_the_table():
    env = started(SPEC, tasks_with(SPEC, half_size=0.025, mass=0.3))
    fields = env.engine._model_fields
    geom = SPEC.physics.model.geom("block").id
    assert fields["geom_size"][0, geom].tolist() == pytest.approx([0.025] * 3)
    # m a^2 / 6 with edges of a = 5 cm
    assert fields["body_inertia"][0, BLOCK].tolist() == pytest.approx([0.3 * 0.05**2 / 6] * 3)
    for _ in range(25):
        env.step(torch.zeros(1, 4))
    assert float(env._data["qpos"][0, 11]) == pytest.approx(0.0, abs=5e-4)
    assert float(env._data["xipos"][0, BLOCK, 2]) == pytest.approx(0.025, abs=5e-4)


def test_the_hand_is_mounted_where_the_task_says_and_the_controller_does_not_know():
    env = started(SPEC, tasks_with(SPEC, 2, hand_x=[0.0, 0.015], hand_y=[0.0, -0.01], hand_z=[0.0, 0.02]))
    env.engine.write("qpos", env._data["qpos"][:1].clone().repeat(2, 1))
    env.engine.forward()
    sites = env._data["site_xpos"]
    torch.testing.assert_close(sites[1, arm7.TCP], sites[0, arm7.TCP])
    apart = sites[1, arm7.PINCH] - sites[1, arm7.TCP]
    torch.testing.assert_close(apart, torch.tensor([0.015, -0.01, 0.02]), atol=5e-4, rtol=0)


def test_the_first_observation_shows_the_pose_of_the_block_and_nothing_hidden():
    hidden = ("half_size", "mass", "friction", "grip_force", "hand_x", "hand_y", "hand_z")
    tasks, other = SPEC.tasks.split("test", 1), SPEC.tasks.split("train", 1)
    changed, columns = tasks.clone(), [p.name in hidden for p in SPEC.tasks.parameters]
    changed[:, columns] = other[:, columns]
    env = BatchedEnv(SPEC, 1, num_threads=1)
    first = []
    for task in (tasks, changed):
        env.generator.manual_seed(0)
        env.set_tasks(task)
        first.append(env.reset())
    torch.testing.assert_close(*first, atol=1e-6, rtol=0)
    named = SPEC.tasks.unpack(tasks)
    place = torch.stack([named["block_x"], named["block_y"]], 1)
    torch.testing.assert_close(layout.read(first[0], "object_pos")[:, :2], place, atol=0.0051, rtol=0)


def test_two_fingers_hold_what_their_friction_carries():
    # 2 friction force = 4 N: more than 0.25 kg weigh, less than 0.8 kg.
    env = started(SPEC, tasks_with(SPEC, 3, friction=[0.25, 0.25, 1.2], grip_force=8.0, mass=[0.25, 0.8, 0.8]))
    steps = play_expert(env)
    assert torch.stack([s.success for s in steps]).any(0).tolist() == [True, False, True]


def test_a_hand_mounted_askew_misses_the_block_if_one_does_not_know():
    tasks = tasks_with(SPEC, 2, half_size=0.015, hand_x=[0.0, 0.02])
    env = started(SPEC, tasks)
    blind = {**env._task, "hand_offset": torch.zeros(2, 3)}
    touches = torch.zeros(2)
    for _ in range(40):
        env.step(SPEC.expert(blind, env._obs))
        touches = torch.maximum(touches, env._data["sensordata"][:, grasp.TOUCH].sum(1))
    assert float(touches[0]) > float(touches[1])


@pytest.mark.parametrize("split", SPEC.tasks.splits())
def test_the_expert_solves_the_tasks(split: str):
    assert expert_success(SPEC, split) >= 0.95


@pytest.mark.parametrize("split", slow_but(["test", "extrapolation"], "extrapolation"))
def test_both_engines_hold_the_block(split: str):
    steps, pair = both_engines(SPEC, SPEC.tasks.split(split, 6), SPEC.horizon)
    for run in steps:
        assert bool(torch.stack([s.success for s in run]).any(0).all())
    blocks = [env._data["qpos"][:, 9:12] for env in pair]
    torch.testing.assert_close(*blocks, atol=0.003, rtol=0)
    for cpu, warp in zip(steps[0][:100], steps[1][:100], strict=True):
        torch.testing.assert_close(
            cpu.obs[:, layout.columns("tcp")], warp.obs[:, layout.columns("tcp")], atol=0.01, rtol=0
        )


@pytest.mark.slow
def test_buffers_are_large_enough_for_random_actions_at_the_ends_of_the_ranges():
    env = started(SPEC, SPEC.tasks.split("extrapolation", 8), engine="warp")
    generator = torch.Generator().manual_seed(0)
    for t in range(100):
        if t % 10 == 0:
            action = 2 * torch.rand(8, 4, generator=generator) - 1
            action[:, 2] -= 0.5  # mostly down, onto the block
        assert not bool(env.step(action.clamp(-1, 1)).failed.any())
