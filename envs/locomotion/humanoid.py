"""humanoid-dir, humanoid-dir-promp: a humanoid walks a hidden way.

                  humanoid-dir                            humanoid-dir-promp
TASK PARAMETER    angle (rad) U[0, 2 pi]                  direction -1 or 1
VELOCITY w        v . (cos, sin of angle)                 direction v_x
SOURCE            katerakelly/oyster, lmzintgraf/varibad, jonasrothfuss/ProMP
                  jonasrothfuss/ProMP's 2D
                  humanoid alike

with v the displacement of the robot's centre of mass over the control step (m/s). Both: 200 control steps of 0.015 s,
no success criterion, nothing held out (there is nothing beyond a circle, and the literature trains on all of it).

REWARD   1.25 w - 0.1 ||ctrl||^2 - min(5e-7 ||contact forces||^2, 10) + 5
         The sources write 0.25 times the displacement over the physics step, of which the control step has five.
END      torso height not in [1, 2] m
START    upright, U(-0.01, 0.01) on positions and velocities

ACTION (17 numbers in [-1, 1]; ctrl = 0.4 action, times the gear in N m)
    0-2    abdomen y, z, x                    x 100
    3-6    right hip x, z, y, right knee      x 100, 100, 300, 200
    7-10   left hip x, z, y, left knee        x 100, 100, 300, 200
    11-13  right shoulder 1, 2, right elbow   x 25
    14-16  left shoulder 1, 2, left elbow     x 25

OBSERVATION (376 numbers, 292 without contact forces; not clipped: forces reach thousands)
    0-21     torso z (m), its quaternion (w, x, y, z), 17 joints (rad): abdomen z, y, x, then as the actions
    22-44    velocities of torso (m/s, rad/s) and joints (rad/s)
    45-184   inertia and mass of each of 14 bodies, world first, about the robot's centre of mass (kg m^2, kg m, kg)
    185-268  velocity of each of 14 bodies there, turning first (rad/s, m/s)
    269-291  torques of the actuators on the six axes of the torso, which are zero, and on the joints (N m)
    292-375  contact torque and force on each of 14 bodies (N m, N)

CONTACT FORCES: see the spec sheet of ant-dir-maml. With the option `contact_forces=False` the observation lacks
them and the reward their cost, which is what MuJoCo 2 and later made of this task for most.

SOURCES. Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables", humanoid_dir.py, draws
100 tasks to train and 30 to test, unseeded: here both are fresh draws. Rothfuss et al. 2019, "ProMP: Proximal
Meta-Policy Search", humanoid_rand_direc.py and humanoid_rand_direc_2d.py.

DEVIATIONS. The body is gymnasium's humanoid.xml, the same as gym's, with the integrator implicitfast for RK4 and the
solver Newton for PGS: mujoco_warp has neither of the file's. Positions are of the instant after the step, where the
sources read them one physics step late. At the start the centre of mass, of which only the first reward knows, is
computed to first order in the spread of the pose: to 0.1 mm. MuJoCo is >= 4.0, the sources' was 1.5.
"""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.locomotion.bodies import (
    DARK_ORANGE,
    LIGHT_ORANGE,
    add_camera,
    around,
    load_body,
    paint_ground,
    sense_contact_forces,
    with_unit_quaternion,
)
from envs.locomotion.directions import add_lanes, any_way, forward_or_backward, speed_along
from metarl.env import EnvSpec, Noise, Outcome, Physics, Start
from metarl.tasks import Parameter, TaskDistribution
from metarl.types import Arrays, Continuous

_NUM_SUBSTEPS = 5
_FREE_QPOS, _FREE_QVEL = 7, 6
_SPEED_GAIN, _ALIVE_BONUS = 0.25 * _NUM_SUBSTEPS, 5.0
_CONTROL_COST, _CONTACT_COST, _MAX_CONTACT_COST = 0.1, 5e-7, 10.0
_START_SPREAD = 0.01
_HEALTHY_HEIGHT_M = (1.0, 2.0)
_POSITION_FIELDS = ("qpos", "qvel", "cinert", "cvel", "subtree_com")


def make_dir(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make the humanoid with a hidden direction, anywhere on the circle.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables".
    """
    return _make("humanoid-dir", any_way(), horizon, contact_forces)


def make_dir_promp(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make the humanoid that has to find out whether to walk forward or backward.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search".
    """
    return _make("humanoid-dir-promp", forward_or_backward(), horizon, contact_forces)


def _make(name: str, way: Parameter, horizon: int, contact_forces: bool) -> EnvSpec:
    body = _body()
    if contact_forces:
        sense_contact_forces(body)
    model = body.compile()
    torso_id = model.body("torso").id
    pose = model.qpos0.tolist()
    com, com_slope = _centre_of_mass(model)
    ctrl_limit = float(model.actuator_ctrlrange[0, 1])
    # (actuator, N m at an action of one) of each joint, the torso's axes left out.
    motors = [_motor_of(model, dof, ctrl_limit) for dof in range(_FREE_QVEL, model.nv)]
    physics = Physics(
        model=model,
        num_substeps=_NUM_SUBSTEPS,
        data_fields=(*_POSITION_FIELDS, "cfrc_ext") if contact_forces else _POSITION_FIELDS,
        max_contacts=24,  # lying and flailing had 12, and 42 constraints
        max_constraints=96,
        scene=_scene,
    )

    def reset(task: Arrays, noise: Noise) -> Start:
        offset = _START_SPREAD * (2.0 * noise.uniform - 1.0)  # (N, nq + nv)
        qpos = with_unit_quaternion(around(pose, offset[:, : model.nq]))
        # The generalised displacement from the pose: half angles become angles.
        moved = torch.cat([offset[:, :3], 2.0 * qpos[:, 4:_FREE_QPOS], offset[:, _FREE_QPOS : model.nq]], 1)  # (N, nv)
        place = around(com, _times(com_slope, moved))  # (N, 2) m
        state = {"com": place, "action": torch.zeros_like(offset[:, : model.nu])}
        return Start(state, writes={"qpos": qpos, "qvel": offset[:, model.nq :]})

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        torque = torch.stack([state["action"][:, motor] * scale for motor, scale in motors], 1)  # (N, 17) N m
        parts = [
            data["qpos"][:, 2:],
            data["qvel"],
            data["cinert"].flatten(1),
            data["cvel"].flatten(1),
            torch.zeros_like(data["qvel"][:, :_FREE_QVEL]),
            torque,
        ]
        return torch.cat([*parts, data["cfrc_ext"].flatten(1)] if contact_forces else parts, 1)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        place = data["subtree_com"][:, torso_id, :2].clone()
        velocity = (place - state["com"]) / physics.control_dt_s  # (N, 2) m/s
        control_cost = _CONTROL_COST * (ctrl_limit * action).square().sum(1)
        reward = _SPEED_GAIN * speed_along(task, velocity) - control_cost + _ALIVE_BONUS
        if contact_forces:
            impact = data["cfrc_ext"].flatten(1).square().sum(1)
            reward = reward - (_CONTACT_COST * impact).clamp(max=_MAX_CONTACT_COST)
        low, high = _HEALTHY_HEIGHT_M
        height = data["qpos"][:, 2]
        return Outcome({"com": place, "action": action}, reward, (height < low) | (height > high))

    num_forces = 6 * model.nbody if contact_forces else 0
    return EnvSpec(
        name=name,
        tasks=TaskDistribution((way,)),
        obs_dim=model.nq - 2 + 2 * model.nv + 16 * model.nbody + num_forces,
        action_space=Continuous(model.nu),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": ctrl_limit * action},
        reset_noise=(model.nq + model.nv, 0),
        physics=physics,
        description=f"humanoid, hidden {way.name}",
    )


def _centre_of_mass(model: mujoco.MjModel) -> tuple[list[float], list[list[float]]]:
    """Where the robot's centre of mass is in the file's pose, (2,) m, and how it moves with the pose, (2, nv)."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    jacobian = np.zeros((3, model.nv))
    torso_id = model.body("torso").id
    mujoco.mj_jacSubtreeCom(model, data, jacobian, torso_id)
    return data.subtree_com[torso_id, :2].tolist(), jacobian[:2].tolist()


def _times(matrix: list[list[float]], vectors: Tensor) -> Tensor:
    """A matrix (m, n) of numbers times each of (N, n), (N, m)."""
    products = [torch.stack([vectors[:, i] * value for i, value in enumerate(row)], 1) for row in matrix]
    return torch.stack(products, 1).sum(2)


def _motor_of(model: mujoco.MjModel, dof: int, ctrl_limit: float) -> tuple[int, float]:
    motor = int(np.flatnonzero(model.actuator_trnid[:, 0] == model.dof_jntid[dof])[0])
    return motor, ctrl_limit * float(model.actuator_gear[motor, 0])


def _body() -> mujoco.MjSpec:
    """gymnasium's humanoid with another integrator and solver, plus a camera."""
    spec = load_body("humanoid.xml")
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    add_camera(spec, "torso", (0.0, -3.4, 0.55), down=0.27)
    return spec


def _scene(task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with: arrow heads on the ground show the way; arms and lower legs are darker."""
    spec = _body()
    paint_ground(spec)
    for geom in spec.geoms:
        if geom.name != "floor":
            is_dark = any(part in geom.name for part in ("shin", "foot", "uarm", "larm", "hand"))
            geom.rgba, geom.material = (DARK_ORANGE if is_dark else LIGHT_ORANGE), ""
    add_lanes(spec, task)
    return spec.compile()
