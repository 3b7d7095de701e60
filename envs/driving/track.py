"""`track`: a 1:10 car on a closed gravel road with one swept line; road, surface, vehicle and wind are the task.

Loose gravel brakes and damages the car everywhere but on one line along the road, where earlier traffic swept it
away. Where across the road the line runs is hidden. The vehicle is hidden too: nothing about grip, tyres, masses,
servo, motor or wind is observed, they show only in how the car answers. The road is visible as far as 4.6 m ahead.

Memory pays because of the line: slowness and a low reward say that the car is beside it but not on which side, so
it has to be searched for once, across the road, and can be taken at once in the next episode. The vehicle alone
did not: in short trainings a policy without memory, seeing yaw rate and pose, drove as well as one told the task.

Task parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`)
    name                  unit  train       hole         shell               what it changes
    grip                  1     .4 .. 1.1   .68 .. .82   .15-.4, 1.1-1.5     tyre, drive, brake force <= grip * load
    swept_line            1     -.75 .. .75  .3 .. .5    -.9--.75, .75-.9    where it runs, / half the width
    tyre_stiffness_front  1     .6 .. 1.6 L              .4-.6, 1.6-2.2      scale of 60 N/(m/s) lateral
    tyre_stiffness_rear   1     .6 .. 1.6 L              .4-.6, 1.6-2.2      scale of 60 N/(m/s) lateral
    mass                  1     .7 .. 1.5                1.5-2               scale of 3.7 kg, inertia with it
    yaw_inertia           1     .7 .. 1.5                1.5-2               further scale of the chassis
    com_shift             m     -.03 .. .03              -.05--.03, .03-.05  centre of mass forwards
    steer_delay           s     0 .. .08    .03 .. .05   .08-.12             dead time of the steering servo
    steer_offset          rad   -.03 .. .03              -.06--.03, .03-.06  wheels against servo
    motor_lag             s     .02 .. .2 L              .2-.3               time constant of the drive force
    power                 1     .7 .. 1.2                .5-.7               scale of 20 N peak drive force
    wind_speed            m/s   0 .. 6                   6-10
    wind_direction        rad   -pi .. pi                                    where the wind blows to
    max_curvature         1/m   .5 .. .9                 .9-1.1              the sharpest corner
    width                 m     1.3 .. 1.7               1.1-1.3             of the road
    direction             1     -1 or 1                                      counter-clockwise (1) or not
    shape                 1     8 x (-1 .. 1)                                Fourier coefficients, see roads.py
L: uniform in the logarithm. Swept line, grip and steering delay are the key parameters, the ones with a hole. The servo
sees commands at whole substeps, so delays act rounded up to 10 ms; the edges of their ranges lie on that grid.
Shifts, splits that extrapolate in some parameters only: `grip`; `vehicle`, tyres to power.

Actions (N, 2) in [-1, 1]
    0  steering       servo target, times 0.42 rad; positive turns left
    1  pedal          positive: drive, times 20 N, less 1.4 N per m/s of drag; negative: brake, 8 N per m/s at -1,
                      which stops the car and never reverses it. All wheels; both end at the grip that cornering
                      leaves over, sqrt((grip * weight)^2 - (mass * speed * yaw rate)^2).
Load transfer: the lateral force of an axle ends at grip times its load, which moves to the rear axle when the car
speeds up and to the front when it brakes; see car.py.

Gravel: a drag of 8 N per m/s times min(1, d / 0.2 m), d the distance of the middle of the car from the swept line.

Observations (N, 16): see course.py.

Reward, per control step of 40 ms
    ds / 0.2 m - 0.5 * gravel - 0.05 * (jerk + slip),  jerk = mean((action - previous action)^2) / 4 in [0, 1],
    gravel = min(1, d / 0.2 m),  slip = min(1, (lateral velocity of the rear axle / 1 m/s)^2);
    1 is progress along the centreline at 5 m/s; stones damage the car. The step that leaves the road earns -1 instead.
End: terminated when the middle of the car leaves the road (|lateral error| > width / 2) or the heading error
    exceeds 90 degrees. From then on the car brakes.
Success: a stage of 5 m within the episode, from the start line, without leaving the road.
Start: on the start line, rolling at 3 m/s, up to 0.1 m and 0.05 rad off the centreline.
Signals
    line_offset      from the swept line, left positive, / half the road's width
    edge_distance    to the nearer edge of the road, / half its width; negative beside it
    heading_error    rad, left positive
    progress_speed   along the centreline / 5 m/s
    slip             lateral velocity of the rear axle / 1 m/s
    steering         servo angle / 0.42 rad
Metrics
    progress_m       along the centreline, until the end or until the car leaves the road
    stage_time_s     NaN where the stage was not completed
    off_track        1 where the car left the road, else 0
    slip_angle_rad   mean |beta| of the chassis, see course.py
Expert: pure pursuit of the swept line, told the task, see driver.py.
Horizon: 60 steps (2.4 s), an option of `make_spec`: short, so that searching for the line costs a good part of the
    first episode, and a trial of three stays short.

Source: tyre, load transfer and steering are those of car.py, a 1:10 car as in f1tenth_gym (mass 3.74 kg, wheelbase
0.33 m, steering 0.42 rad), with its deviations from a single-track model with slip angles. Gravel is a viscous drag
on the chassis, of which wheels, heading and grip know nothing.
"""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor

from envs.driving import car, course, driver, roads, scene
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Signals
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

GRAVEL_N_PER_M_S = 8.0
"""Drag of the deep gravel per speed, N/(m/s)."""
BANK_M = 0.2
"""Distance from the swept line at which the gravel is deep."""
GRAVEL_COST = 0.5
"""What a step in deep gravel costs."""
STAGE_M = 5.0
"""Way along the road that counts as success."""

SIGNAL_NAMES = ("line_offset", *course.SIGNAL_NAMES)
METRIC_NAMES = ("progress_m", "stage_time_s", "off_track", "slip_angle_rad")

PARAMETERS = (
    car.GRIP,
    Parameter("swept_line", "1", Uniform(-0.75, 0.75, (0.3, 0.5), ((-0.9, -0.75), (0.75, 0.9))), "its place, hidden"),
    *car.VEHICLE,
    *car.WIND,
    *course.ROAD,
)
SHIFTS = {"grip": ("grip",), "vehicle": tuple(parameter.name for parameter in car.VEHICLE)}


def make_spec(horizon: int = 60) -> EnvSpec:
    """Make the `track` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="track",
        tasks=TaskDistribution(PARAMETERS, shifts=SHIFTS),
        obs_dim=course.OBS_DIM,
        action_space=Continuous(2),
        horizon=horizon,
        reset=course.reset,
        observe=car.sensed(course.observe),
        step=car.sensed(step),
        control=car.sensed(control),
        derive=derive,
        reset_noise=course.RESET_NOISE,
        physics=car.physics(draw),
        signals=Signals(SIGNAL_NAMES, car.sensed(signals)),
        metrics=Metrics(METRIC_NAMES, lambda task, data, state: course.metrics(state, STAGE_M)),
        expert=expert,
        description="a car on a gravel road with a hidden swept line; grip, vehicle and road differ",
    )


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: those of the road and of the car, and where the swept line runs."""
    return course.derive(task) | car.derive(task) | {"line_m": task["swept_line"] * task["width"] / 2}


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """The car's forces and the drag of the gravel, its share d / BANK_M in units of the brake's force."""
    drag = gravel_depth(task, state) * (GRAVEL_N_PER_M_S / (BANK_M * car.BRAKE_N_PER_M_S))
    return car.control(task, data, state, action, task["grip"].unsqueeze(1), drag)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Progress along the road less what the gravel costs."""
    after, reward, leaves = course.advance(task, data, state, action, STAGE_M)
    reward = torch.sub(reward, gravel_depth(task, after), alpha=GRAVEL_COST / BANK_M)
    success = (after["distance"] >= STAGE_M) & ~after["off_road"]
    return Outcome(after, reward.masked_fill(leaves, -1.0), leaves, success)


def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The signal table of the module's docstring."""
    offset = (state["pose"][:, :1] - task["line_m"].unsqueeze(1)) / (task["width"].unsqueeze(1) / 2)
    return torch.cat([offset, course.signals(task, data, state)], 1)  # (N, 6)


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Pure pursuit of the swept line by the parameters of the task."""
    beside = obs[:, 5] * task["width"] / 2 - task["line_m"]
    drag = car.DRAG_N_PER_M_S + GRAVEL_N_PER_M_S / BANK_M * beside.abs().clamp(max=BANK_M)
    return driver.drive(task, obs, line_m=task["line_m"], drag=drag)


def draw(task: Arrays) -> mujoco.MjModel:
    """The car on the road of one task, to be drawn; same bodies and joints as the model that is stepped."""
    one = {name: task[name].unsqueeze(0).cpu() for name in ("shape", "max_curvature", "direction")}
    road = roads.centreline(**one)[0].double().numpy()
    model = scene.car_on_road(car.MODEL_FILE, road, float(task["width"]), float(task["swept_line"] * task["width"] / 2))
    half = float(task["steer_offset"]) / 2
    model.body_quat[car.FRONT_AXLE] = [math.cos(half), 0.0, 0.0, math.sin(half)]
    return model


def gravel_depth(task: Arrays, state: Arrays) -> Tensor:
    """How far the car is beside the swept line, at most to where the gravel is deep, (N,) m."""
    return (state["pose"][:, 0] - task["line_m"]).abs().clamp(max=BANK_M)
