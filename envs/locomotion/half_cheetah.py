"""half-cheetah-vel-maml, -vel-pearl, -vel-promp, -vel-roml, half-cheetah-dir: run at a hidden speed, or a hidden way.

In the literature one name hides several tasks; these are five of them, each as its authors' code has it.

                    half-cheetah-vel-maml         half-cheetah-vel-pearl        half-cheetah-dir
TASK PARAMETER      velocity (m/s)                velocity (m/s)                direction (1)
  train             U[0, 2]                       100 fixed draws of U[0, 3]    -1 or 1
  test              U[0, 2]                       30 other fixed draws          -1 or 1
  extrapolation     (2, 3)                        (3, 4)                        none
CONTROL STEP        0.01 s                        0.05 s                        0.05 s
VELOCITY v          of the centre of mass         x displacement of the torso   as vel-pearl
                    of the whole robot            over the control step
REWARD              -|v - velocity| - c           -|v - velocity| - c           direction v - c
OBSERVATION 17-19   centre of mass of the robot   origin of the torso           as vel-pearl
START qpos, qvel    0.01 N(0, 1), 0.1 N(0, 1)     U(-0.1, 0.1), 0.1 N(0, 1)     as vel-pearl
SOURCE              cbfinn/maml_rl                katerakelly/oyster            katerakelly/oyster

half-cheetah-vel-promp and half-cheetah-vel-roml are vel-pearl with other tasks; the former's observation lacks 17-19.

                    half-cheetah-vel-promp        half-cheetah-vel-roml
  train, test       U[0, 3]                       U[0, 7]
  extrapolation     (3, 4)                        (7, 8)
SOURCE              jonasrothfuss/ProMP           ido90/RoML-pearl

with the control cost c = 0.05 ||action||^2. All: 200 control steps, no termination, no success criterion,
no interpolation hole (the literature trains on the whole range).

ACTION (6 numbers in [-1, 1])
    0-2  back thigh, shin, foot    x 120, 90, 60 N m
    3-5  front thigh, shin, foot   x 120, 60, 30 N m

OBSERVATION (20 numbers, vel-promp 17)
    0-7    joint positions without x: z (m), pitch (rad), six joints (rad)
    8-16   joint velocities: x, z (m/s), pitch, six joints (rad/s)
    17-19  a position (m), see the table

SIGNALS
    log_error        log(1 + |v - velocity| / 1 m/s); half-cheetah-dir instead: progress_speed, direction v / 2 m/s
    uprightness      cosine of the pitch
    pitch_rate       / 10 rad/s
Right after a reset v is the velocity that the torso starts with.

DEVIATIONS. The body is gymnasium's model file (the rllab file has the same numbers) on MuJoCo >= 4.0; the
originals ran on MuJoCo 1.3 (MAML) and 1.5 (PEARL), whose contact solver differs, so returns need not agree
with the papers'. MAML's centre-of-mass velocity is MuJoCo's `subtreelinvel` sensor of the torso.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.locomotion.bodies import (
    DARK_ORANGE,
    GREEN,
    LIGHT_ORANGE,
    RED,
    add_camera,
    add_post,
    load_body,
    paint_ground,
)
from envs.locomotion.cheetah_run import CONTROL_COST, NUM_ACTIONS, NUM_JOINTS, TYPICAL_M_S, posture_signals
from metarl.env import EnvSpec, Noise, Outcome, Physics, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_PEARL_SEED, _PEARL_TASKS, _PEARL_TRAIN, _PEARL_TEST = 1337, 130, 100, 30


def make_vel_maml(horizon: int = 200, frame_skip: int = 1) -> EnvSpec:
    """Make MAML's half-cheetah with a hidden target velocity in [0, 2] m/s.

    Args:
        horizon: control steps of an episode; 200 in MAML, 100 in its torch port (tristandeleu/pytorch-maml-rl).
        frame_skip: physics steps of 0.01 s per control step. rllab reads it from the model, where MAML
            has none, hence 1; ports on top of gym use 5.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; cbfinn/maml_rl half_cheetah_env_rand.py.
    """
    tasks = TaskDistribution((_velocity(2.0, 3.0),))
    return _make("half-cheetah-vel-maml", tasks, _track_velocity, _ERROR, horizon, frame_skip, is_rllab=True)


def make_vel_pearl(horizon: int = 200) -> EnvSpec:
    """Make PEARL's half-cheetah with a hidden target velocity: 100 fixed train tasks, 30 fixed test tasks.

    Args:
        horizon: control steps of an episode.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables"; katerakelly/oyster
    half_cheetah_vel.py (the tasks) and launch_experiment.py (the first 100 to train, the last 30 to test).
    """
    drawn = np.random.RandomState(_PEARL_SEED).uniform(0.0, 3.0, size=(_PEARL_TASKS,))
    velocities = torch.from_numpy(drawn).to(torch.float32).unsqueeze(1)  # (130, P=1)
    fixed = {"train": velocities[:_PEARL_TRAIN], "test": velocities[-_PEARL_TEST:]}
    tasks = TaskDistribution((_velocity(3.0, 4.0),), fixed)
    return _make("half-cheetah-vel-pearl", tasks, _track_velocity, _ERROR, horizon, 5, is_rllab=False)


def make_vel_promp(horizon: int = 200) -> EnvSpec:
    """Make ProMP's half-cheetah with a hidden target velocity in [0, 3] m/s, which does not see where it is.

    Args:
        horizon: control steps of an episode; ProMP's experiments have 100 or 200.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; jonasrothfuss/ProMP half_cheetah_rand_vel.py.
    """
    tasks = TaskDistribution((_velocity(3.0, 4.0),))
    return _make(
        "half-cheetah-vel-promp", tasks, _track_velocity, _ERROR, horizon, 5, is_rllab=False, sees_position=False
    )


def make_vel_roml(horizon: int = 200) -> EnvSpec:
    """Make RoML's half-cheetah with a hidden target velocity in [0, 7] m/s, some of them hard to reach.

    Args:
        horizon: control steps of an episode.

    Source: Greenberg et al. 2023, "Train Hard, Fight Easy: Robust Meta Reinforcement Learning"; ido90/RoML-pearl.
    """
    tasks = TaskDistribution((_velocity(7.0, 8.0),))
    return _make("half-cheetah-vel-roml", tasks, _track_velocity, _ERROR, horizon, 5, is_rllab=False)


def make_dir(horizon: int = 200) -> EnvSpec:
    """Make PEARL's half-cheetah that has to find out whether to run forward or backward.

    Args:
        horizon: control steps of an episode; 200 in MAML and PEARL, 100 in ProMP.

    Source: katerakelly/oyster half_cheetah_dir.py. MAML's own version differs as its velocity task does.
    """
    direction = Parameter("direction", "1", Choice((-1.0, 1.0)), "1 to run forward, -1 backward")
    tasks = TaskDistribution((direction,))
    return _make("half-cheetah-dir", tasks, _follow_direction, _PROGRESS, horizon, 5, is_rllab=False)


def _velocity(high: float, shell_end: float) -> Parameter:
    distribution = Uniform(0.0, high, shell=((high, shell_end),))
    return Parameter("velocity", "m/s", distribution, "target velocity")


def _track_velocity(task: Arrays, velocity: Tensor) -> Tensor:
    return -(velocity - task["velocity"]).abs()


def _follow_direction(task: Arrays, velocity: Tensor) -> Tensor:
    return task["direction"] * velocity


def _log_error(task: Arrays, velocity: Tensor) -> Tensor:
    return (velocity - task["velocity"]).abs().log1p()


def _progress_speed(task: Arrays, velocity: Tensor) -> Tensor:
    return task["direction"] * velocity / TYPICAL_M_S


_ERROR, _PROGRESS = ("log_error", _log_error), ("progress_speed", _progress_speed)


def _make(
    name: str,
    tasks: TaskDistribution,
    forward_reward: Callable[[Arrays, Tensor], Tensor],
    forward_signal: tuple[str, Callable[[Arrays, Tensor], Tensor]],
    horizon: int,
    frame_skip: int,
    is_rllab: bool,
    sees_position: bool = True,
) -> EnvSpec:
    body = cheetah_body()
    if is_rllab:
        body.add_sensor(
            name="com_velocity",
            type=mujoco.mjtSensor.mjSENS_SUBTREELINVEL,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname="torso",
        )
    model = body.compile()
    torso_id = model.body("torso").id
    torso_height_m = float(model.body("torso").pos[2])
    control_dt_s = float(model.opt.timestep) * frame_skip
    signal_name, speed_signal = forward_signal

    def reset(task: Arrays, noise: Noise) -> Start:
        qpos = (
            0.01 * noise.normal[:, :NUM_JOINTS] if is_rllab else 0.2 * noise.uniform - 0.1
        )  # (N, 9), around qpos0 = 0
        qvel = 0.1 * noise.normal[:, -NUM_JOINTS:]
        return Start(state={"x": qpos[:, 0], "velocity": qvel[:, 0]}, writes={"qpos": qpos, "qvel": qvel})

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        qpos = data["qpos"]
        if is_rllab:
            position = [data["subtree_com"][:, torso_id]]  # (N, 3)
        else:  # the torso slides along x and z: its position needs no kinematics
            x, z = qpos[:, :1], qpos[:, 1:2] + torso_height_m  # (N, 1)
            position = [x, torch.zeros_like(x), z] if sees_position else []
        return torch.cat([qpos[:, 1:], data["qvel"], *position], 1)  # (N, 17 or 20)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        x = data["qpos"][:, 0].clone()
        velocity = data["sensordata"][:, 0].clone() if is_rllab else (x - state["x"]) / control_dt_s  # (N,) m/s
        reward = torch.sub(forward_reward(task, velocity), action.square().sum(1), alpha=CONTROL_COST)
        after = {"x": x, "velocity": velocity}
        return Outcome(after, reward=reward, terminated=torch.zeros_like(x, dtype=torch.bool))

    def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        return posture_signals(data, speed_signal(task, state["velocity"]))

    return EnvSpec(
        name=name,
        tasks=tasks,
        obs_dim=20 if sees_position else 17,
        action_space=Continuous(NUM_ACTIONS),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        reset_noise=(0, 2 * NUM_JOINTS) if is_rllab else (NUM_JOINTS, NUM_JOINTS),
        physics=Physics(
            model=model,
            num_substeps=frame_skip,
            data_fields=("qpos", "qvel", "subtree_com", "sensordata") if is_rllab else ("qpos", "qvel"),
            max_contacts=16,
            max_constraints=80,  # 16 contacts of 4 rows, 6 joint limits
            scene=_scene,
        ),
        signals=Signals((signal_name, "uprightness", "pitch_rate"), signals),
        description=f"half-cheetah, hidden {tasks.parameters[0].name}",
    )


def cheetah_body() -> mujoco.MjSpec:
    """gymnasium's half-cheetah plus a camera; its dynamics are untouched."""
    spec = load_body("half_cheetah.xml")
    # The file fixes the total mass with a compiler attribute that MuJoCo is about to remove.
    total_mass_kg, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
    density_scale = total_mass_kg / float(spec.compile().body_mass.sum())
    for geom in spec.geoms:
        geom.density *= density_scale
    add_camera(spec, "torso", (0.0, -3.2, 0.55), down=0.2)
    return spec


def paint_cheetah(spec: mujoco.MjSpec) -> None:
    """Give the hind leg a darker colour than the rest of the robot."""
    for geom in spec.geoms:
        if geom.name != "floor":
            geom.rgba = DARK_ORANGE if geom.name.startswith("b") else LIGHT_ORANGE


def _scene(task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with: posts to pass, one per second at the target velocity.

    On the direction task posts stand every 2 m, green where the robot should run and red where not.
    """
    spec = cheetah_body()
    paint_ground(spec)
    paint_cheetah(spec)
    goal = float(next(iter(task.values())))
    is_direction = "direction" in task
    spacing_m = 2.0 if is_direction else max(goal, 0.25)
    for index in range(-60, 61):
        wrong_way = is_direction and index * goal < 0
        add_post(spec, index * spacing_m, 0.9, RED if wrong_way else GREEN)
    return spec.compile()
