"""An environment with the arm: what all manipulation environments share, and what each of them states.

`make_arm_env` turns an `ArmTask` (a scene, how it starts, what is seen of it, what counts) into an `EnvSpec`. It adds
the arm's start, the actions, the observation of `layout` and the hidden parameters of the controller.

Actions in [-1, 1], 50 Hz
    "hand"   0-2  moves the commanded position of the hand, x, y, z, by up to 2 cm per step (1 m/s). It stays within
                  4 cm of where the hand is, so that the hand presses with at most about 100 N, and in the
                  workspace x .15-.85, y -.5-.5, z -.01-.55 m. The hand points down, its fingers open along y.
             3    gripper: 1 closes, -1 opens; a position, pressed with at most 20 N per finger
    "joint"  0-6  targets of the joints from home, action x (1.2, 0.9, 1.2, 0.8, 1.2, 1.2, 1.6) rad
             7-8  targets of the fingers, 1 closes, -1 opens

Start: home, each joint up to 0.01 rad away, at rest, the gripper open.

Hidden parameters of the controller (`CONTROL_PARAMETERS`; an environment takes those that it wants)
    name           unit  train     shell             what it changes
    control_delay  s     0 .. .04  .04-.06           dead time of all servos, rounded up to 5 ms
    joint_gain     1     .7 .. 1.3 .5-.7, 1.3-1.5    stiffness of the seven joints, not their damping
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import mujoco
import torch
from torch import Tensor

from envs.manipulation import arm7, hand, layout
from metarl.env import EnvSpec, Metrics, Noise, Outcome, Physics, Signals, Start
from metarl.errors import UnknownNameError
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

HORIZON = 150
ACTIONS = {"hand": 4, "joint": arm7.NUM_JOINTS}
"""Action modes and their numbers."""
HAND_STEP_M = 0.02
HOLD_STEPS = 10
"""Control steps in a row, 0.2 s, for which most criteria of success have to hold."""
HAND_LEASH_M = 0.04
HAND_LOW_M, HAND_HIGH_M = (0.15, -0.5, -0.01), (0.85, 0.5, 0.55)
JOINT_SPAN_RAD = (1.2, 0.9, 1.2, 0.8, 1.2, 1.2, 1.6)
START_NOISE_RAD = 0.01
MAX_DELAY_S = 0.06

_FINGER_MIDDLE_M = (arm7.FINGER_OPEN_M + arm7.FINGER_CLOSED_M) / 2
_FINGER_SPAN_M = (arm7.FINGER_OPEN_M - arm7.FINGER_CLOSED_M) / 2
_DATA_FIELDS = ("qpos", "qvel", "site_xpos", "site_xmat", "xanchor", "xaxis")

CONTROL_PARAMETERS = (
    Parameter("control_delay", "s", Uniform(0.0, 0.04, shell=((0.04, MAX_DELAY_S),)), "dead time of servos, hidden"),
    Parameter("joint_gain", "1", Uniform(0.7, 1.3, shell=((0.5, 0.7), (1.3, 1.5))), "stiffness of joints, hidden"),
)
_CONTROL_FIELDS = {
    "control_delay": ("actuator_delay",),
    "joint_gain": ("actuator_gainprm", "actuator_biasprm"),
}


class Score(NamedTuple):
    """What a step of an environment is worth.

    Attributes:
        reward: (N,) in [0, 1].
        success: (N,) bool, the criterion holds now.
        state: the environment's own memory after the step.
        terminated: (N,) bool; None: never.
    """

    reward: Tensor
    success: Tensor
    state: dict[str, Tensor]
    terminated: Tensor | None = None


@dataclass(frozen=True)
class ArmTask:
    """What one environment adds to the arm.

    All functions are those of an `EnvSpec`: pure, batched, without branches on values.

    Attributes:
        name, description: as in `EnvSpec`.
        model: a scene of `arm7.new_scene` with whatever else it has, compiled by `arm7.compile_scene`.
        scene: task of one world -> the model to draw; see `Physics.scene`.
        parameters: of the task; those of `CONTROL_PARAMETERS` take effect by themselves.
        start: (task, noise) -> Start with the environment's own state, and writes. "qpos", if it is there, is that of
            the joints after the arm's, (N, nq - 9); the arm's own is put in front.
        start_noise: uniform numbers per world that `start` wants.
        parts: (task, data, state) -> what the observation shows of the scene.
        score: (task, data, state, action) -> Score; `data` is from after the step. Of `state` it sees its own entries
            from before the step.
        expert: as in `EnvSpec`, for hand actions.
        data_fields: fields of mjData that the functions read beside qpos, qvel, site_xpos, site_xmat, xanchor, xaxis.
        model_fields: fields of mjModel that `configure` writes.
        configure: (task, fields) -> {name: (N, ...)}; `fields` holds `model_fields` with the arm's settings, a copy
            per world, (N, ...), which may be changed in place and returned.
        uses_set_const, max_contacts, max_constraints: as in `Physics`.
        derive, signals, metrics: as in `EnvSpec`.
        shifts: as in `TaskDistribution`.
    """

    name: str
    description: str
    model: mujoco.MjModel
    scene: Callable[[Arrays], mujoco.MjModel]
    parameters: tuple[Parameter, ...]
    start: Callable[[Arrays, Noise], Start]
    parts: Callable[[Arrays, Arrays, Arrays], layout.Parts]
    score: Callable[[Arrays, Arrays, Arrays, Tensor], Score]
    expert: Callable[[Arrays, Tensor], Tensor] | None = None
    start_noise: int = 0
    data_fields: tuple[str, ...] = ()
    model_fields: tuple[str, ...] = ()
    configure: Callable[[Arrays, dict[str, Tensor]], dict[str, Tensor]] | None = None
    uses_set_const: bool = False
    max_contacts: int = 16
    max_constraints: int = 64
    derive: Callable[[Arrays], dict[str, Tensor]] | None = None
    signals: Signals | None = None
    metrics: Metrics | None = None
    shifts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def make_arm_env(arm_task: ArmTask, action: str = "hand", horizon: int = HORIZON) -> EnvSpec:
    """Make an environment of the arm and what `arm_task` adds to it.

    Args:
        arm_task: scene, start, observation and score.
        action: "hand" or "joint".
        horizon: H, control steps of an episode, 50 per second.

    Raises:
        UnknownNameError: no such action mode.
    """
    if action not in ACTIONS:
        raise UnknownNameError("action mode", action, ACTIONS)
    action_dim = ACTIONS[action]
    is_hand = action == "hand"
    tasks = TaskDistribution(arm_task.parameters, shifts=arm_task.shifts)
    control_fields = [f for p in arm_task.parameters for f in _CONTROL_FIELDS.get(p.name, ())]
    model_fields = tuple(dict.fromkeys([*control_fields, *arm_task.model_fields]))

    def derive(task: Arrays) -> dict[str, Tensor]:
        own = {} if arm_task.derive is None else arm_task.derive(task)
        return own | _tables(next(iter(task.values())), action_dim)

    def configure(task: Arrays, defaults: Arrays) -> dict[str, Tensor]:
        num_worlds = len(task["arm_action"])
        fields = {name: value.repeat(num_worlds, *[1] * value.dim()) for name, value in defaults.items()}
        _set_controller(task, fields)
        return fields if arm_task.configure is None else fields | arm_task.configure(task, fields)

    def reset(task: Arrays, noise: Noise) -> Start:
        own = arm_task.start(task, Noise(noise.uniform[:, arm7.NUM_ARM_JOINTS :], noise.normal))
        spread = 2.0 * START_NOISE_RAD * (noise.uniform[:, : arm7.NUM_ARM_JOINTS] - 0.5)
        qpos = [spread, torch.zeros_like(spread[:, : len(arm7.FINGERS)])]  # home, open
        qpos += [own.writes["qpos"]] if "qpos" in own.writes else []
        state = {
            "hand_target": task["hand_start"].clone(),
            "prev_action": torch.zeros_like(task["arm_action"]),
            **own.state,
        }
        return Start(state, {**own.writes, "qpos": torch.cat(qpos, 1)})

    def control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> dict[str, Tensor]:
        return {"ctrl": _hand_control(task, data, state, action) if is_hand else _joint_control(task, action)}

    def observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        tcp = data["site_xpos"][:, arm7.TCP]
        lag = state["hand_target"] - tcp if is_hand else torch.zeros_like(tcp)
        joint_pos, joint_vel = data["qpos"][:, : arm7.NUM_JOINTS], data["qvel"][:, : arm7.NUM_JOINTS]
        parts = arm_task.parts(task, data, state)
        return layout.assemble(joint_pos, joint_vel, tcp, parts, lag, state["prev_action"], task["arm_obs_scale"])

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        score = arm_task.score(task, data, state, action)
        target = state["hand_target"]
        if is_hand:
            tcp = data["site_xpos"][:, arm7.TCP]
            target = torch.clamp(_commanded(task, target, action), tcp - HAND_LEASH_M, tcp + HAND_LEASH_M)
        terminated = torch.zeros_like(score.success) if score.terminated is None else score.terminated
        after = {"hand_target": target, "prev_action": action, **score.state}
        return Outcome(after, score.reward, terminated, score.success)

    return EnvSpec(
        name=arm_task.name,
        tasks=tasks,
        obs_dim=len(layout.scales(action_dim)),
        action_space=Continuous(action_dim),
        horizon=horizon,
        reset=reset,
        observe=observe,
        step=step,
        control=control,
        derive=derive,
        reset_noise=(arm7.NUM_ARM_JOINTS + arm_task.start_noise, 0),
        physics=Physics(
            model=arm_task.model,
            num_substeps=arm7.NUM_SUBSTEPS,
            data_fields=tuple(dict.fromkeys([*_DATA_FIELDS, *arm_task.data_fields])),
            model_fields=model_fields,
            configure=configure if model_fields else None,
            uses_set_const=arm_task.uses_set_const,
            max_contacts=arm_task.max_contacts,
            max_constraints=arm_task.max_constraints,
            scene=arm_task.scene,
        ),
        signals=arm_task.signals,
        metrics=arm_task.metrics,
        expert=arm_task.expert if is_hand else None,
        description=arm_task.description,
    )


def is_goal_seen(goal: str) -> bool:
    """The meaning of an environment's option `goal`: "hidden" or "seen".

    Raises:
        UnknownNameError: neither.
    """
    if goal not in ("hidden", "seen"):
        raise UnknownNameError("goal", goal, ("hidden", "seen"))
    return goal == "seen"


def held_success(
    state: Arrays, holds: Tensor, num_steps: Tensor | int = HOLD_STEPS
) -> tuple[Tensor, dict[str, Tensor]]:
    """Success once a criterion has held for some control steps in a row.

    Args:
        state: "held", "age" and "solved_at", (N,) in steps, zero at the start.
        holds: (N,) bool or 0 and 1, whether the criterion holds now.
        num_steps: how long it has to hold, a number or (N,).

    Returns:
        (N,) bool, and the state after the step; "solved_at" is the age at the first success, 0 before.
    """
    held, age = (state["held"] + 1.0) * holds, state["age"] + 1.0
    success = held >= num_steps
    solved_at = torch.where(success & (state["solved_at"] == 0.0), age, state["solved_at"])
    return success, {"held": held, "age": age, "solved_at": solved_at}


def time_to_success(state: Arrays) -> Tensor:
    """Seconds until the first success of `held_success`, (N,); NaN without one."""
    solved_at = state["solved_at"]
    return (solved_at * (arm7.TIMESTEP_S * arm7.NUM_SUBSTEPS)).masked_fill(solved_at == 0.0, math.nan)


def _tables(like: Tensor, action_dim: int) -> dict[str, Tensor]:
    """Constants of the arm as (N, ...) tables, beside those of the task."""
    num_worlds = len(like)
    constants = {
        "arm_joint_middle": [*[0.0] * arm7.NUM_ARM_JOINTS, _FINGER_MIDDLE_M, _FINGER_MIDDLE_M],
        "arm_joint_span": [*JOINT_SPAN_RAD, -_FINGER_SPAN_M, -_FINGER_SPAN_M],
        "arm_obs_scale": layout.scales(action_dim),
        "arm_action": [0.0] * action_dim,
        "hand_start": list(arm7.HOME_TCP_M),
        "hand_low": list(HAND_LOW_M),
        "hand_high": list(HAND_HIGH_M),
    }
    return {name: like.new_tensor(values).repeat(num_worlds, 1) for name, values in constants.items()}


def _set_controller(task: Arrays, fields: dict[str, Tensor]) -> None:
    """Write the hidden parameters of the controller into the fields of each world."""
    if "control_delay" in task:
        fields["actuator_delay"] += task["control_delay"].unsqueeze(1)
    if "joint_gain" in task:
        gain = task["joint_gain"].unsqueeze(1)
        fields["actuator_gainprm"][:, : arm7.NUM_ARM_JOINTS, 0] *= gain
        fields["actuator_biasprm"][:, : arm7.NUM_ARM_JOINTS, 1] *= gain


def _commanded(task: Arrays, target: Tensor, action: Tensor) -> Tensor:
    """The commanded position of the hand after an action, (N, 3), in the workspace."""
    moved = torch.add(target, action[:, :3], alpha=HAND_STEP_M)
    return torch.clamp(moved, task["hand_low"], task["hand_high"])


def _hand_control(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> Tensor:
    """Joint targets (N, 9) that bring the hand to its commanded position, and the gripper's."""
    arm = slice(0, arm7.NUM_ARM_JOINTS)
    qpos, tcp = data["qpos"][:, arm], data["site_xpos"][:, arm7.TCP]
    missing = _commanded(task, state["hand_target"], action) - tcp
    error = torch.cat([missing, hand.downward_error(data["site_xmat"][:, arm7.TCP])], 1)
    jacobian_t = hand.jacobian_transposed(data["xanchor"][:, arm], data["xaxis"][:, arm], tcp)
    drift = qpos * -hand.POSTURE_RATE  # home is zero
    joints = qpos + hand.joint_step(jacobian_t, error, drift)
    finger = torch.add(task["arm_joint_middle"][:, 7:], action[:, 3:], alpha=-_FINGER_SPAN_M)  # (N, 2)
    return torch.cat([joints, finger], 1)


def _joint_control(task: Arrays, action: Tensor) -> Tensor:
    """Joint targets (N, 9) of joint actions; beyond the range of a joint its end is meant."""
    return torch.addcmul(task["arm_joint_middle"], action, task["arm_joint_span"])
