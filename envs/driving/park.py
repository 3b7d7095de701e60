"""`park`: a car of unknown wheelbase, steering and motor, to be driven into a marked slot, forwards and backwards.

The slot is seen in a wrong place, and the vehicle is not seen at all: how tight the car turns, where its wheels stand
when the servo is in the middle, how late and how strongly it answers show only in how it moves, and where the slot is
in the reward alone. Room to manoeuvre is unlimited, time is not.

Task parameters (train range without hole; hole = split `interpolation`; shell = split `extrapolation`)
    name           unit  train       hole         shell              what it changes
    wheelbase      m     .25 .. .42  .31 .. .35   .42-.5             from axle to axle
    steer_limit    rad   .3 .. .5    .38 .. .42   .22-.3             travel of the servo to either side
    steer_delay    s     0 .. .08                 .08-.12            dead time of the servo
    steer_offset   rad   -.04 .. .04              -.07--.04, .04-.07 wheels against servo
    motor_lag      s     .02 .. .2 L              .2-.3              time constant of the drive force
    power          1     .7 .. 1.3                .5-.7              scale of 9 N peak drive force
    mass           1     .7 .. 1.5                1.5-2              scale of 3.7 kg, inertia with it
    view_x         m     -.4 .. .4                .4-.5 (+-)         error of the observed slot, forwards
    view_y         m     -.4 .. .4                .4-.5 (+-)         the same to the left, both in the car's frame
    slot_distance  m     1 .. 2.5                                    from the start to the slot
    slot_bearing   rad   -pi .. pi                                   where it lies, against the car at the start
    slot_heading   rad   -pi .. pi                                   its heading, against the car at the start
L: uniform in the logarithm. Wheelbase and travel are the key parameters, the ones with a hole. Delays act rounded up
to 10 ms. Shifts: `vehicle`, the first seven; `view`, the error of the observed slot.

Actions (N, 2) in [-1, 1]
    0  steering       servo target, times the travel of the servo; positive turns left
    1  pedal          drive force, times 9 N; negative drives backwards. A drag of 9 N per m/s ends both at about 1 m/s,
                      and stops the car within half a second of a pedal at rest.

Observations (N, 8), clipped to [-5, 5]
    0, 1  slot as it is seen, in the car's frame, forwards and to the left  / 2 m, middle of the rear axle
    2, 3  cosine and sine of the slot's heading against the car's
    4     velocity forwards                                  / 1 m/s
    5     steering servo angle                               / its travel
    6, 7  previous action (zeros at the start)

Reward, per control step of 40 ms, in [-1, 0]
    -sqrt(min(1, d / 4 m + (1 - cos e) / 8)),  d the distance and e the heading error to the slot.
End: none. Success: d < 0.15 m, |e| < 10 degrees and a speed below 0.1 m/s.
Start: at rest, up to 5 cm and 0.05 rad off the pose that the task asks for.
Metrics
    time_to_success_s      until success held for the first time
    final_distance_m       d after the last step
    final_heading_error_rad  |e| after the last step
Horizon: 300 steps (12 s), an option of `make_spec`.

Source: reward and observation after parking-v0 of highway-env (E. Leurent, 2018; weighted distance to the power of
0.5), success after its 0.12. Deviations: no other cars and no walls; the pedal is a force, not an acceleration.
"""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from envs.driving import parking_lot, reeds_shepp
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Physics, Signals, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

MODEL_FILE = Path(__file__).parent / "mjcf" / "car_park.xml"
STEER, DRIVE, TYRE_FRONT, TYRE_REAR = range(4)
"""Actuators of the model."""
CHASSIS, FRONT_AXLE = 1, 2
"""Bodies of the model."""
OBS_DIM = 8
CONTROL_DT_S = 0.04
PEAK_FORCE_N = 9.0
"""Drive force at full pedal and standstill."""
DRAG_N_PER_M_S = 9.0
MASS_KG = 3.7
NEAR_M, ALIGNED_RAD, STANDING_M_S = 0.15, math.radians(10.0), 0.1
"""Success: closer, more parallel and slower than this."""
NEVER_S = 1e6
"""Stands for the time of a success that did not come."""
GENTLE_BRAKE = 0.25
"""Pedal against the direction of travel up to which the expert slows down on the way to a stop."""
SERVO_LAG_S = 0.09
"""Time that the steering servo itself takes."""
SIGNAL_NAMES = ("slot_ahead", "slot_left", "slot_cos", "slot_sin", "speed", "steering")
METRIC_NAMES = ("time_to_success_s", "final_distance_m", "final_heading_error_rad")
VIEW_SHELL = ((-0.5, -0.4), (0.4, 0.5))

VEHICLE = (
    Parameter("wheelbase", "m", Uniform(0.25, 0.42, (0.31, 0.35), ((0.42, 0.5),)), "hidden"),
    Parameter("steer_limit", "rad", Uniform(0.3, 0.5, (0.38, 0.42), ((0.22, 0.3),)), "travel of the servo, hidden"),
    Parameter("steer_delay", "s", Uniform(0.0, 0.08, None, ((0.08, 0.12),)), "dead time, hidden"),
    Parameter("steer_offset", "rad", Uniform(-0.04, 0.04, None, ((-0.07, -0.04), (0.04, 0.07))), "hidden"),
    Parameter("motor_lag", "s", Uniform(0.02, 0.2, None, ((0.2, 0.3),), log=True), "time constant, hidden"),
    Parameter("power", "1", Uniform(0.7, 1.3, None, ((0.5, 0.7),)), "scale of the drive force, hidden"),
    Parameter("mass", "1", Uniform(0.7, 1.5, None, ((1.5, 2.0),)), "scale of mass and inertia, hidden"),
)
VIEW = (
    Parameter("view_x", "m", Uniform(-0.4, 0.4, None, VIEW_SHELL), "error of the observed slot, forwards, hidden"),
    Parameter("view_y", "m", Uniform(-0.4, 0.4, None, VIEW_SHELL), "error of the observed slot, to the left, hidden"),
)
PARAMETERS = (
    *VEHICLE,
    *VIEW,
    Parameter("slot_distance", "m", Uniform(1.0, 2.5), "from the start to the slot"),
    Parameter("slot_bearing", "rad", Uniform(-math.pi, math.pi), "of the slot from the start"),
    Parameter("slot_heading", "rad", Uniform(-math.pi, math.pi), "of the slot against the start"),
)
SHIFTS = {"vehicle": tuple(p.name for p in VEHICLE), "view": tuple(p.name for p in VIEW)}


def make_spec(horizon: int = 300) -> EnvSpec:
    """Make the `park` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="park",
        tasks=TaskDistribution(PARAMETERS, shifts=SHIFTS),
        obs_dim=OBS_DIM,
        action_space=Continuous(2),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=control,
        derive=derive,
        reset_noise=(3, 0),
        physics=Physics(
            model=mujoco.MjModel.from_xml_path(str(MODEL_FILE)),
            num_substeps=4,
            data_fields=("qpos", "sensordata"),
            model_fields=(
                *("actuator_dynprm", "actuator_gainprm", "actuator_delay"),
                *("body_mass", "body_inertia", "body_ipos", "body_pos", "body_quat"),
            ),
            configure=configure,
            uses_set_const=True,
            max_contacts=1,
            max_constraints=4,
            scene=draw,
        ),
        signals=Signals(SIGNAL_NAMES, signals),
        metrics=Metrics(METRIC_NAMES, metrics),
        expert=expert,
        description="a car to be parked in a slot that is seen in a wrong place; wheelbase, steering, motor differ",
    )


def derive(task: Arrays) -> dict[str, Tensor]:
    """The start (x, y, heading in the slot's frame), the error of the slot, scales of observations and commands."""
    bearing = task["slot_bearing"] - task["slot_heading"]
    x, y = -task["slot_distance"] * bearing.cos(), -task["slot_distance"] * bearing.sin()
    units = x.new_tensor([2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    obs_scale = units.reciprocal().repeat(len(x), 1)
    obs_scale[:, 5] = 1.0 / task["steer_limit"]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return {
        "start": torch.stack([x, y, -task["slot_heading"]], 1),
        "view": torch.stack([task["view_x"], task["view_y"]], 1),
        "obs_scale": obs_scale,
        "ctrl_scale": torch.stack([task["steer_limit"], one, zero, zero], 1),
    }


def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
    """Model fields of each task."""
    num = len(task["mass"])
    field = {name: value.expand(num, *value.shape).clone() for name, value in defaults.items()}
    field["body_mass"] *= task["mass"].unsqueeze(1)
    field["body_inertia"] *= task["mass"].reshape(-1, 1, 1)
    field["body_pos"][:, FRONT_AXLE, 0] = task["wheelbase"]
    field["body_ipos"][:, CHASSIS, 0] = task["wheelbase"] / 2
    half = task["steer_offset"] / 2
    field["body_quat"][:, FRONT_AXLE, 0], field["body_quat"][:, FRONT_AXLE, 3] = half.cos(), half.sin()
    field["actuator_gainprm"][:, DRIVE, 0] *= task["power"]
    field["actuator_dynprm"][:, DRIVE, 0] = task["motor_lag"]
    field["actuator_delay"][:, STEER] = task["steer_delay"]
    return field


def reset(task: Arrays, noise: Noise) -> Start:
    """Put the car where the task starts."""
    pose = task["start"] + 0.1 * (noise.uniform - 0.5)
    zero = torch.zeros_like(pose[:, 0])
    state = {
        "slot": slot_from(pose),
        "prev_action": torch.zeros_like(pose[:, :2]),
        "time": zero,
        "time_to_success": zero + NEVER_S,
    }
    return Start(state, {"qpos": torch.cat([pose, zero.unsqueeze(1)], 1)})


def slot_from(pose: Tensor) -> Tensor:
    """The slot in the car's frame, x, y, cosine and sine of its heading, (N, 4), from x, y, yaw of the car."""
    x, y, yaw = pose.unbind(1)
    cosine, sine = yaw.cos(), yaw.sin()
    ahead = torch.addcmul(cosine * x, sine, y).neg()
    left = torch.addcmul(sine * x, cosine, y, value=-1.0)
    return torch.stack([ahead, left, cosine, -sine], 1)


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """Steering target and drive; the tyres take no command."""
    return {"ctrl": action.repeat(1, 2) * task["ctrl_scale"]}


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The observation table of the module's docstring."""
    sensors = data["sensordata"]
    place, heading = state["slot"].split(2, 1)
    raw = torch.cat([place + task["view"], heading, sensors[:, 1:2], sensors[:, :1], state["prev_action"]], 1)
    return (raw * task["obs_scale"]).clamp(-5.0, 5.0)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Where the slot is now, reward and success."""
    slot = slot_from(data["qpos"][:, :3])
    distance, cosine = slot[:, :2].norm(dim=1), slot[:, 2]
    # d / 4 + (1 - cos e) / 8
    missing = torch.add(distance / 4.0 + 0.125, cosine, alpha=-0.125).clamp(0.0, 1.0)
    is_slow = data["sensordata"][:, 1].abs() < STANDING_M_S
    success = (distance < NEAR_M) & (cosine > math.cos(ALIGNED_RAD)) & is_slow
    time = state["time"] + CONTROL_DT_S
    first = time.masked_fill(~success, NEVER_S).minimum(state["time_to_success"])
    after = {"slot": slot, "prev_action": action, "time": time, "time_to_success": first}
    return Outcome(after, missing.sqrt().neg(), torch.zeros_like(success), success)


def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The slot where it is, scaled as it is observed, speed / 1 m/s, servo angle / its travel, (N, 6)."""
    return observe({**task, "view": torch.zeros_like(task["view"])}, data, state)[:, :6].clone()


def metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The metrics of the module's docstring, (N, 3)."""
    slot, time = state["slot"], state["time_to_success"]
    heading_error = torch.atan2(slot[:, 3], slot[:, 2]).abs()
    return torch.stack([time.masked_fill(time >= NEVER_S, math.nan), slot[:, :2].norm(dim=1), heading_error], 1)


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Plan the shortest way from where the car will be when the servo answers, drive its first piece."""
    speed, heading = obs[:, 4], torch.atan2(obs[:, 3], obs[:, 2])
    # The slot is not where it is seen.
    x, y = 2.0 * obs[:, 0] - task["view_x"], 2.0 * obs[:, 1] - task["view_y"]
    limit, offset, wheelbase = task["steer_limit"], task["steer_offset"], task["wheelbase"]
    is_there = (x.square() + y.square() < 0.11**2) & (heading.abs() < 0.13)
    # The way of the dead time, along the arc that the wheels steer now.
    way = (task["steer_delay"] + SERVO_LAG_S) * speed
    turned = way * (obs[:, 5] * limit + offset).tan() / wheelbase
    x, y = x - way * (turned / 2).cos(), y - way * (turned / 2).sin()
    cosine, sine = turned.cos(), turned.sin()
    x, y, heading = cosine * x + sine * y, cosine * y - sine * x, heading - turned
    tightest = wheelbase / (limit - offset.abs()).tan()
    radii = torch.stack([1.4 * tightest, 1.2 * tightest, 1.05 * tightest], 1)
    # A strong pedal tells the direction that was chosen, as braking is gentle.
    was_chosen = (obs[:, 7].abs() > GENTLE_BRAKE + 0.1) | (speed.abs() < 0.05)
    gear = torch.where(was_chosen, obs[:, 7], speed).sign()
    piece = reeds_shepp.first_piece(torch.stack([x, y, heading], 1), radii, gear, 0.05 + 0.15 * speed.abs())
    angle = (wheelbase * piece.curvature).atan() - offset
    slowing = task["mass"] * (MASS_KG / DRAG_N_PER_M_S) + task["motor_lag"]  # s, of the way after the pedal
    target = piece.gear * (piece.until_stop / slowing).clamp(min=0.18).minimum(0.9 * task["power"])
    target = target.masked_fill(is_there, 0.0)
    force = DRAG_N_PER_M_S * target + 8.0 * task["mass"] * (target - speed)
    pedal = piece.gear * force / (PEAK_FORCE_N * task["power"])
    pedal = torch.where(piece.gear * speed < -0.05, 1.0, pedal.clamp(min=-GENTLE_BRAKE)) * piece.gear
    # The wheels are turned before the car moves; the pedal says on where it will go.
    is_turning = (angle / limit - obs[:, 5]).abs().gt(0.4) & (speed.abs() < 0.12)
    pedal = torch.where(is_turning, 0.03 * piece.gear, pedal)
    pedal = torch.where(is_there, force / (PEAK_FORCE_N * task["power"]), pedal)
    return torch.stack([angle / limit, pedal], 1).clamp(-1.0, 1.0)


def draw(task: Arrays) -> mujoco.MjModel:
    """The car of one task on the parking lot; same bodies and joints as the model that is stepped."""
    model = parking_lot.car_on_lot(MODEL_FILE, float(task["wheelbase"]))
    half = float(task["steer_offset"]) / 2
    model.body_quat[FRONT_AXLE] = [math.cos(half), 0.0, 0.0, math.sin(half)]
    return model
