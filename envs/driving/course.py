"""A car's way along a road: start, place, observation, reward, end, signals and metrics of the driving environments.

Observations (N, 16), independent of where the road lies, clipped to [-5, 5]
    0      steering servo angle          / 0.42 rad
    1      yaw rate                      / 5 rad/s
    2      velocity forwards             / 5 m/s, at the middle of the chassis
    3, 4   previous action (zeros at the start)
    5      lateral error, left positive  / half the road's width
    6      heading error, left positive  / 0.5 rad
    7..14  curvature of the centreline at 0, .66, 1.31, ... 4.59 m ahead, 1/m
    15     width of the road, m
They are what a car measures: servo, gyroscope, wheels, and its place on the road; not its lateral velocity.

Reward, per control step of 40 ms
    ds / 0.2 m - 0.05 * (jerk + slip),  jerk = mean((action - previous action)^2) / 4 in [0, 1],
    slip = min(1, (lateral velocity of the rear axle / 1 m/s)^2);
    1 is progress along the centreline at 5 m/s. The step that leaves the road earns -1 instead.
End: terminated when the middle of the car leaves the road (|lateral error| > width / 2) or the heading error
    exceeds 90 degrees. From then on the car brakes.
Start: on the start line, rolling at 3 m/s, up to 0.1 m and 0.05 rad off the centreline.
Signals
    edge_distance    to the nearer edge of the road, / half its width; negative beside it
    heading_error    rad, left positive
    progress_speed   along the centreline / 5 m/s
    slip             lateral velocity of the rear axle / 1 m/s
    steering         servo angle / 0.42 rad
Metrics, of the time until the end or until the car leaves the road
    progress_m       along the centreline
    lap_time_s       of the first lap (`track`: of the stage); NaN where it was not completed
    off_track        1 where the car left the road, else 0
    slip_angle_rad   mean of |beta|, the angle between the middle's velocity (forwards at least 1 m/s) and the chassis
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from envs.driving import car, roads
from metarl.env import Noise, Start
from metarl.tasks import Choice, Parameter, Uniform
from metarl.types import Arrays

REFERENCE_SPEED = 5.0
"""Speed, m/s, at which progress earns 1 per step."""
NUM_LOOK_AHEADS = 8
LOOK_AHEAD_STRIDE = 11
"""Points of the centreline table from one look-ahead to the next."""
AHEAD_M = roads.SPACING_M * LOOK_AHEAD_STRIDE
OBS_DIM = 8 + NUM_LOOK_AHEADS
START_SPEED = 3.0
SMOOTHNESS_COST = 0.05
"""What the largest jerk costs in a step, and the largest slip."""
RESET_NOISE = (2, 0)

DATA_FIELDS = ("qpos", "sensordata")
SIGNAL_NAMES = ("edge_distance", "heading_error", "progress_speed", "slip", "steering")
METRIC_NAMES = ("progress_m", "lap_time_s", "off_track", "slip_angle_rad")

DIRECTION = Parameter("direction", "1", Choice((-1.0, 1.0)), "1 counter-clockwise, -1 clockwise")
SHAPE = Parameter("shape", "1", Uniform(-1.0, 1.0), "Fourier coefficients of the road", (roads.SHAPE_SIZE,))
ROAD = (
    Parameter("max_curvature", "1/m", Uniform(0.5, 0.9, None, ((0.9, 1.1),)), "of the sharpest corner"),
    Parameter("width", "m", Uniform(1.3, 1.7, None, ((1.1, 1.3),)), "of the road"),
    DIRECTION,
    SHAPE,
)


class Advance(NamedTuple):
    """A control step along the road.

    Attributes:
        state: what the next step needs, with the names of `reset`.
        reward: (N,) of the module's docstring, also for the step that leaves the road.
        leaves: (N,) bool, the car is off the road now.
    """

    state: dict[str, Tensor]
    reward: Tensor
    leaves: Tensor


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: the centreline, the largest errors on the road, scales of the observation.

    Args:
        task: the parameters of `ROAD`.
    """
    half_width = task["width"] / 2
    units = [car.MAX_STEER_RAD, 5.0, 5.0, 1.0, 1.0, 1.0, 0.5] + [1.0] * (NUM_LOOK_AHEADS + 1)
    obs_scale = half_width.new_tensor(units).reciprocal().repeat(len(half_width), 1)
    obs_scale[:, 5] = 1.0 / half_width
    return {
        "road": roads.centreline(task["shape"], task["max_curvature"], task["direction"]),
        "pose_limit": torch.stack([half_width, torch.full_like(half_width, math.pi / 2)], 1),
        "obs_scale": obs_scale,
    }


def reset(task: Arrays, noise: Noise) -> Start:
    """Put the car on the start line."""
    start = task["road"][:, 0]  # (N, 4)
    lateral, heading_error = (0.2 * noise.uniform[:, 0] - 0.1), (0.1 * noise.uniform[:, 1] - 0.05)
    yaw = start[:, 2] + heading_error
    x, y = start[:, 0] - lateral * start[:, 2].sin(), start[:, 1] + lateral * start[:, 2].cos()
    zero = torch.zeros_like(x)
    state = {
        "distance": zero,
        "advance": zero + START_SPEED * car.CONTROL_DT_S,
        "pose": torch.stack([lateral, heading_error], 1),
        "prev_action": torch.zeros_like(start[:, :2]),
        "off_road": torch.zeros_like(x, dtype=torch.bool),
        "speed": zero + START_SPEED,
        "acceleration": zero,
        "record": torch.zeros_like(start),
    }
    velocity = START_SPEED * torch.stack([yaw.cos(), yaw.sin(), zero, zero], 1)
    return Start(state, {"qpos": torch.stack([x, y, yaw, zero], 1), "qvel": velocity})


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The observation table of the module's docstring, (N, OBS_DIM)."""
    curvature = roads.look_ahead(task["road"], state["distance"], NUM_LOOK_AHEADS, LOOK_AHEAD_STRIDE)
    width = task["width"].unsqueeze(1)
    raw = torch.cat([data["sensordata"][:, :3], state["prev_action"], state["pose"], curvature, width], 1)
    return (raw * task["obs_scale"]).clamp(-5.0, 5.0)


def advance(task: Arrays, data: Arrays, state: Arrays, action: Tensor, lap_m: float = roads.LENGTH_M) -> Advance:
    """Follow the car along the road.

    Args:
        task: with the tables of `derive`.
        data: "qpos" (N, >= 3) x, y, yaw, and "sensordata" in the order of `car`.
        state: of the step before, with the names of `reset`.
        action: (N, 2) of this step.
        lap_m: the way whose time is the lap time.
    """
    qpos, sensors = data["qpos"], data["sensordata"]
    # The foot is expected to go on as it did: progress changes by millimetres from one step to the next.
    foot = roads.locate(task["road"], qpos[:, :2], state["distance"] + state["advance"])
    progress = foot.distance - state["distance"]
    heading_error = torch.remainder(qpos[:, 2] - foot.heading + math.pi, 2 * math.pi) - math.pi
    pose = torch.stack([foot.lateral, heading_error], 1)
    leaves = (pose.abs() > task["pose_limit"]).any(1)
    speed, sideways = sensors[:, car.SPEED], sensors[:, car.LATERAL_SPEED]
    jerk = (action - state["prev_action"]).square().sum(1)
    slip = torch.add(sideways, sensors[:, car.YAW_RATE], alpha=-car.AXLE_M).square().clamp(max=1.0)
    # ds / (v_ref dt) - 0.05 (jerk / 8 + slip)
    reward = torch.sub(
        progress / (REFERENCE_SPEED * car.CONTROL_DT_S), torch.add(slip, jerk, alpha=1 / 8), alpha=SMOOTHNESS_COST
    )
    slip_angle = torch.atan2(sideways, speed.clamp(min=1.0)).abs()
    is_on_lap = foot.distance < lap_m
    counted = torch.stack([progress, torch.ones_like(progress), is_on_lap, slip_angle], 1)
    after = {
        "distance": foot.distance,
        "advance": progress,
        "pose": pose,
        "prev_action": action,
        "off_road": state["off_road"] | leaves,
        "speed": speed.clone(),
        "acceleration": car.acceleration(state["speed"], sensors),
        # Nothing counts any more once the car has left the road.
        "record": state["record"] + counted.masked_fill(state["off_road"].unsqueeze(1), 0.0),
    }
    return Advance(after, reward, leaves)


def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The signal table of the module's docstring, (N, 5)."""
    lateral, heading_error = state["pose"].unbind(1)
    sensors = data["sensordata"]
    columns = [
        1.0 - lateral.abs() / (task["width"] / 2),
        heading_error,
        state["advance"] / (REFERENCE_SPEED * car.CONTROL_DT_S),
        sensors[:, car.LATERAL_SPEED] - car.AXLE_M * sensors[:, car.YAW_RATE],
        sensors[:, car.STEER_ANGLE] / car.MAX_STEER_RAD,
    ]
    return torch.stack(columns, 1)


def metrics(state: Arrays, lap_m: float = roads.LENGTH_M) -> Tensor:
    """The metrics of the module's docstring, (N, 4); `lap_m` as in `advance`."""
    progress, _, lap_steps, slip_angle = state["record"].unbind(1)
    # The step in which the lap ends is part of it.
    lap_time = torch.where(progress >= lap_m, (lap_steps + 1.0) * car.CONTROL_DT_S, math.nan)
    off_track = state["off_road"].to(progress.dtype)
    return torch.stack([progress, lap_time, off_track, slip_angle / num_steps(state)], 1)


def num_steps(state: Arrays) -> Tensor:
    """Steps until the end or until the car left the road, at least 1, (N,)."""
    return state["record"][:, 1].clamp(min=1.0)
