"""grid-navi: moves, walls, rewards and optimal returns by hand."""

import pytest
import torch

import envs
from metarl.errors import SpecError

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def env_with_goal(x, y, num_worlds=1):
    env = envs.make("grid-navi", num_worlds)
    env.set_tasks(torch.tensor([[float(5 * x + y)]]))
    env.reset()
    return env


def test_actions_move_by_one_cell_and_walls_hold():
    env = env_with_goal(4, 4)
    moves = [
        (UP, (0, 1)),
        (RIGHT, (1, 1)),
        (STAY, (1, 1)),
        (DOWN, (1, 0)),
        (DOWN, (1, 0)),
        (LEFT, (0, 0)),
        (LEFT, (0, 0)),
    ]
    for action, cell in moves:
        assert env.step(torch.tensor([action])).obs[0].tolist() == list(cell)
    for action, cell in ((RIGHT, (4, 0)), (UP, (4, 4))):
        for _ in range(4):
            obs = env.step(torch.tensor([action])).obs
        assert obs[0].tolist() == list(cell)


def test_the_goal_pays_one_and_every_other_cell_costs_a_tenth():
    env = env_with_goal(2, 0)
    steps = [env.step(torch.tensor([action])) for action in (RIGHT, RIGHT, STAY, UP)]
    assert [step.reward.item() for step in steps] == pytest.approx([-0.1, 1.0, 1.0, -0.1])
    assert [step.success.item() for step in steps] == [False, True, True, False]
    assert not any(step.terminated.item() for step in steps)


def test_all_cells_but_the_start_and_its_neighbours_are_goals():
    spec = envs.make_spec("grid-navi")
    goals = spec.derive({"goal_cell": spec.tasks.split("train", 2000)[:, 0]})["goal"].unique(dim=0)
    assert len(goals) == 21
    assert not ({(0, 0), (0, 1), (1, 0), (1, 1)} & {tuple(goal) for goal in goals.tolist()})
    assert spec.tasks.splits() == ("train", "validation", "test")


def test_the_expert_is_optimal_for_every_goal():
    spec = envs.make_spec("grid-navi")
    cells = torch.tensor(spec.tasks.parameters[0].distribution.values).unsqueeze(1)
    env = envs.make("grid-navi", 21)
    env.set_tasks(cells)
    env.reset()
    total = sum(env.step(env.expert_action()).reward for _ in range(15))
    # n moves away: n - 1 steps that cost 0.1, then 16 - n that pay 1. The goal (4, 4): -0.7 + 8.
    moves = (cells // 5 + cells % 5)[:, 0]
    torch.testing.assert_close(total, -0.1 * (moves - 1) + 16 - moves)
    assert total[-1].item() == pytest.approx(7.3, abs=1e-5)
    assert total.mean().item() == pytest.approx(16.1 - 1.1 * 96 / 21, abs=1e-5)


def test_the_size_of_the_grid_is_an_option_and_is_checked():
    spec = envs.make_spec("grid-navi", num_cells=7)
    assert len(spec.tasks.parameters[0].distribution.values) == 45
    assert spec.derive({"goal_cell": torch.tensor([6 * 7 + 3.0])})["goal"].tolist() == [[6.0, 3.0]]
    with pytest.raises(SpecError, match="num_cells must be at least 3, got 2"):
        envs.make_spec("grid-navi", num_cells=2)


def test_the_drawing_puts_walker_and_goal_on_their_tiles():
    env = env_with_goal(4, 1)
    env.step(torch.tensor([UP]))
    pose = env.pose()
    assert pose["qpos"].tolist() == [[-2.0, -1.0]]
    assert pose["mocap_pos"][0, 0, :2].tolist() == [2.0, -1.0]
    assert env.spec.drawing.model().camera("video").id >= 0
