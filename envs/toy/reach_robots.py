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

from envs.reaching import SIGNAL_NAMES, reaching_signals, safe_norm
from metarl.env import Drawing, EnvSpec, Noise, Outcome, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

ROBOTS = ("point mass", "two-link arm", "three-link arm", "car")
POINT, ARM_2, ARM_3, CAR = range(4)
_DT_S = 0.1
_BASE_M = (-0.5, 0.0)
_GOAL_RADIUS_M = 0.05
_TYPICAL_M = 0.25
_LOG_DISTANCE_M = 0.1
_HIDDEN_M = -3.0
"""Height of the robots that are not shown."""
_SERVO_S = 0.2
"""Time constant of the car's steering."""
_CURVATURE_PER_M = 1 / 0.15
_BEND_RAD = math.acos(0.25)
"""The tip of three links of 1/3 m bent by b, b is (1 + 2 cos b) / 3 m from the base."""

# One row per robot, one column per actuator or joint.
_LINKS_M = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.0, 0.0, 0.0))
_HOME = ((0.0, 0.0, 0.0), (-math.pi / 3, 2 * math.pi / 3, 0.0), (-_BEND_RAD, _BEND_RAD, _BEND_RAD), (0.0, 0.0, 0.0))
_HOME_NOISE = ((0.03, 0.03, 0.0), (0.1, 0.1, 0.0), (0.1, 0.1, 0.1), (0.03, 0.03, 0.1))
_STRENGTH = ((0.4, 0.4, 0.0), (1.5, 1.5, 0.0), (1.5, 1.5, 1.5), (0.4, _CURVATURE_PER_M / _SERVO_S, 0.0))
_HAS_ANGLE = ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0))
_SPEED_SCALE = ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (1 / _TYPICAL_M, 1 / _CURVATURE_PER_M, 0.0))

_PARAMETERS = (
    Parameter("robot", "1", Choice((POINT, ARM_2), held_out=(ARM_3, CAR)), ", ".join(ROBOTS)),
    Parameter(
        "goal_direction",
        "rad",
        Uniform(-math.pi / 2, math.pi / 2, shell=((-math.pi, -math.pi / 2), (math.pi / 2, math.pi))),
        "direction of the goal, seen from where the tip starts",
    ),
    Parameter(
        "goal_distance", "m", Uniform(0.15, 0.30, shell=((0.40, 0.50),)), "of the goal from where the tip starts"
    ),
    Parameter("mass", "kg", Uniform(0.7, 1.4, shell=((2.0, 3.0),), log=True), "divides what actuators do"),
    Parameter("friction", "1/s", Uniform(0.3, 1.0, shell=((1.5, 2.5),)), "viscous, per mass"),
    Parameter("gain", "1", Uniform(0.7, 1.3, shell=((0.3, 0.5),)), "of each actuator", (3,)),
    Parameter("swapped", "1", Choice((0.0,), held_out=(1.0,)), "1: first and second actuator exchanged"),
)
_SHIFTS = {
    "directions": ("goal_direction",),
    "distances": ("goal_distance",),
    "dynamics": ("mass", "friction", "gain", "swapped"),
    "robots": ("robot",),
}


def make_spec(horizon: int = 30) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode, 10 per second.
    """
    return EnvSpec(
        name="reach-robots",
        tasks=TaskDistribution(_PARAMETERS, shifts=_SHIFTS),
        obs_dim=13,
        action_space=Continuous(3),
        horizon=horizon,
        reset=_reset,
        observe=_observe,
        step=_step,
        derive=_derive,
        reset_noise=(3, 0),
        drawing=Drawing(_model, _pose, control_dt_s=_DT_S),
        signals=Signals(SIGNAL_NAMES, _signals, _feedback),
        description="point, arm or car with a visible goal; robots, goals and dynamics are held out separately",
    )


def _derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: the goal, which robot, and the coefficients of its joints."""
    distance, direction = task["goal_distance"], task["goal_direction"]
    robot = task["robot"].long()

    def of_robot(rows: tuple[tuple[float, ...], ...]) -> Tensor:
        return distance.new_tensor(rows)[robot]  # (N, 3)

    is_car = (robot == CAR).unsqueeze(1)
    actuator = torch.arange(3, device=robot.device)
    is_steering = is_car & (actuator == 1)  # (N, 3)
    mass, friction = (task[name].unsqueeze(1).expand(-1, 3) for name in ("mass", "friction"))
    return {
        "goal": distance.unsqueeze(1) * torch.stack([direction.cos(), direction.sin()], 1),
        "is_arm": ((robot == ARM_2) | (robot == ARM_3)).unsqueeze(1),
        "is_car": is_car,
        "is_swapped": (task["swapped"] > 0.5).unsqueeze(1),
        "base": distance.new_tensor(_BASE_M).expand(len(robot), 2),
        "links": of_robot(_LINKS_M),
        "home": of_robot(_HOME),
        "home_noise": of_robot(_HOME_NOISE),
        "has_angle": of_robot(_HAS_ANGLE),
        "speed_scale": of_robot(_SPEED_SCALE),
        "strength": of_robot(_STRENGTH) * task["gain"] / torch.where(is_steering, 1.0, mass),
        "damping": torch.where(is_steering, 1 / _SERVO_S, friction),
    }


def _reset(task: Arrays, noise: Noise) -> Start:
    joints = task["home"] + task["home_noise"] * (2.0 * noise.uniform - 1.0)  # (N, 3)
    return Start(_with_tip(task, joints, torch.zeros_like(joints)), writes={})


def _observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    joints, has_angle = state["joints"], task["has_angle"]
    heading = joints.roll(1, 1)  # (heading, x, y) of a car, of which only the first is shown
    angle = torch.where(task["is_car"], heading, joints)
    return torch.cat(
        [
            (task["goal"] - state["tip"]) / _TYPICAL_M,
            state["tip_velocity"] / _TYPICAL_M,
            has_angle * angle.sin(),
            has_angle * angle.cos(),
            task["speed_scale"] * state["speeds"],
        ],
        1,
    )


def _step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    exchanged = torch.stack([action[:, 1], action[:, 0], action[:, 2]], 1)
    command = torch.where(task["is_swapped"], exchanged, action)
    # Every joint of every robot: s' = s + dt (strength u - damping s), then q' = q + dt s'.
    speeds = state["speeds"] + _DT_S * (task["strength"] * command - task["damping"] * state["speeds"])  # (N, 3)
    joints = torch.where(task["is_car"], _drive(state["joints"], speeds), state["joints"] + _DT_S * speeds)
    after = _with_tip(task, joints, speeds)
    distance = safe_norm(task["goal"] - after["tip"])
    return Outcome(
        after,
        reward=-distance,
        terminated=torch.zeros_like(distance, dtype=torch.bool),
        success=distance < _GOAL_RADIUS_M,
    )


def _drive(pose: Tensor, speeds: Tensor) -> Tensor:
    """The pose (x, y, heading) of the car, (N, 3), a step later: heading' = speed curvature, along the new heading."""
    speed = speeds[:, 0]
    heading = pose[:, 2] + _DT_S * speed * speeds[:, 1]
    moved = _DT_S * speed
    return torch.stack([pose[:, 0] + moved * heading.cos(), pose[:, 1] + moved * heading.sin(), heading], 1)


def _with_tip(task: Arrays, joints: Tensor, speeds: Tensor) -> dict[str, Tensor]:
    """The state: joints and their speeds, (N, 3), and where the tip is and how it moves, (N, 2), m and m/s."""
    angle, rate = joints.cumsum(1), speeds.cumsum(1)  # (N, 3) of the links against x
    along, across = task["links"] * angle.cos(), task["links"] * angle.sin()
    arm_tip = task["base"] + torch.stack([along.sum(1), across.sum(1)], 1)  # (N, 2)
    arm_velocity = torch.stack([-(across * rate).sum(1), (along * rate).sum(1)], 1)
    heading = joints[:, 2:]
    car_velocity = speeds[:, :1] * torch.cat([heading.cos(), heading.sin()], 1)
    free_velocity = torch.where(task["is_car"], car_velocity, speeds[:, :2])
    return {
        "joints": joints,
        "speeds": speeds,
        "tip": torch.where(task["is_arm"], arm_tip, joints[:, :2]),
        "tip_velocity": torch.where(task["is_arm"], arm_velocity, free_velocity),
    }


def _signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return reaching_signals(task["goal"] - state["tip"], state["tip_velocity"], _LOG_DISTANCE_M, _TYPICAL_M)


def _feedback(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return (safe_norm(task["goal"] - state["tip"]) < _GOAL_RADIUS_M).to(torch.float32)


def _model() -> mujoco.MjModel:
    """A board with the goal and all four robots; `_pose` hides three of them below it."""
    return mujoco.MjModel.from_xml_string(resources.files("envs.toy").joinpath("mjcf", "reach_robots.xml").read_text())


def _pose(task: Arrays, state: Arrays) -> dict[str, Tensor]:
    joints, robot, tip = state["joints"], task["robot"], state["tip"]
    zero = torch.zeros_like(robot)

    def place(xy: Tensor, is_shown: Tensor) -> Tensor:
        return torch.cat([xy, torch.where(is_shown, 0.0, _HIDDEN_M).unsqueeze(1)], 1)  # (N, 3)

    base = task["base"]
    bodies = [
        place(task["goal"], robot >= 0),
        place(tip, robot == POINT),
        place(base, robot == ARM_2),
        place(base, robot == ARM_3),
        place(tip, robot == CAR),
    ]
    half = torch.where(robot == CAR, joints[:, 2] / 2, 0.0)
    upright = torch.stack([zero + 1.0, zero, zero, zero], 1)  # (N, 4)
    turned = torch.stack([half.cos(), zero, zero, half.sin()], 1)
    # The joints of an arm that is hidden do not matter.
    return {
        "qpos": torch.cat([joints[:, :2], joints], 1),  # (N, 5)
        "mocap_pos": torch.stack(bodies, 1),  # (N, 5, 3)
        "mocap_quat": torch.stack([upright, upright, upright, upright, turned], 1),
    }
