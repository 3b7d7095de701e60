"""ant-crippled: an ant runs forward with the motors of one leg dead, it does not know of which.

TASK PARAMETER (interpolation: none)
    leg   1   train and test 0, 1 or 2; extrapolation 3
          0 at (+x, +y), 1 at (-x, +y), 2 at (-x, -y), 3 at (+x, -y)

ACTION (8 numbers in [-1, 1], x 150 N m)
    0-1  hip and ankle of leg 3
    2-3  of leg 0
    4-5  of leg 1
    6-7  of leg 2

OBSERVATION (41 numbers)
    0-1    torso x, y (m)
    2-14   torso z (m), its quaternion (w, x, y, z), eight joints (rad)
    15-28  velocities of torso (m/s, rad/s) and joints (rad/s)
    29-37  rotation matrix of the torso
    38-40  centre of mass of the robot (m)

START    crouching, + 0.01 N(0, 1) on positions, 0.1 N(0, 1) on velocities
REWARD   v_x + 0.05, v the velocity of the robot's centre of mass (m/s)
END      after 200 control steps of 0.05 s, never earlier
SUCCESS  none

SOURCE. Nagabandi et al. 2019, "Learning to Adapt in Dynamic, Real-World Environments through Meta-Reinforcement
Learning", iclavera/learning_to_adapt ant_env.py: trains on legs 0 to 2 and tests on leg 3. There the dead leg is also
cut to half its size; here it keeps its size and hangs limp. The source's control step is that of rllab's file,
0.02 s, for 1000 steps. Body and engines: see the spec sheet of ant-dir-maml.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.locomotion.ant_body import NUM_ACTIONS, make_rllab_ant
from metarl.env import EnvSpec
from metarl.tasks import Choice, Parameter, TaskDistribution
from metarl.types import Arrays

_NUM_LEGS = 4


def make_spec(horizon: int = 200) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
    """
    leg = Parameter("leg", "1", Choice((0.0, 1.0, 2.0), held_out=(3.0,)), "whose motors do nothing")
    return make_rllab_ant(
        "ant-crippled",
        TaskDistribution((leg,)),
        lambda task, xy, velocity: velocity[:, 0],
        control_cost=0.0,
        alive_bonus=0.05,
        horizon=horizon,
        contact_forces=False,
        num_substeps=5,
        healthy_height_m=None,
        derive=_derive,
        torque=lambda task, action: task["works"] * action,
        description="ant, one hidden leg has no motors",
    )


def _derive(task: Arrays) -> dict[str, Tensor]:
    actuators = torch.arange(NUM_ACTIONS, device=task["leg"].device)
    leg = (actuators // 2 - 1).remainder(_NUM_LEGS)  # (8,) the first two are those of leg 3
    return {"works": (leg != task["leg"].unsqueeze(1)).to(torch.float32)}  # (N, 8)
