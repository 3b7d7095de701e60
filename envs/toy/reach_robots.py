"""reach-robots: one of four planar robots has to bring its tip to a visible goal; the robot is part of the task.

Cheap (tensors, no physics engine) and made for learned losses: everything they read is the same on all four
robots, so that a loss can be meta-trained on two of them and used on the others.

TASK PARAMETERS (train range; extrapolation)
    robot            1     0, 1                 2, 3                         see ROBOTS
    goal_direction   rad   [-pi/2, pi/2]        (-pi, -pi/2), (pi/2, pi)     seen from where the tip starts
    goal_distance    m     [0.15, 0.30]         (0.40, 0.50)                 from where the tip starts
    mass             kg    [0.7, 1.4] log       (2.0, 3.0)
    friction         1/s   [0.3, 1.0]           (1.5, 2.5)                   viscous, per mass
    gain             1     3 x [0.7, 1.3]       3 x (0.3, 0.5)               of each actuator
    swapped          1     0                    1                            first and second actuator exchanged

SHIFTS (further splits: one of these parameters as in extrapolation, all others as in training)
    directions  goal_direction              dynamics  mass, friction, gain or swapped
    distances   goal_distance               robots    robot

ROBOTS (u the action of each actuator, after the exchange)
    0  point mass       acceleration in x, y: 0.4 m/s^2 gain u / mass - friction speed
    1  two-link arm     links 0.5 m + 0.5 m; acceleration of each joint: 1.5 rad/s^2 gain u / mass - friction speed
    2  three-link arm   links of 1/3 m; likewise
    3  car              0.4 m/s^2 gain u / mass - friction speed along its heading, forwards and backwards; steering:
                        its curvature follows 1 / 0.15 m gain u with a time constant of 0.2 s, whatever the mass
The joints of the arms are highly geared: the inertia of the rotors dominates that of the links, so that the joints do
not push each other. The base stands 0.5 m behind the tip (-x), and the arms' reach of 1 m covers all goals.
The tip of the point mass and of the car is its centre.

ACTION (3 numbers in [-1, 1], 10 Hz)
    0-2  one per actuator; only the three-link arm has a third one

OBSERVATION (13 numbers; what a robot does not have is 0)
    0-1    goal - tip, x, y                     / 0.25 m
    2-3    velocity of the tip, x, y            / 0.25 m/s
    4-6    sines of the joint angles, relative to the link before; car: 4 of its heading
    7-9    cosines, likewise
    10-12  joint speeds, rad/s; car: speed / 0.25 m/s, curvature x 0.15 m

START    tip at the origin, at rest; arms at (-60, 120) deg and (-b, b, b), cos b = 1/4; car heading along x; plus
         U(-0.03, 0.03) m (point, car) and U(-0.1, 0.1) rad (joints, heading)
REWARD   -d per step, d the distance (m) between tip and goal after the step
END      after 30 control steps (3 s), never earlier
SUCCESS  d < 5 cm
SIGNALS  log_distance    log(1 + d / 0.1 m)
         closing_speed   v.u / 0.25 m/s, v the velocity of the tip, u the unit vector to the goal
         lateral_speed   |v.w| / 0.25 m/s, w across u
FEEDBACK 1 where d < 5 cm, else 0

Steps are semi-implicit Euler. All functions are differentiable with finite gradients everywhere: lengths are
sqrt(x^2 + y^2 + (0.1 mm)^2).
"""

from __future__ import annotations

import math
from importlib import resources

import mujoco
import torch
from torch import Tensor

from envs.reaching import SIGNAL_NAMES, safe_norm
from envs.toy.planar_robots import (
    DT_S,
    DYNAMICS,
    DYNAMICS_NAMES,
    RADIUS_M,
    ROBOT,
    TYPICAL_M,
    derive_robot,
    move_robot,
    observe_robot,
    reach_outcome,
    reach_signals,
    robot_pose,
    start_robot,
)
from metarl.env import Drawing, EnvSpec, Noise, Outcome, Signals, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_GOAL = (
    Parameter(
        "goal_direction",
        "rad",
        Uniform(-math.pi / 2, math.pi / 2, shell=((-math.pi, -math.pi / 2), (math.pi / 2, math.pi))),
        "direction of the goal, seen from where the tip starts",
    ),
    Parameter(
        "goal_distance", "m", Uniform(0.15, 0.30, shell=((0.40, 0.50),)), "of the goal from where the tip starts"
    ),
)
_SHIFTS = {
    "directions": ("goal_direction",),
    "distances": ("goal_distance",),
    "dynamics": DYNAMICS_NAMES,
    "robots": ("robot",),
}


def make_spec(horizon: int = 30) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode, 10 per second.
    """
    return EnvSpec(
        name="reach-robots",
        tasks=TaskDistribution((ROBOT, *_GOAL, *DYNAMICS), shifts=_SHIFTS),
        obs_dim=13,
        action_space=Continuous(3),
        horizon=horizon,
        reset=_reset,
        observe=_observe,
        step=_step,
        derive=_derive,
        reset_noise=(3, 0),
        drawing=Drawing(_model, _pose, control_dt_s=DT_S),
        signals=Signals(SIGNAL_NAMES, _signals, _feedback),
        description="point, arm or car with a visible goal; robots, goals and dynamics are held out separately",
    )


def _derive(task: Arrays) -> dict[str, Tensor]:
    """The goal, which robot, and the coefficients of its joints."""
    distance, direction = task["goal_distance"], task["goal_direction"]
    goal = distance.unsqueeze(1) * torch.stack([direction.cos(), direction.sin()], 1)  # (N, 2)
    return {"goal": goal} | derive_robot(task)


def _reset(task: Arrays, noise: Noise) -> Start:
    return Start(start_robot(task, noise), writes={})


def _observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return torch.cat([(task["goal"] - state["tip"]) / TYPICAL_M, observe_robot(task, state)], 1)


def _step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    return reach_outcome(move_robot(task, state, action), task["goal"])


def _signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return reach_signals(task["goal"], state)


def _feedback(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return (safe_norm(task["goal"] - state["tip"]) < RADIUS_M).to(torch.float32)


def _model() -> mujoco.MjModel:
    """A board with the goal and all four robots; `robot_pose` hides three of them below it."""
    return mujoco.MjModel.from_xml_string(resources.files("envs.toy").joinpath("mjcf", "reach_robots.xml").read_text())


def _pose(task: Arrays, state: Arrays) -> dict[str, Tensor]:
    return robot_pose(task, state, task["goal"])
