"""`surface-shift`: the 1:10 car on a wet road whose dry lane changes sides again and again; grip and lanes are hidden.

Standing water slows the car and takes grip away, everywhere but in a lane that earlier traffic has dried. Stretches in
the sun and in the shade take turns along the road, every five metres, and the lane runs elsewhere in the shade than in
the sun. Which of the two a place is, is seen; the grip of the day, the water and the lanes are not. Memory pays because
of the lanes: slowness says that the car is beside one but not on which side, so each has to be searched for. Whoever
does not remember searches again in every stretch, because the other lane came between; whoever does goes from lane to
lane, from the second time on and in all later episodes. The water deepens over half a metre, so that what a step earns
tells how far the lane is, and how that changes, on which side.

Task parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`)
    name           unit  train       hole         shell               what it changes
    grip           1     .4 .. 1.1   .68 .. .82   .25-.4, 1.1-1.5     grip of dry asphalt, of the day
    water_grip     1     2 x .5 .. .9 .65 .. .75  .3-.5               grip in deep water / grip beside it, sun and shade
    dry_lane       1     2 x -.7 .. .7            -.8--.7, .7-.8      its place, / half the width, sun and shade
    max_curvature  1/m   .5 .. .9                 .9-1.1              the sharpest corner
    width          m     1.3 .. 1.7               1.1-1.3             of the road
    direction      1     -1 or 1                                      counter-clockwise (1) or not
    shape          1     8 x (-1 .. 1)                                Fourier coefficients, see roads.py
The lap of 30 m has six stretches, sun first; each has 1.5 m without water and then 3.5 m with it. Grip and the grip in
water are the key parameters, the ones with a hole. The vehicle is the nominal one of car.py, without wind: the surface
is what tasks differ in. Shifts, splits that extrapolate in some parameters only: `water`, the grip in it; `lanes`.

Water: its depth under the middle of the car is 0 up to 10 cm beside the middle of the dry lane, 1 from 60 cm on, and
linear between. The grip is grip * (1 - depth * (1 - water_grip)), and 16 N per m/s times the depth brakes the chassis.

Actions (N, 2) in [-1, 1]: steering and pedal, see car.py. Each axle has the grip of the place along the road that it
stands on, drive and brake that of the middle of the car.

Observations (N, 18), independent of where the road lies, clipped to [-5, 5]
    0..15  as in course.py: servo, yaw rate, speed, previous action, place across the road, curvature ahead, width
    16,17  cosine and sine of 2 pi s / 10 m, s the way from the start line: sun (sine positive) or shade, and how far
           the stretch still goes.

Reward, per control step of 40 ms
    ds / 0.2 m - 0.3 * water - 0.05 * (jerk + slip), water its depth, the others as in course.py; 1 is progress at
    5 m/s. The step that leaves the road earns -1, and nothing comes after it.
End and start: see course.py.
Success: a lap of 30 m within the episode without leaving the road.
Signals
    water                  its depth under the car, 0 to 1
    others                 see course.py
Metrics
    progress_m, lap_time_s, off_track, slip_angle_rad   see course.py
    recovery_time_s        from the first water until the progress (mean of the last second) is back at 90 % of its mean
                           before; 0 where it never fell below, NaN where it never came back or the car never came to
                           water
    off_track_after_shift  1 where the car left the road after it had come to the first water, 0 where not, NaN where
                           it never came to any
    water                  mean depth under the car where there is water, until the car leaves the road; NaN where it
                           never came to any
Expert: pure pursuit of a line through the dry lanes, told the grip of every place, see driver.py.
Horizon: 400 steps (16 s), one to two laps, an option of `make_spec`.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad

from envs.driving import car, course, driver, roads, scene
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Signals, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

OBS_DIM = course.OBS_DIM + 2
KINDS = 2
"""Sun and shade."""
STRETCH_M, WITHOUT_WATER_M = 5.0, 1.5
"""Length of a stretch, and of its beginning that has no water."""
DRY_M, DEEP_M = 0.1, 0.6
"""Distances from the middle of the dry lane up to which it is dry, and from which on the water is deep."""
WATER_N_PER_M_S = 16.0
"""Drag of deep water per speed, N/(m/s)."""
WATER_COST = 0.3
"""What a step in deep water costs."""
AXLE_POINTS = round(car.AXLE_M / roads.SPACING_M)
"""Points of a table from the middle of the car to an axle."""
MEMORY_S = 1.0
"""Time over which recent progress is averaged for the recovery time."""
RECOVERED = 0.9
"""Share of the progress before the shift at which the car has recovered."""
DRAWN = ((0.0, 0.5), (0.5, 1.0))
"""Where the water is drawn in two shades: depths from which on, and the share of the lost grip that the shade shows."""
SMOOTH_POINTS = 16
"""Points of the table over which the expert smooths its line, to each side."""
CAUTION_POINTS = 6
"""Points around a place of which the expert expects the worst."""
GRIP_SHARE = 0.75
"""Share of the grip in corners that the expert plans with."""
CAUTION_DEPTH = 0.5
"""Depth of the water that the expert expects in a dry lane, which it does not meet exactly."""
LEAD_S, LEAD_M = 0.15, 0.2
"""How far ahead the expert looks for the line that it drives on: a time and a way."""

PARAMETERS = (
    Parameter("grip", "1", Uniform(0.4, 1.1, (0.68, 0.82), ((0.25, 0.4), (1.1, 1.5))), "of the asphalt, hidden"),
    Parameter("water_grip", "1", Uniform(0.5, 0.9, (0.65, 0.75), ((0.3, 0.5),)), "of grip, hidden", (KINDS,)),
    Parameter("dry_lane", "1", Uniform(-0.7, 0.7, None, ((-0.8, -0.7), (0.7, 0.8))), "its place, hidden", (KINDS,)),
    *course.ROAD,
)
SIGNAL_NAMES = ("water", *course.SIGNAL_NAMES)
METRIC_NAMES = (*course.METRIC_NAMES, "recovery_time_s", "off_track_after_shift", "water")


def make_spec(horizon: int = 400) -> EnvSpec:
    """Make the `surface-shift` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="surface-shift",
        tasks=TaskDistribution(PARAMETERS, shifts={"water": ("water_grip",), "lanes": ("dry_lane",)}),
        obs_dim=OBS_DIM,
        action_space=Continuous(2),
        horizon=horizon,
        reset=reset,
        observe=car.sensed(observe),
        step=car.sensed(step),
        control=car.sensed(control),
        derive=derive,
        reset_noise=course.RESET_NOISE,
        physics=car.physics(draw),
        signals=Signals(SIGNAL_NAMES, car.sensed(signals)),
        metrics=Metrics(METRIC_NAMES, metrics),
        expert=expert,
        description="a car on a wet road with hidden dry lanes; grip, water, lanes and road differ",
    )


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: road, car, water and lanes, and which points of the road the actuators stand on."""
    offsets = torch.tensor([0, 0, 0, AXLE_POINTS, -AXLE_POINTS], device=task["grip"].device)
    lost, lane = lost_grip(task), lanes(task)
    line, grip = planned(task["grip"], lost, lane)
    return (
        course.derive(task)
        | car.derive(task)
        | {"lost_grip": lost, "lane_m": lane, "grip_points": offsets.repeat(len(lost), 1)}
        | {"planned_line": line, "planned_grip": grip}
    )


def lost_grip(task: Arrays) -> Tensor:
    """What deep water takes of the grip at each point of the centreline, 0 where there is none, (N, NUM_POINTS)."""
    kind, within = _stretches(task["grip"].device)
    lost = task["grip"].unsqueeze(1) * (1.0 - task["water_grip"][:, kind])
    return torch.where(within >= WITHOUT_WATER_M, lost, 0.0)


def lanes(task: Arrays) -> Tensor:
    """The line through the dry lanes at each point of the centreline, m to the left of it, (N, NUM_POINTS).

    Where there is water it is the middle of the lane; before, it goes over from the last lane, linearly.
    """
    kind, within = _stretches(task["grip"].device)
    lane = task["dry_lane"] * (task["width"] / 2).unsqueeze(1)
    return torch.lerp(lane[:, 1 - kind], lane[:, kind], (within / WITHOUT_WATER_M).clamp(max=1.0))


def planned(grip: Tensor, lost: Tensor, lane: Tensor) -> tuple[Tensor, Tensor]:
    """Where the expert wants to drive at each point, m, and the grip it plans with there, each (N, NUM_POINTS)."""
    line = lane
    for _ in range(2):
        around = pad(line.unsqueeze(1), (SMOOTH_POINTS, SMOOTH_POINTS), mode="circular")
        line = avg_pool1d(around, 2 * SMOOTH_POINTS + 1, stride=1)[:, 0]
    depth = (_depth(line, lane) + CAUTION_DEPTH).clamp(max=1.0)
    around = pad((depth * lost).unsqueeze(1), (CAUTION_POINTS, CAUTION_POINTS), mode="circular")
    return line, grip.unsqueeze(1) - max_pool1d(around, 2 * CAUTION_POINTS + 1, stride=1)[:, 0]


def water(task: Arrays, state: Arrays) -> Tensor:
    """Depth of the water under the middle of the car, 0 to 1, (N,)."""
    return _water(task, state)[0]


def reset(task: Arrays, noise: Noise) -> Start:
    """Put the car on the start line, where there is no water."""
    start = course.reset(task, noise)
    zero = torch.zeros_like(start.state["distance"])
    memory = {
        "shift": torch.stack([zero, zero, zero + course.START_SPEED * car.CONTROL_DT_S, *[zero] * 3], 1),
        "phase": torch.zeros_like(start.state["pose"][:, :1], dtype=torch.bool).expand(-1, 3).clone(),
    }
    return Start(start.state | memory, start.writes)


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The observation table of the module's docstring."""
    phase = (state["distance"] * (math.pi / STRETCH_M)).unsqueeze(1)
    return torch.cat([course.observe(task, data, state), phase.cos(), phase.sin()], 1)


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """The car's forces with the grip of the places where its axles stand, and the drag of the water."""
    here = _point(state["distance"])
    lost = task["lost_grip"].gather(1, (here + task["grip_points"]) & (roads.NUM_POINTS - 1))  # (N, NUM_ACTUATORS)
    depth = _depth(state["pose"][:, 0], task["lane_m"].gather(1, here)[:, 0])
    grip = torch.addcmul(task["grip"].unsqueeze(1), depth.unsqueeze(1), lost, value=-1.0)
    drag = depth * (lost[:, car.BRAKE] > 0) * (WATER_N_PER_M_S / car.BRAKE_N_PER_M_S)
    return car.control(task, data, state, action, grip, drag)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Progress along the road less what the water costs."""
    after, reward, leaves = course.advance(task, data, state, action)
    depth, is_wet = _water(task, after)
    reward = torch.sub(reward, depth, alpha=WATER_COST)
    success = (after["distance"] >= roads.LENGTH_M) & ~after["off_road"]
    return Outcome(after | _shift(state, after, depth, is_wet), reward.masked_fill(leaves, -1.0), leaves, success)


def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The signal table of the module's docstring, (N, 6)."""
    return torch.cat([water(task, state).unsqueeze(1), course.signals(task, data, state)], 1)


def metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The metrics of the module's docstring, (N, 7)."""
    met, dipped, recovered = state["phase"].unbind(1)
    recovery = torch.where(recovered, state["shift"][:, 3] * car.CONTROL_DT_S, math.nan)
    recovery = torch.where(dipped, recovery, 0.0).masked_fill(~met, math.nan)
    off_track = state["off_road"].to(recovery.dtype).masked_fill(~met, math.nan)
    depth, steps_wet = state["shift"][:, 4:].unbind(1)
    return torch.cat([course.metrics(state), torch.stack([recovery, off_track, depth / steps_wet], 1)], 1)


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Pure pursuit of the line through the dry lanes with the grip of the places ahead."""
    # Where in the first two stretches; the others are like them.
    turned = torch.atan2(obs[:, -1], obs[:, -2]).unsqueeze(1) % (2 * math.pi)
    distance = turned * (STRETCH_M / math.pi)
    ahead = torch.arange(course.NUM_LOOK_AHEADS, device=obs.device) * course.LOOK_AHEAD_STRIDE
    grip = task["planned_grip"].gather(1, (_point(distance) + ahead) & (roads.NUM_POINTS - 1))
    line = task["planned_line"].gather(1, _point(distance + LEAD_M + LEAD_S * 5.0 * obs[:, 2:3]))[:, 0]
    place = {"distance": distance[:, 0], "pose": obs[:, 5:6] * (task["width"] / 2).unsqueeze(1)}
    drag = car.DRAG_N_PER_M_S + WATER_N_PER_M_S * water(task, place)
    return driver.drive(task, obs, grip=grip, line_m=line, drag=drag, grip_share=GRIP_SHARE)


def draw(task: Arrays) -> mujoco.MjModel:
    """The car on the road of one task, to be drawn, with the water beside its lanes, which is not observed."""
    one = {name: value.unsqueeze(0).cpu() for name, value in task.items()}
    road = roads.centreline(one["shape"], one["max_curvature"], one["direction"])[0].double().numpy()
    half, stripes = float(task["width"]) / 2, []
    for number in range(round(roads.LENGTH_M / STRETCH_M)):
        begin, end = number * STRETCH_M + WITHOUT_WATER_M, (number + 1) * STRETCH_M
        points = np.arange(round(begin / roads.SPACING_M), round(end / roads.SPACING_M) + 1) % roads.NUM_POINTS
        ratio, middle = float(task["water_grip"][number % KINDS]), half * float(task["dry_lane"][number % KINDS])
        for depth, share in DRAWN:
            beside = DRY_M + depth * (DEEP_M - DRY_M)
            for left, right in [(half, middle + beside), (middle - beside, -half)]:
                if left > right:
                    stripes.append(scene.slippery(1.0 - share * (1.0 - ratio), left, right, points))
    return scene.on_road(mujoco.MjSpec.from_file(str(car.MODEL_FILE)), road, 2 * half, stripes=stripes)


def _stretches(device: torch.device) -> tuple[Tensor, Tensor]:
    """The kind of stretch at each point of the centreline, and the way from its beginning, m, each (NUM_POINTS,)."""
    at = torch.arange(roads.NUM_POINTS, device=device) * roads.SPACING_M
    number = (at / STRETCH_M).to(torch.int64)
    return number % KINDS, at - number * STRETCH_M


def _point(distance: Tensor) -> Tensor:
    """The point of the centreline's tables at a way from the start line, (N, 1), from (N,) or (N, 1)."""
    return (distance / roads.SPACING_M).round().to(torch.int64).reshape(-1, 1) & (roads.NUM_POINTS - 1)


def _water(task: Arrays, state: Arrays) -> tuple[Tensor, Tensor]:
    """Depth of the water under the middle of the car, and whether there is any on this stretch, each (N,)."""
    here = _point(state["distance"])
    lane, lost = task["lane_m"].gather(1, here)[:, 0], task["lost_grip"].gather(1, here)[:, 0]
    is_wet = lost > 0
    return _depth(state["pose"][:, 0], lane) * is_wet, is_wet


def _depth(lateral: Tensor, lane: Tensor) -> Tensor:
    """How deep the water is at a place across the road, 0 to 1, (N,)."""
    return (((lateral - lane).abs() - DRY_M) / (DEEP_M - DRY_M)).clamp(0.0, 1.0)


def _shift(state: Arrays, after: Arrays, depth: Tensor, is_wet: Tensor) -> dict[str, Tensor]:
    """What the metrics need, frozen once the car has left the road.

    "shift", (N, 6): steps and progress before the first water, recent progress per step, steps until recovered, depth
        of the water summed over the steps where there is any, and these steps.
    "phase", (N, 3) bool: the car has come to water; its progress has fallen; its progress has recovered.
    """
    met_before, dipped_before, recovered_before = state["phase"].unbind(1)
    met = met_before | is_wet
    steps_before, progress_before, recent, waited, depths, steps_wet = state["shift"].unbind(1)
    progress = after["advance"]
    recent = torch.lerp(recent, progress, car.CONTROL_DT_S / MEMORY_S)
    is_slow = met & (recent * steps_before < RECOVERED * progress_before)
    dipped = dipped_before | is_slow
    recovered = recovered_before | (dipped & ~is_slow)
    before = (~met).to(progress.dtype)
    waits = met & ~recovered
    first = [steps_before + before, torch.addcmul(progress_before, before, progress)]
    now = [*first, recent, waited + waits, depths + depth, steps_wet + is_wet]
    gone = state["off_road"].unsqueeze(1)
    return {
        "shift": torch.where(gone, state["shift"], torch.stack(now, 1)),
        "phase": torch.where(gone, state["phase"], torch.stack([met, dipped, recovered], 1)),
    }
