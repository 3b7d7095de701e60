"""reach-planar: a two-link arm looks for a hidden goal, with hidden actuators, friction and payload.

The goal never enters the observation: only the reward tells how far away it is. A policy has to search in
the first episode of a trial and can go straight to the goal in the next ones, if it remembers.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    goal_angle     rad  [-2.4, 2.4]         (-0.48, 0.48)   (-2.8, -2.4), (2.4, 2.8)
    goal_radius    m    [0.20, 0.42]                        (0.15, 0.20), (0.42, 0.48)
    gain_scale     1    [0.6, 1.6] log      (0.89, 1.08)    (0.4, 0.6), (1.6, 2.2)    torque per action
    damping_scale  1    [0.6, 1.6] log                      (0.4, 0.6), (1.6, 2.5)    both joints
    payload_mass   kg   [0.05, 0.4] log                     (0.4, 0.8)                sphere at the tip

ACTION (2 numbers in [-1, 1], 25 Hz)
    0  shoulder  x 3.2 N m x gain_scale
    1  elbow     x 1.8 N m x gain_scale

OBSERVATION (8 numbers)
    0-1  cosine, sine of the shoulder angle     1
    2-3  cosine, sine of the elbow angle        1
    4-5  joint velocities                       rad/s, x 0.1
    6-7  tip x, y                               m, x 2

START    tip 0.18 m in front of the base, joints (-1.2, 2.4) rad + U(-0.1, 0.1), at rest
REWARD   1 - tanh(5 d) per step, d the distance (m) between tip and goal after the step; in [0, 1]
END      after 20 control steps (0.8 s), never earlier
SUCCESS  d < 3 cm for 5 control steps (0.2 s) in a row
SIGNALS  log_distance    log(1 + d / 0.1 m)
         closing_speed   v.u / 1 m/s, v the velocity of the tip, u the unit vector to the goal
         lateral_speed   |v.w| / 1 m/s, w across u
FEEDBACK 1 where d < 3 cm, else 0
"""

from __future__ import annotations

from importlib import resources

import mujoco
import torch
from torch import Tensor

from envs.reaching import SIGNAL_NAMES, reaching_signals
from metarl.env import EnvSpec, Noise, Outcome, Physics, Signals, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_HOME_RAD = (-1.2, 2.4)
_HOME_NOISE_RAD = 0.1
_GOAL_HEIGHT_M = 0.004
_SUCCESS_RADIUS_M = 0.03
_SUCCESS_STEPS = 5
_DISTANCE_SCALE = 5.0  # 1/m
_LOG_DISTANCE_M = 0.1
_TYPICAL_M_S = 1.0

_PARAMETERS = (
    Parameter(
        "goal_angle",
        "rad",
        Uniform(-2.4, 2.4, hole=(-0.48, 0.48), shell=((-2.8, -2.4), (2.4, 2.8))),
        "direction of the goal, seen from the base",
    ),
    Parameter(
        "goal_radius",
        "m",
        Uniform(0.20, 0.42, shell=((0.15, 0.20), (0.42, 0.48))),
        "distance of the goal from the base",
    ),
    Parameter(
        "gain_scale",
        "1",
        Uniform(0.6, 1.6, hole=(0.89, 1.08), shell=((0.4, 0.6), (1.6, 2.2)), log=True),
        "torque per action",
    ),
    Parameter(
        "damping_scale", "1", Uniform(0.6, 1.6, shell=((0.4, 0.6), (1.6, 2.5)), log=True), "damping of both joints"
    ),
    Parameter("payload_mass", "kg", Uniform(0.05, 0.4, shell=((0.4, 0.8),), log=True), "mass of the sphere at the tip"),
)


def make_spec(horizon: int = 20) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
    """
    model = mujoco.MjModel.from_xml_string(
        resources.files("envs.manipulation").joinpath("mjcf", "reach_planar.xml").read_text()
    )
    tip_id = model.site("tip").id
    payload_id = model.body("payload").id
    upper_arm_m = float(model.body("forearm").pos[0])

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        qpos, tip = data["qpos"], data["site_xpos"][:, tip_id, :2]
        angles = torch.stack([qpos.cos(), qpos.sin()], -1).flatten(1)  # (N, 4)
        return torch.cat([angles, 0.1 * data["qvel"], 2.0 * tip], 1)  # (N, 8)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        distance = torch.linalg.vector_norm(data["site_xpos"][:, tip_id, :2] - task["goal"], dim=1)  # (N,)
        held = torch.where(distance < _SUCCESS_RADIUS_M, state["held"] + 1.0, 0.0)
        return Outcome(
            state={"held": held},
            reward=1.0 - torch.tanh(_DISTANCE_SCALE * distance),
            terminated=torch.zeros_like(held, dtype=torch.bool),
            success=held >= _SUCCESS_STEPS,
        )

    def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        tip, shoulder, speed = data["site_xpos"][:, tip_id, :2], data["qpos"][:, :1], data["qvel"]
        elbow = upper_arm_m * torch.cat([shoulder.cos(), shoulder.sin()], 1)  # (N, 2)
        # Each joint turns the tip around itself; the shoulder stands at the origin.
        swing = speed[:, :1] * tip + speed[:, 1:] * (tip - elbow)
        velocity = torch.stack([-swing[:, 1], swing[:, 0]], 1)  # (N, 2)
        return reaching_signals(task["goal"] - tip, velocity, _LOG_DISTANCE_M, _TYPICAL_M_S)

    def feedback(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        distance = torch.linalg.vector_norm(data["site_xpos"][:, tip_id, :2] - task["goal"], dim=1)
        return (distance < _SUCCESS_RADIUS_M).to(torch.float32)

    def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
        num_worlds = task["gain_scale"].shape[0]
        gain = defaults["actuator_gainprm"].repeat(num_worlds, 1, 1)
        mass = defaults["body_mass"].repeat(num_worlds, 1)
        inertia = defaults["body_inertia"].repeat(num_worlds, 1, 1)
        # A sphere of fixed size: its inertia grows with its mass.
        inertia[:, payload_id] *= (task["payload_mass"] / mass[:, payload_id]).unsqueeze(1)
        mass[:, payload_id] = task["payload_mass"]
        return {
            "actuator_gainprm": gain * task["gain_scale"][:, None, None],
            "dof_damping": defaults["dof_damping"] * task["damping_scale"][:, None],
            "body_mass": mass,
            "body_inertia": inertia,
        }

    return EnvSpec(
        name="reach-planar",
        tasks=TaskDistribution(_PARAMETERS),
        obs_dim=8,
        action_space=Continuous(2),
        horizon=horizon,
        reset=_reset,
        observe=observe,
        step=step,
        derive=lambda task: {"goal": _goal(task)},
        control=lambda task, data, state, action: {"ctrl": action},
        reset_noise=(2, 0),
        physics=Physics(
            model=model,
            num_substeps=2,
            data_fields=("qpos", "qvel", "site_xpos"),
            model_fields=("actuator_gainprm", "dof_damping", "body_mass", "body_inertia"),
            configure=configure,
            uses_set_const=True,
            max_contacts=1,
            max_constraints=4,
        ),
        signals=Signals(SIGNAL_NAMES, signals, feedback),
        description="two-link arm, hidden goal and dynamics",
    )


def _goal(task: Arrays) -> Tensor:
    """The goal in the plane, (N, 2), m."""
    angle, radius = task["goal_angle"], task["goal_radius"]
    return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)


def _reset(task: Arrays, noise: Noise) -> Start:
    jitter = _HOME_NOISE_RAD * (2.0 * noise.uniform - 1.0)  # (N, 2)
    goal = task["goal"]
    height = torch.full_like(goal[:, :1], _GOAL_HEIGHT_M)
    writes = {
        # Written out: a tensor made from numbers here would be a copy to the GPU that no graph can capture.
        "qpos": torch.stack([_HOME_RAD[0] + jitter[:, 0], _HOME_RAD[1] + jitter[:, 1]], 1),  # (N, 2)
        "mocap_pos": torch.cat([goal, height], 1).unsqueeze(1),  # (N, 1, 3)
    }
    return Start(state={"held": torch.zeros_like(task["goal_angle"])}, writes=writes)
