"""An environment of the arm and one fixture: what doors, drawers, buttons, levers and windows share.

The fixture's joint has to be set to a hidden position and stay there (a button: has to be pressed). Nothing that is
observed tells the position, and the reward tells it only within a narrow band: away from the band it is flat, so it
does not say in which direction to go on. The position has to be searched for along the joint's way; who remembers what
the reward told can stay there, and go there at once in the next episode. With a reward that grew all the way to the
target feedback was enough, and knowing the task was worth next to nothing. A reward within a radius of the goal only is
that of PEARL's sparse point robot (Rakelly et al. 2019).

With q the position of the joint after the step,

    error      |q - target|; where the target is a threshold, how far q falls short of it
    closeness  1 - error / band, at least 0
    reward     0.25 reach + 0.75 closeness, in [0, 1]; reach 1 - tanh(5 d), d the distance (m) of tcp and handle, and
               on door-open 0.6 (1 - tanh(5 d)) + 0.4 min(|q - start| / 0.1 rad, 1)
    success    error <= tolerance for 50 control steps (1 s) in a row, for 10 (0.2 s) where the target is a threshold;
               sweeping over the target is no success
    feedback   1 where error <= tolerance, else 0
    metrics    the error after the last step; time to the first success, NaN without

Hidden parameters that all have, beside those of their own
    frame_x, frame_y  m    where the handle is at the start of an episode, from the environment's usual place
    yaw               rad  how the fixture is turned about the handle's place at the start
    view_x, view_y    m    error of the camera: the observed handle lies that far off, always
    frictionloss, damping, stiffness, mass: of the joint (N m or N, and so on) and the body that moves; the spring is
    at rest at the start of an episode and works against the task

Observation as in `layout`: `object_pos` the handle with the camera's error, `object_velocity` the handle's linear
velocity, `fixture` position and velocity of the joint; `goal`, handle to where it will be at the target, with
`goal="seen"` only; no rotation. At the start it tells where the handle seems to be, and nothing else of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import mujoco
import torch
from torch import Tensor

from envs.manipulation import arm7, layout, scene
from envs.manipulation.arm_env import (
    HOLD_STEPS,
    ArmTask,
    Score,
    held_success,
    is_goal_seen,
    make_arm_env,
    time_to_success,
)
from envs.manipulation.fixture_experts import hook, press
from envs.manipulation.fixtures import Fixture, turned
from envs.reaching import SIGNAL_NAMES, spatial_reaching_signals
from metarl.env import EnvSpec, Metrics, Noise, Signals, Start
from metarl.tasks import Parameter, Uniform
from metarl.types import Arrays

REACH_SHARE, DISTANCE_SCALE = 0.25, 5.0  # 1; 1/m
MOVED_SHARE = 0.4
"""Of `REACH_SHARE`, where `Goal.onset` is given."""
TYPICAL_M, TYPICAL_M_S = 0.1, 0.5
EYE_M, LOOK_AT_M, FOVY_DEG = (-0.16, -1.5, 1.0), (0.38, 0.02, 0.24), 36.0
"""Of the camera."""
JOINT = DOF = arm7.NUM_JOINTS
"""The fixture's joint comes after the arm's."""
SETTLED_STEPS = 50
"""Control steps in a row, 1 s, for which a joint has to stay where it was asked for."""
HANDLE = 2
"""Site of the handle."""
HANDLE_VELOCITY = slice(3, 6)
"""Numbers of sensordata."""
MODEL_FIELDS = ("dof_frictionloss", "dof_damping", "jnt_stiffness", "qpos_spring", "body_mass", "body_inertia")
MIRRORED_FIELDS = ("geom_pos", "jnt_pos", "jnt_axis", "body_ipos")


@dataclass(frozen=True)
class Ids:
    """Where a fixture is in a model.

    Attributes:
        joint, position, dof: its joint, as an id, in qpos and in qvel.
        site: of the handle.
        velocity: of the handle, in sensordata.
        part: id of the body that moves.
        geoms: its geoms, fixed and moving.
    """

    joint: int
    position: int
    dof: int
    site: int
    velocity: slice
    part: int
    geoms: slice


@dataclass(frozen=True)
class Goal:
    """What an environment asks for, as functions of the task.

    Attributes:
        start: task -> (N,) position of the joint at the start.
        target: task -> (N,).
        tolerance: largest error of a success.
        place_m: (x, y) of the handle at the start, where frame_x and frame_y are zero.
        band: error from which on the reward tells nothing; None: the target is a threshold, and the reward tells it
            from the start on.
        onset: a joint that has moved so far, whichever way, is paid a share of the reward for reaching; less than the
            nearest target is away, so that it does not tell it. For handles that chance seldom takes hold of.
    """

    start: Callable[[Arrays], Tensor]
    target: Callable[[Arrays], Tensor]
    tolerance: float
    place_m: tuple[float, float]
    band: float | None = None
    onset: float | None = None


@dataclass(frozen=True)
class FixtureTask:
    """What one environment states.

    Attributes:
        name, description: as in `EnvSpec`.
        fixture: its kind.
        goal: where its joint has to come to.
        parameters: of the task, with those of `pose_parameters`, frictionloss, damping, stiffness and mass.
        unit: of the joint, "rad" or "m".
        model_fields, configure: what else of the model differs between tasks: (task, fields, ids) -> None changes
            `fields` in place.
        force: task -> (N,) constant force of the joint, N m or N; None: none.
        presses: the expert presses from above; otherwise it hooks.
        shifts: as in `TaskDistribution`.
    """

    name: str
    description: str
    fixture: Fixture
    goal: Goal
    parameters: tuple[Parameter, ...]
    unit: str
    model_fields: tuple[str, ...] = ()
    configure: Callable[[Arrays, dict[str, Tensor], Ids], None] | None = None
    force: Callable[[Arrays], Tensor] | None = None
    presses: bool = False
    shifts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def pose_parameters(
    frame_m: float = 0.08,
    frame_shell_m: float = 0.12,
    yaw_rad: float = 0.4,
    yaw_shell_rad: float = 0.6,
    view_m: float = 0.025,
    view_shell_m: float = 0.035,
    hole: str = "yaw",
) -> tuple[Parameter, ...]:
    """Place, direction and the camera's error, each uniform around zero; the middle fifth of `hole` is held out."""

    def around_zero(name: str, unit: str, half: float, shell: float, description: str) -> Parameter:
        gap = (-0.2 * half, 0.2 * half) if name == hole else None
        return Parameter(name, unit, Uniform(-half, half, gap, ((-shell, -half), (half, shell))), description)

    return (
        around_zero("frame_x", "m", frame_m, frame_shell_m, "place, forwards"),
        around_zero("frame_y", "m", frame_m, frame_shell_m, "place, to the left"),
        around_zero("yaw", "rad", yaw_rad, yaw_shell_rad, "direction, hidden"),
        around_zero("view_x", "m", view_m, view_shell_m, "error of the observed handle, forwards, hidden"),
        around_zero("view_y", "m", view_m, view_shell_m, "error of the observed handle, to the left, hidden"),
    )


def make_fixture_env(task: FixtureTask, horizon: int, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """Make the environment of a fixture.

    Args:
        task: what it states.
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be at the target.
    """
    goal_seen, fixture = is_goal_seen(goal), task.fixture
    model = arm7.compile_scene(_build(fixture, is_drawn=False))
    ids = ids_of(model, fixture)

    def derive(named: Arrays) -> dict[str, Tensor]:
        return place(fixture, task.goal, named)

    def configure(named: Arrays, fields: Arrays) -> dict[str, Tensor]:
        own = dict(fields)
        set_mechanics(named, own, ids)
        if task.configure is not None:
            task.configure(named, own, ids)
        return own

    def start(named: Arrays, noise: Noise) -> Start:
        own = named["start"].unsqueeze(1)
        writes = {
            "qpos": own,
            "mocap_pos": named["fixture_pos"].unsqueeze(1),
            "mocap_quat": named["fixture_quat"].unsqueeze(1),
        }
        if task.force is not None:
            at_rest = own.new_zeros(len(own), arm7.NUM_JOINTS)
            writes["qfrc_applied"] = torch.cat([at_rest, task.force(named).unsqueeze(1)], 1)
        return Start({name: torch.zeros_like(named["start"]) for name in ("held", "age", "solved_at")}, writes)

    def parts(named: Arrays, data: Arrays, state: Arrays) -> layout.Parts:
        return seen(fixture, named, data, goal_seen)

    def score(named: Arrays, data: Arrays, state: Arrays, action: Tensor) -> Score:
        error = joint_error(named, data["qpos"][:, JOINT])
        distance = torch.linalg.vector_norm(data["site_xpos"][:, HANDLE] - data["site_xpos"][:, arm7.TCP], dim=1)
        held = held_success(state, error <= named["tolerance"], named["hold_steps"])
        return Score(reward_of(named, distance, error, data["qpos"][:, JOINT]), *held)

    def metrics(named: Arrays, data: Arrays, state: Arrays) -> Tensor:
        return torch.stack([joint_error(named, data["qpos"][:, JOINT]), time_to_success(state)], 1)

    def feedback(named: Arrays, data: Arrays, state: Arrays) -> Tensor:
        return (joint_error(named, data["qpos"][:, JOINT]) <= named["tolerance"]).to(torch.float32)

    return make_arm_env(
        ArmTask(
            name=task.name,
            description=task.description,
            model=model,
            scene=lambda named: _drawn(fixture, *(float(named[name]) for name in ("side", "target", "is_exact"))),
            parameters=task.parameters,
            start=start,
            parts=parts,
            score=score,
            expert=lambda named, obs: (press if task.presses else hook)(fixture, named, obs),
            data_fields=("sensordata",),
            model_fields=(*MODEL_FIELDS, *task.model_fields),
            configure=configure,
            uses_set_const=True,
            derive=derive,
            signals=Signals(SIGNAL_NAMES, _signals, feedback),
            metrics=Metrics((f"error_{task.unit}", "time_to_success_s"), metrics),
            max_contacts=16,
            max_constraints=80,
            shifts=task.shifts,
        ),
        action,
        horizon,
    )


def place(fixture: Fixture, goal: Goal, task: Arrays) -> dict[str, Tensor]:
    """Tables of the task: start, target and its tolerance, pose of the fixture, error of the camera.

    The fixture is put where its handle is at the place of the task when the joint is at its start.
    """
    zero = torch.zeros_like(task["frame_x"])
    yaw = task.get("yaw", zero)
    side = task.get("handedness", zero + 1.0)
    start, target = goal.start(task), goal.target(task)
    turn = torch.stack([yaw.cos(), yaw.sin()], 1)
    handle = turned(fixture.handle(start, side), turn)
    frame = torch.stack([task["frame_x"] + goal.place_m[0], task["frame_y"] + goal.place_m[1], handle[:, 2]], 1)
    return {
        "start": start,
        "target": target,
        "tolerance": zero + goal.tolerance,
        "is_exact": zero + float(goal.band is not None),
        "band": (target - start).abs() if goal.band is None else zero + goal.band,
        "onset": zero + (1.0 if goal.onset is None else goal.onset),
        "moved_share": zero + (0.0 if goal.onset is None else MOVED_SHARE),
        "hold_steps": zero + (HOLD_STEPS if goal.band is None else SETTLED_STEPS),
        "side": side,
        "fixture_pos": frame - handle,
        "fixture_quat": torch.stack([(yaw / 2).cos(), zero, zero, (yaw / 2).sin()], 1),
        "fixture_turn": turn,
        "view": torch.stack([task["view_x"], task["view_y"], zero], 1),
    }


def ids_of(model: mujoco.MjModel, fixture: Fixture) -> Ids:
    """Find a fixture in a model."""
    frame, part = (model.body(name).id for name in (fixture.name, f"{fixture.name}_part"))
    geoms = [i for i in range(model.ngeom) if model.geom_bodyid[i] in (frame, part)]
    joint, handle = model.joint(fixture.name), f"{fixture.name}_handle"
    velocity = int(model.sensor(handle).adr[0])
    return Ids(
        joint=joint.id,
        position=int(joint.qposadr[0]),
        dof=int(joint.dofadr[0]),
        site=model.site(handle).id,
        velocity=slice(velocity, velocity + 3),
        part=part,
        geoms=slice(geoms[0], geoms[-1] + 1),
    )


def set_mechanics(task: Arrays, fields: dict[str, Tensor], ids: Ids) -> None:
    """Write friction, damping, spring and mass into `MODEL_FIELDS`, (N, ...), in place; `task` has those of `place`."""
    fields["dof_frictionloss"][:, ids.dof] = task["frictionloss"]
    fields["dof_damping"][:, ids.dof] = task["damping"]
    fields["jnt_stiffness"][:, ids.joint] = task["stiffness"]
    fields["qpos_spring"][:, ids.position] = task["start"]
    ratio = task["mass"] / fields["body_mass"][:, ids.part]
    fields["body_mass"][:, ids.part] = task["mass"]
    fields["body_inertia"][:, ids.part] *= ratio.unsqueeze(1)


def mirror(task: Arrays, fields: dict[str, Tensor], ids: Ids) -> None:
    """Turn left into right where `side` is -1, in `MIRRORED_FIELDS` of each world, in place."""
    side = task["side"].unsqueeze(1)
    fields["geom_pos"][:, ids.geoms, 1] *= side
    fields["jnt_pos"][:, ids.joint, 1:2] *= side
    fields["jnt_axis"][:, ids.joint] *= side
    fields["body_ipos"][:, ids.part, 1:2] *= side


def joint_error(task: Arrays, position: Tensor) -> Tensor:
    """How far the joint is from where it shall be, (N,); see the module."""
    span = task["target"] - task["start"]
    missing = (task["target"] - position) * span.sign()
    return torch.where(task["is_exact"] > 0.5, missing.abs(), missing.clamp(min=0.0))


def reward_of(task: Arrays, distance: Tensor, error: Tensor, position: Tensor) -> Tensor:
    """The reward of the module, (N,), at a distance of hand and handle, an error and a position of the joint."""
    closeness = (1.0 - error / task["band"]).clamp(min=0.0)
    near = 1.0 - torch.tanh(DISTANCE_SCALE * distance)
    moved = ((position - task["start"]).abs() / task["onset"]).clamp(max=1.0)
    reach = torch.lerp(near, moved, task["moved_share"])
    return REACH_SHARE * reach + (1.0 - REACH_SHARE) * closeness


def seen(fixture: Fixture, task: Arrays, data: Arrays, goal_seen: bool) -> layout.Parts:
    """What the observation shows of the fixture."""
    velocity = data["sensordata"][:, HANDLE_VELOCITY]
    handle = data["site_xpos"][:, HANDLE]
    joint = torch.stack([data["qpos"][:, JOINT], data["qvel"][:, DOF]], 1)
    goal = None
    if goal_seen:
        there = turned(fixture.handle(task["target"], task["side"]), task["fixture_turn"]) + task["fixture_pos"]
        goal = there - handle
    return layout.Parts(
        object_pos=handle + task["view"],
        object_velocity=torch.cat([velocity, torch.zeros_like(velocity)], 1),
        fixture=joint,
        goal=goal,
    )


def _build(fixture: Fixture, is_drawn: bool) -> mujoco.MjSpec:
    spec = arm7.new_scene()
    fixture.add(spec, is_drawn)
    return spec


@cache
def _drawn(fixture: Fixture, side: float, target: float, is_exact: float) -> mujoco.MjModel:
    """With a green ball where the handle shall be, if that is a position."""
    spec = _build(fixture, is_drawn=True)
    if is_exact:
        there = fixture.handle(torch.tensor([target]), torch.ones(1))[0].tolist()
        ball = spec.body(fixture.name).add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.016, 0, 0], pos=there)
        ball.rgba, ball.contype, ball.conaffinity, ball.mass = scene.GREEN, 0, 0, 0.0
    decorate(spec)
    model = spec.compile()
    ids = ids_of(model, fixture)
    model.geom_pos[ids.geoms, 1] *= side
    model.jnt_pos[ids.joint, 1] *= side
    model.jnt_axis[ids.joint] *= side
    return model


def decorate(spec: mujoco.MjSpec) -> None:
    """`scene.decorate` with a camera that sees the fronts of fixtures."""
    scene.decorate(spec)
    camera = spec.camera("video")
    camera.pos, camera.fovy, camera.quat = EYE_M, FOVY_DEG, scene.look_at(EYE_M, LOOK_AT_M)


def _signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    offset = data["site_xpos"][:, HANDLE] - data["site_xpos"][:, arm7.TCP]
    velocity = data["sensordata"][:, arm7.TCP_VELOCITY]
    return spatial_reaching_signals(offset, velocity, TYPICAL_M, TYPICAL_M_S)
