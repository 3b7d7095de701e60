"""`traffic`: the car of `track` among others on a closed street of two lanes, whose rules no sign tells.

The others keep to their lane and follow each other by the intelligent driver model (idm.py), also the driven car
where it is in front of them. How many they are, how fast they want to drive, how much they keep clear and how hard
they accelerate is hidden, and so are the vehicle, its grip and the wind; street and cars are seen as far as a car sees.
One lane is reserved, and there is a speed limit. Only the fine tells, at once; the others drive as they like.

Task parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`)
    name            unit  train       hole        shell             what it changes
    num_cars        1     6, 7, 8, 9              10                other cars on the street
    headway         s     .8 .. 2     1.2 .. 1.6  .5-.8             time headway T that drivers keep
    desired_speed   m/s   1.2 .. 2.2              .9-1.2, 2.2-2.6   speed v0 that drivers want
    aggressiveness  1     .7 .. 1.4               1.4-1.7           g: a = g m/s^2, v0 times sqrt(g), T divided by g
    speed_limit     m/s   1.2 .. 2.4  1.6 .. 2.0  1.0-1.2, 2.4-2.6  what may be driven without a fine
    reserved_lane   1     -1 or 1                                   where the way is fined: left (1) or right
    grip            1     .4 .. 1.1   .68 .. .82  .15-.4, 1.1-1.5   as in `track`
    tyre_stiffness_front, tyre_stiffness_rear, mass, yaw_inertia, com_shift, steer_delay, steer_offset, motor_lag,
    power, wind_speed, wind_direction             as in `track`, here without a hole
    max_curvature   1/m   .3 .. .6                .6-.75            the sharpest corner
    width           m     1.5 .. 1.8              1.35-1.5          of the street, two lanes
    direction       1     -1 or 1                                   counter-clockwise (1) or not
    shape           1     8 x (-1 .. 1)                             Fourier coefficients, see roads.py
Headway, speed limit and grip are the key parameters, the ones with a hole. Shifts, splits that extrapolate in some
parameters only: `drivers`, the first four; `rules`, the speed limit; `vehicle`, grip to wind speed. The street is less
winding than a track, so that a gap along the centreline is one along a lane within a quarter; comfortable deceleration
b = 1.5 m/s^2, least gap 0.3 m.
Drivers differ: each wants 0.92 to 1.08 of v0, and 1.15 times as much in the left lane, 0.9 times in the right one.

Actions (N, 2) in [-1, 1]: steering and pedal, as in `track`.

Observations (N, 46), independent of where the street lies, clipped to [-5, 5]
    0..15   as `track` observes the car, the centreline and the width
    16..45  the 6 nearest cars along the street, nearest first, 5 numbers each, zeros beyond 5 m of way
            closeness 1 - |way along the centreline to the car| / 5 m
            position in the car's frame, forwards and to the left  / 5 m
            velocity against the car's, in its frame               / 2 m/s

Reward, per control step of 40 ms
    (ds - 3 too_far - 0.6 reserved) / 0.2 m - 0.05 * (jerk + slip), the last as in `track`, with
    too_far = max(0, velocity forwards - limit) * 40 ms, and reserved the share of ds in the reserved lane, which goes
    from 0 to 1 between 0.2 m on one side of the centreline and 0.2 m on the other.
    The step of a collision or off the street earns -1 instead.
End: terminated by a collision (outlines overlap), when the middle of the car leaves the street, or at a heading error
    beyond 90 degrees. From then on the car brakes.
Success: 15 m, half a lap, within the episode, without any of these, and fines of at most a fifth of the way.
Start: in the right lane, rolling at 1.2 m/s, which is allowed everywhere, up to 0.1 m and 0.05 rad off its middle;
    others at 1.3 to 1.7 m/s, whatever they want, and those that may be missing out of sight, so that nothing hidden
    shows at first.
Metrics
    progress_m         way along the centreline until the end
    collisions_per_km  1 or 0, per way of at least 1 m
    collided, off_track  1 or 0
    speeding_m, reserved_m  sums of too_far and reserved until the end
    driving_score      min(1, progress / 15 m) * 0.6^collided * 0.65^off_track, as CARLA's leaderboard has it
Horizon: 400 steps (16 s), an option of `make_spec`.

Source: rewards and ends of MetaDrive (Li et al., 2022) and highway-env; score of the CARLA leaderboard, which drives on
after a collision, whereas here it is the end. The outlines are two circles each, as long and wide as the cars.
"""

from __future__ import annotations

import math
from dataclasses import replace

import mujoco
import torch
from torch import Tensor

from envs.driving import car, course, idm, roads, street, traffic_driver
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

NUM_CARS = 10
"""Other cars that there is room for, C."""
NUM_SEEN = traffic_driver.NUM_SEEN
SIGHT_M = traffic_driver.SIGHT_M
SPEED_SCALE = traffic_driver.SPEED_SCALE
OBS_DIM = course.OBS_DIM + 5 * NUM_SEEN
CAR_M = 0.58
"""Length of every car."""
CIRCLE_M, CIRCLE_AT_M = 0.17, 0.12
"""An outline: two circles of this radius, so far before and behind the middle."""
IN_LANE_M = 0.38
"""A car that is less far beside the middle of a lane is in the way there."""
START_SPEED = 1.2
ROUTE_M = roads.LENGTH_M / 2
"""Way that is success, and completes the route of the driving score."""
SPEED_FINE, LANE_FINE = 3.0, 0.6
"""Way that is lost per way too much, and per way in the reserved lane."""
LANE_BLUR_M = 0.2
"""So far on either side of the centreline the car is partly in both lanes."""
SPARED = 0.2
"""Share of the way that fines may take of a success."""
ACCELERATION, DECELERATION, LEAST_GAP_M = 1.0, 1.5, 0.3
"""a and b of average drivers, m/s^2; s0."""
ABSENT_M = 100.0
"""How far beside the street the cars are that are not there."""

_SLOTS_M = (3.0, 4.2, 23.8, 25.0, 8.2, 14.6, 18.6, 9.4, 13.4, 19.8)
"""Where the cars start, ahead of the driven one; even ones in the right lane. The first four are always there."""
_VISIBLE = ("max_curvature", "width", "direction", "shape")
_DRIVERS = (
    Parameter("num_cars", "1", Choice((6.0, 7.0, 8.0, 9.0), (10.0,)), "other cars on the street, hidden"),
    Parameter("headway", "s", Uniform(0.8, 2.0, (1.2, 1.6), ((0.5, 0.8),)), "that drivers keep, hidden"),
    Parameter("desired_speed", "m/s", Uniform(1.2, 2.2, None, ((0.9, 1.2), (2.2, 2.6))), "of drivers, hidden"),
    Parameter("aggressiveness", "1", Uniform(0.7, 1.4, None, ((1.4, 1.7),)), "of drivers, hidden"),
)
_DELAY = Parameter("steer_delay", "s", Uniform(0.0, 0.08, None, ((0.08, 0.12),)), "dead time, hidden")
_RULES = (
    Parameter("speed_limit", "m/s", Uniform(1.2, 2.4, (1.6, 2.0), ((1.0, 1.2), (2.4, 2.6))), "without a fine, hidden"),
    Parameter("reserved_lane", "1", Choice((-1.0, 1.0)), "1 the left one, -1 the right one, hidden"),
)
_VEHICLE = tuple(_DELAY if p.name == "steer_delay" else p for p in (car.GRIP, *car.VEHICLE, *car.WIND))
_STREET = (
    Parameter("max_curvature", "1/m", Uniform(0.3, 0.6, None, ((0.6, 0.75),)), "of the sharpest corner"),
    Parameter("width", "m", Uniform(1.5, 1.8, None, ((1.35, 1.5),)), "of the street"),
    *(p for p in course.ROAD if p.name in ("direction", "shape")),
)
PARAMETERS = (*_DRIVERS, *_RULES, *_VEHICLE, *_STREET)
SHIFTS = {
    "drivers": tuple(p.name for p in _DRIVERS),
    "rules": ("speed_limit",),
    "vehicle": tuple(p.name for p in _VEHICLE if p.name != "wind_direction"),
}
SIGNAL_NAMES = ("edge_distance", "heading_error", "progress_speed", "slip", "steering", "closeness")
METRIC_NAMES = ("progress_m", "collisions_per_km", "collided", "off_track", "speeding_m", "reserved_m", "driving_score")


def make_spec(horizon: int = 400) -> EnvSpec:
    """Make the `traffic` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="traffic",
        tasks=TaskDistribution(PARAMETERS, shifts=SHIFTS),
        obs_dim=OBS_DIM,
        action_space=Continuous(2),
        horizon=horizon,
        reset=reset,
        observe=car.sensed(observe),
        step=car.sensed(step),
        control=car.sensed(control),
        derive=derive,
        reset_noise=(2 + 3 * NUM_CARS, 0),
        physics=replace(car.physics(draw), scene_pose=pose_of_others),
        signals=Signals(SIGNAL_NAMES, car.sensed(signals)),
        metrics=Metrics(METRIC_NAMES, metrics),
        expert=traffic_driver.drive,
        description="a car among others on a street of two lanes; drivers, rules, grip and vehicle differ",
    )


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: those of road and car, the centreline as complex numbers, the slots and drivers."""
    tables = course.derive(task) | car.derive(task)
    x, y, heading, curvature = tables["road"].unbind(2)
    direction = torch.polar(torch.ones_like(heading), heading)
    slot = torch.arange(NUM_CARS, device=x.device)
    lane = (slot % 2).to(x.dtype)  # 0 right, 1 left
    is_present = slot < task["num_cars"].unsqueeze(1)  # (N, C)
    offset = (lane - 0.5) * task["width"].unsqueeze(1) / 2
    speed = task["desired_speed"].unsqueeze(1) * (0.9 + 0.25 * lane)
    spread = task["aggressiveness"].unsqueeze(1).expand_as(speed)
    one = torch.ones_like(speed)
    headway = task["headway"].unsqueeze(1) * one
    drivers = idm.drivers(ACCELERATION * one, DECELERATION * one, speed, headway, LEAST_GAP_M * one, spread)
    place = x.new_tensor(_SLOTS_M).expand_as(speed)
    tables |= {f"idm_{name}": value for name, value in drivers._asdict().items()}
    return tables | {
        "street": torch.stack([torch.complex(x, y), direction, torch.complex(curvature, 0 * x)], 2),  # (N, points, 3)
        "slot": place,
        "leader": idm.leaders(place, lane.expand_as(place), is_present, roads.LENGTH_M),
        "offset": torch.where(is_present, offset, -ABSENT_M),
        "absent": torch.where(is_present, 0.0, ABSENT_M),
        "right_lane": -task["width"] / 4,
    }


def reset(task: Arrays, noise: Noise) -> Start:
    """Put the car in the right lane and the others in their slots."""
    start, uniform = task["road"][:, 0], noise.uniform
    lateral = task["right_lane"] + 0.2 * uniform[:, 0] - 0.1
    heading_error = 0.1 * uniform[:, 1] - 0.05
    yaw = start[:, 2] + heading_error
    x, y = start[:, 0] - lateral * start[:, 2].sin(), start[:, 1] + lateral * start[:, 2].cos()
    zero = torch.zeros_like(x)
    jitter, hurry, pace = uniform[:, 2:].chunk(3, 1)
    place, speed = task["slot"] + 0.8 * jitter - 0.4, 1.3 + 0.4 * hurry
    qpos = torch.stack([x, y, yaw, zero], 1)
    seen, _ = _look(task, qpos, START_SPEED + 0 * zero, zero, zero, place, speed)
    state = {
        "distance": zero,
        "advance": zero + START_SPEED * car.CONTROL_DT_S,
        "pose": torch.stack([lateral, heading_error], 1),
        "prev_action": torch.zeros_like(start[:, :2]),
        "place": place,
        "speed": speed,
        "desired_speed": task["idm_desired_speed"] * (0.92 + 0.16 * pace),
        "seen": seen,
        "progress": zero,
        "speeding": zero,
        "reserved": zero,
        "own_speed": zero + START_SPEED,
        "acceleration": zero,
        "collided": torch.zeros_like(x, dtype=torch.bool),
        "off_road": torch.zeros_like(x, dtype=torch.bool),
    }
    velocity = START_SPEED * torch.stack([yaw.cos(), yaw.sin(), zero, zero], 1)
    return Start(state, {"qpos": qpos, "qvel": velocity})


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """Steering target, drive and brake within the friction circle; after the end the brake."""
    stops = {"off_road": state["off_road"] | state["collided"], "acceleration": state["acceleration"]}
    return car.control(task, data, stops, action, task["grip"].unsqueeze(1))


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The observation table of the module's docstring."""
    return torch.cat([course.observe(task, data, state), state["seen"]], 1)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Move the others, then progress, collisions, reward and end."""
    qpos, sensors = data["qpos"], data["sensordata"]
    lateral_before = state["pose"][:, :1]
    place, speed = idm.advance(
        state["place"],
        state["speed"],
        task["leader"],
        state["distance"],
        state["advance"] / car.CONTROL_DT_S,
        ((lateral_before - task["offset"]).abs() < IN_LANE_M).to(qpos.dtype),
        _drivers(task, state),
        CAR_M,
        roads.LENGTH_M,
        car.CONTROL_DT_S,
    )
    foot = roads.locate(task["road"], qpos[:, :2], state["distance"] + state["advance"])
    advance = foot.distance - state["distance"]
    heading_error = torch.remainder(qpos[:, 2] - foot.heading + math.pi, 2 * math.pi) - math.pi
    pose = torch.stack([foot.lateral, heading_error], 1)
    seen, overlaps = _look(task, qpos, sensors[:, 2], sensors[:, 3], foot.distance, place, speed)

    is_over = state["collided"] | state["off_road"]
    leaves = (pose.abs() > task["pose_limit"]).any(1)
    collided, off_road = state["collided"] | (overlaps > is_over), state["off_road"] | (leaves > is_over)
    ends = overlaps | leaves
    jerk = (action - state["prev_action"]).square().sum(1)
    slip = torch.add(sensors[:, 3], sensors[:, 1], alpha=-car.AXLE_M).square().clamp(max=1.0)
    # (ds - 3 too_far - 0.6 reserved) / (v_ref dt) - 0.05 (jerk / 8 + slip)
    too_far = (sensors[:, car.SPEED] - task["speed_limit"]).clamp(min=0.0) * car.CONTROL_DT_S
    reserved = advance * (0.5 + foot.lateral * task["reserved_lane"] / (2 * LANE_BLUR_M)).clamp(0.0, 1.0)
    counted = torch.sub(torch.sub(advance, too_far, alpha=SPEED_FINE), reserved, alpha=LANE_FINE)
    counted = counted / (course.REFERENCE_SPEED * car.CONTROL_DT_S)
    earned = torch.sub(counted, torch.add(slip, jerk, alpha=1 / 8), alpha=course.SMOOTHNESS_COST)
    has_ended = is_over | ends
    progress = torch.where(has_ended, state["progress"], foot.distance)
    speeding = state["speeding"] + too_far.masked_fill(has_ended, 0.0)
    reserved = state["reserved"] + reserved.masked_fill(has_ended, 0.0)
    after = {
        "distance": foot.distance,
        "advance": advance,
        "pose": pose,
        "prev_action": action,
        "place": place,
        "speed": speed,
        "desired_speed": state["desired_speed"],
        "seen": seen,
        "progress": progress,
        "speeding": speeding,
        "reserved": reserved,
        "own_speed": sensors[:, car.SPEED].clone(),
        "acceleration": car.acceleration(state["own_speed"], sensors),
        "collided": collided,
        "off_road": off_road,
    }
    success = (progress >= ROUTE_M) & (SPEED_FINE * speeding + LANE_FINE * reserved <= SPARED * progress)
    return Outcome(after, earned.masked_fill(ends, -1.0), ends, success)


def _drivers(task: Arrays, state: Arrays) -> idm.Drivers:
    return idm.Drivers(
        task["idm_acceleration"],
        state["desired_speed"],
        task["idm_headway"],
        task["idm_least_gap"],
        task["idm_approach"],
    )


def _look(
    task: Arrays, qpos: Tensor, ahead: Tensor, aside: Tensor, distance: Tensor, place: Tensor, speed: Tensor
) -> tuple[Tensor, Tensor]:
    """What the car sees of the others, and whether it overlaps one.

    Points of the plane are complex numbers x + iy, so that a product turns them.

    Args:
        task: with its tables.
        qpos: (N, 4) x, y, yaw of the car, and its servo.
        ahead, aside: (N,) its velocity in its frame, m/s.
        distance: (N,) its arc length along the street, m.
        place, speed: (N, C) arc lengths and speeds along the centreline of the others.

    Returns:
        (N, 5 * NUM_SEEN) as observed; (N,) bool.
    """
    position, direction, bend = _on_street(task, place)
    to_frame = torch.polar(torch.ones_like(ahead), -qpos[:, 2]).unsqueeze(1)
    turn = direction * to_frame  # e^(i angle between the cars)
    relative = (position - torch.complex(qpos[:, :1], qpos[:, 1:2])) * to_frame
    velocity = turn * (speed * bend) - torch.complex(ahead, aside).unsqueeze(1)

    half = roads.LENGTH_M / 2
    way = (torch.remainder(place - (distance - half).unsqueeze(1), roads.LENGTH_M) - half).abs() + task["absent"]
    nearest = way.topk(NUM_SEEN, 1, largest=False)
    closeness = (1.0 - nearest.values / SIGHT_M).clamp(min=0.0).unsqueeze(2)
    motion = torch.view_as_real(torch.stack([relative / SIGHT_M, velocity / SPEED_SCALE], 2)).flatten(2)  # (N, C, 4)
    motion = motion.gather(1, nearest.indices.unsqueeze(2).expand(-1, -1, 4)).clamp(-5.0, 5.0)
    seen = torch.cat([closeness, motion * (closeness > 0)], 2).flatten(1)
    return seen, _overlap(relative, turn).any(1)


def _on_street(task: Arrays, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Complex positions and directions of the others, their ground speed per speed along the centreline, (N, C)."""
    count = (place / roads.SPACING_M).round()
    point_id = count.to(torch.int64) & (roads.NUM_POINTS - 1)
    point, direction, curvature = task["street"].gather(1, point_id.unsqueeze(2).expand(-1, -1, 3)).unbind(2)
    beyond = torch.add(place, count, alpha=-roads.SPACING_M)
    position = torch.addcmul(point, direction, torch.complex(beyond, task["offset"]))
    return position, direction, 1.0 - curvature.real * task["offset"]


def _overlap(relative: Tensor, turn: Tensor) -> Tensor:
    """Whether outlines overlap: of two times two circles any pair, (N, C) bool.

    Centres differ by r + q and r - q, with q = (turn +- 1) CIRCLE_AT_M; the shorter of them, squared, is
    |r|^2 + |q|^2 - 2 |Re(r conj q)|.
    """
    q = torch.stack([turn + 1.0, turn - 1.0], 2) * CIRCLE_AT_M  # (N, C, 2)
    r = relative.unsqueeze(2)
    along = (r * q.conj()).real.abs()
    squared = torch.view_as_real(r).square().sum(3) + torch.view_as_real(q).square().sum(3) - 2.0 * along
    return (squared < (2 * CIRCLE_M) ** 2).any(2)


def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """Distance to the edge, heading, speed, slip and steering as in `track`, closeness of the nearest car, (N, 6)."""
    lateral, heading_error = state["pose"].unbind(1)
    sensors = data["sensordata"]
    columns = [
        1.0 - lateral.abs() / (task["width"] / 2),
        heading_error,
        state["advance"] / (course.REFERENCE_SPEED * car.CONTROL_DT_S),
        sensors[:, 3] - car.AXLE_M * sensors[:, 1],
        sensors[:, 0] / car.MAX_STEER_RAD,
        state["seen"][:, 0],
    ]
    return torch.stack(columns, 1)


def metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The metrics of the module's docstring, (N, 7)."""
    progress, collided, off_track = state["progress"], state["collided"].float(), state["off_road"].float()
    score = (progress / ROUTE_M).clamp(0.0, 1.0) * 0.6**collided * 0.65**off_track
    per_km = 1e3 * collided / progress.clamp(min=1.0)
    return torch.stack([progress, per_km, collided, off_track, state["speeding"], state["reserved"], score], 1)


def pose_of_others(task: Arrays, state: Arrays) -> dict[str, Tensor]:
    """The mocap bodies of the scene; cars that are not there lie below the ground."""
    position, direction, _ = _on_street(task, state["place"])
    height = torch.where(task["absent"] > 0, -5.0, street.WHEEL_HEIGHT_M)
    yaw, zero = direction.angle() / 2, torch.zeros_like(height)
    return {
        "mocap_pos": torch.stack([position.real, position.imag, height], 2),
        "mocap_quat": torch.stack([yaw.cos(), zero, zero, yaw.sin()], 2),
    }


def draw(task: Arrays) -> mujoco.MjModel:
    """The car on its street, the reserved lane painted red, which no policy sees, with the others as mocap bodies."""
    one = {name: task[name].unsqueeze(0).cpu() for name in ("shape", "max_curvature", "direction")}
    road = roads.centreline(**one)[0].double().numpy()
    model = street.car_on_street(car.MODEL_FILE, road, float(task["width"]), float(task["reserved_lane"]), NUM_CARS)
    half = float(task["steer_offset"]) / 2
    model.body_quat[car.FRONT_AXLE] = [math.cos(half), 0.0, 0.0, math.sin(half)]
    return model
