"""A pure-pursuit driver for `track` that is told the task: the reference for what a vehicle allows.

Source: R. C. Coulter, Implementation of the pure pursuit path tracking algorithm, CMU-RI-TR-92-01, 1992: steer
along the arc through the car and a point of the road ahead. Added: the state is predicted over the dead time
of the steering, the tyres' slip and the steering offset are compensated, and the speed is limited by
grip in the corners ahead and by the braking distance to them. It keeps to the swept line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envs.driving import roads, track
from metarl.tasks import TaskDistribution
from metarl.types import Act, Arrays, PolicyInput

NOMINAL = {
    "grip": 0.75,
    "tyre_stiffness_front": 1.0,
    "tyre_stiffness_rear": 1.0,
    "mass": 1.0,
    "com_shift": 0.0,
    "steer_delay": 0.04,
    "swept_line": 0.0,
    "steer_offset": 0.0,
    "motor_lag": 0.06,
    "power": 1.0,
}
"""The middle of each train range that the driver uses."""
TYRE_STIFFNESS, DRAG = 60.0, 1.4
SERVO_LAG_S = 0.09
"""Time that the steering servo itself takes."""
AHEAD_M = roads.SPACING_M * track.LOOK_AHEAD_STRIDE


@dataclass(frozen=True)
class PurePursuit:
    """A `Policy` that drives by the task parameters it is given; deterministic, without memory.

    Attributes:
        knows_task: True: reads the parameters of the task; False: takes the nominal vehicle and grip for it.
        grip_share: share of the grip that it plans to use.
    """

    knows_task: bool = True
    grip_share: float = 0.9

    def initial_memory(self, num_worlds: int) -> None:
        """It needs none."""
        return None

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        """Drive; `generator` is not used."""
        task = dict(TaskDistribution(track.PARAMETERS).unpack(inputs.task))
        if not self.knows_task:
            task |= {name: torch.full_like(task["grip"], value) for name, value in NOMINAL.items()}
        action = drive(task, inputs.obs, self.grip_share)
        return Act(action, torch.zeros_like(action[:, 0]), memory)


def drive(task: Arrays, obs: Tensor, grip_share: float) -> Tensor:
    """Choose the action for what is observed and what is known of the vehicle.

    Args:
        task: the parameters of `NOMINAL` and `width`, each (N,).
        obs: (N, OBS_DIM), as `track` observes.
        grip_share: share of the grip that is planned with, 0 to 1.

    Returns:
        (N, 2) float32 actions in [-1, 1].
    """
    yaw_rate, speed = 5.0 * obs[:, 1], 5.0 * obs[:, 2]
    curvature = obs[:, 7 : 7 + track.NUM_LOOK_AHEADS]
    dead_time = task["steer_delay"] + SERVO_LAG_S
    heading_error = 0.5 * obs[:, 6] + dead_time * (yaw_rate - curvature[:, 0] * speed)
    beside = (obs[:, 5] - task["swept_line"]) * task["width"] / 2
    lateral = beside + dead_time * speed * heading_error
    pursuit = _pursuit_curvature(curvature, lateral, heading_error, speed, dead_time)
    lateral_acceleration = grip_share * task["grip"] * track.GRAVITY
    target = _target_speed(curvature, speed, lateral_acceleration, task)
    return torch.stack([_steering(pursuit, speed, task), _pedal(target, speed, beside, task)], 1).clamp(-1.0, 1.0)


def _pursuit_curvature(
    curvature: Tensor, lateral: Tensor, heading_error: Tensor, speed: Tensor, dead_time: Tensor
) -> Tensor:
    """Curvature 2 y / d^2 of the arc through the point a look-ahead distance d in front, (N,)."""
    mean = (curvature[:, 1:] + curvature[:, :-1]) / 2
    turned = torch.cat([torch.zeros_like(lateral).unsqueeze(1), mean.cumsum(1) * AHEAD_M], 1)  # (N, 8)
    middle = (turned[:, 1:] + turned[:, :-1]) / 2
    zero = torch.zeros_like(turned[:, :1])
    x = torch.cat([zero, middle.cos().cumsum(1) * AHEAD_M], 1)
    y = torch.cat([zero, middle.sin().cumsum(1) * AHEAD_M], 1) - lateral.unsqueeze(1)
    cosine, sine = heading_error.cos().unsqueeze(1), heading_error.sin().unsqueeze(1)
    x, y = cosine * x + sine * y, cosine * y - sine * x  # in the car's frame
    # Between two points of the road, linearly; the dead time moves the point ahead.
    distance = (0.5 + (0.15 + dead_time) * speed).clamp(0.7, 3.0)
    at = distance / AHEAD_M
    weight = (1.0 - (at.unsqueeze(1) - torch.arange(track.NUM_LOOK_AHEADS, device=at.device)).abs()).clamp(min=0.0)
    point_x, point_y = (weight * x).sum(1), (weight * y).sum(1)
    return 2.0 * point_y / (point_x.square() + point_y.square()).clamp(min=0.1)


def _steering(pursuit: Tensor, speed: Tensor, task: Arrays) -> Tensor:
    """Servo command for a curvature: the kinematic angle plus the difference of the axles' slip."""
    share = 0.5 + task["com_shift"] / (2 * track.AXLE_M)
    force = task["mass"] * track.MASS_KG * speed.square() * pursuit
    slip_front = force * share / (TYRE_STIFFNESS * task["tyre_stiffness_front"])  # m/s
    slip_rear = force * (1 - share) / (TYRE_STIFFNESS * task["tyre_stiffness_rear"])
    angle = (2 * track.AXLE_M * pursuit).atan() + (slip_front - slip_rear) / speed.clamp(min=1.0)
    return (angle - task["steer_offset"]) / track.MAX_STEER_RAD


def _target_speed(curvature: Tensor, speed: Tensor, lateral_acceleration: Tensor, task: Arrays) -> Tensor:
    """Largest speed from which every corner ahead can still be reached at its own speed: v^2 = v_c^2 + 2 a d."""
    corner = lateral_acceleration.unsqueeze(1) / curvature.abs().clamp(min=0.05)  # (N, 8) speed squared
    strongest_brake = track.BRAKE_N_PER_M_S * speed.clamp(min=1.0) / (task["mass"] * track.MASS_KG)
    braking = 0.4 * torch.minimum(lateral_acceleration, strongest_brake)
    ahead = torch.arange(track.NUM_LOOK_AHEADS, device=speed.device) * AHEAD_M
    distance = (ahead - (task["motor_lag"] * speed).unsqueeze(1)).clamp(min=0.0)
    return (corner + 2.0 * braking.unsqueeze(1) * distance).amin(1).sqrt()


def _pedal(target: Tensor, speed: Tensor, beside: Tensor, task: Arrays) -> Tensor:
    """Proportional speed control: the drive force beyond the drag, or the brake for what the drag leaves over."""
    drag = DRAG + track.GRAVEL_N_PER_M_S / track.BANK_M * beside.abs().clamp(max=track.BANK_M)
    force = 4.0 * task["mass"] * track.MASS_KG * (target - speed) + drag * speed
    brake = force / (track.BRAKE_N_PER_M_S * speed.clamp(min=0.5))
    return torch.where(force > 0, force / (task["power"] * track.PEAK_FORCE_N), brake)
