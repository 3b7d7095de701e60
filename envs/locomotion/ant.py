"""ant-dir-maml, ant-vel, ant-dir-pearl, ant-goal: an ant runs a hidden way, at a hidden speed, or to a hidden place.

In the literature one name hides several tasks; these are four of them, each as its authors' code has it.

                    ant-dir-maml       ant-vel               ant-dir-pearl           ant-goal
TASK PARAMETERS     direction (1)      velocity (m/s)        angle (rad)             goal x, y (m), see below
  train, test       -1 or 1            U[0, 3]               U[0, 2 pi]              uniform on a disc of radius 3
  extrapolation     none               (3, 4)                none                    the ring of radius 3 to 4
REWARD              direction v_x      1 - |v_x - velocity|  v . (cos, sin of angle) -|x - goal x| - |y - goal y|
                    - 0.005 a + 0.05   - 0.005 a + 0.05      - 0.5 a + 1             - 0.1 a
  and each          - 5e-4 c           - 5e-4 c              - 5e-4 c                - 5e-4 c
VELOCITY v          of the centre of   as ant-dir-maml       displacement of the     none
                    mass of the robot                        torso over the step
END                 torso height not in [0.2, 1] m: the first three; ant-goal never ends early
CONTROL STEP        0.02 s             0.02 s                0.05 s                  0.05 s
OBSERVATION         125 numbers        125 numbers           27 numbers              113 numbers
START qpos, qvel    crouching          as ant-dir-maml       as in the file          as ant-dir-pearl
                    + 0.01 N(0, 1),                          + U(-0.1, 0.1),
                    0.1 N(0, 1)                              0.1 N(0, 1)
SOURCE              cbfinn/maml_rl     cbfinn/maml_rl        katerakelly/oyster      katerakelly/oyster, the same
                                                                                     as ProMP's and VariBAD's

with a = ||action||^2 and c the sum of the squares of the contact forces, each clipped to [-1, 1]. All: 200 control
steps, no success criterion, no interpolation hole (the literature trains on the whole range). The goal's parameters
are its squared distance `goal_distance_sq` U[0, 9] m^2 and its `goal_angle` U[0, 2 pi], which makes the disc uniform.

Names hide more here than elsewhere. PEARL's configuration of ant-dir draws two of these angles, unseeded, and both
trains and tests on the two; its paper's "Ant-Fwd-Back" needs 0 and pi. VariBAD's AntDir gives the angles 1 and -1 rad.
ProMP's forward-backward ant has PEARL's reward. Numbers of one are not numbers of another. Of ant-goal PEARL draws 150
goals to train and 30 to test, unseeded too; here train and test tasks are fresh draws.

ACTION (8 numbers in [-1, 1], x 150 N m)
    hip and ankle of the file's leg 4 (at +x, -y), 1 (+x, +y), 2 (-x, +y) and 3 (-x, -y)

OBSERVATION
    dir-maml, vel  pearl  goal
    0-1            -      0-1     torso x, y (m)
    2-14           0-12   2-14    torso z (m), its quaternion (w, x, y, z), eight joints (rad)
    15-28          13-26  15-28   velocities of torso (m/s, rad/s) and joints (rad/s)
    29-112         -      29-112  contact torque and force (N m, N) on each of 14 bodies, world first, in [-1, 1]
    113-121        -      -       rotation matrix of the torso
    122-124        -      -       centre of mass of the robot (m)

CONTACT FORCES (MuJoCo's `cfrc_ext`) have been zero in most work since MuJoCo 2, which computes them only where a
sensor wants them; here an accelerometer does, so they are what the authors had. They are of the last physics step,
0.01 s old (in rllab they were computed anew), and zero in the first observation. With the option
`contact_forces=False` (`--env-options contact_forces=false`) the observation lacks the 84 numbers (PEARL's ant-dir has
none anyway) and the reward lacks c: the task that MuJoCo 2's zeros make. It runs 8 % (MAML's) to 20 % faster.

DEVIATIONS. The body is gymnasium's ant.xml, the same as PEARL's; for MAML's variants the contacts are as soft as in
the rllab file (solimp). The files integrate with RK4, which mujoco_warp does not have: here it is implicitfast at
gymnasium's 0.01 s (rllab: 0.02 s). With the same random actions the joints are off RK4's by 0.02 rad in the mean
after 0.1 s from the crouching start, by 0.14 rad from the file's pose, whose ankles lie outside of their limits.
MuJoCo is >= 4.0; the originals ran on 1.3 (MAML) and 1.5 (PEARL), whose contact solver differs, so returns need
not agree with the papers'. Positions are of the instant after the step, where PEARL's code reads them one physics step
late. Quaternions are normalised at the start.

ENGINES. On a capsule that stands steeper than 60 degrees mujoco_warp 4.0 turns the friction pyramid to the axes of
the world, MuJoCo to the capsule. So the two agree to the last digits until a foot touches the ground so, and then
only in distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco
import torch
from torch import Tensor

from envs.locomotion.bodies import (
    DARK_ORANGE,
    GREEN,
    LIGHT_ORANGE,
    add_camera,
    add_chevron,
    add_mark,
    add_post,
    around,
    load_body,
    paint_ground,
)
from metarl.env import EnvSpec, Noise, Outcome, Physics, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_CONTACT_COST = 5e-4
_MAML_CONTROL_COST, _MAML_ALIVE_BONUS = 0.005, 0.05
_HEALTHY_HEIGHT_M = (0.2, 1.0)
_GOAL_RADIUS_M, _GOAL_SHELL_M = 3.0, 4.0
_RLLAB_SOLIMP = (0.8, 0.8, 0.01)

_NUM_QPOS, _NUM_QVEL = 15, 14

_ForwardReward = Callable[[Arrays, Tensor], Tensor]  # (task, velocity of the robot (N, 2) m/s) -> (N,)


def make_dir_maml(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make MAML's ant that has to find out whether to run forward or backward.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; cbfinn/maml_rl ant_env_rand_direc.py.
    """
    direction = Parameter("direction", "1", Choice((-1.0, 1.0)), "1 to run forward, -1 backward")
    return _make_maml("ant-dir-maml", direction, lambda task, v: task["direction"] * v[:, 0], horizon, contact_forces)


def make_vel(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make MAML's ant with a hidden target velocity in [0, 3] m/s.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; cbfinn/maml_rl ant_env_rand.py.
    """
    velocity = Parameter("velocity", "m/s", Uniform(0.0, 3.0, shell=((3.0, 4.0),)), "target velocity")
    return _make_maml(
        "ant-vel", velocity, lambda task, v: 1.0 - (v[:, 0] - task["velocity"]).abs(), horizon, contact_forces
    )


def make_dir_pearl(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make PEARL's ant with a hidden direction, anywhere on the circle.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in the reward, see the spec sheet.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables"; katerakelly/oyster
    ant_dir.py with forward_backward False, as in its configuration.
    """
    angle = Parameter("angle", "rad", Uniform(0.0, 2 * math.pi), "direction to run, from the x axis")
    model = _compile(is_rllab=False, contact_forces=contact_forces)
    physics = _physics(model, 5, ("qpos", "qvel"), contact_forces)

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        return torch.cat([data["qpos"][:, 2:], data["qvel"]], 1)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        xy = data["qpos"][:, :2].clone()
        velocity = (xy - state["xy"]) / physics.control_dt_s  # (N, 2) m/s
        forward = velocity[:, 0] * task["angle"].cos() + velocity[:, 1] * task["angle"].sin()
        reward = forward - 0.5 * action.square().sum(1) + 1.0 - _contact_cost(data)
        return Outcome(state={"xy": xy}, reward=reward, terminated=_is_unhealthy(data))

    return EnvSpec(
        name="ant-dir-pearl",
        tasks=TaskDistribution((angle,)),
        obs_dim=27,
        action_space=Continuous(8),
        horizon=horizon,
        reset=_gym_reset(model),
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        reset_noise=(_NUM_QPOS, _NUM_QVEL),
        physics=physics,
        description="ant, hidden direction on the circle",
    )


def make_goal(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make the ant of ProMP, PEARL and VariBAD with a hidden goal on a disc of radius 3 m.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; katerakelly/oyster ant_goal.py.
    """
    near, far = _GOAL_RADIUS_M**2, _GOAL_SHELL_M**2
    distance = Parameter(
        "goal_distance_sq", "m^2", Uniform(0.0, near, shell=((near, far),)), "squared distance of the goal"
    )
    angle = Parameter("goal_angle", "rad", Uniform(0.0, 2 * math.pi), "where the goal is, from the x axis")
    model = _compile(is_rllab=False, contact_forces=contact_forces)

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        return torch.cat([data["qpos"], data["qvel"], *_clipped_forces(data)], 1)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        xy = data["qpos"][:, :2].clone()
        distance = (xy - task["goal"]).abs().sum(1)  # (N,) m, in the 1-norm
        reward = -distance - 0.1 * action.square().sum(1) - _contact_cost(data)
        return Outcome(state={"xy": xy}, reward=reward, terminated=torch.zeros_like(distance, dtype=torch.bool))

    return EnvSpec(
        name="ant-goal",
        tasks=TaskDistribution((distance, angle)),
        obs_dim=113 if contact_forces else 29,
        action_space=Continuous(8),
        horizon=horizon,
        reset=_gym_reset(model),
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        derive=lambda task: {"goal": _goal(task)},
        reset_noise=(_NUM_QPOS, _NUM_QVEL),
        physics=_physics(model, 5, ("qpos", "qvel"), contact_forces),
        description="ant, hidden goal on a disc",
    )


def _make_maml(
    name: str, parameter: Parameter, forward_reward: _ForwardReward, horizon: int, contact_forces: bool
) -> EnvSpec:
    model = _compile(is_rllab=True, contact_forces=contact_forces)
    torso_id = model.body("torso").id
    crouching = model.numeric("init_qpos").data.tolist()

    def reset(task: Arrays, noise: Noise) -> Start:
        qpos = _with_unit_quaternion(around(crouching, 0.01 * noise.normal[:, :_NUM_QPOS]))  # (N, 15)
        return Start(state={}, writes={"qpos": qpos, "qvel": 0.1 * noise.normal[:, _NUM_QPOS:]})

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        torso = torch.cat([data["xmat"][:, torso_id], data["subtree_com"][:, torso_id]], 1)  # (N, 9 + 3)
        return torch.cat([data["qpos"], data["qvel"], *_clipped_forces(data), torso], 1)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        control_cost = _MAML_CONTROL_COST * action.square().sum(1)
        velocity = data["sensordata"][:, :2]  # (N, 2) m/s
        reward = forward_reward(task, velocity) - control_cost - _contact_cost(data) + _MAML_ALIVE_BONUS
        return Outcome(state={}, reward=reward, terminated=_is_unhealthy(data))

    return EnvSpec(
        name=name,
        tasks=TaskDistribution((parameter,)),
        obs_dim=125 if contact_forces else 41,
        action_space=Continuous(8),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        reset_noise=(0, _NUM_QPOS + _NUM_QVEL),
        physics=_physics(model, 2, ("qpos", "qvel", "xmat", "subtree_com", "sensordata"), contact_forces),
        description=f"ant, hidden {parameter.name}",
    )


def _gym_reset(model: mujoco.MjModel) -> Callable[[Arrays, Noise], Start]:
    pose = model.qpos0.tolist()

    def reset(task: Arrays, noise: Noise) -> Start:
        qpos = _with_unit_quaternion(around(pose, 0.2 * noise.uniform - 0.1))  # (N, 15)
        return Start(state={"xy": qpos[:, :2]}, writes={"qpos": qpos, "qvel": 0.1 * noise.normal})

    return reset


def _with_unit_quaternion(qpos: Tensor) -> Tensor:
    quaternion = torch.nn.functional.normalize(qpos[:, 3:7], dim=1)
    return torch.cat([qpos[:, :3], quaternion, qpos[:, 7:]], 1)


def _is_unhealthy(data: Arrays) -> Tensor:
    height = data["qpos"][:, 2]
    low, high = _HEALTHY_HEIGHT_M
    return (height < low) | (height > high)


def _clipped_forces(data: Arrays) -> list[Tensor]:
    """[(N, 84)], or [] where the environment was asked to have no contact forces."""
    return [data["cfrc_ext"].flatten(1).clamp(-1.0, 1.0)] if "cfrc_ext" in data else []


def _contact_cost(data: Arrays) -> Tensor | float:
    """(N,) the part of the reward that contact forces cost."""
    return _CONTACT_COST * sum(forces.square().sum(1) for forces in _clipped_forces(data))


def _goal(task: Arrays) -> Tensor:
    """(N, 2) m, or (2,) of one task."""
    direction = torch.stack([task["goal_angle"].cos(), task["goal_angle"].sin()], -1)
    return task["goal_distance_sq"].sqrt().unsqueeze(-1) * direction


def _physics(model: mujoco.MjModel, num_substeps: int, data_fields: tuple[str, ...], contact_forces: bool) -> Physics:
    return Physics(
        model=model,
        num_substeps=num_substeps,
        data_fields=(*data_fields, "cfrc_ext") if contact_forces else data_fields,
        max_contacts=25,  # torso, and two for each of twelve capsules
        max_constraints=108,  # 25 contacts of 4 rows, 8 joint limits
        scene=_scene,
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
    if contact_forces:  # nobody reads the accelerometer, but it makes MuJoCo compute cfrc_ext
        spec.body("torso").add_site(name="torso")
        spec.add_sensor(
            name="contact_forces",
            type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname="torso",
        )
    return spec.compile()


def _body() -> mujoco.MjSpec:
    """gymnasium's ant with another integrator, plus a camera."""
    spec = load_body("ant.xml")
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return spec


def _scene(task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with.

    Arrow heads on the ground, 1 m apart, show the way to run; posts, one per second, the speed; a disc the goal.
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
    if "direction" in task or "angle" in task:
        angle_rad = float(task["angle"]) if "angle" in task else math.pi * float(task["direction"] < 0)
        _add_lanes(spec, angle_rad)
    return spec.compile()


def _add_lanes(spec: mujoco.MjSpec, angle_rad: float) -> None:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    for side_m in (-2.0, 0.0, 2.0):
        for ahead_m in range(-2, 60):
            add_chevron(spec, ahead_m * cos - side_m * sin, ahead_m * sin + side_m * cos, angle_rad)
