"""`track-wheels`: the tasks of `track` for a car that stands on four wheels, to test policies of `track` on.

Task parameters, actions, observations, reward, end, success, start, signals and metrics are those of `track`, so that a
policy that was trained there drives here unchanged (simulation to simulation). What differs is the body: a free
chassis that pitches and rolls, wheels that turn, lock and spin, and friction where each of them touches the ground.

What the parameters of the vehicle mean here
    grip                  friction of the four contacts, so that each wheel's force ends at grip times its own load
    tyre_stiffness_*      1 / time constant of the friction of an axle's contacts (`pair_solreffriction`): below its
                          limit friction is a force per slip velocity, 60 N/(m/s) per axle at 1 as in `track`; unlike
                          there it acts along the wheel as well
    mass, yaw_inertia     scale of all masses and inertias; further scale of that of the chassis about z
    com_shift             of the chassis; loads follow from the contacts
    steer_delay, steer_offset  as in `track`; both wheels sit on one beam that turns about its middle
    motor_lag, power      of the torque, the same on all wheels (an open differential)
    wind                  on the box of the chassis' inertia, as in `track`; from the side it also rolls the car
Gravel: a force on the chassis, as in `track`. Load moves between all four wheels at every substep, whereas `track`
moves it between its axles once per control step; the friction circle of `track` limits the pedal here, too (a
traction control), but the wheels keep to their own circle in any case.

Source: MuJoCo's elliptic friction cones, with `impratio` 0.1: friction rows are ten times as soft as the normal ones,
and give way to slip within some hundredths of a second. Substeps of 5 ms, eight per control step.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from envs.driving import car, course, roads, scene, track
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Signals, Start
from metarl.types import Arrays

MODEL_FILE = Path(__file__).parent / "mjcf" / "car_wheels.xml"
STEER, DRIVE, BRAKE, GRAVEL = range(4)
"""Actuators of the model."""
CHASSIS, FRONT_AXLE = 1, 4
"""Bodies of the model."""
REAR_PAIRS, FRONT_PAIRS = slice(0, 2), slice(2, 4)
"""Contacts of the model."""
WHEEL_M = 0.055
"""Radius of the wheels."""
STEER_JOINT = 9
"""Where the steering stands in `qpos`, after the free joint and the rear wheels."""


def make_spec(horizon: int = 60) -> EnvSpec:
    """Make the `track-wheels` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    single_track = track.make_spec(horizon)
    assert single_track.physics is not None and single_track.metrics is not None
    lap = single_track.metrics
    return replace(
        single_track,
        name="track-wheels",
        reset=reset,
        observe=observe,
        step=step,
        control=control,
        physics=replace(
            single_track.physics,
            model=_car_with_contacts_only(),
            num_substeps=8,
            data_fields=course.DATA_FIELDS,
            model_fields=(
                *("actuator_gainprm", "actuator_dynprm", "actuator_delay"),
                *("body_mass", "body_inertia", "body_ipos", "body_quat"),
                *("pair_friction", "pair_solreffriction", "opt.wind"),
            ),
            configure=configure,
            max_contacts=6,
            max_constraints=24,
            scene=draw,
        ),
        signals=Signals(track.SIGNAL_NAMES, lambda task, data, state: track.signals(task, planar(data), state)),
        metrics=Metrics(lap.names, lambda task, data, state: lap.compute(task, planar(data), state)),
        description="the tasks of track for a car on four wheels that touch the ground, to test policies of track on",
    )


def planar(data: Arrays) -> dict[str, Tensor]:
    """What `track` reads, of the free body: "qpos" x, y, yaw, steering; "sensordata" in the order of `car`."""
    qpos, sensors = data["qpos"], data["sensordata"]
    w, x, y, z = qpos[:, 3:7].unbind(1)
    yaw = torch.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    return {
        "qpos": torch.stack([qpos[:, 0], qpos[:, 1], yaw, qpos[:, STEER_JOINT]], 1),
        "sensordata": torch.cat([sensors[:, :1], sensors[:, 6:7], sensors[:, 1:4]], 1),
    }


def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
    """Model fields of each task."""
    num = len(task["grip"])
    field = {name: value.expand(num, *value.shape).clone() for name, value in defaults.items()}
    field["body_mass"] *= task["mass"].unsqueeze(1)
    field["body_inertia"] *= task["mass"].reshape(-1, 1, 1)
    field["body_inertia"][:, CHASSIS, 2] *= task["yaw_inertia"]
    field["body_ipos"][:, CHASSIS, 0] += task["com_shift"]
    half = task["steer_offset"] / 2
    field["body_quat"][:, FRONT_AXLE, 0], field["body_quat"][:, FRONT_AXLE, 3] = half.cos(), half.sin()
    field["pair_friction"][:, :, :2] = task["grip"].reshape(-1, 1, 1)
    field["pair_solreffriction"][:, REAR_PAIRS, 0] /= task["tyre_stiffness_rear"].unsqueeze(1)
    field["pair_solreffriction"][:, FRONT_PAIRS, 0] /= task["tyre_stiffness_front"].unsqueeze(1)
    field["actuator_gainprm"][:, DRIVE, 0] *= task["power"]
    field["actuator_dynprm"][:, DRIVE, 0] = task["motor_lag"]
    field["actuator_delay"][:, STEER] = task["steer_delay"]
    direction = task["wind_direction"]
    blow = torch.stack([direction.cos(), direction.sin(), torch.zeros_like(half)], 1)
    field["opt.wind"] = task["wind_speed"].unsqueeze(1) * blow
    return field


def reset(task: Arrays, noise: Noise) -> Start:
    """The start of `track`, with wheels that roll."""
    start = course.reset(task, noise)
    x, y, yaw, zero = start.writes["qpos"].unbind(1)
    vx, vy = start.writes["qvel"][:, 0], start.writes["qvel"][:, 1]
    roll = zero + course.START_SPEED / WHEEL_M
    pose = [x, y, zero + WHEEL_M, (yaw / 2).cos(), zero, zero, (yaw / 2).sin()]
    velocity = [vx, vy, zero, zero, zero, zero]
    return Start(
        start.state,
        {
            "qpos": torch.stack([*pose, zero, zero, zero, zero, zero], 1),
            "qvel": torch.stack([*velocity, roll, roll, zero, roll, roll], 1),
        },
    )


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """Steering target, drive and brake as in `track`; the gravel has an actuator of its own."""
    pedals = car.control(task, planar(data), state, action, task["grip"].unsqueeze(1))["ctrl"][:, :GRAVEL]
    depth = track.gravel_depth(task, state) / track.BANK_M
    return {"ctrl": torch.cat([pedals, depth.unsqueeze(1)], 1)}


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """As `track` observes."""
    return course.observe(task, planar(data), state)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """As in `track`."""
    return track.step(task, planar(data), state, action, noise)


def draw(task: Arrays) -> mujoco.MjModel:
    """The car on the road of one task, to be drawn; same bodies and joints as the model that is stepped."""
    one = {name: task[name].unsqueeze(0).cpu() for name in ("shape", "max_curvature", "direction")}
    road = roads.centreline(**one)[0].double().numpy()
    model = scene.car_on_road(MODEL_FILE, road, float(task["width"]), float(task["swept_line"] * task["width"] / 2))
    half = float(task["steer_offset"]) / 2
    model.body_quat[FRONT_AXLE] = [math.cos(half), 0.0, 0.0, math.sin(half)]
    model.geom_rgba[model.geom_group == 3, 3] = 0.0  # what touches is not what is seen
    return model


def _car_with_contacts_only() -> mujoco.MjModel:
    """The car to be stepped, without the geoms that are for drawing only."""
    spec = mujoco.MjSpec.from_file(str(MODEL_FILE))
    for geom in list(spec.geoms):
        if geom.group != 3:
            spec.delete(geom)
    return spec.compile()
