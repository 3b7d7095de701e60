"""half-cheetah-crippled, half-cheetah-gravity: run forward with a dead joint, or in another gravity.

                 half-cheetah-crippled                  half-cheetah-gravity
TASK PARAMETER   joint: whose motor does nothing        gravity_scale: times 9.81 m/s^2
  train, test    1, 2, 3, 4 or 5                        U[0.5, 1.5] without its hole
  interpolation  none                                   (0.9, 1.1)
  extrapolation  0                                      (0.25, 0.5) or (1.5, 2)
REWARD           v - 0.05 ||action||^2, of the          v - 0.05 ||action||^2
                 actions that reach a motor
SOURCE           iclavera/learning_to_adapt             Breakend/gym-extensions

with v the x displacement of the torso over the control step (m/s). Both: control step 0.05 s (5 physics steps of
0.01 s), 200 control steps, never an early end, no success criterion. Start: U(-0.1, 0.1) on positions, 0.1 N(0, 1) on
velocities.

ACTION (6 numbers in [-1, 1]) and JOINTS
    0-2  back thigh, shin, foot    x 120, 90, 60 N m
    3-5  front thigh, shin, foot   x 120, 60, 30 N m

OBSERVATION (17 numbers)
    0-7   joint positions without x: z (m), pitch (rad), six joints (rad)
    8-16  joint velocities: x, z (m/s), pitch, six joints (rad/s)

SIGNALS
    progress_speed   v / 2 m/s
    uprightness      cosine of the pitch
    pitch_rate       / 10 rad/s
Right after a reset v is the velocity that the torso starts with.

SOURCES. Nagabandi et al. 2019, "Learning to Adapt in Dynamic, Real-World Environments through Meta-Reinforcement
Learning": its code draws the dead joint from 1 to 5 and so keeps joint 0, the back thigh, out of training. Its control
step is 0.01 s for 1000 steps, here 0.05 s for 200: the same ten seconds. Its observation ends with the robot's centre
of mass, its v is that of the centre of mass. Henderson et al. 2017, "Benchmark Environments for Multitask Learning in
Continuous Domains", has bodies in 0.5, 0.75, 1.25 and 1.5 times the gravity as separate tasks; the range between them,
hole and shell are ours.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import torch
from torch import Tensor

from envs.locomotion.bodies import DEAD, GREEN, add_post, paint_ground
from envs.locomotion.cheetah_run import NUM_ACTIONS, make_run, unchanged
from envs.locomotion.half_cheetah import cheetah_body, paint_cheetah
from metarl.env import EnvSpec, Physics
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays

_LIMBS = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
"""Geoms in the order of the motors."""
_MAX_CONTACTS, _MAX_CONSTRAINTS = 16, 80  # 16 contacts of 4 rows, 6 joint limits


def make_crippled(horizon: int = 200) -> EnvSpec:
    """Make the half-cheetah one of whose motors does nothing, it does not know which.

    Args:
        horizon: control steps of an episode.

    Source: see the spec sheet.
    """
    trained = tuple(float(joint) for joint in range(1, NUM_ACTIONS))
    joint = Parameter("joint", "1", Choice(trained, held_out=(0.0,)), "whose motor does nothing")

    def derive(task: Arrays) -> dict[str, Tensor]:
        joints = torch.arange(NUM_ACTIONS, device=task["joint"].device)
        return {"works": (joints != task["joint"].unsqueeze(1)).to(torch.float32)}  # (N, 6)

    return make_run(
        "half-cheetah-crippled",
        TaskDistribution((joint,)),
        _physics(),
        horizon,
        derive=derive,
        torque=lambda task, action: task["works"] * action,
        description="half-cheetah, one hidden joint has no motor",
    )


def make_gravity(horizon: int = 200) -> EnvSpec:
    """Make the half-cheetah in a hidden gravity.

    Args:
        horizon: control steps of an episode.

    Source: see the spec sheet.
    """
    scale = Uniform(0.5, 1.5, hole=(0.9, 1.1), shell=((0.25, 0.5), (1.5, 2.0)))
    return make_run(
        "half-cheetah-gravity",
        TaskDistribution((Parameter("gravity_scale", "1", scale, "times 9.81 m/s^2"),)),
        _physics(("opt.gravity",), _scale_gravity),
        horizon,
        torque=unchanged,
        description="half-cheetah, hidden gravity",
    )


def _physics(
    fields: tuple[str, ...] = (),
    configure: Callable[[Arrays, Arrays], dict[str, Tensor]] | None = None,
) -> Physics:
    return Physics(
        model=cheetah_body().compile(),
        num_substeps=5,
        data_fields=("qpos", "qvel"),
        model_fields=fields,
        configure=configure,
        max_contacts=_MAX_CONTACTS,
        max_constraints=_MAX_CONSTRAINTS,
        scene=_scene,
    )


def _scale_gravity(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
    return {"opt.gravity": task["gravity_scale"].unsqueeze(1) * defaults["opt.gravity"]}  # (N, 3)


def _scene(task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with, a post every 2 m.

    The limb that a dead motor would move is dark; the lower the gravity, the higher are the posts.
    """
    spec = cheetah_body()
    paint_ground(spec)
    paint_cheetah(spec)
    if "joint" in task:
        limb = spec.geom(_LIMBS[int(task["joint"])])
        limb.rgba, limb.material = DEAD, ""
    height_m = 0.6 / float(task["gravity_scale"]) if "gravity_scale" in task else 0.6
    for index in range(-30, 61):
        add_post(spec, 2.0 * index, 0.9, GREEN, height_m)
    return spec.compile()
