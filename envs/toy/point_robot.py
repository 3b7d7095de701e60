"""point-robot-pearl, sparse-point-pearl, sparse-point-varibad: a point looks for a hidden goal on the plane.

                 point-robot-pearl             sparse-point-pearl              sparse-point-varibad
TASK PARAMETERS  goal_x, goal_y (m)            goal_angle (rad), the goal is at 1 m from the centre
  train          80 fixed draws of U[-1, 1]    80 of 100 fixed angles          U[0, pi]
  test           20 other fixed draws          the 20 others, evenly spaced    U[0, pi]
                                               on [0, pi]
  extrapolation  (-1.4, -1) or (1, 1.4)        (-pi/4, 0) or (pi, 5 pi/4)      as sparse-point-pearl
START            x, y from U[-1, 1] m          (0, 0)                          (0, 0)
REWARD           -d                            1 - d where d <= 0.2 m, else 0  as sparse-point-pearl
END              after 20 control steps        after 20 control steps          after 100 control steps
SOURCE           katerakelly/oyster            katerakelly/oyster              lmzintgraf/varibad

with d the distance (m) of the point from the goal after the step. The fixed tasks are those that the source's seed
gives, first 80 of 100 to train, last 20 to test; validation tasks are fresh draws. The shells are ours, and so is

SUCCESS  d <= 0.2 m (all three)

ACTION (2 numbers in [-1, 1])
    0-1  displacement in x and y, x 0.1 m

OBSERVATION (2 numbers)
    0-1  x, y of the point   m

DENSE REWARD. PEARL trains sparse-point-pearl on the dense reward -d and gives the sparse one to its encoder only and
in evaluation; VariBAD trains on the sparse one. Both sparse environments pay the sparse reward in training and
evaluation; with the option `dense_reward` (`--env-options dense_reward=true`) they pay -d in both.

GOALS OF VARIBAD. The paper's figure and the first versions of its code have the upper half circle, as here. Later
versions draw from a quarter or half of a circle by option.

EXPERT  straight at the goal, each coordinate as fast as it goes. That is optimal: no policy comes nearer in either
        coordinate after any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from envs.toy.board import board_model, board_pose
from metarl.env import Drawing, EnvSpec, Noise, Outcome, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_STEP_M = 0.1
_GOAL_RADIUS_M = 0.2
_PEARL_SEED, _PEARL_TASKS, _PEARL_TRAIN, _PEARL_TEST = 1337, 100, 80, 20

_Goal = Callable[[Arrays], Tensor]  # task -> (N, 2) m


def make_pearl(horizon: int = 20) -> EnvSpec:
    """Make PEARL's point robot with a hidden goal in a square: 80 fixed train tasks, 20 fixed test tasks.

    Args:
        horizon: control steps of an episode.

    Source: katerakelly/oyster point_robot.py and configs/point-robot.json.
    """
    drawn = np.random.RandomState(_PEARL_SEED).uniform(-1.0, 1.0, size=(_PEARL_TASKS, 2))
    coordinate = Uniform(-1.0, 1.0, shell=((-1.4, -1.0), (1.0, 1.4)))
    parameters = (Parameter("goal_x", "m", coordinate, "goal"), Parameter("goal_y", "m", coordinate, "goal"))
    tasks = TaskDistribution(parameters, _fixed(drawn))
    return _make("point-robot-pearl", tasks, _goal_in_square, horizon, is_sparse=False, starts_anywhere=True)


def make_sparse_pearl(horizon: int = 20, dense_reward: bool = False) -> EnvSpec:
    """Make PEARL's point robot with a sparse reward and a hidden goal on a half circle: 80 train tasks, 20 test tasks.

    Args:
        horizon: control steps of an episode.
        dense_reward: pay -d instead, which PEARL does in training.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables", section 6.3;
    katerakelly/oyster point_robot.py and configs/sparse-point-robot.json.
    """
    angles = np.linspace(0.0, math.pi, num=_PEARL_TASKS)
    goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.random.RandomState(_PEARL_SEED).shuffle(goals)
    fixed = _fixed(np.arctan2(goals[:, 1], goals[:, 0]).reshape(-1, 1))
    tasks = TaskDistribution((_goal_angle(),), fixed)
    return _make("sparse-point-pearl", tasks, _goal_on_circle, horizon, is_sparse=not dense_reward)


def make_sparse_varibad(horizon: int = 100, dense_reward: bool = False) -> EnvSpec:
    """Make VariBAD's point robot with a sparse reward and a hidden goal on a half circle.

    Args:
        horizon: control steps of an episode; VariBAD's trials have 3 episodes.
        dense_reward: pay -d instead.

    Source: Zintgraf et al. 2021, "VariBAD: Variational Bayes-Adaptive Deep RL via Meta-Learning" (JMLR);
    lmzintgraf/varibad environments/navigation/point_robot.py.
    """
    tasks = TaskDistribution((_goal_angle(),))
    return _make("sparse-point-varibad", tasks, _goal_on_circle, horizon, is_sparse=not dense_reward)


def _fixed(tasks: np.ndarray) -> dict[str, Tensor]:
    """Splits by name from the source's list of tasks, (100, P)."""
    rows = torch.from_numpy(tasks).to(torch.float32)
    return {"train": rows[:_PEARL_TRAIN], "test": rows[-_PEARL_TEST:]}


def _goal_angle() -> Parameter:
    shell = ((-math.pi / 4, 0.0), (math.pi, 5 * math.pi / 4))
    return Parameter("goal_angle", "rad", Uniform(0.0, math.pi, shell=shell), "where the goal is, from the x axis")


def _goal_in_square(task: Arrays) -> Tensor:
    return torch.stack([task["goal_x"], task["goal_y"]], 1)


def _goal_on_circle(task: Arrays) -> Tensor:
    return torch.stack([task["goal_angle"].cos(), task["goal_angle"].sin()], 1)


def _make(
    name: str, tasks: TaskDistribution, goal: _Goal, horizon: int, is_sparse: bool, starts_anywhere: bool = False
) -> EnvSpec:
    def reset(task: Arrays, noise: Noise) -> Start:
        start = 2.0 * noise.uniform - 1.0 if starts_anywhere else torch.zeros_like(task["goal"])  # (N, 2) m
        return Start(state={"position": start}, writes={})

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        position = state["position"] + _STEP_M * action  # (N, 2)
        distance = torch.linalg.vector_norm(position - task["goal"], dim=1)
        is_near = distance <= _GOAL_RADIUS_M
        reward = torch.where(is_near, 1.0 - distance, 0.0) if is_sparse else -distance
        return Outcome({"position": position}, reward, torch.zeros_like(is_near), success=is_near)

    return EnvSpec(
        name=name,
        tasks=tasks,
        obs_dim=2,
        action_space=Continuous(2),
        horizon=horizon,
        reset=reset,
        observe=lambda task, data, state: state["position"],
        step=step,
        derive=lambda task: {"goal": goal(task)},
        reset_noise=(2, 0) if starts_anywhere else (0, 0),
        drawing=Drawing(
            lambda: board_model(1.6, _GOAL_RADIUS_M),
            lambda task, state: board_pose(state["position"], task["goal"]),
            control_dt_s=0.1,
        ),
        expert=lambda task, obs: ((task["goal"] - obs) / _STEP_M).clamp(-1.0, 1.0),
        description=f"point that looks for a hidden goal, {'sparse' if is_sparse else 'dense'} reward",
    )
