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

Gravel: a drag of 8 N per m/s times min(1, d / 0.2 m), d the distance of the middle of the car from the swept line.

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
Horizon: 60 steps (2.4 s), an option of `make_spec`: short, so that searching for the line costs a good part of the
    first episode, and a trial of three stays short.

Source: tyre and steering constants are those of a 1:10 car as in f1tenth_gym (mass 3.74 kg, wheelbase 0.33 m,
steering 0.42 rad). Deviations from a single-track model with slip angles: the lateral force is proportional to the
lateral velocity of the axle instead of its slip angle (stable at standstill and integrated implicitly), and
the friction circle gives cornering the first call on the grip, once per control step; gravel is a viscous drag
on the chassis, of which wheels, heading and grip know nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from envs.driving import roads, scene
from metarl.env import EnvSpec, Noise, Outcome, Physics, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

MODEL_FILE = Path(__file__).parent / "mjcf" / "car_st.xml"
STEER, DRIVE, BRAKE, TYRE_FRONT, TYRE_REAR = range(5)
"""Actuators of the model."""
CHASSIS, FRONT_AXLE = 1, 2
"""Bodies of the model."""
MAX_STEER_RAD = 0.42
AXLE_M = 0.165
"""Distance of each axle from the middle of the chassis."""
GRAVITY = 9.81
MASS_KG = 3.7
PEAK_FORCE_N = 20.0
"""Drive force at full pedal and standstill."""
BRAKE_N_PER_M_S = 8.0
"""Force of the full brake per speed, N/(m/s)."""
NUM_SUBSTEPS = 4
CONTROL_DT_S = 0.04
REFERENCE_SPEED = 5.0
"""Speed, m/s, at which progress earns 1 per step."""
NUM_LOOK_AHEADS = 8
LOOK_AHEAD_STRIDE = 11
"""Points of the centreline table from one look-ahead to the next."""
OBS_DIM = 8 + NUM_LOOK_AHEADS
START_SPEED = 3.0
GRAVEL_N_PER_M_S = 8.0
"""Drag of the deep gravel per speed, N/(m/s)."""
BANK_M = 0.2
"""Distance from the swept line at which the gravel is deep."""
GRAVEL_COST = 0.5
"""What a step in deep gravel costs."""
STAGE_M = 5.0
"""Way along the road that counts as success."""

SIGNAL_NAMES = ("line_offset", "edge_distance", "heading_error", "progress_speed", "slip", "steering")

PARAMETERS = (
    Parameter("grip", "1", Uniform(0.4, 1.1, (0.68, 0.82), ((0.15, 0.4), (1.1, 1.5))), "grip of the road, hidden"),
    Parameter("swept_line", "1", Uniform(-0.75, 0.75, (0.3, 0.5), ((-0.9, -0.75), (0.75, 0.9))), "its place, hidden"),
    Parameter("tyre_stiffness_front", "1", Uniform(0.6, 1.6, None, ((0.4, 0.6), (1.6, 2.2)), log=True), "hidden"),
    Parameter("tyre_stiffness_rear", "1", Uniform(0.6, 1.6, None, ((0.4, 0.6), (1.6, 2.2)), log=True), "hidden"),
    Parameter("mass", "1", Uniform(0.7, 1.5, None, ((1.5, 2.0),)), "scale of mass and inertia, hidden"),
    Parameter("yaw_inertia", "1", Uniform(0.7, 1.5, None, ((1.5, 2.0),)), "further scale of yaw inertia, hidden"),
    Parameter("com_shift", "m", Uniform(-0.03, 0.03, None, ((-0.05, -0.03), (0.03, 0.05))), "forwards, hidden"),
    Parameter("steer_delay", "s", Uniform(0.0, 0.08, (0.03, 0.05), ((0.08, 0.12),)), "dead time, hidden"),
    Parameter("steer_offset", "rad", Uniform(-0.03, 0.03, None, ((-0.06, -0.03), (0.03, 0.06))), "hidden"),
    Parameter("motor_lag", "s", Uniform(0.02, 0.2, None, ((0.2, 0.3),), log=True), "time constant, hidden"),
    Parameter("power", "1", Uniform(0.7, 1.2, None, ((0.5, 0.7),)), "scale of the drive force, hidden"),
    Parameter("wind_speed", "m/s", Uniform(0.0, 6.0, None, ((6.0, 10.0),)), "hidden"),
    Parameter("wind_direction", "rad", Uniform(-math.pi, math.pi), "where the wind blows to, hidden"),
    Parameter("max_curvature", "1/m", Uniform(0.5, 0.9, None, ((0.9, 1.1),)), "of the sharpest corner"),
    Parameter("width", "m", Uniform(1.3, 1.7, None, ((1.1, 1.3),)), "of the road"),
    Parameter("direction", "1", Choice((-1.0, 1.0)), "1 counter-clockwise, -1 clockwise"),
    Parameter("shape", "1", Uniform(-1.0, 1.0), "Fourier coefficients of the road", (roads.SHAPE_SIZE,)),
)
SHIFTS = {
    "grip": ("grip",),
    "vehicle": tuple(f"tyre_stiffness_{axle}" for axle in ("front", "rear"))
    + ("mass", "yaw_inertia", "com_shift", "steer_delay", "steer_offset", "motor_lag", "power"),
}


def make_spec(horizon: int = 60) -> EnvSpec:
    """Make the `track` environment; the module's docstring is its spec sheet.

    Args:
        horizon: H, control steps of an episode, 25 per second.
    """
    return EnvSpec(
        name="track",
        tasks=TaskDistribution(PARAMETERS, shifts=SHIFTS),
        obs_dim=OBS_DIM,
        action_space=Continuous(2),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=control,
        derive=derive,
        reset_noise=(2, 0),
        physics=Physics(
            model=scene.car_without_geoms(MODEL_FILE),
            num_substeps=NUM_SUBSTEPS,
            data_fields=("qpos", "sensordata"),
            model_fields=(
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
            ),
            configure=configure,
            uses_set_const=True,
            max_contacts=1,
            max_constraints=4,
            scene=draw,
        ),
        signals=Signals(SIGNAL_NAMES, signals),
        description="a car on a gravel road with a hidden swept line; grip, vehicle and road differ",
    )


def derive(task: Arrays) -> dict[str, Tensor]:
    """Tables of each task: the centreline, the largest errors on the road, scales, grip."""
    half_width = task["width"] / 2
    units = [MAX_STEER_RAD, 5.0, 5.0, 1.0, 1.0, 1.0, 0.5] + [1.0] * (NUM_LOOK_AHEADS + 1)
    obs_scale = half_width.new_tensor(units).reciprocal().repeat(len(half_width), 1)
    obs_scale[:, 5] = 1.0 / half_width
    return {
        "road": roads.centreline(task["shape"], task["max_curvature"], task["direction"]),
        "pose_limit": torch.stack([half_width, torch.full_like(half_width, math.pi / 2)], 1),
        "obs_scale": obs_scale,
        "mass_kg": task["mass"] * MASS_KG,
        "grip_force_squared": (task["grip"] * task["mass"] * (MASS_KG * GRAVITY)).square(),
        "line_m": task["swept_line"] * half_width,
        "peak_force": task["power"] * PEAK_FORCE_N,
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

    weight = field["body_mass"].sum(1) * GRAVITY
    moment = (field["body_mass"] * field["body_ipos"][..., 0]).sum(1) + field["body_mass"][:, FRONT_AXLE] * AXLE_M
    front_share = 0.5 + moment * GRAVITY / weight / (2 * AXLE_M)
    grip_force = task["grip"] * weight
    front_limit = grip_force * front_share
    limits = {DRIVE: grip_force, BRAKE: grip_force, TYRE_FRONT: front_limit, TYRE_REAR: grip_force - front_limit}
    for actuator, limit in limits.items():
        field["actuator_forcerange"][:, actuator] = torch.stack([-limit, limit], 1)
    field["actuator_biasprm"][:, TYRE_FRONT, 2] *= task["tyre_stiffness_front"]
    field["actuator_biasprm"][:, TYRE_REAR, 2] *= task["tyre_stiffness_rear"]
    field["actuator_gainprm"][:, DRIVE, 0] *= task["power"]
    field["actuator_dynprm"][:, DRIVE, 0] = task["motor_lag"]
    field["actuator_delay"][:, STEER] = task["steer_delay"]
    blow = torch.stack([task["wind_direction"].cos(), task["wind_direction"].sin(), torch.zeros_like(half)], 1)
    field["opt.wind"] = task["wind_speed"].unsqueeze(1) * blow
    return field


def reset(task: Arrays, noise: Noise) -> Start:
    """Put the car on the start line."""
    start = task["road"][:, 0]  # (N, 4)
    lateral, heading_error = (0.2 * noise.uniform[:, 0] - 0.1), (0.1 * noise.uniform[:, 1] - 0.05)
    yaw = start[:, 2] + heading_error
    x, y = start[:, 0] - lateral * start[:, 2].sin(), start[:, 1] + lateral * start[:, 2].cos()
    zero = torch.zeros_like(x)
    state = {
        "distance": zero,
        "advance": zero + START_SPEED * CONTROL_DT_S,
        "pose": torch.stack([lateral, heading_error], 1),
        "prev_action": torch.zeros_like(start[:, :2]),
        "off_road": torch.zeros_like(x, dtype=torch.bool),
    }
    velocity = START_SPEED * torch.stack([yaw.cos(), yaw.sin(), zero, zero], 1)
    return Start(state, {"qpos": torch.stack([x, y, yaw, zero], 1), "qvel": velocity})


def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
    """Steering target, drive and brake within the friction circle, the drag of the gravel; off the road the brake."""
    yaw_rate, speed = data["sensordata"][:, 1], data["sensordata"][:, 2]
    cornering = task["mass_kg"] * speed * yaw_rate  # (N,) newton
    # sqrt((grip * weight)^2 - cornering^2)
    left_over = torch.addcmul(task["grip_force_squared"], cornering, cornering, value=-1.0).clamp(min=0.0).sqrt()
    pedal = action[:, 1].masked_fill(state["off_road"], -1.0)
    drive = pedal.clamp(min=0.0).minimum(left_over / task["peak_force"])
    brake = pedal.neg().clamp(min=0.0).minimum(left_over / (BRAKE_N_PER_M_S * speed.clamp(min=0.1)))
    beside = (state["pose"][:, 0] - task["line_m"]).abs().clamp(max=BANK_M)
    # The gravel is one more brake: its share d / BANK_M of GRAVEL_N_PER_M_S in units of the brake's force.
    brake = torch.add(brake, beside, alpha=GRAVEL_N_PER_M_S / (BANK_M * BRAKE_N_PER_M_S))
    tyre = torch.zeros_like(pedal)
    return {"ctrl": torch.stack([action[:, 0] * MAX_STEER_RAD, drive, brake, tyre, tyre], 1)}


def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The observation table of the module's docstring."""
    curvature = roads.look_ahead(task["road"], state["distance"], NUM_LOOK_AHEADS, LOOK_AHEAD_STRIDE)
    width = task["width"].unsqueeze(1)
    raw = torch.cat([data["sensordata"][:, :3], state["prev_action"], state["pose"], curvature, width], 1)
    return (raw * task["obs_scale"]).clamp(-5.0, 5.0)


def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    """Progress along the road, reward and end."""
    qpos, sensors = data["qpos"], data["sensordata"]
    # The foot is expected to go on as it did: progress changes by millimetres from one step to the next.
    foot = roads.locate(task["road"], qpos[:, :2], state["distance"] + state["advance"])
    advance = foot.distance - state["distance"]
    heading_error = torch.remainder(qpos[:, 2] - foot.heading + math.pi, 2 * math.pi) - math.pi
    pose = torch.stack([foot.lateral, heading_error], 1)
    leaves = (pose.abs() > task["pose_limit"]).any(1)
    off_road = state["off_road"] | leaves
    jerk = (action - state["prev_action"]).square().sum(1)
    slip = torch.add(sensors[:, 3], sensors[:, 1], alpha=-AXLE_M).square().clamp(max=1.0)
    beside = (foot.lateral - task["line_m"]).abs().clamp(max=BANK_M)
    # ds / (v_ref dt) - 0.05 (jerk / 8 + slip) - 0.5 d / d_deep
    reward = torch.sub(advance / (REFERENCE_SPEED * CONTROL_DT_S), torch.add(slip, jerk, alpha=1 / 8), alpha=0.05)
    reward = torch.sub(reward, beside, alpha=GRAVEL_COST / BANK_M)
    success = (foot.distance >= STAGE_M) & ~off_road
    after = {"distance": foot.distance, "advance": advance, "pose": pose, "prev_action": action, "off_road": off_road}
    return Outcome(after, reward.masked_fill(leaves, -1.0), leaves, success)


def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """The signal table of the module's docstring."""
    lateral, heading_error = state["pose"].unbind(1)
    sensors, half_width = data["sensordata"], task["width"] / 2
    columns = [
        (lateral - task["line_m"]) / half_width,
        1.0 - lateral.abs() / half_width,
        heading_error,
        state["advance"] / (REFERENCE_SPEED * CONTROL_DT_S),
        sensors[:, 3] - AXLE_M * sensors[:, 1],
        sensors[:, 0] / MAX_STEER_RAD,
    ]
    return torch.stack(columns, 1)  # (N, 6)


def draw(task: Arrays) -> mujoco.MjModel:
    """The car on the road of one task, to be drawn; same bodies and joints as the model that is stepped."""
    one = {name: task[name].unsqueeze(0).cpu() for name in ("shape", "max_curvature", "direction")}
    road = roads.centreline(**one)[0].double().numpy()
    model = scene.car_on_road(MODEL_FILE, road, float(task["width"]), float(task["swept_line"] * task["width"] / 2))
    half = float(task["steer_offset"]) / 2
    model.body_quat[FRONT_AXLE] = [math.cos(half), 0.0, 0.0, math.sin(half)]
    return model
