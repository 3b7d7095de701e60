"""The ants' body and their two families, those of gym and those of rllab: starts, observations, costs, scenes."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import torch
from torch import Tensor

from envs.locomotion.bodies import (
    DARK_ORANGE,
    DEAD,
    GREEN,
    LIGHT_ORANGE,
    add_camera,
    add_mark,
    add_post,
    around,
    load_body,
    paint_ground,
    sense_contact_forces,
    with_unit_quaternion,
)
from envs.locomotion.directions import add_lanes
from metarl.env import EnvSpec, Noise, Outcome, Physics, Start
from metarl.tasks import TaskDistribution
from metarl.types import Arrays, Continuous

NUM_ACTIONS = 8
LEG_GEOMS = (
    ("left_leg_geom", "left_ankle_geom"),
    ("right_leg_geom", "right_ankle_geom"),
    ("back_leg_geom", "third_ankle_geom"),
    ("rightback_leg_geom", "fourth_ankle_geom"),
)
"""Thigh and shin of the legs at (+x, +y), (-x, +y), (-x, -y) and (+x, -y)."""
_NUM_QPOS, _NUM_QVEL, _NUM_FORCES = 15, 14, 84
_CONTACT_COST = 5e-4
_HEALTHY_HEIGHT_M = (0.2, 1.0)
_RLLAB_SOLIMP = (0.8, 0.8, 0.01)

Progress = Callable[[Arrays, Tensor, Tensor], Tensor]
"""(task, where the robot is (N, 2) m, its velocity (N, 2) m/s) -> (N,), what the task adds to the reward."""


def make_gym_ant(
    name: str,
    tasks: TaskDistribution,
    progress: Progress,
    *,
    control_cost: float,
    alive_bonus: float,
    horizon: int,
    description: str,
    sees_position: bool = False,
    sees_forces: bool = True,
    contact_forces: bool = True,
    healthy_height_m: tuple[float, float] | None = _HEALTHY_HEIGHT_M,
    derive: Callable[[Arrays], dict[str, Tensor]] | None = None,
) -> EnvSpec:
    """Make one of gym's ants: 0.05 s per control step, velocity and place are those of the torso.

    Args:
        name: of the environment.
        tasks: what is hidden.
        progress: the part of the reward that the task is about.
        control_cost: times the squared action.
        alive_bonus: of each step.
        horizon: control steps of an episode.
        description: one line.
        sees_position: the observation begins with x and y.
        sees_forces: it ends with the contact forces.
        contact_forces: there are contact forces at all, see the spec sheet of ant-dir-maml.
        healthy_height_m: of the torso; outside of it the episode ends. None: it never does.
        derive: tables of each task.
    """
    model = _compile(is_rllab=False, contact_forces=contact_forces)
    physics = _physics(model, 5, ("qpos", "qvel"), contact_forces)
    pose = model.qpos0.tolist()
    first = 0 if sees_position else 2

    def reset(task: Arrays, noise: Noise) -> Start:
        qpos = with_unit_quaternion(around(pose, 0.2 * noise.uniform - 0.1))  # (N, 15)
        return Start(state={"xy": qpos[:, :2]}, writes={"qpos": qpos, "qvel": 0.1 * noise.normal})

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        forces = _clipped_forces(data) if sees_forces else []
        return torch.cat([data["qpos"][:, first:], data["qvel"], *forces], 1)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        xy = data["qpos"][:, :2].clone()
        velocity = (xy - state["xy"]) / physics.control_dt_s  # (N, 2) m/s
        reward = progress(task, xy, velocity) - control_cost * action.square().sum(1) + alive_bonus
        return Outcome({"xy": xy}, reward - _contact_cost(data), _is_unhealthy(data, healthy_height_m))

    return EnvSpec(
        name=name,
        tasks=tasks,
        obs_dim=_NUM_QPOS - first + _NUM_QVEL + _NUM_FORCES * (contact_forces and sees_forces),
        action_space=Continuous(NUM_ACTIONS),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        derive=derive,
        reset_noise=(_NUM_QPOS, _NUM_QVEL),
        physics=physics,
        description=description,
    )


def make_rllab_ant(
    name: str,
    tasks: TaskDistribution,
    progress: Progress,
    *,
    control_cost: float,
    alive_bonus: float,
    horizon: int,
    description: str,
    contact_forces: bool,
    num_substeps: int = 2,
    healthy_height_m: tuple[float, float] | None = _HEALTHY_HEIGHT_M,
    derive: Callable[[Arrays], dict[str, Tensor]] | None = None,
    torque: Callable[[Arrays, Tensor], Tensor] | None = None,
) -> EnvSpec:
    """Make one of rllab's ants: softer contacts, velocity and place are those of the robot's centre of mass.

    Args:
        name, tasks, progress, control_cost, alive_bonus, horizon, description: as for `make_gym_ant`.
        contact_forces, healthy_height_m, derive: as for `make_gym_ant`.
        num_substeps: physics steps of 0.01 s per control step.
        torque: (task, action (N, 8)) -> (N, 8), what reaches the motors and is paid for; None: the action.
    """
    model = _compile(is_rllab=True, contact_forces=contact_forces)
    torso_id = model.body("torso").id
    crouching = model.numeric("init_qpos").data.tolist()

    def reset(task: Arrays, noise: Noise) -> Start:
        qpos = with_unit_quaternion(around(crouching, 0.01 * noise.normal[:, :_NUM_QPOS]))  # (N, 15)
        return Start(state={}, writes={"qpos": qpos, "qvel": 0.1 * noise.normal[:, _NUM_QPOS:]})

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        torso = torch.cat([data["xmat"][:, torso_id], data["subtree_com"][:, torso_id]], 1)  # (N, 9 + 3)
        return torch.cat([data["qpos"], data["qvel"], *_clipped_forces(data), torso], 1)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        reaches = action if torque is None else torque(task, action)
        xy, velocity = data["subtree_com"][:, torso_id, :2], data["sensordata"][:, :2]
        reward = progress(task, xy, velocity) - control_cost * reaches.square().sum(1)
        return Outcome({}, reward - _contact_cost(data) + alive_bonus, _is_unhealthy(data, healthy_height_m))

    return EnvSpec(
        name=name,
        tasks=tasks,
        obs_dim=_NUM_QPOS + _NUM_QVEL + 12 + _NUM_FORCES * contact_forces,
        action_space=Continuous(NUM_ACTIONS),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action if torque is None else torque(task, action)},
        derive=derive,
        reset_noise=(0, _NUM_QPOS + _NUM_QVEL),
        physics=_physics(model, num_substeps, ("qpos", "qvel", "xmat", "subtree_com", "sensordata"), contact_forces),
        description=description,
    )


def _is_unhealthy(data: Arrays, healthy_height_m: tuple[float, float] | None) -> Tensor:
    height = data["qpos"][:, 2]
    if healthy_height_m is None:
        return torch.zeros_like(height, dtype=torch.bool)
    low, high = healthy_height_m
    return (height < low) | (height > high)


def _clipped_forces(data: Arrays) -> list[Tensor]:
    """[(N, 84)], or [] where the environment was asked to have no contact forces."""
    return [data["cfrc_ext"].flatten(1).clamp(-1.0, 1.0)] if "cfrc_ext" in data else []


def _contact_cost(data: Arrays) -> Tensor | float:
    """(N,) the part of the reward that contact forces cost."""
    return _CONTACT_COST * sum(forces.square().sum(1) for forces in _clipped_forces(data))


def _physics(model: mujoco.MjModel, num_substeps: int, data_fields: tuple[str, ...], contact_forces: bool) -> Physics:
    return Physics(
        model=model,
        num_substeps=num_substeps,
        data_fields=(*data_fields, "cfrc_ext") if contact_forces else data_fields,
        max_contacts=25,  # torso, and two for each of twelve capsules
        max_constraints=108,  # 25 contacts of 4 rows, 8 joint limits
        scene=draw,
    )


def _compile(is_rllab: bool, contact_forces: bool) -> mujoco.MjModel:
    """The model to simulate, with the sensors that the environment needs."""
    spec = _body()
    if is_rllab:
        for geom in spec.geoms:
            geom.solimp[:3] = _RLLAB_SOLIMP
        spec.add_sensor(
            name="com_velocity",
            type=mujoco.mjtSensor.mjSENS_SUBTREELINVEL,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname="torso",
        )
    if contact_forces:
        sense_contact_forces(spec)
    return spec.compile()


def _body() -> mujoco.MjSpec:
    """gymnasium's ant with another integrator, plus a camera."""
    spec = load_body("ant.xml")
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return spec


def draw(task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with.

    Arrow heads on the ground, 1 m apart, show the way to run; posts, one per second, the speed; a disc the goal; a leg
    without motors is dark.
    """
    spec = _body()
    paint_ground(spec)
    for geom in spec.geoms:
        if geom.name != "floor":
            geom.rgba = DARK_ORANGE if "ankle" in geom.name else LIGHT_ORANGE
    if "goal" in task:
        x, y = task["goal"].tolist()
        add_camera(spec, None, (0.0, -7.4, 6.4), down=0.87)
        add_mark(spec, mujoco.mjtGeom.mjGEOM_CYLINDER, (0.3, 0.01, 0.0), (x, y, 0.01), GREEN)
        add_post(spec, x, y)
    else:
        add_camera(spec, "torso", (0.0, -3.4, 2.05), down=0.62)
    if "velocity" in task:
        for index in range(-20, 61):
            add_post(spec, index * max(float(task["velocity"]), 0.25), 1.5)
    if "leg" in task:
        for name in LEG_GEOMS[int(task["leg"])]:
            spec.geom(name).rgba, spec.geom(name).material = DEAD, ""
    if not {"leg", "direction", "angle"}.isdisjoint(task):
        add_lanes(spec, task)
    return spec.compile()
