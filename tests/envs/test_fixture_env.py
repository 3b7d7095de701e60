"""What environments with a fixture share: observation, reward, success, metrics, experts, both engines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import envs
from envs.manipulation import arm7, layout
from envs.manipulation.fixture_env import HANDLE, JOINT, joint_error
from metarl.env import BatchedEnv, EnvSpec, Noise
from metarl.errors import SpecError, UnknownNameError
from tests.envs.manipulation_tools import both_engines, expert_success, play_expert, started, tasks_with
from tests.slow import slow_but

NAMES = ("door-open", "door-close", "drawer-open", "drawer-close", "button", "lever", "window")
SPECS = {name: envs.make_spec(name) for name in NAMES}
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))
SEEN = {"frame_x", "frame_y"}


def placed(env: BatchedEnv, position: float, away_m: float) -> dict[str, Tensor]:
    """Data with the joint at a position and tcp `away_m` above the handle."""
    data = {name: value.clone() for name, value in env._data.items()}
    data["qpos"][:, JOINT] = position
    data["site_xpos"][:, arm7.TCP] = data["site_xpos"][:, HANDLE] + torch.tensor([0.0, 0.0, away_m])
    return data


@pytest.mark.parametrize(
    ("name", "values", "position", "closeness"),
    [
        ("door-close", {"angle": 0.3}, 0.35, 0.75),
        ("door-close", {"angle": 0.3}, 0.9, 0.0),
        ("drawer-open", {"travel": 0.2}, 0.19, 0.8),
        ("drawer-open", {"travel": 0.2}, 0.26, 0.0),
        ("drawer-close", {"travel": 0.1}, 0.11, 0.8),
        ("button", {"travel": 0.04}, 0.009, 0.25),
        ("lever", {"direction": 1.0, "angle": 0.5}, 0.0, 0.0),
        ("lever", {"direction": -1.0, "angle": 0.5}, -0.45, 0.75),
        ("window", {"direction": -1.0, "travel": 0.2}, 0.2, 0.0),
        ("window", {"direction": -1.0, "travel": 0.2}, -0.19, 0.8),
    ],
)
def test_reward_weighs_the_hand_at_the_handle_and_the_joint_near_its_target(
    name: str, values: dict[str, float], position: float, closeness: float
):
    spec = SPECS[name]
    env = started(spec, tasks_with(spec, **values))
    outcome = spec.step(env._task, placed(env, position, 0.1), env._state, torch.zeros(1, 4), NONE)
    assert float(outcome.reward) == pytest.approx(0.25 * (1 - math.tanh(0.5)) + 0.75 * closeness, abs=1e-5)


@pytest.mark.parametrize(
    ("position", "moved", "closeness"),
    [(0.0, 0.0, 0.0), (0.04, 0.4, 0.0), (0.2, 1.0, 0.0), (0.4, 1.0, 0.5), (0.65, 1.0, 0.25)],
)
def test_door_open_also_pays_for_a_door_that_has_moved(position: float, moved: float, closeness: float):
    spec = SPECS["door-open"]
    env = started(spec, tasks_with(spec, angle=0.5))
    outcome = spec.step(env._task, placed(env, position, 0.1), env._state, torch.zeros(1, 4), NONE)
    reach = 0.6 * (1 - math.tanh(0.5)) + 0.4 * moved
    assert float(outcome.reward) == pytest.approx(0.25 * reach + 0.75 * closeness, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("door-open", {"angle": 0.5}, {"angle": 1.0}),
        ("door-close", {"angle": 0.2}, {"angle": 0.5}),
        ("drawer-open", {"travel": 0.12}, {"travel": 0.2}),
        ("drawer-close", {"travel": 0.02}, {"travel": 0.12}),
        ("lever", {"direction": 1.0, "angle": 0.4}, {"direction": -1.0, "angle": 0.4}),
        ("window", {"direction": 1.0, "travel": 0.12}, {"direction": -1.0, "travel": 0.12}),
    ],
)
def test_neither_observation_nor_reward_tells_the_target_before_the_joint_is_near_it(
    name: str, low: dict[str, float], high: dict[str, float]
):
    spec = SPECS[name]
    pair = [started(spec, tasks_with(spec, **values)) for values in (low, high)]
    rewards, is_near = [], False
    for _ in range(110):
        action = pair[0].expert_action()
        steps = [env.step(action) for env in pair]
        rewards.append(torch.cat([step.reward for step in steps]))
        is_near |= any(bool(joint_error(env._task, env._data["qpos"][:, JOINT]) < env._task["band"]) for env in pair)
        if not is_near:
            torch.testing.assert_close(steps[0].obs, steps[1].obs, rtol=0, atol=1e-6)
            torch.testing.assert_close(rewards[-1][0], rewards[-1][1], rtol=0, atol=1e-6)
    # The expert went to the first one's target, and only there the rewards differ.
    assert is_near and float(rewards[-1][0] - rewards[-1][1]) > 0.5


@pytest.mark.parametrize(
    ("name", "inside", "outside", "num_steps"),
    [
        ("door-open", 0.629, 0.631, 50),
        ("door-close", 0.629, 0.631, 50),
        ("drawer-open", 0.169, 0.171, 50),
        ("drawer-close", 0.131, 0.129, 50),
        ("button", 0.1351, 0.1349, 10),
        ("lever", 0.471, 0.469, 50),
        ("window", 0.169, 0.171, 50),
    ],
)
def test_success_holds_the_joint_for_a_second(name: str, inside: float, outside: float, num_steps: int):
    spec, travel = SPECS[name], 0.15
    env = started(spec, tasks_with(spec, travel=travel, angle=0.55, direction=1.0))
    state, seen = env._state, []
    for position in [inside] * (num_steps - 1) + [outside] + [inside] * num_steps:
        outcome = spec.step(env._task, placed(env, position, 0.0), state, torch.zeros(1, 4), NONE)
        state = outcome.state
        seen.append(bool(outcome.success))
        assert not bool(outcome.terminated)
    assert seen == [False] * (2 * num_steps - 1) + [True]
    error, time = spec.metrics.compute(env._task, placed(env, inside, 0.0), state)[0]
    assert float(time) == pytest.approx(2 * num_steps * 0.02)
    assert float(error) <= float(env._task["tolerance"])


def test_time_to_success_is_undefined_without_one():
    env = started(SPECS["door-open"], tasks_with(SPECS["door-open"], angle=0.8))
    env.step(torch.zeros(1, 4))
    error, time = env.metrics()[0]
    assert float(error) == pytest.approx(0.8, abs=1e-4) and math.isnan(float(time))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_observation_shows_where_the_handle_seems_to_be_and_nothing_else(name: str):
    spec = SPECS[name]
    first = []
    for split in ("train", "test", "extrapolation"):
        tasks = spec.tasks.split(split, 8)
        for i, parameter in enumerate(spec.tasks.parameters):
            if parameter.name in ("frame_x", "frame_y"):
                tasks[:, i] = 0.02
            if parameter.name in ("view_x", "view_y"):
                tasks[:, i] = 0.01
        env = BatchedEnv(spec, 8, num_threads=1)
        env.set_tasks(tasks)
        first.append(env.reset())
    torch.testing.assert_close(first[0], first[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(first[0], first[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_place_and_camera_add_up_in_what_is_seen(name: str):
    spec = SPECS[name]
    env = started(spec, tasks_with(spec, 2, frame_x=[0.03, 0.05], view_x=[0.015, -0.005]))
    env.generator.manual_seed(0)
    seen = layout.read(env.reset(), "object_pos")
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=0)
    handle = env._data["site_xpos"][:, HANDLE]
    torch.testing.assert_close(seen[:, 0] - handle[:, 0], torch.tensor([0.015, -0.005]), atol=1e-5, rtol=0)


def test_a_seen_goal_is_where_the_handle_will_be():
    spec = envs.make_spec("door-open", goal="seen")
    env = started(spec, tasks_with(spec, angle=0.8, yaw=0.3, stiffness=0.0))
    goal = layout.read(env.reset(), "goal")
    before = env._data["site_xpos"][:, HANDLE].clone()
    qpos = env._data["qpos"].clone()
    qpos[:, JOINT] = 0.8
    env.engine.write("qpos", qpos)
    env.engine.forward()
    torch.testing.assert_close(env._data["site_xpos"][:, HANDLE] - before, goal, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", slow_but(NAMES, "door-open"))
def test_the_expert_solves_at_least_95_percent_of_every_split(name: str):
    for split in SPECS[name].tasks.splits():
        if split not in ("train", "validation"):
            assert expert_success(SPECS[name], split, 100) >= 0.95, split


@pytest.mark.parametrize("name", NAMES)
def test_who_trusts_camera_and_averages_fails_often(name: str):
    spec = SPECS[name]
    env = started(spec, spec.tasks.split("test", 64))
    guess = tasks_with(spec, 64)
    named = [parameter.name for parameter in spec.tasks.parameters]
    for axis in "xy":
        frame, view = named.index(f"frame_{axis}"), named.index(f"view_{axis}")
        guess[:, frame] = env.task[:, frame] + env.task[:, view]
    assumed = spec.tasks.unpack(guess)
    assumed |= spec.derive(assumed)
    obs, solved = env._obs, torch.zeros(64, dtype=torch.bool)
    for _ in range(spec.horizon):
        step = env.step(spec.expert(assumed, obs))
        obs, solved = step.obs, solved | step.success
    assert float(solved.float().mean()) < 0.7


@pytest.mark.parametrize("name", slow_but(NAMES, "door-open", "window"))
def test_both_engines_do_the_same(name: str):
    steps, pair = both_engines(SPECS[name], SPECS[name].tasks.split("extrapolation", 4), 100)
    for cpu, warp in zip(steps[0], steps[1], strict=True):
        torch.testing.assert_close(cpu.reward, warp.reward, atol=0.02, rtol=0)
    joints = [env._data["qpos"][:, JOINT] for env in pair]
    torch.testing.assert_close(*joints, atol=0.02, rtol=0)


def test_actions_of_joints_run_too():
    spec = envs.make_spec("drawer-open", action="joint")
    env = started(spec, tasks_with(spec))
    step = env.step(torch.zeros(1, arm7.NUM_JOINTS))
    assert step.obs.shape == (1, 54) and spec.expert is None


def test_options_and_parameters_that_do_not_exist_are_refused():
    with pytest.raises(UnknownNameError, match="hidden"):
        envs.make_spec("door-open", goal="shown")
    spec: EnvSpec = SPECS["door-open"]
    task = {p.name: float(v) for p, v in zip(spec.tasks.parameters, tasks_with(spec)[0], strict=True)}
    with pytest.raises(SpecError, match="handedness"):
        spec.tasks.pack(task | {"handedness": -1.0}, "train")
    assert spec.tasks.pack(task | {"handedness": -1.0}, "left-hinged")[-1] == -1.0


def test_a_whole_episode_of_the_expert_ends_with_success():
    env = started(SPECS["drawer-close"], tasks_with(SPECS["drawer-close"], 2))
    assert bool(play_expert(env)[-1].success.all())
