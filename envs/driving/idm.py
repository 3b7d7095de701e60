"""The intelligent driver model: cars that follow each other along a closed road, and give way to one that is driven.

    dv/dt = a [1 - (v / v0)^4 - (s* / s)^2],   s* = s0 + max(0, v T + v dv / (2 sqrt(a b)))

with the speed v, the gap s to the car in front (bumper to bumper), the closing speed dv, and of each driver the
acceleration a, the comfortable deceleration b, the desired speed v0, the time headway T and the least gap s0.

Cars keep to their lane, so that their order in it never changes: who follows whom is a table that is made once
per episode (`leaders`). Places are arc lengths along the centreline, laps added up.

Source: M. Treiber, A. Hennecke, D. Helbing, Congested traffic states in empirical observations and microscopic
simulations, Physical Review E 62, 2000, equations 3 and 4. Deviations: braking ends at `HARDEST_BRAKING`, which a
car that cuts in could exceed; nobody reverses; of two cars in front the more restrictive one counts; the
update is ballistic (M. Treiber, V. Kanagaraj, Comparing numerical integration schemes for time-continuous
car-following models, Physica A 419, 2015): v over the step is the mean of before and after.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

HARDEST_BRAKING = 6.0
"""Largest deceleration, m/s^2."""
SMALLEST_GAP_M = 0.02
"""Gaps are taken for no smaller, so that a bumper that touches another does not divide by zero."""


class Drivers(NamedTuple):
    """How the drivers of each world drive; (N, 1) where all cars of a world are alike, else (N, C).

    Attributes:
        acceleration: a, m/s^2.
        desired_speed: v0, m/s.
        headway: T, s.
        least_gap: s0, m.
        approach: 1 / (2 sqrt(a b)), s^2/m.
    """

    acceleration: Tensor
    desired_speed: Tensor
    headway: Tensor
    least_gap: Tensor
    approach: Tensor


def drivers(
    acceleration: Tensor,
    deceleration: Tensor,
    desired_speed: Tensor,
    headway: Tensor,
    least_gap: Tensor,
    aggressiveness: Tensor,
) -> Drivers:
    """Drivers by the parameters of the model, each (N,) or all (N, C).

    Args:
        acceleration: a, m/s^2, of an average driver.
        deceleration: b, m/s^2.
        desired_speed: v0, m/s, of an average driver.
        headway: T, s, of an average driver.
        least_gap: s0, m.
        aggressiveness: g, 1 is average: accelerates g times as hard, wants to drive sqrt(g) times as
            fast and keeps 1 / g of the headway.
    """
    hard = acceleration * aggressiveness
    fast = desired_speed * aggressiveness.sqrt()
    columns = (hard, fast, headway / aggressiveness, least_gap, 0.5 / (hard * deceleration).sqrt())
    return Drivers(*(value.unsqueeze(1) if value.dim() == 1 else value for value in columns))


def leaders(place: Tensor, lane: Tensor, is_present: Tensor, road_m: float) -> Tensor:
    """Who drives in front of whom.

    Args:
        place: (N, C) arc length, m.
        lane: (N, C) lanes; cars of the same number share one.
        is_present: (N, C) bool; an absent car leads nobody and follows a car of its lane, if there is one.
        road_m: length of the road.

    Returns:
        (N, C) int64, the next car in the same lane; the car itself where it is alone.
    """
    ahead = torch.remainder(place.unsqueeze(1) - place.unsqueeze(2), road_m)  # (N, C, C), of column before row
    is_other = (lane.unsqueeze(1) == lane.unsqueeze(2)) & is_present.unsqueeze(1)
    own = torch.eye(place.shape[1], dtype=torch.bool, device=place.device)
    return ahead.masked_fill(~is_other, 2 * road_m).masked_fill(own, 1.5 * road_m).argmin(2)


def urge(speed: Tensor, gap: Tensor, closing: Tensor, drivers: Drivers) -> Tensor:
    """s* / s, how much a car in front is in the way; 1 with no desired speed in reach is where a car keeps its speed.

    Args:
        speed: v, m/s.
        gap: s, m, bumper to bumper.
        closing: dv, own speed less that of the car in front, m/s.
        drivers: of each car.
    """
    wanted = (torch.addcmul(drivers.headway, closing, drivers.approach) * speed).clamp(min=0.0) + drivers.least_gap
    return wanted / gap.clamp(min=SMALLEST_GAP_M)


def acceleration(speed: Tensor, urge: Tensor, drivers: Drivers) -> Tensor:
    """a [1 - (v / v0)^4 - (s* / s)^2], at most braking with `HARDEST_BRAKING`."""
    fourth = (speed / drivers.desired_speed).square().square()
    wish = torch.addcmul(1.0 - fourth, urge, urge, value=-1.0)
    return (drivers.acceleration * wish).clamp(min=-HARDEST_BRAKING)


def advance(
    place: Tensor,
    speed: Tensor,
    leader: Tensor,
    ego_place: Tensor,
    ego_speed: Tensor,
    ego_in_lane: Tensor,
    drivers: Drivers,
    length_m: float,
    road_m: float,
    dt_s: float,
) -> tuple[Tensor, Tensor]:
    """Move all cars by a step.

    Args:
        place: (N, C) arc length, m.
        speed: (N, C) m/s.
        leader: (N, C) int64, see `leaders`.
        ego_place: (N,) arc length of the car that is driven, m.
        ego_speed: (N,) its speed along the road, m/s.
        ego_in_lane: (N, C) 1 where that car is in this car's lane, else 0.
        drivers: of each car.
        length_m: of a car, the one that is driven included.
        road_m: length of the road.
        dt_s: length of the step.

    Returns:
        Places and speeds after it, each (N, C).
    """

    def behind(other_place: Tensor, other_speed: Tensor) -> Tensor:
        # Counted backwards, so that a car alone in its lane has the whole road before it.
        gap = (road_m - length_m) - torch.remainder(place - other_place, road_m)
        return urge(speed, gap, speed - other_speed, drivers)

    by_leader = behind(place.gather(1, leader), speed.gather(1, leader))
    by_ego = behind(ego_place.unsqueeze(1), ego_speed.unsqueeze(1)) * ego_in_lane
    change = acceleration(speed, torch.maximum(by_leader, by_ego), drivers)
    after = torch.add(speed, change, alpha=dt_s).clamp(min=0.0)
    return torch.add(place, speed + after, alpha=dt_s / 2), after
