"""ant-crippled: an ant runs forward with one leg dead and cut to half its length, it does not know which.

TASK PARAMETER (interpolation: none)
    leg   1   train and test 0, 1 or 2; extrapolation 3
          0 at (+x, +y), 1 at (-x, +y), 2 at (-x, -y), 3 at (+x, -y)

The two motors of the leg do nothing. Its thigh and shin are half as long and half as thick to the ground and to the
eye; the shin ends where half of it was. Masses stay as they are.

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
Learning", iclavera/learning_to_adapt ant_env.py: trains on legs 0 to 2 and tests on leg 3, shrinks the same geoms.
Its control step is that of its model file; 0.05 s is ours, as PEARL's ants have it. Body and engines: see the spec
sheet of ant-dir-maml.
"""

from __future__ import annotations

from dataclasses import replace

import mujoco
import torch
from torch import Tensor

from envs.locomotion.ant_body import LEG_GEOMS, NUM_ACTIONS, draw, make_rllab_ant
from metarl.env import EnvSpec
from metarl.tasks import Choice, Parameter, TaskDistribution
from metarl.types import Arrays


def make_spec(horizon: int = 200) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
    """
    leg = Parameter("leg", "1", Choice((0.0, 1.0, 2.0), held_out=(3.0,)), "which is dead and half as long")
    spec = make_rllab_ant(
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
        description="ant, one hidden leg is dead and half as long",
    )
    assert spec.physics is not None
    geom_ids = [[spec.physics.model.geom(name).id for name in leg] for leg in LEG_GEOMS]

    def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
        leg, ids = task["leg"].to(torch.int64), torch.tensor(geom_ids, device=task["leg"].device)  # (N,), (4, 2)
        return _shrink(defaults["geom_size"], defaults["geom_pos"], ids[leg])

    def scene(task: Arrays) -> mujoco.MjModel:
        model = draw(task)
        size, pos = (torch.as_tensor(field) for field in (model.geom_size, model.geom_pos))
        thigh_and_shin = torch.tensor([[model.geom(name).id for name in LEG_GEOMS[int(task["leg"])]]])
        for field, value in _shrink(size, pos, thigh_and_shin).items():
            getattr(model, field)[:] = value[0]
        return model

    physics = replace(
        spec.physics,
        model_fields=("geom_size", "geom_pos"),
        configure=configure,
        uses_set_const=True,
        scene=scene,
    )
    return replace(spec, physics=physics)


def _derive(task: Arrays) -> dict[str, Tensor]:
    actuators = torch.arange(NUM_ACTIONS, device=task["leg"].device)
    leg = (actuators // 2 - 1).remainder(len(LEG_GEOMS))  # (8,) the first two are those of leg 3
    return {"works": (leg != task["leg"].unsqueeze(1)).to(torch.float32)}  # (N, 8)


def _shrink(size: Tensor, pos: Tensor, thigh_and_shin: Tensor) -> dict[str, Tensor]:
    """Halve two geoms in each world.

    Args:
        size, pos: of all geoms, (G, 3) m.
        thigh_and_shin: (N, 2) ids.

    Returns:
        {"geom_size": (N, G, 3), "geom_pos": (N, G, 3)}
    """
    num_worlds, (num_geoms, _) = len(thigh_and_shin), size.shape
    is_short = torch.zeros(num_worlds, num_geoms, 1, dtype=size.dtype, device=size.device)
    is_short.scatter_(1, thigh_and_shin.unsqueeze(2), 1.0)
    new_pos = pos.repeat(num_worlds, 1, 1)
    shin = thigh_and_shin[:, 1].view(-1, 1, 1).expand(-1, 1, 3)
    # A thigh is half as long as a shin: its middle, seen from its hip, is where the middle of half a shin has to be.
    new_pos.scatter_(1, shin, pos[thigh_and_shin[:, :1]])
    return {"geom_size": size * (1.0 - 0.5 * is_short), "geom_pos": new_pos}
