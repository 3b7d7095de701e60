"""`surface-shift`: the 1:10 car on an asphalt road with slippery patches; the day's grip and the patches are hidden.

The grip changes while the car drives: it meets the first patch within seconds of the start, and all of them again
in each lap and in each episode of a trial. Neither the grip nor a patch is observed. Who is too fast on one slides off
the road; who drives everywhere as on the worst of them loses most of the progress. Memory pays twice: the grip of the
day shows in the first corners, and where the patches lie can be used from the second lap on.

Task parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`)
    name           unit  train       hole         shell               what it changes
    grip           1     .4 .. 1.1   .68 .. .82   .25-.4, 1.1-1.5     grip of the asphalt, of the day
    num_patches    1     1, 2 or 3                                    how many of the patches there are
    patch_ratio    1     3 x .4 .. .9 .6 .. .7    .2-.4               grip on a patch / grip beside it
    patch_place    1     3 x 0 .. 1                                   where in its part of the road a patch lies
    patch_length   m     3 x 3 .. 7                                   along the road
    max_curvature  1/m   .7 .. 1.1                1.1-1.3             the sharpest corner
    width          m     1 .. 1.3                 .9-1                of the road
    direction      1     -1 or 1                                      counter-clockwise (1) or not
    shape          1     8 x (-1 .. 1)                                Fourier coefficients, see roads.py
The road from 2 m behind the start line to its end at 30 m has num_patches equal parts with a patch in each; place 0
is at the part's beginning, 1 at its end. Grip and the ratio of the patches are the key parameters, the ones with a
hole. The vehicle is the nominal one of car.py, without wind: the surface is what tasks differ in. Shift, a split that
extrapolates in some parameters only: `patches`, the ratio.

Actions (N, 2) in [-1, 1]: steering and pedal, see car.py. Each axle has the grip of the place it stands on, drive and
brake that of the middle of the car.

Observations (N, 18), independent of where the road lies, clipped to [-5, 5]
    0..15  as in course.py: servo, yaw rate, speed, previous action, place across the road, curvature ahead, width
    16,17  cosine and sine of 2 pi s / 30 m, s the way from the start line: the place along the lap, without which no
           memory could tell where a patch is.

Reward per control step of 40 ms, end, start and signals: see course.py. 1 is progress at 5 m/s; the step that leaves
    the road earns -1, and nothing comes after it.
Success: a lap of 30 m within the episode without leaving the road.
Metrics
    progress_m, lap_time_s, off_track, slip_angle_rad   see course.py
    recovery_time_s        from the edge of the first patch until the progress (mean of the last second) is back at
                           90 % of its mean before; 0 where it never fell below, NaN where it never came back or the
                           car never came to a patch
    off_track_after_shift  1 where the car left the road after it had come to the first patch, 0 where not, NaN where
                           it never came to one
Expert: pure pursuit of the centreline, told the grip of every place, see driver.py.
Horizon: 400 steps (16 s), about two laps, an option of `make_spec`.
"""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from envs.driving import car, course, driver, roads, scene
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

OBS_DIM = course.OBS_DIM + 2
MAX_PATCHES = 3
FIRST_PATCH_M = 2.0
"""Way behind the start line that has no patch."""
AXLE_POINTS = round(car.AXLE_M / roads.SPACING_M)
"""Points of a table from the middle of the car to an axle."""
MEMORY_S = 1.0
"""Time over which recent progress is averaged for the recovery time."""
RECOVERED = 0.9
"""Share of the progress before the shift at which the car has recovered."""
CAUTION_POINTS = 6
"""Points of the grip table around a place of which the expert expects the worst."""

PARAMETERS = (
    Parameter("grip", "1", Uniform(0.4, 1.1, (0.68, 0.82), ((0.25, 0.4), (1.1, 1.5))), "of the asphalt, hidden"),
    Parameter("num_patches", "1", Choice((1.0, 2.0, 3.0)), "how many there are, hidden"),
    Parameter("patch_ratio", "1", Uniform(0.4, 0.9, (0.6, 0.7), ((0.2, 0.4),)), "of grip, hidden", (MAX_PATCHES,)),
    Parameter("patch_place", "1", Uniform(0.0, 1.0), "in its part of the road, hidden", (MAX_PATCHES,)),
    Parameter("patch_length", "m", Uniform(3.0, 7.0), "along the road, hidden", (MAX_PATCHES,)),
    Parameter("max_curvature", "1/m", Uniform(0.7, 1.1, None, ((1.1, 1.3),)), "of the sharpest corner"),
    Parameter("width", "m", Uniform(1.0, 1.3, None, ((0.9, 1.0),)), "of the road"),
    course.DIRECTION,
    course.SHAPE,
)
METRIC_NAMES = (*course.METRIC_NAMES, "recovery_time_s", "off_track_after_shift")


def make_spec(horizon: int = 400) -> EnvSpec:
    """Make the `surface-shift` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="surface-shift",
        tasks=TaskDistribution(PARAMETERS, shifts={"patches": ("patch_ratio",)}),
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
        signals=Signals(course.SIGNAL_NAMES, car.sensed(course.signals)),
        metrics=Metrics(METRIC_NAMES, metrics),
        expert=expert,
        description="a car on asphalt with hidden slippery patches; grip, patches and road differ",
    )


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: road and car, the grip of each place, and which points the actuators read it at."""
    grip = grip_table(task)
    offsets = torch.tensor([0, 0, 0, AXLE_POINTS, -AXLE_POINTS], device=grip.device)
    return (
        course.derive(task)
        | car.derive(task)
        | {"grip_table": grip, "grip_points": offsets.repeat(len(grip), 1), "worst_grip": _worst_around(grip)}
    )


def patches(task: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    """Where each patch begins and ends along the road, m, and its grip / that beside it, each (N, MAX_PATCHES)."""
    number = torch.arange(MAX_PATCHES, device=task["grip"].device)
    part = (roads.LENGTH_M - FIRST_PATCH_M) / task["num_patches"].unsqueeze(1)
    begin = FIRST_PATCH_M + number * part + task["patch_place"] * (part - task["patch_length"])
    exists = number < task["num_patches"].unsqueeze(1)
    return begin, begin + task["patch_length"], torch.where(exists, task["patch_ratio"], 1.0)


def grip_table(task: Arrays) -> Tensor:
    """The grip at each point of the centreline, (N, NUM_POINTS)."""
    at = torch.arange(roads.NUM_POINTS, device=task["grip"].device) * roads.SPACING_M
    begin, end, ratio = (value.unsqueeze(2) for value in patches(task))
    on_patch = (at >= begin) & (at < end)  # (N, MAX_PATCHES, NUM_POINTS)
    return task["grip"].unsqueeze(1) * torch.where(on_patch, ratio, 1.0).prod(1)


def reset(task: Arrays, noise: Noise) -> Start:
    """Put the car on the start line, which lies on no patch."""
    start = course.reset(task, noise)
    zero = torch.zeros_like(start.state["distance"])
    memory = {
        "shift": torch.stack([zero, zero, zero + course.START_SPEED * car.CONTROL_DT_S, zero], 1),
        "phase": torch.zeros_like(start.state["pose"][:, :1], dtype=torch.bool).expand(-1, 3).clone(),
    }
    return Start(start.state | memory, start.writes)


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The observation table of the module's docstring."""
    phase = (state["distance"] * (2 * math.pi / roads.LENGTH_M)).unsqueeze(1)
    return torch.cat([course.observe(task, data, state), phase.cos(), phase.sin()], 1)


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """The car's forces with the grip of the places where its axles stand."""
    here = (state["distance"] / roads.SPACING_M).round().to(torch.int64).unsqueeze(1)
    grip = task["grip_table"].gather(1, (here + task["grip_points"]) & (roads.NUM_POINTS - 1))  # (N, NUM_ACTUATORS)
    return car.control(task, data, state, action, grip)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Progress along the road, reward and end."""
    after, reward, leaves = course.advance(task, data, state, action)
    success = (after["distance"] >= roads.LENGTH_M) & ~after["off_road"]
    return Outcome(after | _shift(task, state, after), reward.masked_fill(leaves, -1.0), leaves, success)


def metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The metrics of the module's docstring, (N, 6)."""
    met, dipped, recovered = state["phase"].unbind(1)
    recovery = torch.where(recovered, state["shift"][:, 3] * car.CONTROL_DT_S, math.nan)
    recovery = torch.where(dipped, recovery, 0.0).masked_fill(~met, math.nan)
    off_track = state["off_road"].to(recovery.dtype).masked_fill(~met, math.nan)
    return torch.cat([course.metrics(state), torch.stack([recovery, off_track], 1)], 1)


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Pure pursuit of the centreline with the grip of the places ahead."""
    turned = torch.atan2(obs[:, -1], obs[:, -2])
    here = (turned * (roads.NUM_POINTS / (2 * math.pi))).round().to(torch.int64).unsqueeze(1)
    ahead = torch.arange(course.NUM_LOOK_AHEADS, device=obs.device) * course.LOOK_AHEAD_STRIDE
    grip = task["worst_grip"].gather(1, (here + ahead) & (roads.NUM_POINTS - 1))
    return driver.drive(task, obs, grip=grip)


def draw(task: Arrays) -> mujoco.MjModel:
    """The car on the road of one task, to be drawn, with patches from wet to icy; they are not observed."""
    one = {name: value.unsqueeze(0).cpu() for name, value in task.items()}
    road = roads.centreline(one["shape"], one["max_curvature"], one["direction"])[0].double().numpy()
    half = float(task["width"]) / 2
    stripes = []
    for begin, end, ratio in zip(*(value[0].tolist() for value in patches(one)), strict=True):
        if ratio < 1.0:
            points = torch.arange(round(begin / roads.SPACING_M), round(end / roads.SPACING_M) + 1)
            stripes.append(scene.slippery(ratio, half, -half, (points % roads.NUM_POINTS).numpy()))
    return scene.on_road(mujoco.MjSpec.from_file(str(car.MODEL_FILE)), road, 2 * half, stripes=stripes)


def _shift(task: Arrays, state: Arrays, after: Arrays) -> dict[str, Tensor]:
    """What the recovery time needs, frozen once the car has left the road.

    "shift", (N, 4): steps and progress before the first patch, recent progress per step, steps until recovered.
    "phase", (N, 3) bool: the car has come to a patch; its progress has fallen; its progress has recovered.
    """
    point = (after["distance"] / roads.SPACING_M).round().to(torch.int64).unsqueeze(1) & (roads.NUM_POINTS - 1)
    met_before, dipped_before, recovered_before = state["phase"].unbind(1)
    met = met_before | (task["grip_table"].gather(1, point)[:, 0] < task["grip"])
    steps_before, progress_before, recent, waited = state["shift"].unbind(1)
    progress = after["advance"]
    recent = torch.lerp(recent, progress, car.CONTROL_DT_S / MEMORY_S)
    is_slow = met & (recent * steps_before < RECOVERED * progress_before)
    dipped = dipped_before | is_slow
    recovered = recovered_before | (dipped & ~is_slow)
    before = (~met).to(progress.dtype)
    waits = met & ~recovered
    now = [steps_before + before, torch.addcmul(progress_before, before, progress), recent, waited + waits]
    gone = state["off_road"].unsqueeze(1)
    return {
        "shift": torch.where(gone, state["shift"], torch.stack(now, 1)),
        "phase": torch.where(gone, state["phase"], torch.stack([met, dipped, recovered], 1)),
    }


def _worst_around(grip: Tensor) -> Tensor:
    """The smallest grip within CAUTION_POINTS of each point of the closed road, (N, NUM_POINTS)."""
    round_trip = pad(-grip.unsqueeze(1), (CAUTION_POINTS, CAUTION_POINTS), mode="circular")
    return -max_pool1d(round_trip, 2 * CAUTION_POINTS + 1, stride=1)[:, 0]
