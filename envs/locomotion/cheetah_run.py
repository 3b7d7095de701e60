"""What half-cheetahs have in common: those that run forward in changed dynamics, start, observation and reward too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.env import EnvSpec, Noise, Outcome, Physics, Signals, Start
from metarl.tasks import TaskDistribution
from metarl.types import Arrays, Continuous

NUM_ACTIONS = 6
NUM_JOINTS = 9
CONTROL_COST = 0.05
TYPICAL_M_S = 2.0
_TYPICAL_RAD_S = 10.0


def unchanged(task: Arrays, action: Tensor) -> Tensor:
    """Motors that do what the action says."""
    return action


def posture_signals(data: Arrays, progress: Tensor) -> Tensor:
    """What learned losses read of a half-cheetah: `progress` (N,), uprightness and pitch rate, (N, 3)."""
    pitch, pitch_rate = data["qpos"][:, 2], data["qvel"][:, 2]
    return torch.stack([progress, pitch.cos(), pitch_rate / _TYPICAL_RAD_S], 1)


def make_run(
    name: str,
    tasks: TaskDistribution,
    physics: Physics,
    horizon: int,
    *,
    torque: Callable[[Arrays, Tensor], Tensor],
    description: str,
    derive: Callable[[Arrays], dict[str, Tensor]] | None = None,
    fixtures: Callable[[Arrays], dict[str, Tensor]] | None = None,
) -> EnvSpec:
    """Make a half-cheetah that is paid for running forward.

    Args:
        name: of the environment.
        tasks: what is hidden.
        physics: half-cheetahs of which `qpos` and `qvel` are read.
        horizon: control steps of an episode.
        torque: (task, action (N, 6)) -> (N, 6), what reaches the motors and is paid for.
        description: one line.
        derive: tables of each task.
        fixtures: task -> MuJoCo state fields that a reset writes beside those of the robot.
    """
    control_dt_s = physics.control_dt_s

    def reset(task: Arrays, noise: Noise) -> Start:
        qpos = 0.2 * noise.uniform - 0.1  # (N, 9), around qpos0 = 0
        qvel = 0.1 * noise.normal
        more = {} if fixtures is None else fixtures(task)
        return Start(state={"x": qpos[:, 0], "velocity": qvel[:, 0]}, writes={"qpos": qpos, "qvel": qvel, **more})

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        x = data["qpos"][:, 0].clone()
        velocity = (x - state["x"]) / control_dt_s  # (N,) m/s
        reward = velocity - CONTROL_COST * torque(task, action).square().sum(1)
        return Outcome({"x": x, "velocity": velocity}, reward, torch.zeros_like(x, dtype=torch.bool))

    def signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        return posture_signals(data, state["velocity"] / TYPICAL_M_S)

    return EnvSpec(
        name=name,
        tasks=tasks,
        obs_dim=2 * NUM_JOINTS - 1,
        action_space=Continuous(NUM_ACTIONS),
        horizon=horizon,
        reset=reset,
        observe=lambda task, data, state: torch.cat([data["qpos"][:, 1:], data["qvel"]], 1),
        step=step,
        control=lambda task, data, state, action: {"ctrl": torque(task, action)},
        derive=derive,
        reset_noise=(NUM_JOINTS, NUM_JOINTS),
        physics=physics,
        signals=Signals(("progress_speed", "uprightness", "pitch_rate"), signals),
        description=description,
    )
