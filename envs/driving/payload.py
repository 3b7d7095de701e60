"""`payload`: the 1:10 car pulls a trailer between hedges; which way its load sticks out, and its weight, are hidden.

A board lies across the trailer and sticks out on one side, farther than the road is wide there: who keeps to the middle
drags it through the hedge. Branches are soft, so that nothing in the car's motion tells it; the damage does, in the
reward, and not on which side. It has to be searched for once, across the road, and can be spared in the next episode.
The weight alone did not need memory: a policy that was not told it drove as well as one that was.

Three quarters of the load rest on the hitch, behind the rear axle: they take weight off the front axle and press the
rear tyres, whose slip grows with what they carry, so that a heavily loaded car turns in by itself and is unstable above
a critical speed, 3 m/s with 1.5 times its own mass behind it and without limit when the trailer is empty. The mass
also makes everything slower.

Task parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`)
    name           unit     train       hole         shell               what it changes
    side           1        -1 or 1                              the board sticks out to the left (1) or right
    overhang       m        .8 .. .95   .86 .. .89   .95-1               from the middle of the trailer to its end
    payload        1        0 .. 1.5    .6 .. .9     1.5-2               load of the trailer / 3.7 kg, the car's mass
    grip           1        .7 .. 1     .82 .. .9    .55-.7, 1-1.2       of the asphalt, all axles
    brake_bias     1        -.15 .. .15              -.3--.15, .15-.3    left wheels brake with 1 + bias, right 1 - bias
    drag           N/(m/s)  0 .. 2                   2-3                 of the trailer's axle
    max_curvature  1/m      .4 .. .7                 .7-.9               the sharpest corner
    width          m        1.3 .. 1.5               1.2-1.3             of the road, from hedge to hedge
    direction      1        -1 or 1                                      counter-clockwise (1) or not
    shape          1        8 x (-1 .. 1)                                Fourier coefficients, see roads.py
Overhang, payload and grip are the key parameters, the ones with a hole. The rest of the vehicle is the nominal one of
car.py, without wind. Shift, a split that extrapolates in some parameters only: `load`, payload and drag.

The trailer is a body of its own on a hinge 0.25 m behind the middle of the car: 0.4 kg empty, one axle without brakes
0.4 m behind the hitch, with tyres like those of a car's axle. The load is a box with its centre 0.1 m behind the
hitch. Grip varies less than in `surface-shift` and bends are wider, so that the load is what limits the speed.

Actions (N, 2) in [-1, 1]: steering and pedal, see car.py; the trailer has no brakes and the grip of its load only.
Observations (N, 16), end and signals: see course.py; the trailer is not observed.
Reward: that of course.py, where 1 is progress at 5 m/s, less 0.5 * scrape; scrape = min(1, d / 0.2 m), d how far the
    end of the board is beyond the edge of the road, with the road taken as straight between it and the car. From
    2.5 m/s on a step earns something even with the board in the hedge, so that leaving the road never pays.
Success: a lap of 30 m within the episode without leaving the road, with a mean of scrape of at most 0.2 until then.
Start: see course.py, the trailer straight behind the car.
Metrics: progress_m, lap_time_s, off_track, slip_angle_rad, see course.py; hitch_angle_rad, the mean of |angle of the
    trailer| up to the end; scrape, its mean.
Expert: pure pursuit of the line that just spares the board, told the task, see driver.py.
Horizon: 400 steps (16 s), an option of `make_spec`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.driving import car, course, driver, roads, scene
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

TRAILER_FILE = Path(__file__).parent / "mjcf" / "trailer.xml"
TRAILER = 3
"""Body of the model."""
TRAILER_TYRE, TRAILER_DRAG = 5, 6
"""Actuators of the model, behind those of the car."""
HITCH_ANGLE = 4
"""Column of `qpos`."""
HITCH_M = 0.25
"""Distance of the hitch behind the middle of the car."""
TRAILER_AXLE_M, LOAD_M = 0.4, 0.1
"""Distances of the trailer's axle and of its centre of mass behind the hitch."""
EMPTY_KG = 0.4
HEDGE_M, HEDGE = 0.2, (0.16, 0.36, 0.14, 1)
"""Width and colour of a hedge."""
BRANCH_M, BRANCH_COST = 0.2, 0.5
"""Depth in the hedge from which on it costs the most, and how much a step."""
SPARED_SHARE = 0.2
"""Largest mean of scrape of a success."""
LOAD_GYRATION = (0.0027, 0.0019, 0.0035)
"""Inertia of the load about its own axes per mass, m^2: a box of 0.13 x 0.16 x 0.08 m."""
CLEARANCE_M, EDGE_M = 0.18, 0.2
"""What the expert wants between board and hedge, and between the middle of the car and the edge of the road."""
TRACK_M = 0.13
"""Distance of a wheel from the middle of the car."""

PARAMETERS = (
    Parameter("side", "1", Choice((-1.0, 1.0)), "where the board sticks out, 1 left, -1 right, hidden"),
    Parameter("overhang", "m", Uniform(0.8, 0.95, (0.86, 0.89), ((0.95, 1.0),)), "of the board, hidden"),
    Parameter("payload", "1", Uniform(0.0, 1.5, (0.6, 0.9), ((1.5, 2.0),)), "load of the trailer / car, hidden"),
    Parameter("grip", "1", Uniform(0.7, 1.0, (0.82, 0.9), ((0.55, 0.7), (1.0, 1.2))), "of the asphalt, hidden"),
    Parameter("brake_bias", "1", Uniform(-0.15, 0.15, None, ((-0.3, -0.15), (0.15, 0.3))), "to the left, hidden"),
    Parameter("drag", "N/(m/s)", Uniform(0.0, 2.0, None, ((2.0, 3.0),)), "of the trailer's axle, hidden"),
    Parameter("max_curvature", "1/m", Uniform(0.4, 0.7, None, ((0.7, 0.9),)), "of the sharpest corner"),
    Parameter("width", "m", Uniform(1.3, 1.5, None, ((1.2, 1.3),)), "of the road"),
    course.DIRECTION,
    course.SHAPE,
)
METRIC_NAMES = (*course.METRIC_NAMES, "hitch_angle_rad", "scrape")


def make_spec(horizon: int = 400) -> EnvSpec:
    """Make the `payload` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="payload",
        tasks=TaskDistribution(PARAMETERS, shifts={"load": ("payload", "drag")}),
        obs_dim=course.OBS_DIM,
        action_space=Continuous(2),
        horizon=horizon,
        reset=reset,
        observe=car.sensed(course.observe),
        step=car.sensed(step),
        control=car.sensed(control),
        derive=derive,
        reset_noise=course.RESET_NOISE,
        physics=replace(
            car.physics(draw),
            model=scene.without_geoms(hitched(mujoco.MjSpec.from_file(str(car.MODEL_FILE)))),
            model_fields=(*car.MODEL_FIELDS, "actuator_gear"),
            configure=configure,
        ),
        signals=Signals(course.SIGNAL_NAMES, car.sensed(course.signals)),
        metrics=Metrics(METRIC_NAMES, metrics),
        expert=expert,
        description="a car with a trailer between hedges; what sticks out, load, drag, brakes, grip and road differ",
    )


def hitched(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    """Hang the trailer behind the car of a model."""
    trailer = mujoco.MjSpec.from_file(str(TRAILER_FILE))
    spec.body("car").add_frame(pos=[-HITCH_M, 0, 0]).attach_body(trailer.body("body"), "trailer_", "")
    return spec


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: road, and the car with its trailer."""
    return course.derive(task) | derive_car(task)


def derive_car(task: Arrays) -> dict[str, Tensor]:
    """The tables of `car.derive`, with the loads on the car's axles and on that of the trailer."""
    vehicle = car.derive(task)
    behind = (EMPTY_KG + task["payload"] * car.MASS_KG) * car.GRAVITY  # N, weight of the trailer
    on_hitch = behind * (1.0 - LOAD_M / TRAILER_AXLE_M)
    lever = (HITCH_M - car.AXLE_M) / (2 * car.AXLE_M)
    front = vehicle["load"][:, car.TYRE_FRONT, 1] - on_hitch * lever
    rear = vehicle["load"][:, car.TYRE_REAR, 1] + on_hitch * (1.0 + lever)
    tables = vehicle | car.load_tables(vehicle["mass_kg"], front, rear)
    on_axle = behind - on_hitch
    trailer = torch.stack(
        [torch.stack([-on_axle, on_axle], 1), torch.zeros_like(on_axle).unsqueeze(1).expand(-1, 2)], 1
    )
    tables["load"] = torch.cat([tables["load"], trailer], 1)  # (N, 7, 2)
    tables["load_transfer"] = torch.cat([tables["load_transfer"], torch.zeros_like(trailer)], 1)
    return tables


def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
    """Model fields of each task."""
    field = car.configure(task, defaults)
    load = task["payload"] * car.MASS_KG
    field["body_mass"][:, TRAILER] += load
    field["body_inertia"][:, TRAILER] += load.unsqueeze(1) * load.new_tensor(LOAD_GYRATION)
    field["actuator_biasprm"][:, TRAILER_DRAG, 2] = -task["drag"]
    gear = defaults["actuator_gear"].expand(len(load), -1, -1).clone()
    # A force -F with the lever y on the left turns the car to the left by F y.
    gear[:, car.BRAKE, 5] = -TRACK_M * task["brake_bias"]
    field["actuator_gear"] = gear
    return field


def reset(task: Arrays, noise: Noise) -> Start:
    """Put car and trailer in line on the start line."""
    start = course.reset(task, noise)
    straight = {name: torch.cat([value, torch.zeros_like(value[:, :1])], 1) for name, value in start.writes.items()}
    zero = torch.zeros_like(start.state["distance"])
    return Start(start.state | {"hitch_angle": zero, "scrape": zero.clone()}, straight)


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """The car's forces and the grip of the trailer's tyres."""
    return car.control(task, data, state, action, task["grip"].unsqueeze(1))


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Progress along the road less the damage of the board."""
    after, reward, leaves = course.advance(task, data, state, action)
    scrape = scraping(task, data["qpos"][:, HITCH_ANGLE], after["pose"])
    reward = torch.sub(reward, scrape, alpha=BRANCH_COST)
    sums = {"hitch_angle": data["qpos"][:, HITCH_ANGLE].abs(), "scrape": scrape}
    after |= {name: state[name] + value.masked_fill(state["off_road"], 0.0) for name, value in sums.items()}
    is_spared = after["scrape"] <= SPARED_SHARE * course.num_steps(after)
    success = (after["distance"] >= roads.LENGTH_M) & ~after["off_road"] & is_spared
    return Outcome(after, reward.masked_fill(leaves, -1.0), leaves, success)


def metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The metrics of the module's docstring, (N, 6)."""
    means = torch.stack([state["hitch_angle"], state["scrape"]], 1) / course.num_steps(state).unsqueeze(1)
    return torch.cat([course.metrics(state), means], 1)


def scraping(task: Arrays, hitch_angle: Tensor, pose: Tensor) -> Tensor:
    """How deep the end of the board is in the hedge, 0 to 1, (N,); `pose` is lateral and heading error, (N, 2)."""
    lateral, heading_error = pose.unbind(1)
    direction = heading_error + hitch_angle  # of the trailer, from that of the road
    end = lateral - HITCH_M * heading_error.sin() - LOAD_M * direction.sin()
    end = end + task["side"] * task["overhang"] * direction.cos()
    return ((end.abs() - task["width"] / 2) / BRANCH_M).clamp(0.0, 1.0)


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Pure pursuit, by the parameters of the task, of the line on which the board stays clear of the hedge."""
    half = task["width"] / 2
    aside = (task["overhang"] + CLEARANCE_M - half).clamp(min=0.0).minimum(half - EDGE_M)
    towed = EMPTY_KG + task["payload"] * car.MASS_KG
    drag = car.DRAG_N_PER_M_S + task["drag"]
    return driver.drive(task, obs, line_m=-task["side"] * aside, drag=drag, towed_kg=towed)


def draw(task: Arrays) -> mujoco.MjModel:
    """Car and trailer between the hedges of one task, to be drawn; a heavier load is a higher box under the board."""
    one = {name: value.unsqueeze(0).cpu() for name, value in task.items()}
    road = roads.centreline(one["shape"], one["max_curvature"], one["direction"])[0].double().numpy()
    spec = hitched(mujoco.MjSpec.from_file(str(car.MODEL_FILE)))
    load = spec.geom("trailer_load")
    height = 0.005 + 0.04 * float(task["payload"])
    load.size[2], load.pos[2] = height, 0.078 + height
    side, end, inner = float(task["side"]), float(task["overhang"]), -0.1
    board = spec.body("trailer_body").add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, rgba=(0.86, 0.68, 0.4, 1), mass=0.0)
    board.pos = [-LOAD_M, side * (end + inner) / 2, 0.09 + 2 * height]
    board.size = [0.06, (end - inner) / 2, 0.008]
    board.contype = board.conaffinity = 0
    half = float(task["width"]) / 2
    around = [np.append(np.arange(len(road)), 0)]
    for name, left in (("left", half + HEDGE_M), ("right", -half)):
        scene.add_ribbon(spec, f"hedge_{name}", road, left, left - HEDGE_M, 0.05, HEDGE, around)
    return scene.on_road(spec, road, 2 * half)
