"""point-navigation: MAML's 2D navigation. A point looks for a hidden goal.

TASK PARAMETERS (train range; extrapolation shell; no interpolation hole, as in the paper)
    goal_x   m   U[-0.5, 0.5]   (-0.7, -0.5), (0.5, 0.7)
    goal_y   m   U[-0.5, 0.5]   (-0.7, -0.5), (0.5, 0.7)

ACTION (2 numbers in [-1, 1])
    0-1  displacement in x and y, x 0.1 m

OBSERVATION (2 numbers)
    0-1  x, y of the point   m

START    (0, 0)
REWARD   -d per step, d the distance (m) to the goal after the step
END      after 100 control steps, or with |x - goal_x| < 0.01 and |y - goal_y| < 0.01
SUCCESS  the goal was reached (the same condition)
JUDGED   on sampled actions, as in the paper. A box of 1 cm at the end of steps of 10 cm is found by trying around
         it; a policy that has learned that stands still beside the goal when its noise is taken away.

Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; cbfinn/maml_rl point_env_randgoal.py.
The shell is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.toy.board import board_model, board_pose
from metarl.env import Drawing, EnvSpec, Noise, Outcome, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_STEP_M = 0.1
_GOAL_RADIUS_M = 0.01


def make_spec(horizon: int = 100) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode; the paper has 100.
    """
    coordinate = Uniform(-0.5, 0.5, shell=((-0.7, -0.5), (0.5, 0.7)))
    return EnvSpec(
        name="point-navigation",
        tasks=TaskDistribution(
            (Parameter("goal_x", "m", coordinate, "goal"), Parameter("goal_y", "m", coordinate, "goal"))
        ),
        obs_dim=2,
        action_space=Continuous(2),
        horizon=horizon,
        reset=_reset,
        observe=lambda task, data, state: state["position"],
        step=_step,
        drawing=Drawing(lambda: board_model(1.0, 0.06), _pose, control_dt_s=0.05),
        samples_actions=True,
        description="point that looks for a hidden goal",
    )


def _reset(task: Arrays, noise: Noise) -> Start:
    return Start(state={"position": torch.zeros_like(_goal(task))}, writes={})


def _step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    position = state["position"] + _STEP_M * action  # (N, 2)
    offset = position - _goal(task)
    reached = (offset.abs() < _GOAL_RADIUS_M).all(1)
    return Outcome(
        {"position": position}, -torch.linalg.vector_norm(offset, dim=1), terminated=reached, success=reached
    )


def _goal(task: Arrays) -> Tensor:
    return torch.stack([task["goal_x"], task["goal_y"]], 1)  # (N, 2)


def _pose(task: Arrays, state: Arrays) -> dict[str, Tensor]:
    return board_pose(state["position"], _goal(task))
