"""The box, reward, success and signals of `push`, what its hidden parameters do, and its expert."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from envs.manipulation import arm7, push
from metarl.env import BatchedEnv, Noise
from tests.envs.manipulation_tools import both_engines, expert_success, play_expert, started, tasks_with
from tests.slow import slow_but

SPEC = push.make_spec()
MODEL = SPEC.physics.model
BOX, GEOM = MODEL.body("box").id, MODEL.geom("box").id
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def placed(env: BatchedEnv, x: float, y: float) -> dict[str, Tensor]:
    """Data with the box at a place and tcp 0.1 m above its middle."""
    data = {name: value.clone() for name, value in env._data.items()}
    data["qpos"][:, 9:12] = torch.tensor([x, y, 0.0])
    data["geom_xpos"][:, GEOM] = torch.tensor([x, y, 0.03])
    data["site_xpos"][:, arm7.TCP] = torch.tensor([x, y, 0.13])
    return data


def slide(env: BatchedEnv, speed: float, num_steps: int = 40) -> Tensor:
    """How far the box, given a speed sideways, slides by itself, (N,) m."""
    before = env._data["qpos"][:, 10].clone()
    qvel = torch.zeros_like(env._data["qvel"])
    qvel[:, 10] = speed
    env.engine.write("qvel", qvel)
    for _ in range(num_steps):
        env.step(torch.zeros(env.num_worlds, 4))
    return env._data["qpos"][:, 10] - before


@pytest.mark.parametrize(
    ("y", "tcp", "expected"),
    [
        # 10 of 15 cm left to go in y: behind is y - 7.5 cm, at the height of the box's middle.
        (0.05, (0.48, -0.025, 0.03), 0.25 + 0.75 / 3),
        (0.05, (0.48, 0.05, 0.03), 0.25 * (1 - math.tanh(5 * 0.075)) + 0.75 / 3),
        (0.05, (0.48, 0.05, 0.13), 0.25 * (1 - math.tanh(5 * 0.125)) + 0.75 / 3),
        (-0.02, (0.48, -0.095, 0.03), 0.25),
        # Within 5 cm nothing more is asked of the hand.
        (0.12, (0.48, 0.12, 0.5), 0.25 + 0.75 * 0.8),
        (0.15, (0.48, 0.15, 0.5), 1.0),
    ],
)
def test_reward_weighs_the_hand_behind_the_box_and_the_way_that_the_box_has_come(
    y: float, tcp: tuple[float, float, float], expected: float
):
    env = started(SPEC, tasks_with(SPEC, goal_angle=math.pi / 2, goal_distance=0.15))
    data = placed(env, 0.48, y)
    data["site_xpos"][:, arm7.TCP] = torch.tensor(tcp)
    outcome = SPEC.step(env._task, data, env._state, torch.zeros(1, 4), NONE)
    assert float(outcome.reward) == pytest.approx(expected, abs=1e-5)


def test_success_is_to_be_within_five_centimetres_for_ten_steps():
    env = started(SPEC, tasks_with(SPEC, goal_angle=math.pi / 2, goal_distance=0.15))
    state, seen = env._state, []
    for y in [0.11] * 5 + [0.05] + [0.11] * 10:
        outcome = SPEC.step(env._task, placed(env, 0.48, y), state, torch.zeros(1, 4), NONE)
        state = outcome.state
        seen.append(bool(outcome.success))
    assert seen == [False] * 15 + [True]


def test_signals_are_those_of_box_and_goal_and_of_hand_and_box():
    env = started(SPEC, tasks_with(SPEC, goal_angle=math.pi / 2, goal_distance=0.15))
    data = placed(env, 0.48, 0.05)
    data["qvel"][:, 9:12] = torch.tensor([0.3, 0.15, 0.0])
    data["sensordata"][:, :3] = torch.tensor([0.3, 0.15, -0.25])
    expected = torch.tensor([[math.log(2.0), 0.5, 1.0, math.log(2.0), 0.5, 0.0]])
    torch.testing.assert_close(SPEC.signals.compute(env._task, data, {}), expected, atol=1e-3, rtol=0)


def test_a_box_left_alone_slides_by_its_friction_whatever_its_mass():
    speed, friction = 0.5, [0.15, 0.3, 0.6, 0.3]
    env = started(SPEC, tasks_with(SPEC, 4, friction=friction, mass=[0.2, 0.2, 0.2, 0.5], com_x=0.0, com_y=0.0))
    expected = torch.tensor([speed**2 / (2 * mu * 9.81) for mu in friction])
    torch.testing.assert_close(slide(env, speed), expected, rtol=0.12, atol=0.002)


def test_mass_inertia_and_centre_of_mass_are_those_of_a_box():
    env = started(SPEC, tasks_with(SPEC, 1, mass=0.4, com_x=0.01, com_y=-0.015))
    model = env.engine._model_fields
    assert float(model["body_mass"][0, BOX]) == pytest.approx(0.4)
    # m (h_y^2 + h_z^2) / 3 and m (h_x^2 + h_y^2) / 3
    expected = torch.tensor([0.4 * 0.0034 / 3, 0.4 * 0.0034 / 3, 0.4 * 0.005 / 3])
    torch.testing.assert_close(torch.as_tensor(model["body_inertia"][0, BOX]).float(), expected)
    assert model["body_ipos"][0, BOX].tolist() == pytest.approx([0.01, -0.015, 0.03])


def run_into(env: BatchedEnv) -> None:
    """From its place straight ahead, the box is pushed to the left by the closed hand."""
    qpos = torch.zeros_like(env._data["qpos"])
    qpos[:, 9:13] = torch.tensor([0.48, 0.0, 0.0, 1.0])
    env.engine.write("qpos", qpos)
    env.engine.forward()
    for action, num_steps in [((-0.2, -1.0, 0.0), 7), ((0.0, 0.0, -1.0), 8), ((0.0, 0.5, 0.0), 20)]:
        for _ in range(num_steps):
            env.step(torch.tensor([[*action, 1.0]]).repeat(env.num_worlds, 1))


def test_a_heavier_box_holds_the_hand_back():
    env = started(SPEC, tasks_with(SPEC, 2, mass=[0.05, 1.0], friction=0.8, com_x=0.0, com_y=0.0, control_delay=0.0))
    run_into(env)
    moved, tcp = env._data["qpos"][:, 10], env._data["site_xpos"][:, arm7.TCP, 1]
    assert float(moved.min()) > 0.03
    assert float(tcp[0]) > float(tcp[1]) + 0.001


def test_a_centre_of_mass_beside_the_hand_turns_the_box():
    env = started(SPEC, tasks_with(SPEC, 2, com_x=[-0.025, 0.025], com_y=0.0, friction=0.5, control_delay=0.0))
    run_into(env)
    assert float(env._data["qpos"][:, 10].min()) > 0.03
    yaw = env._data["xmat"][:, BOX, 3].asin()
    # The lighter side runs ahead.
    assert float(yaw[0]) > 0.1 and float(yaw[1]) < -0.1


@pytest.mark.parametrize("split", SPEC.tasks.splits())
def test_the_expert_solves_the_tasks(split: str):
    assert expert_success(SPEC, split) >= 0.95


def test_metrics_tell_the_last_distance():
    env = started(SPEC, SPEC.tasks.split("test", 8))
    play_expert(env)
    assert float(env.metrics().median()) < 0.03


@pytest.mark.parametrize("split", slow_but(["test", "extrapolation"], "extrapolation"))
def test_both_engines_push_the_same(split: str):
    steps, pair = both_engines(SPEC, SPEC.tasks.split(split, 6), 100)
    # Rounding grows while the box is pushed: by up to 0.004 of reward within 60 steps, 1e-5 for half of the worlds.
    for bound, first, last in ((1e-3, 0, 30), (0.01, 30, 60)):
        for cpu, warp in zip(steps[0][first:last], steps[1][first:last], strict=True):
            torch.testing.assert_close(cpu.reward, warp.reward, atol=bound, rtol=0)
    boxes = [env._data["qpos"][:, 9:12] for env in pair]
    torch.testing.assert_close(*boxes, atol=0.01, rtol=0)
