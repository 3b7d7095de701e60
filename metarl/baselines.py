"""Reference lines that do not meta-learn: stable-baselines3's PPO from scratch on one unseen task."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from torch import Tensor

from metarl.errors import ConfigError
from metarl.sb3_adapter import SB3VecEnv
from metarl.statistics import bootstrap
from metarl.task_worlds import TaskLike
from metarl.worlds import Spec


@dataclass(frozen=True)
class ScratchRecord:
    """One point of the learning curve of training from scratch.

    Attributes:
        env_steps: control steps taken in all worlds up to here.
        episodes: episodes that ended since the last record; the next two are their means.
        episode_return: undiscounted return of the exploring policy.
        success_rate: share of episodes in which the success criterion held at any step.
    """

    env_steps: int
    episodes: int
    episode_return: float
    success_rate: float


def train_from_scratch(
    spec: Spec,
    task: TaskLike,
    total_steps: int,
    seed: int,
    *,
    num_worlds: int = 8,
    on_record: Callable[[ScratchRecord], None] | None = None,
) -> list[ScratchRecord]:
    """Train PPO from scratch on one task: what adapting in a few episodes is compared with.

    stable-baselines3's defaults (two layers of 64, 10 epochs, minibatches of 64 or a little more, learning rate 3e-4)
    with observations and rewards normalised by running statistics, and whole episodes per update.

    Args:
        spec: the environment.
        task: (P,) float32, or the task by name.
        total_steps: control steps in all worlds together; rounded up to whole updates.
        seed: seed of the network, the actions and the worlds; equal seeds give equal curves on the CPU.
        num_worlds: worlds side by side.
        on_record: called with each record as it comes.

    Returns:
        One record per update, in order of `env_steps`.

    Raises:
        ConfigError: no steps.
        SpecError: a task of a wrong shape.
    """
    if total_steps < 1:
        raise ConfigError(f"total_steps must be positive, got {total_steps}.")
    env = VecNormalize(VecMonitor(SB3VecEnv(spec, num_worlds, task=task, num_threads=1)))
    # Whole episodes, and at least 2048 steps, stable-baselines3's update size for one world.
    num_steps = spec.horizon * -(-2048 // (spec.horizon * num_worlds))
    update_size = num_steps * num_worlds
    batch_size = next(size for size in range(64, update_size + 1) if update_size % size == 0)
    curve = _Curve(on_record)
    with _global_generators_kept():
        model = PPO("MlpPolicy", env, n_steps=num_steps, batch_size=batch_size, seed=seed, device="cpu")
        model.learn(total_steps, callback=curve)
    env.close()
    return curve.records


@dataclass(frozen=True)
class ScratchCurve:
    """Training from scratch on several unseen tasks; fields as in `metarl.evaluate.Evaluation`.

    Attributes:
        env_steps_spent: K numbers, environment steps of training before each point.
        returns: B rows of K returns of the exploring policy.
        iqm_return: K interquartile means over tasks.
        ci95_return: K intervals.
        success_rate: K rates.
    """

    env_steps_spent: list[int]
    returns: list[list[float]]
    iqm_return: list[float]
    ci95_return: list[list[float]]
    success_rate: list[float]


def scratch_curve(spec: Spec, tasks: Tensor, total_steps: int, seed: int, *, num_worlds: int = 8) -> ScratchCurve:
    """Train from scratch on each of some tasks, (B, P), and put the learning curves together.

    See `train_from_scratch`. A point stands where the policy that earned it had been trained for so many steps.
    """
    curves = [train_from_scratch(spec, task, total_steps, seed, num_worlds=num_worlds) for task in tasks]
    # Early ends of episodes may leave an update without any; points are those that all tasks have.
    steps = sorted(set.intersection(*({r.env_steps for r in records} for records in curves)))
    points = [{r.env_steps: r for r in records} for records in curves]
    returns = np.array([[of_task[at].episode_return for at in steps] for of_task in points])  # (B, K)
    estimate = bootstrap(returns[None], np.random.default_rng(seed))
    return ScratchCurve(
        env_steps_spent=[0, *steps[:-1]],
        returns=returns.tolist(),
        iqm_return=estimate.value.tolist(),
        ci95_return=np.stack([estimate.low, estimate.high], 1).tolist(),
        success_rate=np.mean([[of_task[at].success_rate for at in steps] for of_task in points], 0).tolist(),
    )


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Give the caller's global random generators back as they were: stable-baselines3 seeds and uses them all."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


class _Curve(BaseCallback):
    """Makes a record of the episodes that ended in each rollout."""

    def __init__(self, on_record: Callable[[ScratchRecord], None] | None):
        super().__init__()
        self.records: list[ScratchRecord] = []
        self._on_record = on_record
        self._returns: list[float] = []
        self._successes: list[bool] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._returns.append(float(info["episode"]["r"]))
                self._successes.append(info["is_success"])
        return True

    def _on_rollout_end(self) -> None:
        if not self._returns:
            return
        record = ScratchRecord(
            self.num_timesteps, len(self._returns), float(np.mean(self._returns)), float(np.mean(self._successes))
        )
        self._returns, self._successes = [], []
        self.records.append(record)
        if self._on_record is not None:
            self._on_record(record)
