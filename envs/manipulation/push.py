"""push: push a box, too wide for the gripper, to a goal on the table that only the reward tells.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell), all hidden
    goal_angle     rad  -1 .. 1      (-.2, .2)  +-1-1.5                 direction of the goal from where the box starts
    goal_distance  m    .12 .. .2               .2-.25
    mass           kg   .05 .. .5 log           .5-1                    of the box
    friction       1    .15 .. .8    (.4, .55)  .05-.15, .8-1.2         of the box, with table and hand
    com_x, com_y   m    -.015 .. .015           -.025--.015, .015-.025  centre of mass, from the middle of the box
    control_delay  s    0 .. .04                .04-.06                 see `arm_env`
    joint_gain     1    .7 .. 1.3               .5-.7, 1.3-1.5          see `arm_env`
Goal angle and friction are the key parameters. The goal is given as angle and distance, so that none lies where the box
starts, (.48, 0). All lie on the far side of the box, as in Meta-World's push: with goals all around nothing that is
common to the tasks moves the box, and a memory did not find out how to look for the direction.

ACTION, START, HORIZON as in `arm_env`; OBSERVATION as in `layout` without fixture, `goal`: goal minus box with
    `goal="seen"`, zeros with `goal="hidden"` (the default). The box is 10 x 10 x 6 cm and starts up to 1 cm and 0.1 rad
    from its place.
REWARD   0.25 ready + 0.75 closeness, in [0, 1], after the step. closeness: 1 - d / goal_distance, at least 0, d:
         distance (m) of the box and the goal in the plane. ready: 1 where d <= 5 cm, else 1 - tanh(5 r), r: distance
         (m) of tcp and the place to push from, 7.5 cm from the middle of the box on the side away from the goal. A hand
         that is paid for being at the box comes from above and rests on it, from where it cannot push
END      after 150 control steps (3 s), never earlier
SUCCESS  d <= 5 cm for 10 control steps (0.2 s) in a row
SIGNALS  log_distance        log(1 + d / 0.1 m)
         closing_speed       v.u / 0.3 m/s, v the velocity of the box, u the unit vector to the goal
         lateral_speed       |v.w| / 0.3 m/s, w across u
         hand_log_distance, hand_closing_speed, hand_lateral_speed   the same of the hand and the box, in space, with
                             0.1 m and 0.5 m/s, velocities relative to the box
FEEDBACK 1 where d <= 5 cm, else 0
METRICS  distance_m          d after the last step
"""

from __future__ import annotations

from functools import cache

import mujoco
import torch
from torch import Tensor

from envs.manipulation import arm7, block, layout, scene
from envs.manipulation.arm_env import (
    CONTROL_PARAMETERS,
    HAND_STEP_M,
    HOLD_STEPS,
    HORIZON,
    MAX_DELAY_S,
    ArmTask,
    Score,
    is_goal_seen,
    make_arm_env,
)
from envs.reaching import SIGNAL_NAMES, reaching_signals, spatial_reaching_signals
from metarl.env import EnvSpec, Metrics, Noise, Signals, Start
from metarl.tasks import Parameter, Uniform
from metarl.types import Arrays

SUCCESS_M = 0.05
READY_SHARE, READY_SCALE = 0.25, 5.0  # 1; 1/m
BEHIND_M = 0.075
"""Middle of the box to the place to push from: half the box and half the hand are 7 to 9 cm."""
HALF_SIZE_M = (0.05, 0.05, 0.03)
PLACE_M = (0.48, 0.0)
START_NOISE_M, START_NOISE_RAD = 0.01, 0.1
GRAVITY = 9.81

_ANGLE_SHELL = ((-1.5, -1.0), (1.0, 1.5))
_COM_SHELL = ((-0.025, -0.015), (0.015, 0.025))
PARAMETERS = (
    Parameter(
        "goal_angle", "rad", Uniform(-1.0, 1.0, (-0.2, 0.2), _ANGLE_SHELL), "direction of the goal from the box, hidden"
    ),
    Parameter("goal_distance", "m", Uniform(0.12, 0.2, None, ((0.2, 0.25),)), "of the goal from the box, hidden"),
    Parameter("mass", "kg", Uniform(0.05, 0.5, None, ((0.5, 1.0),), log=True), "of the box, hidden"),
    Parameter("friction", "1", Uniform(0.15, 0.8, (0.4, 0.55), ((0.05, 0.15), (0.8, 1.2))), "of the box, hidden"),
    Parameter("com_x", "m", Uniform(-0.015, 0.015, None, _COM_SHELL), "centre of mass from the middle, hidden"),
    Parameter("com_y", "m", Uniform(-0.015, 0.015, None, _COM_SHELL), "centre of mass from the middle, hidden"),
    *CONTROL_PARAMETERS,
)


def make_spec(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells the goal.
    """
    goal_seen = is_goal_seen(goal)
    model = arm7.compile_scene(_build())
    body_id, geom_id = block.body_and_geom(model, "box")

    def parts(task: Arrays, data: Arrays, state: Arrays) -> layout.Parts:
        return block.parts(data, body_id, task["goal"] - block.position(data) if goal_seen else None)

    def score(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> Score:
        tcp, middle = data["site_xpos"][:, arm7.TCP], data["geom_xpos"][:, geom_id]
        reward = reward_of(tcp, middle, _to_goal(task, data), task["goal_distance"])
        held = (state["held"] + 1.0) * (_distance(task, data) <= SUCCESS_M)
        return Score(reward, held >= HOLD_STEPS, {"held": held})

    def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        velocity = block.velocity(data)[:, :3]
        offset = _to_goal(task, data)
        to_box = data["geom_xpos"][:, geom_id] - data["site_xpos"][:, arm7.TCP]
        hand = spatial_reaching_signals(to_box, data["sensordata"][:, arm7.TCP_VELOCITY] - velocity, 0.1, 0.5)
        return torch.cat([reaching_signals(offset, velocity[:, :2], 0.1, 0.3), hand], 1)

    def configure(task: Arrays, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        fields["geom_friction"][:, geom_id, 0] = task["friction"]
        half = fields["body_mass"].new_tensor(HALF_SIZE_M).repeat(len(task["mass"]), 1)
        return fields | block.set_mass(fields, body_id, task["mass"], half, task["com"])

    return make_arm_env(
        ArmTask(
            name="push",
            description="push a box with hidden mass, friction and centre of mass to a hidden goal",
            model=model,
            scene=lambda task: _drawn(),
            parameters=PARAMETERS,
            start=_start,
            start_noise=3,
            parts=parts,
            score=score,
            expert=expert,
            data_fields=("sensordata", "xmat", "geom_xpos"),
            model_fields=("geom_friction", "body_mass", "body_inertia", "body_ipos"),
            configure=configure,
            uses_set_const=True,
            derive=_derive,
            signals=Signals((*SIGNAL_NAMES, *(f"hand_{name}" for name in SIGNAL_NAMES)), signals, _feedback),
            metrics=Metrics(("distance_m",), lambda task, data, state: _distance(task, data).unsqueeze(1)),
            max_contacts=24,
            max_constraints=96,
        ),
        action,
        horizon,
    )


def reward_of(tcp: Tensor, middle: Tensor, left: Tensor, start: Tensor) -> Tensor:
    """The reward of the module.

    Args:
        tcp, middle: of the hand and the box, (N, 3) m.
        left: from the box to the goal in the plane, (N, 2) m.
        start: distance of the goal from where the box starts, (N,) m.

    Returns:
        (N,) in [0, 1].
    """
    distance = torch.linalg.vector_norm(left, dim=1)
    ahead = left / distance.unsqueeze(1).clamp(min=1e-6)
    off = torch.cat([middle[:, :2] - BEHIND_M * ahead, middle[:, 2:]], 1) - tcp
    near = 1.0 - torch.tanh(READY_SCALE * torch.linalg.vector_norm(off, dim=1))
    ready = torch.where(distance <= SUCCESS_M, 1.0, near)
    closeness = (1.0 - distance / start).clamp(min=0.0)
    return READY_SHARE * ready + (1.0 - READY_SHARE) * closeness


def _build() -> mujoco.MjSpec:
    spec = arm7.new_scene(MAX_DELAY_S)
    scene.add_block(spec, "box", HALF_SIZE_M, 0.2, PLACE_M)
    scene.add_goal(spec, "goal", mujoco.mjtGeom.mjGEOM_CYLINDER, (SUCCESS_M, 0.002))
    return spec


@cache
def _drawn() -> mujoco.MjModel:
    spec = _build()
    scene.decorate(spec)
    return spec.compile()


def _derive(task: Arrays) -> dict[str, Tensor]:
    angle, distance = task["goal_angle"], task["goal_distance"]
    x, y = PLACE_M[0] + distance * angle.cos(), PLACE_M[1] + distance * angle.sin()
    return {
        "goal": torch.stack([x, y, torch.zeros_like(x)], 1),
        "com": torch.stack([task["com_x"], task["com_y"]], 1),
    }


def _start(task: Arrays, noise: Noise) -> Start:
    spread = 2.0 * noise.uniform - 1.0  # (N, 3)
    x, y = (PLACE_M[i] + START_NOISE_M * spread[:, i] for i in range(2))
    writes = {"qpos": block.lying(x, y, START_NOISE_RAD * spread[:, 2]), "mocap_pos": task["goal"].unsqueeze(1)}
    return Start({"held": torch.zeros_like(x)}, writes)


def _to_goal(task: Arrays, data: Arrays) -> Tensor:
    """From the box to the goal in the plane, (N, 2) m."""
    return (task["goal"] - block.position(data))[:, :2]


def _distance(task: Arrays, data: Arrays) -> Tensor:
    """Of the box and the goal, (N,) m."""
    return torch.linalg.vector_norm(_to_goal(task, data), dim=1)


def _feedback(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return (_distance(task, data) <= SUCCESS_M).to(torch.float32)


# The expert pushes the box along x and along y, one after the other, and flies over it in between: pushed askew by a
# hand that cannot turn, the box would slip off.
_DONE_M = 0.012
"""What may be left along an axis."""
_SIDE_M = (0.018, 0.036)
"""Half the width of the half-open hand along x and y."""
_LOW_M, _HIGH_M, _CLEAR_M = 0.035, 0.1, 0.085
"""Heights of tcp: pushing, flying, and from where on it is over the box."""
_GAP_M = 0.02
"""Between the hand and the box where the hand comes down."""


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Come down behind the box and push it, slower the more it would slide on by itself."""
    tcp, box = layout.read(obs, "tcp"), layout.read(obs, "object_pos")
    commanded = tcp + layout.read(obs, "hand_lag")
    columns = layout.read(obs, "object_rotation")  # rows of the first two columns
    cos, sin = columns[:, 0], columns[:, 2]
    com_x, com_y = task["com"].unbind(1)
    shift = torch.stack([cos * com_x - sin * com_y, sin * com_x + cos * com_y], 1)
    centre = box[:, :2] + shift
    left = task["goal"][:, :2] - box[:, :2]  # (N, 2) to be pushed along x and y
    side = left.sign()
    reach = HALF_SIZE_M[0] * (cos.abs() + sin.abs())  # half the width of the turned box

    from_com = tcp[:, :2] - centre
    across = from_com.flip(1)  # what is beside the line of push along x is along y
    low = tcp[:, 2] < _CLEAR_M - 0.02
    # Behind the box along each axis, and near enough to go on: (N, 2).
    behind = -side * (tcp[:, :2] - box[:, :2])
    room = torch.stack([reach + _SIDE_M[0], reach + _SIDE_M[1]], 1)
    engaged = (behind > room - 0.03) & (behind < room + 0.06) & (across.abs() < 0.02) & low.unsqueeze(1)
    open_axis = left.abs() > _DONE_M
    go_on = engaged & open_axis  # (N, 2)
    prefers_x = torch.where(go_on.any(1), go_on[:, 0], left[:, 0].abs() > left[:, 1].abs())
    axis = torch.stack([prefers_x, ~prefers_x], 1).to(tcp.dtype)  # (N, 2) one of them 1

    # Pushing: v = 0.7 sqrt(2 mu g left), so that the box, let go, would stop before the goal.
    rest = (left * axis).abs().sum(1) - 0.5 * _DONE_M
    speed = (0.7 * (2.0 * GRAVITY * task["friction"] * rest.clamp(min=0.0)).sqrt() + 0.02).clamp(max=0.4)
    ahead = side * axis * (speed * 0.02).unsqueeze(1)
    aside = (centre - commanded[:, :2]) * (1.0 - axis)
    pushing = torch.cat([ahead + 0.5 * aside, _LOW_M - commanded[:, 2:]], 1)

    # Coming: over the box to the place behind it, then down.
    place = torch.where(axis > 0.5, box[:, :2] - side * (room + _GAP_M), centre)
    way = place - commanded[:, :2]
    is_there = torch.linalg.vector_norm(place - tcp[:, :2], dim=1) < 0.012
    is_free = (tcp[:, 2] > _CLEAR_M) | is_there
    height = torch.where(is_there, _LOW_M, _HIGH_M)
    coming = torch.cat([way * is_free.unsqueeze(1), (height - commanded[:, 2]).unsqueeze(1)], 1)

    pushes = (go_on.to(tcp.dtype) * axis).sum(1, keepdim=True) > 0.5
    is_done = ~open_axis.any(1, keepdim=True)
    move = torch.where(pushes, pushing, coming)
    move = torch.where(is_done, torch.zeros_like(move), move) / HAND_STEP_M
    move = move / move.abs().amax(1, keepdim=True).clamp(min=1.0)
    return torch.cat([move, torch.zeros_like(move[:, :1])], 1)
