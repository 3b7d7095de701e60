"""The scripted driver of `traffic`: pure pursuit in a lane, distance keeping, and overtaking where there is room.

It is told the task, as the driver of `track` is, and sees the others as any policy does. In each lane it asks how
fast the car in front lets it drive; it changes to the faster one if nobody is beside it or comes up from behind.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs.driving import car, course, driver
from metarl.types import Arrays

NUM_SEEN = 6
"""Other cars that are observed."""
SIGHT_M = 5.0
"""How far along the street others are seen."""
SPEED_SCALE = 2.0
"""Relative speed, m/s, that is observed as 1."""

GRIP_SHARE = 0.8
BODY_M = 0.58
"""Length of a car."""
BESIDE_M = 0.4
"""Lateral distance of middles at which two cars pass each other with room to spare."""
STANDSTILL_M = 0.35
"""Distance that is kept at no speed."""
WORTH_M_S = 0.35
"""Gain of speed that a change of lane must promise."""
RESERVED_M_S = 0.8
"""Gain of speed that the reserved lane must promise beyond that."""
AT_LEAST_M = 0.35
"""Room before and behind, bumper to bumper, that a change of lane needs."""
BACKWARDS = 7
"""Points of the centreline behind the car, where it is taken for an arc."""


class Others(NamedTuple):
    """The other cars in coordinates of the street, each (N, NUM_SEEN).

    Attributes:
        way: along the centreline from the driven car, negative behind it, m; far away where there is none.
        lateral: to the left of the centreline, m.
        speed: along the street, m/s.
    """

    way: Tensor
    lateral: Tensor
    speed: Tensor


def drive(task: Arrays, obs: Tensor) -> Tensor:
    """Choose the action from what is observed and the parameters of the task, (N, 2) in [-1, 1]."""
    yaw_rate, speed, width = 5.0 * obs[:, 1], 5.0 * obs[:, 2], task["width"]
    curvature = obs[:, 7 : 7 + course.NUM_LOOK_AHEADS]
    dead_time = task["steer_delay"] + driver.SERVO_LAG_S
    lateral = obs[:, 5] * width / 2
    others = _others(obs, curvature, lateral)
    mass = task["mass_kg"]
    lateral_acceleration = (GRIP_SHARE * task["grip"] * car.GRAVITY).unsqueeze(1)
    strongest_brake = (task["pedal_unit"][:, 1] * speed.clamp(min=1.0) / mass).unsqueeze(1)
    braking = driver.BRAKING_SHARE * torch.minimum(lateral_acceleration, strongest_brake)
    corner_speed = driver.target_speed(curvature, speed, lateral_acceleration, braking, task["motor_lag"])
    wish = torch.minimum(corner_speed, task["speed_limit"])
    target = _lane(others, lateral, speed, wish, width, task["reserved_lane"])

    heading_error = 0.5 * obs[:, 6] + dead_time * (yaw_rate - curvature[:, 0] * speed)
    beside = (lateral - target).clamp(-0.35, 0.35)  # across gently
    predicted = beside + dead_time * speed * heading_error
    pursuit = driver.pursuit_curvature(curvature, predicted, heading_error, speed, dead_time)
    allowed = torch.minimum(wish, _distance_keeping(others, lateral, target, speed, task))
    force = 4.0 * mass * (allowed - speed) + car.DRAG_N_PER_M_S * speed
    slip_angle = driver.slip_difference(task, task["load"]) * speed * pursuit
    steering = driver.steering(pursuit, slip_angle, task["steer_offset"])
    return torch.stack([steering, driver.pedal(task, force, speed)], 1).clamp(-1.0, 1.0)


def _others(obs: Tensor, curvature: Tensor, lateral: Tensor) -> Others:
    """Find the others along the centreline that is seen, by its nearest point."""
    heading_error, speed = 0.5 * obs[:, 6:7], 5.0 * obs[:, 2:3]
    closeness, x, y, vx, vy = obs[:, course.OBS_DIM :].reshape(-1, NUM_SEEN, 5).unbind(2)
    x, y, vx, vy = SIGHT_M * x, SIGHT_M * y, SPEED_SCALE * vx + speed, SPEED_SCALE * vy
    cosine, sine = heading_error.cos(), heading_error.sin()
    x, y = cosine * x - sine * y, sine * x + cosine * y + lateral.unsqueeze(1)  # from the foot on the centreline
    vx, vy = cosine * vx - sine * vy, sine * vx + cosine * vy

    step = course.AHEAD_M
    mean = (curvature[:, 1:] + curvature[:, :-1]) / 2
    ahead = torch.nn.functional.pad(mean.cumsum(1) * step, (1, 0))  # heading at the points, (N, 8)
    back = -step * torch.arange(BACKWARDS, 0, -1, device=obs.device) * curvature[:, :1]
    heading = torch.cat([back, ahead], 1)  # (N, K)
    middle = (heading[:, 1:] + heading[:, :-1]) / 2
    px = torch.nn.functional.pad((middle.cos() * step).cumsum(1), (1, 0))
    py = torch.nn.functional.pad((middle.sin() * step).cumsum(1), (1, 0))
    px, py = px - px[:, BACKWARDS : BACKWARDS + 1], py - py[:, BACKWARDS : BACKWARDS + 1]
    dx, dy = x.unsqueeze(2) - px.unsqueeze(1), y.unsqueeze(2) - py.unsqueeze(1)  # (N, NUM_SEEN, K)
    nearest = (dx.square() + dy.square()).argmin(2)
    dx, dy = (d.gather(2, nearest.unsqueeze(2))[..., 0] for d in (dx, dy))
    along = heading.gather(1, nearest)
    cosine, sine = along.cos(), along.sin()
    way = (nearest - BACKWARDS) * step + cosine * dx + sine * dy
    return Others(way.masked_fill(closeness <= 0, 1e3), cosine * dy - sine * dx, cosine * vx + sine * vy)


def _lane(others: Others, lateral: Tensor, speed: Tensor, wish: Tensor, width: Tensor, reserved: Tensor) -> Tensor:
    """Middle of the lane to drive in, m to the left of the centreline, (N,)."""
    lanes = torch.stack([-width / 4, width / 4], 1)  # (N, 2)
    is_there = (others.lateral.unsqueeze(1) - lanes.unsqueeze(2)).abs() < BESIDE_M  # (N, 2, NUM_SEEN)
    way, other_speed, own = others.way.unsqueeze(1), others.speed.unsqueeze(1), speed.reshape(-1, 1, 1)
    gap = way.abs() - BODY_M
    is_ahead = way > 0
    # As fast as the car in front, and what is left of the gap to it within two seconds.
    offered = torch.where(is_there & is_ahead & (way < 2 * SIGHT_M), other_speed + (gap - 0.6).clamp(min=0.0) / 2, 1e3)
    value = torch.minimum(offered.amin(2), wish.unsqueeze(1))
    value = value - RESERVED_M_S * (lanes * reserved.unsqueeze(1) > 0)
    closing = torch.where(is_ahead, own - other_speed, other_speed - own).clamp(min=0.0)
    is_blocked = (is_there & (gap < AT_LEAST_M + 0.9 * closing)).any(2)  # (N, 2)
    here = (lateral > 0).to(torch.int64).unsqueeze(1)
    there = 1 - here
    gain = value.gather(1, there) - value.gather(1, here)
    changes = (gain > WORTH_M_S) & ~is_blocked.gather(1, there)
    return lanes.gather(1, torch.where(changes, there, here))[:, 0]


def _distance_keeping(others: Others, lateral: Tensor, target: Tensor, speed: Tensor, task: Arrays) -> Tensor:
    """Largest speed from which the car can still slow down to that of every car in its way, (N,)."""
    low, high = torch.minimum(lateral, target).unsqueeze(1), torch.maximum(lateral, target).unsqueeze(1)
    is_in_way = (others.lateral > low - BESIDE_M) & (others.lateral < high + BESIDE_M)
    is_in_way &= (others.way > 0) & (others.way < 2 * SIGHT_M)
    brake = car.BRAKE_N_PER_M_S * others.speed.clamp(min=1.0) / (task["mass"] * car.MASS_KG).unsqueeze(1)
    deceleration = 0.35 * torch.minimum(brake, (task["grip"] * car.GRAVITY).unsqueeze(1))
    reaction = (task["motor_lag"] + 0.15).unsqueeze(1) * (speed.unsqueeze(1) - others.speed).clamp(min=0.0)
    room = others.way - BODY_M - STANDSTILL_M - reaction
    other = others.speed.clamp(min=0.0)
    allowed = (other.square() + 2.0 * deceleration * room.clamp(min=0.0)).sqrt() + 2.0 * room.clamp(max=0.0)
    return allowed.masked_fill(~is_in_way, 1e3).amin(1).clamp(min=0.0)
