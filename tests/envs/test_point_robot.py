"""point-robot-pearl, sparse-point-pearl, sparse-point-varibad: the tasks of the sources, optima by hand."""

import math

import numpy as np
import pytest
import torch

import envs

NAMES = ("point-robot-pearl", "sparse-point-pearl", "sparse-point-varibad")
SPARSE = NAMES[1:]


def expert_return(env):
    """(N,) of one episode, and whether the last step was a success."""
    env.reset()
    steps = [env.step(env.expert_action()) for _ in range(env.spec.horizon)]
    return torch.stack([step.reward for step in steps]).sum(0), steps[-1].success


@pytest.mark.parametrize(("name", "horizon"), [(NAMES[0], 20), (NAMES[1], 20), (NAMES[2], 100)])
def test_horizons_are_the_sources(name, horizon):
    assert envs.make_spec(name).horizon == horizon


def test_a_step_moves_by_a_tenth_of_the_action_and_the_dense_reward_is_the_distance():
    env = envs.make(NAMES[0], 1)
    env.set_tasks(torch.tensor([[0.3, -0.5]]))
    start = env.reset()
    step = env.step(torch.tensor([[1.0, -0.5]]))
    expected = start + torch.tensor([[0.1, -0.05]])
    torch.testing.assert_close(step.obs, expected)
    assert step.reward.item() == pytest.approx(-math.dist(expected[0].tolist(), (0.3, -0.5)), abs=1e-6)


@pytest.mark.parametrize("name", SPARSE)
def test_the_sparse_reward_is_one_minus_the_distance_within_20_cm_and_nothing_outside(name):
    spec = envs.make_spec(name)
    task = {"goal_angle": torch.full((3,), math.pi / 2)}  # the goal is at (0, 1)
    task |= spec.derive(task)
    state = {"position": torch.tensor([[0.0, 0.85], [0.1, 1.0], [0.0, 0.75]])}
    outcome = spec.step(task, {}, state, torch.zeros(3, 2), None)
    torch.testing.assert_close(outcome.reward, torch.tensor([0.85, 0.9, 0.0]))
    assert outcome.success.tolist() == [True, True, False] and not outcome.terminated.any()
    dense = envs.make_spec(name, dense_reward=True).step(task, {}, state, torch.zeros(3, 2), None)
    torch.testing.assert_close(dense.reward, torch.tensor([-0.15, -0.1, -0.25]))


@pytest.mark.parametrize(("name", "horizon"), [(SPARSE[0], 20), (SPARSE[1], 100)])
def test_the_optimal_sparse_return_of_a_goal_at_60_degrees(name, horizon):
    # The goal is at (0.5, 0.8660): y is 0.166 m short after 7 steps, 0.066 m after 8, and there after 9.
    env = envs.make(name, 1)
    env.set_tasks(torch.tensor([[math.pi / 3]]))
    height = math.sin(math.pi / 3)
    expected = (1 - (height - 0.7)) + (1 - (height - 0.8)) + (horizon - 8)
    assert expert_return(env)[0].item() == pytest.approx(expected, abs=1e-4)


def test_the_optimal_dense_return_from_a_known_start():
    # Goal (0.25, 0), start s: distances 0.25 - s_x - 0.1 t along x are summed until the goal is reached.
    env = envs.make(NAMES[0], 64, seed=5)
    env.set_tasks(torch.tensor([[0.25, 0.0]]).repeat(64, 1))
    offset = env.reset().clone() - torch.tensor([0.25, 0.0])
    steps = torch.arange(1, 21).view(-1, 1, 1)
    left = (offset.abs() - 0.1 * steps).clamp(min=0.0)  # (20, N, 2)
    env = envs.make(NAMES[0], 64, seed=5)  # the same starts again
    env.set_tasks(torch.tensor([[0.25, 0.0]]).repeat(64, 1))
    torch.testing.assert_close(expert_return(env)[0], -left.norm(dim=2).sum(0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_expert_reaches_every_goal_of_all_splits(name):
    env = envs.make(name, 100)
    for split in env.spec.tasks.splits():
        env.set_tasks(env.spec.tasks.split(split, 100))
        success = expert_return(env)[1]
        # From the far corner of the square a goal of the shell is more than 20 steps away.
        bar = 0.9 if (name, split) == (NAMES[0], "extrapolation") else 1.0
        assert float(success.float().mean()) >= bar, split


def test_pearls_goals_are_reproduced_exactly():
    np.random.seed(1337)
    goals = [[np.random.uniform(-1.0, 1.0), np.random.uniform(-1.0, 1.0)] for _ in range(100)]
    tasks = envs.make_spec(NAMES[0]).tasks
    np.testing.assert_array_equal(tasks.split("train", 80).numpy(), np.array(goals[:80], dtype=np.float32))
    np.testing.assert_array_equal(tasks.split("test", 20).numpy(), np.array(goals[80:], dtype=np.float32))


def test_pearls_half_circle_is_shuffled_as_in_the_source():
    np.random.seed(1337)
    angles = np.linspace(0, np.pi, num=100)
    goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.random.shuffle(goals)
    spec = envs.make_spec(NAMES[1])
    for split, expected in (("train", goals[:80]), ("test", goals[80:])):
        task = spec.tasks.unpack(spec.tasks.split(split, len(expected)))
        np.testing.assert_allclose(spec.derive(task)["goal"].numpy(), expected, atol=1e-6)


def test_goals_of_varibad_are_on_the_upper_half_circle():
    angle = envs.make_spec(NAMES[2]).tasks.split("test", 1000)
    assert float(angle.min()) < 0.02 and float(angle.max()) > math.pi - 0.02
    assert float(angle.mean()) == pytest.approx(math.pi / 2, abs=0.1)
    outside = envs.make_spec(NAMES[2]).tasks.split("extrapolation", 100)
    assert bool(((outside < 0) | (outside > math.pi)).all())


def test_pearls_point_starts_anywhere_in_the_square():
    start = envs.make(NAMES[0], 4000).reset()
    assert float(start.abs().max()) <= 1.0
    torch.testing.assert_close(start.std(0), torch.full((2,), 2 / 12**0.5), rtol=0.05, atol=0)
    assert bool((envs.make(NAMES[1], 4).reset() == 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_drawing_shows_point_and_goal(name):
    env = envs.make(name, 2)
    env.reset()
    pose, model = env.pose(), env.spec.drawing.model()
    assert model.camera("video").id >= 0
    torch.testing.assert_close(pose["qpos"], env._state["position"])
    torch.testing.assert_close(pose["mocap_pos"][:, 0, :2], env._task["goal"])
