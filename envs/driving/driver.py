"""A pure-pursuit driver that is told the task: the expert of the driving environments.

Source: R. C. Coulter, Implementation of the pure pursuit path tracking algorithm, CMU-RI-TR-92-01, 1992: steer
along the arc through the car and a point of the road ahead. Added: the state is predicted over the dead time
of the steering, the tyres' slip and the steering offset are compensated, and the speed is limited by
grip in the corners ahead and by the braking distance to them.
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
SERVO_LAG_S = 0.09
"""Time that the steering servo itself takes."""


def drive(
    task: Arrays,
    obs: Tensor,
    *,
    grip: Tensor | None = None,
    line_m: Tensor | None = None,
    drag: Tensor | None = None,
    grip_share: float = GRIP_SHARE,
) -> Tensor:
    """Choose the action for what is observed and what is known of the vehicle.

    Args:
        task: "grip", "width" and any of `car.NOMINAL`, each (N,).
        obs: (N, >= OBS_DIM), as `course` observes.
        grip: at the look-ahead points, (N, NUM_LOOK_AHEADS); None: "grip" everywhere.
        line_m: (N,) where to drive, to the left of the centreline; None: on it.
        drag: (N,) force per speed that holds the car back, N/(m/s); None: that of the car alone.
        grip_share: share of the grip that is planned with, 0 to 1.

    Returns:
        (N, 2) float32 actions in [-1, 1].
    """
    vehicle = car.vehicle_of(task)
    mass = vehicle["mass"] * car.MASS_KG
    yaw_rate, speed = 5.0 * obs[:, 1], 5.0 * obs[:, 2]
    curvature = obs[:, 7 : 7 + course.NUM_LOOK_AHEADS]
    dead_time = vehicle["steer_delay"] + SERVO_LAG_S
    heading_error = 0.5 * obs[:, 6] + dead_time * (yaw_rate - curvature[:, 0] * speed)
    beside = obs[:, 5] * task["width"] / 2
    if line_m is not None:
        beside = beside - line_m
    lateral = beside + dead_time * speed * heading_error
    pursuit = pursuit_curvature(curvature, lateral, heading_error, speed, dead_time)
    grip = task["grip"].unsqueeze(1) if grip is None else grip
    target = target_speed(curvature, speed, grip_share * car.GRAVITY * grip, vehicle["motor_lag"], mass)
    force = 4.0 * mass * (target - speed) + (car.DRAG_N_PER_M_S if drag is None else drag) * speed
    action = [steering(pursuit, speed, vehicle, mass), pedal(force, speed, vehicle["power"])]
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


def steering(pursuit: Tensor, speed: Tensor, vehicle: Arrays, mass: Tensor) -> Tensor:
    """Servo command for a curvature: the kinematic angle plus the difference of the axles' slip."""
    share = 0.5 + vehicle["com_shift"] / (2 * car.AXLE_M)
    force = mass * speed.square() * pursuit
    slip_front = force * share / (car.TYRE_N_PER_M_S * vehicle["tyre_stiffness_front"])  # m/s
    slip_rear = force * (1 - share) / (car.TYRE_N_PER_M_S * vehicle["tyre_stiffness_rear"])
    angle = (2 * car.AXLE_M * pursuit).atan() + (slip_front - slip_rear) / speed.clamp(min=1.0)
    return (angle - vehicle["steer_offset"]) / car.MAX_STEER_RAD


def target_speed(
    curvature: Tensor, speed: Tensor, lateral_acceleration: Tensor, motor_lag: Tensor, mass: Tensor
) -> Tensor:
    """Largest speed from which every corner ahead can still be reached at its own speed: v^2 = v_c^2 + 2 sum(a ds)."""
    corner = lateral_acceleration / curvature.abs().clamp(min=0.05)  # (N, 8) speed squared
    strongest_brake = car.BRAKE_N_PER_M_S * speed.clamp(min=1.0) / mass
    braking = BRAKING_SHARE * torch.minimum(lateral_acceleration, strongest_brake.unsqueeze(1))  # (N, 8 or 1)
    ahead = torch.arange(course.NUM_LOOK_AHEADS, device=speed.device) * course.AHEAD_M
    distance = (ahead - (motor_lag * speed).unsqueeze(1)).clamp(min=0.0)
    lost = torch.diff(distance, dim=1) * (braking.expand_as(corner)[:, :-1])  # between neighbours
    lost = torch.cat([torch.zeros_like(lost[:, :1]), lost.cumsum(1)], 1)
    return (corner + 2.0 * lost).amin(1).sqrt()


def pedal(force: Tensor, speed: Tensor, power: Tensor) -> Tensor:
    """The drive for a force forwards, or the brake for one backwards, (N,)."""
    brake = force / (car.BRAKE_N_PER_M_S * speed.clamp(min=0.5))
    return torch.where(force > 0, force / (power * car.PEAK_FORCE_N), brake)
