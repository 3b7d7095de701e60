"""walker-vel: a planar walker runs at a hidden speed.

TASK PARAMETER (train range; interpolation none; extrapolation shell)
    velocity   m/s   U[0, 10]   (10, 12)

ACTION (6 numbers in [-1, 1], x 100 N m)
    0-2  right thigh, leg, foot
    3-5  left thigh, leg, foot

OBSERVATION (17 numbers)
    0-7   joint positions without x: z (m), pitch (rad), six joints (rad)
    8-16  joint velocities: x, z (m/s), pitch, six joints (rad/s), clipped to [-10, 10]

START    as in the file, U(-0.005, 0.005) on positions and velocities
REWARD   15 - |v - velocity| - 0.001 ||action||^2, v the displacement of the torso along x over the control step (m/s)
END      torso height not in (0.8, 2) m, or pitch not in (-1, 1) rad; after 200 control steps of 0.016 s
SUCCESS  none

The bonus of 15 is larger than any error: a robot that stands still earns two thirds of it on average. The literature
trains on the whole range, so there is no interpolation hole.

SOURCE. Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; jonasrothfuss/ProMP walker2d_rand_vel.py (8 physics
steps of 0.002 s).

DEVIATIONS. The body is gymnasium's walker2d.xml (feet of friction 0.9 and 1.9, as in gym's). RK4, which mujoco_warp
does not have, is implicitfast. MuJoCo is >= 4.0, the source's was 1.5.
"""

from __future__ import annotations

import mujoco
from torch import Tensor

from envs.locomotion.bodies import (
    DARK_ORANGE,
    LIGHT_ORANGE,
    add_camera,
    add_post,
    load_body,
    paint_ground,
)
from envs.locomotion.rand_params import observe_planar, planar_reset, walker_has_fallen
from metarl.env import EnvSpec, Noise, Outcome, Physics
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_NUM_SUBSTEPS = 8
_ALIVE_BONUS, _CONTROL_COST = 15.0, 1e-3


def make_spec(horizon: int = 200) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
    """
    model = _body().compile()
    control_dt_s = _NUM_SUBSTEPS * float(model.opt.timestep)
    velocity = Parameter("velocity", "m/s", Uniform(0.0, 10.0, shell=((10.0, 12.0),)), "target velocity")

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        x = data["qpos"][:, 0].clone()
        error = ((x - state["x"]) / control_dt_s - task["velocity"]).abs()  # (N,) m/s
        reward = _ALIVE_BONUS - error - _CONTROL_COST * action.square().sum(1)
        return Outcome({"x": x}, reward, walker_has_fallen(data["qpos"]))

    return EnvSpec(
        name="walker-vel",
        tasks=TaskDistribution((velocity,)),
        obs_dim=model.nq - 1 + model.nv,
        action_space=Continuous(model.nu),
        horizon=horizon,
        reset=planar_reset(model),
        observe=observe_planar,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        reset_noise=(model.nq + model.nv, 0),
        physics=Physics(
            model=model,
            num_substeps=_NUM_SUBSTEPS,
            data_fields=("qpos", "qvel"),
            max_contacts=14,  # two for each of seven capsules
            max_constraints=64,  # 14 contacts of 4 rows, 6 joint limits
            scene=_scene,
        ),
        description="walker, hidden velocity",
    )


def _body() -> mujoco.MjSpec:
    """gymnasium's walker with another integrator, plus a camera."""
    spec = load_body("walker2d.xml")
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    add_camera(spec, "torso", (0.0, -4.2, -0.05), down=0.12)
    return spec


def _scene(task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with: the left leg darker, posts to pass, one per second at the target velocity."""
    spec = _body()
    paint_ground(spec)
    for geom in spec.geoms:
        if geom.name != "floor":
            geom.rgba, geom.material = (DARK_ORANGE if "left" in geom.name else LIGHT_ORANGE), ""
    for index in range(-20, 61):
        add_post(spec, index * max(float(task["velocity"]), 0.25), 0.9)
    return spec.compile()
