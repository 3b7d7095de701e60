"""walker-rand-params, hopper-rand-params: run with a body whose masses, inertias, damping and friction are hidden.

                       walker-rand-params                 hopper-rand-params
TASK PARAMETERS        one factor for each                one factor for each
  mass_scale           of 7 bodies, 1.5^U[-3, 3]          of 4 bodies, the same
  inertia_scale        of 7 bodies, 1.5^U[-3, 3]          of 4 bodies
  damping_scale        of 6 actuated joints, 1.3^U[-3, 3] of 3 actuated joints
  friction_scale       of 8 geoms, floor first,           of 5 geoms, floor first
                       1.5^U[-3, 3]
  extrapolation        exponents in (-4, -3) or (3, 4) for all factors of one kind
REWARD                 v + 1 - 0.001 ||action||^2         the same
END                    torso height not in (0.8, 2) m,    height not above 0.7 m, |pitch| not below 0.2 rad,
                       or pitch not in (-1, 1) rad        or a coordinate or velocity beyond 100
ACTION                 6 numbers x 100 N m                3 numbers x 200 N m
OBSERVATION            17 numbers                         11 numbers

with v the displacement of the torso along x over the control step (m/s). Both: control step 0.016 s (4 physics steps of
0.004 s), 200 control steps, start at the file's pose with U(-0.005, 0.005) on positions and velocities, no
success criterion, no interpolation hole (the literature trains on the whole range).

ACTION      thigh, leg and foot; of the walker first right, then left
OBSERVATION the joint positions without x: z (m), pitch and actuated joints (rad); then the joint velocities: x, z
            (m/s), pitch and actuated joints (rad/s), clipped to [-10, 10]

SOURCE      dennisl88/rand_param_envs at the commit that PEARL (katerakelly/oyster) uses: base.py for the tasks, and
            walker2d_rand_params.py, hopper_rand_params.py. VariBAD has a copy.

TASKS. PEARL draws 40 tasks to train and 10 to test without a seed, so they cannot be drawn again: here tasks are new
draws of its distribution. The source also scales numbers that nothing depends on, which are left out here:
the mass of the world, the zero damping of the root, inertias about axes that a robot in a plane cannot
turn about, torsional and rolling friction (a contact has none). The tasks are the same.

FRICTION of a contact is the larger one of its two geoms, floor included, in the source as here: where the floor's
factor is large the feet's do not matter.

DEVIATIONS. The bodies are gymnasium's walker2d.xml (feet of friction 0.9 and 1.9, as in the source) and hopper.xml,
with the source's time step of 0.004 s, where gymnasium has 0.002. RK4, which mujoco_warp does not have, is
implicitfast: with the same random actions the walker's worst coordinate is off RK4's by 0.09 rad (median) after five
control steps, the hopper's by 0.01 rad. MuJoCo is >= 4.0, the source's was 1.3. Constants that MuJoCo derives from
masses (the weights of its soft constraints) are computed for each task; the source left those of the unscaled body.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco
import torch
from torch import Tensor

from envs.locomotion.bodies import add_camera, add_post, around, load_body, paint_ground
from metarl.env import EnvSpec, Noise, Outcome, Physics, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_LIMIT, _SHELL_LIMIT = 3.0, 4.0  # of the exponents
_SCALE_BASE, _DAMPING_BASE = 1.5, 1.3
_TIME_STEP_S = 0.004
_NUM_ROOT = 3  # x, z, pitch: not actuated
_PLANE_AXIS = 1  # y, about which all of a robot in the x-z plane turns
_SLIDING = 0  # of MuJoCo's sliding, torsional and rolling friction
_LIGHT, _HEAVY = torch.tensor([0.98, 0.85, 0.6]), torch.tensor([0.55, 0.2, 0.1])  # colours of the ends of the range

_IsUnhealthy = Callable[[Tensor, Tensor], Tensor]  # (qpos (N, nq), qvel (N, nv)) -> (N,) bool


def make_walker(horizon: int = 200) -> EnvSpec:
    """Make the planar walker with hidden masses, inertias, damping and friction.

    Args:
        horizon: control steps of an episode.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables".
    """
    return _make("walker-rand-params", "walker2d.xml", lambda qpos, qvel: walker_has_fallen(qpos), horizon)


def walker_has_fallen(qpos: Tensor) -> Tensor:
    """(N,) bool, gym's end of an episode of the walker."""
    height, pitch = qpos[:, 1], qpos[:, 2]
    return (height <= 0.8) | (height >= 2.0) | (pitch.abs() >= 1.0)


def make_hopper(horizon: int = 200) -> EnvSpec:
    """Make the planar hopper with hidden masses, inertias, damping and friction.

    Args:
        horizon: control steps of an episode.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables".
    """

    def is_unhealthy(qpos: Tensor, qvel: Tensor) -> Tensor:
        height, pitch = qpos[:, 1], qpos[:, 2]
        is_wild = torch.cat([qpos[:, 2:], qvel], 1).abs().amax(1) >= 100.0
        return (height <= 0.7) | (pitch.abs() >= 0.2) | is_wild

    return _make("hopper-rand-params", "hopper.xml", is_unhealthy, horizon)


def planar_reset(model: mujoco.MjModel) -> Callable[[Arrays, Noise], Start]:
    """The start of gymnasium's planar robots: positions and velocities within 0.005 of the model's; keeps "x"."""
    pose = model.qpos0.tolist()

    def reset(task: Arrays, noise: Noise) -> Start:
        offset = 0.01 * noise.uniform - 0.005  # (N, nq + nv)
        qpos = around(pose, offset[:, : model.nq])
        return Start(state={"x": qpos[:, 0]}, writes={"qpos": qpos, "qvel": offset[:, model.nq :]})

    return reset


def observe_planar(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    """Positions but for x, and velocities within [-10, 10], (N, nq - 1 + nv)."""
    return torch.cat([data["qpos"][:, 1:], data["qvel"].clamp(-10.0, 10.0)], 1)


def _make(name: str, file_name: str, is_unhealthy: _IsUnhealthy, horizon: int) -> EnvSpec:
    model = _body(file_name).compile()
    control_dt_s = 4 * _TIME_STEP_S

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        x = data["qpos"][:, 0].clone()
        reward = (x - state["x"]) / control_dt_s + 1.0 - 1e-3 * action.square().sum(1)
        return Outcome(state={"x": x}, reward=reward, terminated=is_unhealthy(data["qpos"], data["qvel"]))

    return EnvSpec(
        name=name,
        tasks=TaskDistribution(_parameters(model)),
        obs_dim=model.nq - 1 + model.nv,
        action_space=Continuous(model.nu),
        horizon=horizon,
        reset=planar_reset(model),
        observe=observe_planar,
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        reset_noise=(model.nq + model.nv, 0),
        physics=Physics(
            model=model,
            num_substeps=4,
            data_fields=("qpos", "qvel"),
            model_fields=("body_mass", "body_inertia", "dof_damping", "geom_friction"),
            configure=_configure,
            uses_set_const=True,
            max_contacts=14,  # two for each capsule, some of the hopper's with each other
            max_constraints=64,  # 14 contacts of 4 rows, 6 joint limits
            scene=lambda task: _scene(file_name, task),
        ),
        description=f"{name.split('-')[0]}, hidden masses, inertias, damping and friction",
    )


def _parameters(model: mujoco.MjModel) -> tuple[Parameter, ...]:
    scale, damping = _log_uniform(_SCALE_BASE), _log_uniform(_DAMPING_BASE)
    bodies, joints = (model.nbody - 1,), (model.nv - _NUM_ROOT,)
    return (
        Parameter("mass_scale", "1", scale, "mass of each body", bodies),
        Parameter("inertia_scale", "1", scale, "inertia of each body about y", bodies),
        Parameter("damping_scale", "1", damping, "damping of each actuated joint", joints),
        Parameter("friction_scale", "1", scale, "sliding friction of each geom, the floor first", (model.ngeom,)),
    )


def _log_uniform(base: float) -> Uniform:
    low, high = base**-_LIMIT, base**_LIMIT
    return Uniform(low, high, shell=((base**-_SHELL_LIMIT, low), (high, base**_SHELL_LIMIT)), log=True)


def _configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
    num_worlds = task["mass_scale"].shape[0]
    fields = {name: value.repeat(num_worlds, *[1] * value.dim()) for name, value in defaults.items()}
    fields["body_mass"][:, 1:] *= task["mass_scale"]
    fields["body_inertia"][:, 1:, _PLANE_AXIS] *= task["inertia_scale"]
    fields["dof_damping"][:, _NUM_ROOT:] *= task["damping_scale"]
    fields["geom_friction"][:, :, _SLIDING] *= task["friction_scale"]
    return fields


def _body(file_name: str) -> mujoco.MjSpec:
    """gymnasium's body with the source's time step and another integrator, plus a camera."""
    spec = load_body(file_name)
    spec.option.timestep = _TIME_STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    add_camera(spec, "torso", (0.0, -4.2, -0.05), down=0.12)
    return spec


def _scene(file_name: str, task: Arrays) -> mujoco.MjModel:
    """The model to draw one task with: the heavier a limb is for its size the darker it is; a post every metre."""
    spec = _body(file_name)
    paint_ground(spec)
    limbs = [geom for geom in spec.geoms if geom.name != "floor"]  # one for each body, in the same order
    heaviness = (task["mass_scale"].log() / math.log(_SCALE_BASE) / (2 * _LIMIT) + 0.5).clamp(0.0, 1.0)
    for geom, weight in zip(limbs, heaviness, strict=True):
        geom.rgba = (*(_LIGHT + weight.cpu() * (_HEAVY - _LIGHT)).tolist(), 1.0)
        geom.material = ""
    for index in range(-20, 61):
        add_post(spec, float(index), 0.9)
    return spec.compile()
