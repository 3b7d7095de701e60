"""The batched engine as a stable-baselines3 `VecEnv`, and learned losses for its algorithms.

model = PPO("MlpPolicy", VecMonitor(SB3VecEnv("reach-planar", num_worlds=64)))
model = PPO("MlpPolicy", ShapedRewards(VecMonitor(SB3VecEnv("reach-planar", num_worlds=64)), LearnedLoss.load(run)))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
from torch import Tensor

from metarl.errors import ConfigError
from metarl.gym_adapter import GymVectorEnv
from metarl.learned_loss import LearnedLoss
from metarl.losses.support import effort_of
from metarl.task_worlds import TaskWorlds, named_task, task_row
from metarl.trial_env import TrialVectorEnv
from metarl.types import Step
from metarl.worlds import Spec


class SB3VecEnv(VecEnv):
    """Many worlds of an environment for stable-baselines3; every episode has a newly drawn task.

    `info` has `success` and `failed`, and where an episode has ended `terminal_observation`,
    `TimeLimit.truncated`, `is_success` (the criterion held at any step) and `task` (by name).

    Args:
        env: an environment's name or specification, or a `GymVectorEnv` or `TrialVectorEnv` that
            restarts in the same step.
        num_worlds: N, with a name or specification.
        **options: the other arguments of `GymVectorEnv` (task, split, device, ...).

    Raises:
        ConfigError: `num_worlds` is missing, or a vector environment of another autoreset mode.
    """

    def __init__(self, env: str | Spec | GymVectorEnv | TrialVectorEnv, num_worlds: int | None = None, **options: Any):
        self._vector = _vector_env(env, num_worlds, options)
        self._worlds = self._vector.worlds
        self._actions = np.zeros(0)
        self._succeeded = np.zeros(self._vector.num_envs, np.bool_)
        super().__init__(self._vector.num_envs, self._vector.single_observation_space, self._vector.single_action_space)

    @property
    def worlds(self) -> TaskWorlds:
        """The worlds."""
        return self._worlds

    def reset(self) -> np.ndarray:
        """Start an episode in every world, with the seed and options set before."""
        obs, _ = self._vector.reset(seed=self._seeds[0], options=self._reset_options_of_batch())
        self._reset_seeds()
        self._reset_options()
        self._succeeded[:] = False
        self.reset_infos = [{"task": self._task(i)} for i in range(self.num_envs)]
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        """Advance every world by one control step."""
        tasks = self._worlds.env.task
        obs, reward, terminated, truncated, infos = self._vector.step(self._actions)
        done = terminated | truncated
        final = infos.get("final_info", {})
        success, failed = (infos[key] | final.get(key, False) for key in ("success", "failed"))
        self._succeeded |= success
        columns = {"TimeLimit.truncated": truncated & ~terminated, "success": success, "failed": failed}
        columns |= {key: infos[key] for key in ("episode_id", "episode_over") if key in infos}
        names, rows = tuple(columns), zip(*(column.tolist() for column in columns.values()), strict=True)
        world_infos: list[dict] = [dict(zip(names, row, strict=True)) for row in rows]
        for i in np.flatnonzero(done).tolist():
            world_infos[i] |= {
                "terminal_observation": infos["final_obs"][i],
                "is_success": bool(self._succeeded[i]),
                "task": named_task(self._worlds.spec.tasks, tasks[i]),
            }
            self.reset_infos[i] = {"task": self._task(i)}
        self._succeeded &= ~done
        return obs, reward, done, world_infos

    def close(self) -> None:
        """Give the renderers back."""
        self._vector.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """All worlds as images; None each without render mode."""
        frames: Any = [None] * self.num_envs if self.render_mode is None else self._vector.render()
        return list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute that the worlds share, once per world asked for."""
        value = getattr(self._vector, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all worlds at once.

        Raises:
            ConfigError: only some of the worlds are named.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise ConfigError(f"the worlds share one batch: {attr_name!r} can only be set for all of them.")
        setattr(self._vector, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any):
        """Not possible: the worlds are rows of one batch, not objects with methods.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the worlds are rows of one batch: {method_name!r} cannot be called on single worlds.")

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """False for each world: wrap the batch (`VecMonitor`, `VecNormalize`)."""
        return [False for _ in self._get_indices(indices)]

    def _task(self, world_id: int) -> dict[str, float | np.ndarray]:
        return named_task(self._worlds.spec.tasks, self._worlds.env.task[world_id])

    def _reset_options_of_batch(self) -> dict[str, Any]:
        given = [options["task"] for options in self._options if "task" in options]
        if not given:
            return {}
        if len(given) != self.num_envs:
            raise ConfigError(f"a task must be set for all {self.num_envs} worlds or for none, got {len(given)}.")
        return {"task": torch.stack([task_row(self._worlds.spec.tasks, task, self._worlds.split) for task in given])}


class ShapedRewards(VecEnvWrapper):
    """Rewards as a learned loss shapes the environment's feedback; the environment's own are `info["reward"]`.

    Monitors go inside, so that they log the environment's own returns; normalisation of rewards goes outside.

    Args:
        venv: an `SB3VecEnv`, or wrappers around one.
        loss: a learned reward or potential. For a potential give it the discount of the algorithm (`with_discount`).
            None: the feedback as it is, to compare with.

    Raises:
        ConfigError: no `SB3VecEnv` inside, the loss shapes no reward, or it reads signals that the environment lacks.
    """

    def __init__(self, venv: VecEnv, loss: LearnedLoss | None):
        inside = venv.unwrapped
        if not isinstance(inside, SB3VecEnv):
            raise ConfigError(f"learned losses read the signals of an SB3VecEnv, got a {type(inside).__name__}.")
        if loss is not None and loss.role != "reward":
            raise ConfigError(f"a learned {loss.kind} shapes no reward: stable-baselines3 needs a learned reward.")
        super().__init__(venv)
        self._loss = loss
        self._worlds = inside.worlds
        self._columns = [] if loss is None else loss.columns(self._worlds.spec)
        self._effort = self._before = self._after = self._feedback = self._terminated = torch.zeros(0)
        self._worlds.on_step = self._read

    def reset(self) -> Any:
        """Start an episode in every world."""
        obs = self.venv.reset()
        self._before = self._signals()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Pass the actions on."""
        self._effort = effort_of(torch.as_tensor(np.asarray(actions)))
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """Advance every world by one control step; the rewards are the shaped ones."""
        obs, reward, done, infos = self.venv.step_wait()
        for info, value in zip(infos, reward.tolist(), strict=True):
            info["reward"] = value
        shaped = self._feedback
        if self._loss is not None:
            shaped = self._loss.reward(self._before, self._after, self._effort, shaped, self._terminated)
        self._before = self._signals()
        return obs, shaped.cpu().numpy(), done, infos

    def _signals(self) -> Tensor:
        return self._worlds.env.signals()[0][:, self._columns]  # (N, S)

    def _read(self, step: Step) -> None:
        """Remember what a step led to while its last state is still there."""
        after, feedback = self._worlds.env.signals()
        self._after, self._terminated = after[:, self._columns], step.terminated
        self._feedback = step.reward if feedback is None else torch.where(step.valid & ~step.failed, feedback, 0.0)


def _vector_env(
    env: str | Spec | GymVectorEnv | TrialVectorEnv, num_worlds: int | None, options: dict[str, Any]
) -> GymVectorEnv | TrialVectorEnv:
    if not isinstance(env, VectorEnv):
        if num_worlds is None:
            raise ConfigError("num_worlds is missing: say how many worlds to run side by side.")
        return GymVectorEnv(env, num_worlds, autoreset_mode=AutoresetMode.SAME_STEP, **options)
    mode = env.metadata["autoreset_mode"]
    if mode is not AutoresetMode.SAME_STEP:
        raise ConfigError(f"stable-baselines3 needs autoreset_mode SAME_STEP, the vector environment has {mode.name}.")
    if num_worlds not in (None, env.num_envs) or options:
        raise ConfigError(f"num_worlds and options {sorted(options)} go with a name or Spec, not with a vector env.")
    return env
