"""families: nine kinds of manipulation task with one body, observation and action; three of them training never sees.

Trained on reach, push, grasp, door-open, drawer-open and button; tested on door-close, drawer-close and window, in the
split `extrapolation` (also called `families`). All parts are in one model; a task's unused ones are far away.
Which family a task belongs to is not observed; a handle's height and what moves hint at it.

TASK PARAMETERS (train range; interpolation hole; held out)
    family            1    0 reach, 1 push, 2 grasp, 3 door-open,       6 door-close, 7 drawer-close, 8 window
                           4 drawer-open, 5 button
    frame_x, frame_y  m    -.08 .. .08                  place of object or handle, from the family's usual place
    yaw               rad  -.3 .. .3                    how object or fixture is turned; hidden for fixtures
    view_x, view_y    m    -.02 .. .02                  error of the observed object or handle, hidden
    amount            1    0 .. 1       (.4, .6)        hidden size of the task: goal height of reach .08-.38 m,
                                                        distance of push .12-.2 m, half size of the block of grasp
                                                        1.6-2.6 cm, angle of doors .1-.7 rad, travel of drawers 4-17,
                                                        window 4-20, button 2-4 cm
    direction         rad  -3.1 .. 3.1                  hidden direction of push; its sign is the side of window
    friction          1    .5 .. 2 log  (.85, 1.2)      hidden, times the family's own
    damping           1    .5 .. 2 log                  hidden, of joint and spring of fixtures, times the family's own
    mass              1    .5 .. 2 log                  hidden, times the family's own

    family                    place x, y (m)  friction  damping          spring       mass (kg)
    reach                     .48, 0          goal at .48 + 2.5 frame_x, 3.75 frame_y, .08 + .3 amount m
    push                      .48, 0          .35                                     .15
    grasp                     .50, 0          .6                                      .12
    door-open, door-close     .58; .45, 0     .3 N m    .5 N m s/rad     1 N m/rad    1.2
    drawer-open, drawer-close .60; .42, 0     .6 N      3 N s/m          10 N/m       .6
    button                    .50, 0          .6 N      20 N s/m         300 N/m      .12
    window                    .50, 0          .8 N      5 N s/m          10 N/m       .8

ACTION, START of the arm, HORIZON as in `arm_env`; OBSERVATION as in `layout`: the object of push and grasp, or the
    handle, displaced by view; no goal (hidden)
REWARD, SUCCESS as in the family's own environment; reach and push, too, have to hold for 10 control steps (0.2 s)
END      after 150 control steps (3 s), never earlier
METRICS  success_<family>: 1 if the task was solved, else 0; NaN in tasks of other families
Source: the split in families seen and never seen is that of ML10, Yu et al. 2020, "Meta-World".
"""

from __future__ import annotations

from functools import partial

import mujoco
import torch
from torch import Tensor

from envs.manipulation import arm7, block, grasp, layout, push, reach, scene
from envs.manipulation.arm_env import HOLD_STEPS, HORIZON, ArmTask, Score, make_arm_env
from envs.manipulation.button import set_stop
from envs.manipulation.families_tables import (
    FAMILIES,
    FIXTURES,
    GRASP,
    NUM_TRAINED,
    PUSH,
    REACH,
    derive,
    expert,
    mechanics,
)
from envs.manipulation.fixture_env import (
    MODEL_FIELDS,
    Ids,
    decorate,
    ids_of,
    joint_error,
    reward_of,
    set_mechanics,
)
from envs.manipulation.fixtures import BUTTON
from metarl.env import EnvSpec, Metrics, Noise, Start
from metarl.tasks import Choice, Parameter, Uniform
from metarl.types import Arrays

PARAMETERS = (
    Parameter(
        "family",
        "1",
        Choice(
            tuple(float(i) for i in range(NUM_TRAINED)),
            held_out=tuple(float(i) for i in range(NUM_TRAINED, len(FAMILIES))),
        ),
        f"{', '.join(FAMILIES)}; hidden",
    ),
    Parameter("frame_x", "m", Uniform(-0.08, 0.08), "place, forwards"),
    Parameter("frame_y", "m", Uniform(-0.08, 0.08), "place, to the left"),
    Parameter("yaw", "rad", Uniform(-0.3, 0.3), "how object or fixture is turned"),
    Parameter("view_x", "m", Uniform(-0.02, 0.02), "error of the observed object, forwards, hidden"),
    Parameter("view_y", "m", Uniform(-0.02, 0.02), "error of the observed object, to the left, hidden"),
    Parameter("amount", "1", Uniform(0.0, 1.0, (0.4, 0.6)), "size of the task, hidden"),
    Parameter("direction", "rad", Uniform(-3.1, 3.1), "of push; its sign is the side of window, hidden"),
    Parameter("friction", "1", Uniform(0.5, 2.0, (0.85, 1.2), log=True), "times the family's own, hidden"),
    Parameter("damping", "1", Uniform(0.5, 2.0, log=True), "of joint and spring, times the family's own, hidden"),
    Parameter("mass", "1", Uniform(0.5, 2.0, log=True), "times the family's own, hidden"),
)
_BLOCK_FIELDS = ("geom_size", "geom_pos", "geom_friction", "body_ipos", "body_gravcomp", "jnt_range")


def make_spec(horizon: int = HORIZON, action: str = "hand") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
    """
    model = arm7.compile_scene(_build(is_drawn=False))
    ids = tuple(ids_of(model, fixture) for fixture in FIXTURES)
    body_id, geom_id = block.body_and_geom(model, "block")
    return make_arm_env(
        ArmTask(
            name="families",
            description="nine kinds of manipulation task, three of them held out",
            model=model,
            scene=_drawn,
            parameters=PARAMETERS,
            start=_start,
            parts=partial(_parts, body_id),
            score=partial(_score, geom_id),
            expert=expert,
            data_fields=("sensordata", "xmat", "geom_xpos"),
            model_fields=(*MODEL_FIELDS, *_BLOCK_FIELDS),
            configure=partial(_configure, ids, body_id, geom_id),
            uses_set_const=True,
            derive=lambda task: derive(task, ids),
            metrics=Metrics(tuple(f"success_{name}" for name in FAMILIES), _metrics),
            max_contacts=20,
            max_constraints=112,
            shifts={"families": ("family",)},
        ),
        action,
        horizon,
    )


def _configure(
    ids: tuple[Ids, ...], body_id: int, geom_id: int, task: Arrays, fields: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Model fields of all fixtures and of the block."""
    own = dict(fields)
    for i, where in enumerate(ids):
        named = mechanics(task, i) | {"start": task["fixture_starts"][:, i]}
        set_mechanics(named, own, where)
        if FIXTURES[i] is BUTTON:
            set_stop(named, own, where)
    half = task["block_size"]
    own["geom_size"][:, geom_id] = half
    own["geom_pos"][:, geom_id, 2] = half[:, 2]
    own["geom_friction"][:, geom_id, 0] = task["block_friction"]
    own["body_gravcomp"][:, body_id] = 1.0 - task["is_block"][:, 0]  # else it would fall from where it is kept
    return own | block.set_mass(own, body_id, task["block_mass"], half)


def _parts(body_id: int, task: Arrays, data: Arrays, state: Arrays) -> layout.Parts:
    """What is seen: the block, or the handle of the task's fixture."""
    is_block, is_fixture = task["is_block"], task["is_fixture"]
    velocity = data["sensordata"].gather(1, task["handle_velocity"]) * is_fixture
    joint = torch.cat([_position(task, data), data["qvel"].gather(1, task["joint_dof"])], 1)
    return layout.Parts(
        object_pos=is_block * block.position(data) + is_fixture * _handle(task, data) + task["view"],
        object_rotation=is_block * layout.first_columns(data["xmat"][:, body_id]),
        object_velocity=is_block * block.velocity(data) + torch.cat([velocity, torch.zeros_like(velocity)], 1),
        fixture=is_fixture * joint,
    )


def _score(geom_id: int, task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> Score:
    """Reward and criterion of each of the four kinds, of which the task's own counts."""
    tcp, pinch = data["site_xpos"][:, arm7.TCP], data["site_xpos"][:, arm7.PINCH]
    apart = torch.stack(
        [
            task["goal"] - tcp,
            (task["goal"] - block.position(data)) * task["in_plane"],
            data["geom_xpos"][:, geom_id] - pinch,
            _handle(task, data) - tcp,
        ],
        1,
    )
    distance = torch.linalg.vector_norm(apart, dim=2)  # (N, 4)
    near = 1.0 - torch.tanh(reach.DISTANCE_SCALE * distance)
    height = block.position(data)[:, 2]
    grasped = (data["sensordata"][:, grasp.TOUCH] > 0.5).all(1).to(near.dtype)
    lifted = (height / grasp.LIFT_M).clamp(0.0, 1.0)
    error = joint_error(task, _position(task, data)[:, 0])
    rewards = [
        near[:, 0],
        push.reward_of(tcp, data["geom_xpos"][:, geom_id], apart[:, 1, :2], task["goal_distance"]),
        0.2 * near[:, 2] + grasped * (0.2 + 0.6 * lifted),
        reward_of(task, distance[:, 3], error, _position(task, data)[:, 0]),
    ]
    holds = [
        distance[:, 0] < reach.SUCCESS_M,
        distance[:, 1] <= push.SUCCESS_M,
        (grasped > 0.5) & (height >= grasp.LIFT_M),
        error <= task["tolerance"],
    ]
    held = (state["held"] + 1.0) * _select(task, holds)
    success = held >= torch.where(task["is_fixture"][:, 0] > 0.5, task["hold_steps"], HOLD_STEPS)
    solved = torch.maximum(state["solved"], success.to(held.dtype))
    return Score(_select(task, rewards), success, {"held": held, "solved": solved})


def _build(is_drawn: bool, half_size: tuple[float, float, float] = (0.02, 0.02, 0.02)) -> mujoco.MjSpec:
    """The block comes right after the arm, then the fixtures, then the goal."""
    spec = arm7.new_scene()
    scene.add_block(spec, "block", half_size, 0.1, condim=4)
    scene.add_touch_sensors(spec, "block")
    for fixture in FIXTURES:
        fixture.add(spec, is_drawn)
    scene.add_goal(spec, "goal", mujoco.mjtGeom.mjGEOM_SPHERE, (reach.SUCCESS_M,))
    return spec


def _drawn(task: Arrays) -> mujoco.MjModel:
    x, y, z = task["block_size"].tolist()
    spec = _build(is_drawn=True, half_size=(x, y, z))
    decorate(spec)
    return spec.compile()


def _start(task: Arrays, noise: Noise) -> Start:
    goal = task["goal"].unsqueeze(1)
    upright = torch.zeros_like(task["fixture_quats"][:, :1])
    upright[..., 0] = 1.0
    writes = {
        "qpos": torch.cat([task["block_start"], task["fixture_starts"]], 1),
        "mocap_pos": torch.cat([task["fixture_poses"], goal], 1),
        "mocap_quat": torch.cat([task["fixture_quats"], upright], 1),
    }
    zero = torch.zeros_like(task["family"])
    return Start({"held": zero, "solved": zero.clone()}, writes)


def _handle(task: Arrays, data: Arrays) -> Tensor:
    """Where the handle of the task's fixture is, (N, 3)."""
    return data["site_xpos"].gather(1, task["handle_site"])[:, 0]


def _position(task: Arrays, data: Arrays) -> Tensor:
    """Of the fixture's joint, (N, 1)."""
    return data["qpos"].gather(1, task["joint_position"])


def _select(task: Arrays, of_kind: list[Tensor]) -> Tensor:
    """The value of the task's kind: reach, push, grasp, any with a fixture; four times (N,)."""
    value = of_kind[3]
    for family in (REACH, PUSH, GRASP):
        value = torch.where(task["member"][:, family], of_kind[family], value)
    return value


def _metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return state["solved"].unsqueeze(1).expand(-1, len(FAMILIES)).masked_fill(~task["member"], torch.nan)
