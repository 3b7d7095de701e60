"""The 1:10 single-track car that the driving environments share: its parameters, model fields and forces.

Vehicle parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`). An
environment takes those it wants to differ between its tasks; the others are `NOMINAL`.
    name                  unit  train       hole         shell               nominal
    tyre_stiffness_front  1     .6 .. 1.6 L              .4-.6, 1.6-2.2      1     scale of 60 N/(m/s) lateral
    tyre_stiffness_rear   1     .6 .. 1.6 L              .4-.6, 1.6-2.2      1     scale of 60 N/(m/s) lateral
    mass                  1     .7 .. 1.5                1.5-2               1     scale of 3.7 kg, inertia with it
    yaw_inertia           1     .7 .. 1.5                1.5-2               1     further scale of the chassis
    com_shift             m     -.03 .. .03              -.05--.03, .03-.05  0     centre of mass forwards
    steer_delay           s     0 .. .08    .03 .. .05   .08-.12             .04   dead time of the steering servo
    steer_offset          rad   -.03 .. .03              -.06--.03, .03-.06  0     wheels against servo
    motor_lag             s     .02 .. .2 L              .2-.3               .06   time constant of the drive force
    power                 1     .7 .. 1.2                .5-.7               1     scale of 20 N peak drive force
    wind_speed            m/s   0 .. 6                   6-10                0
    wind_direction        rad   -pi .. pi                                    0     where the wind blows to
L: uniform in the logarithm. The servo sees commands at whole substeps, so delays act rounded up to 10 ms; the edges of
their ranges lie on that grid.

Actions (N, 2) in [-1, 1]
    0  steering       servo target, times 0.42 rad; positive turns left
    1  pedal          positive: drive, times 20 N, less 1.4 N per m/s of drag; negative: brake, 8 N per m/s at -1,
                      which stops the car and never reverses it. All wheels; both end at the grip that cornering
                      leaves over, sqrt((grip * weight)^2 - (mass * speed * yaw rate)^2).

Grip: the lateral force of an axle ends at grip times its load. Accelerating moves load to the rear, braking to the
front: mass * acceleration * 0.074 m / 0.33 m, the height of the centre of mass over the wheelbase, with the
acceleration of the last control step, at most 12 m/s^2.

Source: masses, wheelbase, height of the centre of mass and steering are those of f1tenth_gym (3.74 kg, 0.33 m,
0.074 m, 0.42 rad). Deviations from a single-track model with slip angles: the lateral force is proportional to the
lateral velocity of the axle instead of its slip angle (stable at standstill and integrated implicitly), and the
friction circle gives cornering the first call on the grip, once per control step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import torch
from torch import Tensor

from envs.driving import scene
from metarl.env import Physics
from metarl.tasks import Parameter, Uniform
from metarl.types import Arrays

MODEL_FILE = Path(__file__).parent / "mjcf" / "car_st.xml"
STEER, DRIVE, BRAKE, TYRE_FRONT, TYRE_REAR = range(5)
"""Actuators of the model."""
NUM_ACTUATORS = 5
CHASSIS, FRONT_AXLE = 1, 2
"""Bodies of the model."""
STEER_ANGLE, YAW_RATE, SPEED, LATERAL_SPEED = range(4)
"""Columns of `sensordata`: rad, rad/s, and m/s forwards and to the left of the middle of the chassis."""
MAX_STEER_RAD = 0.42
AXLE_M = 0.165
"""Distance of each axle from the middle of the chassis."""
COM_HEIGHT_M = 0.074
GRAVITY = 9.81
MASS_KG = 3.7
PEAK_FORCE_N = 20.0
"""Drive force at full pedal and standstill."""
BRAKE_N_PER_M_S = 8.0
"""Force of the full brake per speed, N/(m/s)."""
DRAG_N_PER_M_S = 1.4
TYRE_N_PER_M_S = 60.0
"""Lateral force of an axle per lateral speed, N/(m/s)."""
MAX_ACCELERATION = 12.0
"""Largest acceleration, m/s^2, that moves load from one axle to the other."""
NUM_SUBSTEPS = 4
CONTROL_DT_S = 0.04

MODEL_FIELDS = (
    "actuator_forcerange",
    "actuator_biasprm",
    "actuator_gainprm",
    "actuator_dynprm",
    "actuator_delay",
    "body_mass",
    "body_inertia",
    "body_ipos",
    "body_quat",
    "opt.wind",
)

SENSED_FIELDS = ("qpos", "qvel")
"""Fields of mjData that a function needs that went through `sensed`."""

GRIP = Parameter("grip", "1", Uniform(0.4, 1.1, (0.68, 0.82), ((0.15, 0.4), (1.1, 1.5))), "grip of the road, hidden")
VEHICLE = (
    Parameter("tyre_stiffness_front", "1", Uniform(0.6, 1.6, None, ((0.4, 0.6), (1.6, 2.2)), log=True), "hidden"),
    Parameter("tyre_stiffness_rear", "1", Uniform(0.6, 1.6, None, ((0.4, 0.6), (1.6, 2.2)), log=True), "hidden"),
    Parameter("mass", "1", Uniform(0.7, 1.5, None, ((1.5, 2.0),)), "scale of mass and inertia, hidden"),
    Parameter("yaw_inertia", "1", Uniform(0.7, 1.5, None, ((1.5, 2.0),)), "further scale of yaw inertia, hidden"),
    Parameter("com_shift", "m", Uniform(-0.03, 0.03, None, ((-0.05, -0.03), (0.03, 0.05))), "forwards, hidden"),
    Parameter("steer_delay", "s", Uniform(0.0, 0.08, (0.03, 0.05), ((0.08, 0.12),)), "dead time, hidden"),
    Parameter("steer_offset", "rad", Uniform(-0.03, 0.03, None, ((-0.06, -0.03), (0.03, 0.06))), "hidden"),
    Parameter("motor_lag", "s", Uniform(0.02, 0.2, None, ((0.2, 0.3),), log=True), "time constant, hidden"),
    Parameter("power", "1", Uniform(0.7, 1.2, None, ((0.5, 0.7),)), "scale of the drive force, hidden"),
)
WIND = (
    Parameter("wind_speed", "m/s", Uniform(0.0, 6.0, None, ((6.0, 10.0),)), "hidden"),
    Parameter("wind_direction", "rad", Uniform(-math.pi, math.pi), "where the wind blows to, hidden"),
)
NOMINAL = {
    "tyre_stiffness_front": 1.0,
    "tyre_stiffness_rear": 1.0,
    "mass": 1.0,
    "yaw_inertia": 1.0,
    "com_shift": 0.0,
    "steer_delay": 0.04,
    "steer_offset": 0.0,
    "motor_lag": 0.06,
    "power": 1.0,
    "wind_speed": 0.0,
    "wind_direction": 0.0,
}
"""What the vehicle is where a task does not say."""


def physics(draw: Callable[[Arrays], mujoco.MjModel]) -> Physics:
    """The car of `mjcf/car_st.xml` with `configure`, its functions given by `sensed`; `draw` makes what is drawn."""
    return Physics(
        model=scene.without_geoms(mujoco.MjSpec.from_file(str(MODEL_FILE))),
        num_substeps=NUM_SUBSTEPS,
        data_fields=SENSED_FIELDS,
        model_fields=MODEL_FIELDS,
        configure=configure,
        uses_set_const=True,
        max_contacts=1,
        max_constraints=4,
        scene=draw,
    )


def vehicle_of(task: Arrays) -> dict[str, Tensor]:
    """The vehicle parameters of each task, each (N,), the nominal ones where a task has none."""
    like = task["grip"]
    return {name: task[name] if name in task else torch.full_like(like, value) for name, value in NOMINAL.items()}


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task that `control` reads: the mass, loads and what the pedal is worth.

    Args:
        task: "grip" and any of `NOMINAL`, each (N,).
    """
    vehicle = vehicle_of(task)
    mass = vehicle["mass"] * MASS_KG
    weight = mass * GRAVITY
    front = weight * _front_share(vehicle)
    return load_tables(mass, front, weight - front) | {
        "mass_kg": mass,
        "pedal_unit": torch.stack([vehicle["power"] * PEAK_FORCE_N, torch.full_like(mass, BRAKE_N_PER_M_S)], 1),
    }


def load_tables(mass: Tensor, front: Tensor, rear: Tensor) -> dict[str, Tensor]:
    """The loads that limit each actuator's force, at rest and per m/s^2 of acceleration.

    Args:
        mass: (N,) of the car, kg.
        front, rear: (N,) load on each axle at rest, N.

    Returns:
        "load", (N, NUM_ACTUATORS, 2) N, and "load_transfer", the same shape, kg, each with the signs of the lower and
        upper end of a force. The tyres end at the load on their axle, drive and brake at both together.
    """
    none, both = torch.zeros_like(front), front + rear
    moved = mass * (COM_HEIGHT_M / (2 * AXLE_M))
    load = torch.stack([none, both, both, front, rear], 1)
    transfer = torch.stack([none, none, none, -moved, moved], 1)
    return {"load": torch.stack([-load, load], 2), "load_transfer": torch.stack([-transfer, transfer], 2)}


def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
    """Model fields of each task; limits of the forces are those of the car at rest, `control` rewrites them."""
    vehicle, num = vehicle_of(task), len(task["grip"])
    field = {name: value.expand(num, *value.shape).clone() for name, value in defaults.items()}
    field["body_mass"] *= vehicle["mass"].unsqueeze(1)
    field["body_inertia"] *= vehicle["mass"].reshape(-1, 1, 1)
    field["body_inertia"][:, CHASSIS, 2] *= vehicle["yaw_inertia"]
    field["body_ipos"][:, CHASSIS, 0] += vehicle["com_shift"]
    half = vehicle["steer_offset"] / 2
    field["body_quat"][:, FRONT_AXLE, 0], field["body_quat"][:, FRONT_AXLE, 3] = half.cos(), half.sin()
    field["actuator_forcerange"] = task["load"] * task["grip"].reshape(-1, 1, 1)
    field["actuator_biasprm"][:, TYRE_FRONT, 2] *= vehicle["tyre_stiffness_front"]
    field["actuator_biasprm"][:, TYRE_REAR, 2] *= vehicle["tyre_stiffness_rear"]
    field["actuator_gainprm"][:, DRIVE, 0] *= vehicle["power"]
    field["actuator_dynprm"][:, DRIVE, 0] = vehicle["motor_lag"]
    field["actuator_delay"][:, STEER] = vehicle["steer_delay"]
    direction = vehicle["wind_direction"]
    blow = torch.stack([direction.cos(), direction.sin(), torch.zeros_like(half)], 1)
    field["opt.wind"] = vehicle["wind_speed"].unsqueeze(1) * blow
    return field


def control(
    task: Arrays, data: Arrays, state: Arrays, action: Tensor, grip: Tensor, drag: Tensor | None = None
) -> dict[str, Tensor]:
    """Steering target, drive and brake within the friction circle, limits of the tyres; off the road the brake.

    Args:
        task: with the tables of `derive`; more actuators than this car's, in "load", get no command.
        data: with "sensordata".
        state: "off_road" (N,) bool and "acceleration" (N,) forwards in the last control step, m/s^2, bounded.
        action: (N, 2).
        grip: under the car, (N, 1), or under each actuator, (N, NUM_ACTUATORS).
        drag: (N,) a brake on the chassis beside that of the pedal, in units of the full brake; None: there is none.

    Returns:
        "ctrl" (N, nu) and "actuator_forcerange" (N, nu, 2).
    """
    speed = data["sensordata"][:, SPEED]
    load = torch.addcmul(task["load"], task["load_transfer"], state["acceleration"].reshape(-1, 1, 1))
    limit = load * grip.unsqueeze(2)
    whole = limit[:, DRIVE, 1]
    cornering = task["mass_kg"] * speed * data["sensordata"][:, YAW_RATE]  # (N,) newton
    # sqrt((grip * weight)^2 - cornering^2)
    left_over = torch.addcmul(whole * whole, cornering, cornering, value=-1.0).clamp(min=0.0).sqrt()
    pedal = action[:, 1].masked_fill(state["off_road"], -1.0)
    drive_unit, brake_unit = task["pedal_unit"].unbind(1)
    drive = pedal.clamp(min=0.0).minimum(left_over / drive_unit)
    brake = pedal.neg().clamp(min=0.0).minimum(left_over / (brake_unit * speed.clamp(min=0.1)))
    if drag is not None:
        brake = brake + drag
    tyres = [torch.zeros_like(pedal)] * (limit.shape[1] - TYRE_FRONT)
    ctrl = torch.stack([action[:, 0] * MAX_STEER_RAD, drive, brake, *tyres], 1)
    return {"ctrl": ctrl, "actuator_forcerange": limit}


def sensed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function (task, data, ...) that reads "sensordata", given `data` with `SENSED_FIELDS`, (N, >= 4), instead.

    The engine's own sensors cost a tenth of a step, because it computes the kinematics once more for them.
    """

    def from_state(task: Arrays, data: Arrays, *others: Any) -> Any:
        qpos, qvel = data["qpos"], data["qvel"]
        cosine, sine = qpos[:, 2].cos(), qpos[:, 2].sin()
        x, y, yaw_rate = qvel[:, 0], qvel[:, 1], qvel[:, 2]
        forwards = torch.addcmul(cosine * x, sine, y)
        sideways = torch.addcmul(cosine * y, sine, x, value=-1.0)
        sensors = torch.stack([qpos[:, 3], yaw_rate, forwards, sideways], 1)
        return function(task, {"qpos": qpos, "sensordata": sensors}, *others)

    return from_state


def acceleration(speed_before: Tensor, sensors: Tensor) -> Tensor:
    """The state "acceleration" of `control`: what the forces forwards amount to in a control step, (N,) m/s^2.

    In the turning frame of the car that is dv_x / dt - yaw rate * v_y; a car that spins loses forward speed by turning.

    Args:
        speed_before: (N,) forwards, before the step.
        sensors: (N, >= 4) "sensordata" after it.
    """
    speed, sideways, yaw_rate = sensors[:, SPEED], sensors[:, LATERAL_SPEED], sensors[:, YAW_RATE]
    change = (speed - speed_before) * (1.0 / CONTROL_DT_S)
    return torch.addcmul(change, yaw_rate, sideways, value=-1.0).clamp(-MAX_ACCELERATION, MAX_ACCELERATION)


def _front_share(vehicle: Arrays) -> Tensor:
    """Share of the weight on the front axle, (N,): chassis 3.5 kg at the shifted middle, 0.2 kg on the axle."""
    chassis, front_axle = 3.5, 0.2
    moment = chassis * vehicle["com_shift"] + front_axle * AXLE_M
    return 0.5 + moment / (MASS_KG * 2 * AXLE_M)
