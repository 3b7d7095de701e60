"""A pure-pursuit driver that is told the task: the expert of the driving environments.

Source: R. C. Coulter, Implementation of the pure pursuit path tracking algorithm, CMU-RI-TR-92-01, 1992: steer
along the arc through the car and a point of the road ahead. Added: the state is predicted over the dead time
of the steering, the tyres' slip on the road's arc and the steering offset are compensated, and the speed is limited by
grip in the corners ahead, by the braking distance to them, and by the critical speed of a car that oversteers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.driving import car, course
from metarl.types import Arrays

GRIP_SHARE = 0.8
"""Share of the grip in corners that the driver plans with; slowing down there unloads the rear axle."""
BRAKING_SHARE = 0.3
"""Share of that grip, and of the full brake, that the driver plans to brake with."""
STABLE_SHARE = 0.85
"""Share of the critical speed of an oversteering car that the driver keeps to."""
SERVO_LAG_S = 0.09
"""Time that the steering servo itself takes."""


def drive(
    task: Arrays,
    obs: Tensor,
    *,
    grip: Tensor | None = None,
    line_m: Tensor | None = None,
    drag: Tensor | float = car.DRAG_N_PER_M_S,
    towed_kg: Tensor | float = 0.0,
    grip_share: float = GRIP_SHARE,
    braking_share: float = BRAKING_SHARE,
) -> Tensor:
    """Choose the action for what is observed and what is known of the vehicle.

    Args:
        task: "grip", "width", any of `car.NOMINAL`, and the tables of `car.derive`, each (N, ...).
        obs: (N, >= OBS_DIM), as `course` observes.
        grip: at the look-ahead points, (N, NUM_LOOK_AHEADS); None: "grip" everywhere.
        line_m: (N,) where to drive, to the left of the centreline; None: on it.
        drag: (N,) force per speed that holds the car back, N/(m/s).
        towed_kg: (N,) mass of a trailer without brakes.
        grip_share: share of the grip in corners that is planned with, 0 to 1.
        braking_share: share of that, and of the full brake, that is planned to brake with.

    Returns:
        (N, 2) float32 actions in [-1, 1].
    """
    vehicle, mass = car.vehicle_of(task), task["mass_kg"]
    brake_unit = task["pedal_unit"][:, 1]
    yaw_rate, speed = 5.0 * obs[:, 1], 5.0 * obs[:, 2]
    curvature = obs[:, 7 : 7 + course.NUM_LOOK_AHEADS]
    dead_time = vehicle["steer_delay"] + SERVO_LAG_S
    heading_error = 0.5 * obs[:, 6] + dead_time * (yaw_rate - curvature[:, 0] * speed)
    beside = obs[:, 5] * task["width"] / 2
    if line_m is not None:
        beside = beside - line_m
    lateral = beside + dead_time * speed * heading_error
    pursuit = pursuit_curvature(curvature, lateral, heading_error, speed, dead_time)
    slip = slip_difference(vehicle, task["load"])
    # What the wheels are told now they do where the road will be when they answer.
    answered = (dead_time * speed / course.AHEAD_M).clamp(0.0, 1.0)
    turn = torch.lerp(curvature[:, 0], curvature[:, 1], answered)
    lateral_acceleration = grip_share * car.GRAVITY * (task["grip"].unsqueeze(1) if grip is None else grip)
    whole = mass + towed_kg
    strongest_brake = (brake_unit * speed.clamp(min=1.0) / whole).unsqueeze(1)
    braking = braking_share * torch.minimum(lateral_acceleration * (mass / whole).unsqueeze(1), strongest_brake)
    target = target_speed(curvature, speed, lateral_acceleration, braking, vehicle["motor_lag"])
    # A car whose rear slips more than its front turns in by itself above the speed where 2 l / v = -slip.
    target = target.minimum(STABLE_SHARE * 2 * car.AXLE_M / (-slip).clamp(min=0.01))
    force = 4.0 * whole * (target - speed) + drag * speed
    action = [steering(pursuit, slip * speed * turn, vehicle["steer_offset"]), pedal(task, force, speed)]
    return torch.stack(action, 1).clamp(-1.0, 1.0)


def pursuit_curvature(
    curvature: Tensor, lateral: Tensor, heading_error: Tensor, speed: Tensor, dead_time: Tensor
) -> Tensor:
    """Curvature 2 y / d^2 of the arc through the point a look-ahead distance d in front, (N,)."""
    mean = (curvature[:, 1:] + curvature[:, :-1]) / 2
    turned = torch.cat([torch.zeros_like(lateral).unsqueeze(1), mean.cumsum(1) * course.AHEAD_M], 1)  # (N, 8)
    middle = (turned[:, 1:] + turned[:, :-1]) / 2
    zero = torch.zeros_like(turned[:, :1])
    x = torch.cat([zero, middle.cos().cumsum(1) * course.AHEAD_M], 1)
    y = torch.cat([zero, middle.sin().cumsum(1) * course.AHEAD_M], 1) - lateral.unsqueeze(1)
    cosine, sine = heading_error.cos().unsqueeze(1), heading_error.sin().unsqueeze(1)
    x, y = cosine * x + sine * y, cosine * y - sine * x  # in the car's frame
    # Between two points of the road, linearly; the dead time moves the point ahead.
    distance = (0.5 + (0.15 + dead_time) * speed).clamp(0.7, 3.0)
    at = distance / course.AHEAD_M
    weight = (1.0 - (at.unsqueeze(1) - torch.arange(course.NUM_LOOK_AHEADS, device=at.device)).abs()).clamp(min=0.0)
    point_x, point_y = (weight * x).sum(1), (weight * y).sum(1)
    return 2.0 * point_y / (point_x.square() + point_y.square()).clamp(min=0.1)


def slip_difference(vehicle: Arrays, load: Tensor) -> Tensor:
    """Sideways speed of the front less that of the rear axle, m/s, per lateral acceleration, m/s^2, (N,)."""
    front = load[:, car.TYRE_FRONT, 1] / vehicle["tyre_stiffness_front"]
    rear = load[:, car.TYRE_REAR, 1] / vehicle["tyre_stiffness_rear"]
    return (front - rear) / (car.GRAVITY * car.TYRE_N_PER_M_S)


def steering(pursuit: Tensor, slip_angle: Tensor, steer_offset: Tensor) -> Tensor:
    """Servo command for a curvature, 1/m: the kinematic angle plus the difference of the axles' slip, rad, (N,)."""
    return ((2 * car.AXLE_M * pursuit).atan() + slip_angle - steer_offset) / car.MAX_STEER_RAD


def pedal(task: Arrays, force: Tensor, speed: Tensor) -> Tensor:
    """The drive for a force forwards, or the brake for one backwards, N, (N,)."""
    drive_unit, brake_unit = task["pedal_unit"].unbind(1)
    return torch.where(force > 0, force / drive_unit, force / (brake_unit * speed.clamp(min=0.5)))


def target_speed(
    curvature: Tensor, speed: Tensor, lateral_acceleration: Tensor, braking: Tensor, motor_lag: Tensor
) -> Tensor:
    """Largest speed from which every corner ahead can still be reached at its own speed: v^2 = v_c^2 + 2 sum(a ds)."""
    corner = lateral_acceleration / curvature.abs().clamp(min=0.05)  # (N, 8) speed squared
    ahead = torch.arange(course.NUM_LOOK_AHEADS, device=speed.device) * course.AHEAD_M
    distance = (ahead - (motor_lag * speed).unsqueeze(1)).clamp(min=0.0)
    lost = torch.diff(distance, dim=1) * braking.expand_as(corner)[:, :-1]  # between neighbours
    lost = torch.cat([torch.zeros_like(lost[:, :1]), lost.cumsum(1)], 1)
    return (corner + 2.0 * lost).amin(1).sqrt()
