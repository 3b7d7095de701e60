"""ant-goal, ant-goal-maml: an ant walks to a hidden place.

                    ant-goal                                      ant-goal-maml
TASK PARAMETERS     goal_distance_sq (m^2), goal_angle (rad)      goal_x, goal_y (m)
  train, test       uniform on a disc of radius 3 m               U[-3, 3]
  extrapolation     the ring of radius 3 to 4 m                   (-4, -3) or (3, 4)
REWARD              -|x - goal x| - |y - goal y|                  4 - |x - goal x| - |y - goal y|
                    - 0.1 a - 5e-4 c                              - 0.005 a - 5e-4 c + 0.05
PLACE x, y          of the torso                                  of the centre of mass of the robot
END                 never early                                   torso height not in [0.2, 1] m
CONTROL STEP        0.05 s                                        0.02 s
OBSERVATION         113 numbers                                   125 numbers
START qpos, qvel    as in the file + U(-0.1, 0.1), 0.1 N(0, 1)    crouching + 0.01 N(0, 1), 0.1 N(0, 1)
SOURCE              jonasrothfuss/ProMP, katerakelly/oyster       cbfinn/maml_rl
                    and lmzintgraf/varibad alike

with a = ||action||^2 and c the sum of the squares of the contact forces, each clipped to [-1, 1]. Both: 200 control
steps, no success criterion, no interpolation hole (the literature trains on the whole range). The squared distance
of ant-goal is U[0, 9] m^2 and its angle U[0, 2 pi], which makes the disc uniform. PEARL draws 150 goals to train and 30
to test, unseeded; here train and test tasks are fresh draws.

ACTION (8 numbers in [-1, 1], x 150 N m)
    hip and ankle of the file's leg 4 (at +x, -y), 1 (+x, +y), 2 (-x, +y) and 3 (-x, -y)

OBSERVATION
    0-1      torso x, y (m)
    2-14     torso z (m), its quaternion (w, x, y, z), eight joints (rad)
    15-28    velocities of torso (m/s, rad/s) and joints (rad/s)
    29-112   contact torque and force (N m, N) on each of 14 bodies, world first, in [-1, 1]
    ant-goal-maml only
    113-121  rotation matrix of the torso
    122-124  centre of mass of the robot (m)

Contact forces, deviations from the originals and what the engines differ in: see the spec sheet of ant-dir-maml. The 84
numbers of ant-goal and c were zero for whoever ran it on MuJoCo 2 or later (VariBAD's README says so);
`contact_forces=False` leaves them out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.locomotion.ant_body import make_gym_ant, make_rllab_ant
from metarl.env import EnvSpec
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays

_GOAL_RADIUS_M, _GOAL_SHELL_M = 3.0, 4.0
_MAML_OFFSET = 4.0
"""Makes most rewards positive, so that falling does not pay."""


def make_goal(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make the ant of ProMP, PEARL and VariBAD with a hidden goal on a disc of radius 3 m.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; katerakelly/oyster ant_goal.py.
    """
    near, far = _GOAL_RADIUS_M**2, _GOAL_SHELL_M**2
    distance = Parameter(
        "goal_distance_sq", "m^2", Uniform(0.0, near, shell=((near, far),)), "squared distance of the goal"
    )
    angle = Parameter("goal_angle", "rad", Uniform(0.0, 2 * math.pi), "where the goal is, from the x axis")
    return make_gym_ant(
        "ant-goal",
        TaskDistribution((distance, angle)),
        lambda task, xy, velocity: -_distance(task, xy),
        control_cost=0.1,
        alive_bonus=0.0,
        horizon=horizon,
        sees_position=True,
        contact_forces=contact_forces,
        healthy_height_m=None,
        derive=_goal_on_disc,
        description="ant, hidden goal on a disc",
    )


def make_goal_maml(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make MAML's ant with a hidden goal in a square of 6 m.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning"; cbfinn/maml_rl ant_env_rand_goal.py.
    """
    side = Uniform(
        -_GOAL_RADIUS_M,
        _GOAL_RADIUS_M,
        shell=((-_GOAL_SHELL_M, -_GOAL_RADIUS_M), (_GOAL_RADIUS_M, _GOAL_SHELL_M)),
    )
    return make_rllab_ant(
        "ant-goal-maml",
        TaskDistribution((Parameter("goal_x", "m", side, "goal"), Parameter("goal_y", "m", side, "goal"))),
        lambda task, xy, velocity: _MAML_OFFSET - _distance(task, xy),
        control_cost=0.005,
        alive_bonus=0.05,
        horizon=horizon,
        contact_forces=contact_forces,
        derive=lambda task: {"goal": torch.stack([task["goal_x"], task["goal_y"]], 1)},
        description="ant, hidden goal in a square",
    )


def _distance(task: Arrays, xy: Tensor) -> Tensor:
    """(N,) m, in the 1-norm."""
    return (xy - task["goal"]).abs().sum(1)


def _goal_on_disc(task: Arrays) -> dict[str, Tensor]:
    direction = torch.stack([task["goal_angle"].cos(), task["goal_angle"].sin()], 1)
    return {"goal": task["goal_distance_sq"].sqrt().unsqueeze(1) * direction}  # (N, 2) m
