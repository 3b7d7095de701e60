"""Four planar robots that reach for things: kinematics and dynamics, as functions of tensors.

The spec sheet of `reach-robots` describes them. A state has `joints` and their `speeds`, (N, 3), and `tip` and
`tip_velocity`, (N, 2), m and m/s. Steps are semi-implicit Euler; all functions are differentiable with finite gradients
everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.reaching import reaching_signals, safe_norm
from metarl.env import Noise, Outcome
from metarl.tasks import Choice, Parameter, Uniform
from metarl.types import Arrays

ROBOTS = ("point mass", "two-link arm", "three-link arm", "car")
POINT, ARM_2, ARM_3, CAR = range(4)
DT_S = 0.1
BASE_M = (-0.5, 0.0)
TYPICAL_M = 0.25
"""A distance that counts as 1, and a speed in m/s."""
RADIUS_M = 0.05
"""Of what is reached for."""
_LOG_DISTANCE_M = 0.1
_HIDDEN_M = -3.0
"""Height of what is not shown."""
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
_SPEED_SCALE = ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (1 / TYPICAL_M, 1 / _CURVATURE_PER_M, 0.0))

ROBOT = Parameter("robot", "1", Choice((POINT, ARM_2), held_out=(ARM_3, CAR)), ", ".join(ROBOTS))
DYNAMICS = (
    Parameter("mass", "kg", Uniform(0.7, 1.4, shell=((2.0, 3.0),), log=True), "divides what actuators do"),
    Parameter("friction", "1/s", Uniform(0.3, 1.0, shell=((1.5, 2.5),)), "viscous, per mass"),
    Parameter("gain", "1", Uniform(0.7, 1.3, shell=((0.3, 0.5),)), "of each actuator", (3,)),
    Parameter("swapped", "1", Choice((0.0,), held_out=(1.0,)), "1: first and second actuator exchanged"),
)
DYNAMICS_NAMES = tuple(parameter.name for parameter in DYNAMICS)


def derive_robot(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: which robot, and the coefficients of its joints."""
    robot = task["robot"].long()

    def of_robot(rows: tuple[tuple[float, ...], ...]) -> Tensor:
        return task["mass"].new_tensor(rows)[robot]  # (N, 3)

    is_car = (robot == CAR).unsqueeze(1)
    actuator = torch.arange(3, device=robot.device)
    is_steering = is_car & (actuator == 1)  # (N, 3)
    mass, friction = (task[name].unsqueeze(1).expand(-1, 3) for name in ("mass", "friction"))
    return {
        "is_arm": ((robot == ARM_2) | (robot == ARM_3)).unsqueeze(1),
        "is_car": is_car,
        "is_swapped": (task["swapped"] > 0.5).unsqueeze(1),
        "base": task["mass"].new_tensor(BASE_M).expand(len(robot), 2),
        "links": of_robot(_LINKS_M),
        "home": of_robot(_HOME),
        "home_noise": of_robot(_HOME_NOISE),
        "has_angle": of_robot(_HAS_ANGLE),
        "speed_scale": of_robot(_SPEED_SCALE),
        "strength": of_robot(_STRENGTH) * task["gain"] / torch.where(is_steering, 1.0, mass),
        "damping": torch.where(is_steering, 1 / _SERVO_S, friction),
    }


def start_robot(task: Arrays, noise: Noise) -> dict[str, Tensor]:
    """At rest, near home; takes three uniform numbers."""
    joints = task["home"] + task["home_noise"] * (2.0 * noise.uniform - 1.0)  # (N, 3)
    return with_tip(task, joints, torch.zeros_like(joints))


def observe_robot(task: Arrays, state: Arrays) -> Tensor:
    """Velocity of the tip (2), sines and cosines of joint angles (3 each), joint speeds (3), (N, 11)."""
    joints, has_angle = state["joints"], task["has_angle"]
    heading = joints.roll(1, 1)  # (heading, x, y) of a car, of which only the first is shown
    angle = torch.where(task["is_car"], heading, joints)
    shown = [has_angle * angle.sin(), has_angle * angle.cos(), task["speed_scale"] * state["speeds"]]
    return torch.cat([state["tip_velocity"] / TYPICAL_M, *shown], 1)


def move_robot(task: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """The state a control step later; action (N, 3)."""
    exchanged = torch.stack([action[:, 1], action[:, 0], action[:, 2]], 1)
    command = torch.where(task["is_swapped"], exchanged, action)
    # Every joint of every robot: s' = s + dt (strength u - damping s), then q' = q + dt s'.
    speeds = state["speeds"] + DT_S * (task["strength"] * command - task["damping"] * state["speeds"])  # (N, 3)
    joints = torch.where(task["is_car"], _drive(state["joints"], speeds), state["joints"] + DT_S * speeds)
    return with_tip(task, joints, speeds)


def with_tip(task: Arrays, joints: Tensor, speeds: Tensor) -> dict[str, Tensor]:
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


def reach_outcome(after: dict[str, Tensor], place: Tensor) -> Outcome:
    """A step towards a place, (N, 2): minus the distance as reward, success within 5 cm, never an end."""
    distance = safe_norm(place - after["tip"])
    never = torch.zeros_like(distance, dtype=torch.bool)
    return Outcome(after, reward=-distance, terminated=never, success=distance < RADIUS_M)


def reach_signals(place: Tensor, state: Arrays) -> Tensor:
    """What a loss may read of the way to a place, (N, 3); see `envs.reaching.reaching_signals`."""
    return reaching_signals(place - state["tip"], state["tip_velocity"], _LOG_DISTANCE_M, TYPICAL_M)


def robot_pose(task: Arrays, state: Arrays, *things: Tensor) -> dict[str, Tensor]:
    """`qpos` and mocap poses of a board with `things`, (N, 2) each, and the robots, of which one is shown."""
    joints, robot, tip, base = state["joints"], task["robot"], state["tip"], task["base"]
    zero = torch.zeros_like(robot)

    def place(xy: Tensor, is_shown: Tensor) -> Tensor:
        return torch.cat([xy, torch.where(is_shown, 0.0, _HIDDEN_M).unsqueeze(1)], 1)  # (N, 3)

    bodies = [
        *(place(thing, robot >= 0) for thing in things),
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
        "mocap_pos": torch.stack(bodies, 1),  # (N, things + 4, 3)
        "mocap_quat": torch.stack([*[upright] * (len(bodies) - 1), turned], 1),
    }


def _drive(pose: Tensor, speeds: Tensor) -> Tensor:
    """The pose (x, y, heading) of the car, (N, 3), a step later: heading' = speed curvature, along the new heading."""
    speed = speeds[:, 0]
    heading = pose[:, 2] + DT_S * speed * speeds[:, 1]
    moved = DT_S * speed
    return torch.stack([pose[:, 0] + moved * heading.cos(), pose[:, 1] + moved * heading.sin(), heading], 1)
