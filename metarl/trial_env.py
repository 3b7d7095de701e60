"""A trial of K episodes as one gymnasium episode, so that any recurrent learner can be trained as RL².

The observation is what RL² sees: observation, previous action (one-hot where discrete), previous reward,
previous done. The episodes of a trial share a task; the last action, reward and done of an episode are
seen together with the first observation of the next one; only the end of the last episode ends the trial.

    from sb3_contrib import RecurrentPPO
    env = SB3VecEnv(TrialVectorEnv("reach-planar", num_envs=32, episodes_per_trial=3))
    RecurrentPPO("MlpLstmPolicy", env, n_steps=60).learn(1_000_000)

Source: Duan et al. 2016, RL²: Fast Reinforcement Learning via Slow Reinforcement Learning, section 2.2.
Unlike `metarl.rollout.collect`, where an episode that ends early waits for the others, the next episode of
a trial starts at once; where episodes always last for the whole horizon the two are the same.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.errors import ConfigError
from metarl.gym_adapter import (
    Frames,
    box,
    checked_render_mode,
    final_infos,
    gym_action_space,
    render_metadata,
    reset_mask,
    seed_batch,
    step_infos,
    task_infos,
    to_numpy,
)
from metarl.task_worlds import TaskLike, TaskWorlds, named_task
from metarl.types import Step, encode_action
from metarl.worlds import Spec


class Trials:
    """N trials of K episodes each, one after the other, with the inputs of RL².

    Args:
        worlds: the worlds.
        episodes_per_trial: K.

    Raises:
        ConfigError: K is not positive.
    """

    def __init__(self, worlds: TaskWorlds, episodes_per_trial: int):
        if episodes_per_trial < 1:
            raise ConfigError(f"episodes_per_trial must be positive, got {episodes_per_trial}.")
        self.worlds = worlds
        self.episodes_per_trial = episodes_per_trial
        self.input_dim = worlds.spec.obs_dim + worlds.spec.action_space.input_dim + 2

    def reset(self, task: TaskLike | None = None) -> Tensor:
        """Start a trial in every world; returns the first inputs, (N, I) float32."""
        obs = self.worlds.reset(task)
        self.episode_id = torch.zeros(self.worlds.num_worlds, dtype=torch.int64, device=obs.device)
        self._previous = obs.new_zeros(len(obs), self.input_dim - obs.shape[1])
        return torch.cat([obs, self._previous], 1)

    def step(self, action: np.ndarray) -> tuple[Tensor, Step, Tensor]:
        """Advance all worlds; worlds between two episodes of a trial start the next one.

        Returns:
            The inputs after the step (N, I), the step, and (N,) bool: the trial is over. Worlds whose
            trial is over show their last observation until `start`.
        """
        space = self.worlds.spec.action_space
        step = self.worlds.step(action)
        over = step.terminated | step.truncated
        taken = encode_action(torch.as_tensor(action).to(over.device), space).to(torch.float32)
        signals = torch.stack([step.reward, over.to(torch.float32)], 1)
        self._previous = torch.cat([taken, signals], 1)
        trial_over = over & (self.episode_id == self.episodes_per_trial - 1)
        next_episode = over & ~trial_over
        self.episode_id = self.episode_id + next_episode
        obs = step.obs
        if bool(next_episode.any()):
            obs = self.worlds.reset_worlds(next_episode, keep_task=next_episode)
        return torch.cat([obs, self._previous], 1), step, trial_over

    def start(self, mask: Tensor) -> Tensor:
        """Start a trial, on a new task, in the worlds of `mask` (N,) bool; returns all inputs (N, I)."""
        obs = self.worlds.reset_worlds(mask)
        self.episode_id = torch.where(mask, 0, self.episode_id)
        self._previous = torch.where(mask.unsqueeze(1), 0.0, self._previous)
        return torch.cat([obs, self._previous], 1)


class TrialEnv(gymnasium.Env[np.ndarray, Any]):
    """A trial in one world as a gymnasium episode.

    `info` has the task by name, and after a step `success`, `failed`, `episode_id` (which episode of the
    trial the step belongs to) and `episode_over`. The trial is terminated or truncated as its last
    episode is.

    Args:
        env, task, split, render_mode, width, height, **options: as in `GymEnv`.
        episodes_per_trial: K.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's own way to declare it)

    def __init__(
        self,
        env: str | Spec,
        episodes_per_trial: int,
        *,
        task: TaskLike | None = None,
        split: str = "train",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **options: Any,
    ):
        worlds = TaskWorlds(env, 1, task=task, split=split, num_threads=1, options=options)
        self.trials = Trials(worlds, episodes_per_trial)
        self.observation_space = box(self.trials.input_dim)
        self.action_space = gym_action_space(worlds.spec.action_space)
        self.metadata = render_metadata(worlds.spec)
        self.render_mode = checked_render_mode(worlds.spec, render_mode)
        self._frames = Frames(worlds, width, height)
        self._seeded = False
        self._running = False
        self._task: dict[str, float | np.ndarray] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start a trial on a new task; `options["task"]` is the task of this one."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.trials.worlds.seed(self.np_random_seed)
            self._seeded = True
        inputs = self.trials.reset((options or {}).get("task"))
        self._task = named_task(self.trials.worlds.spec.tasks, self.trials.worlds.env.task[0])
        self._running = True
        return to_numpy(inputs[0]), {"task": self.task}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Advance by one control step, into the next episode where one has ended."""
        if not self._running:
            raise gymnasium.error.ResetNeeded("no trial is running: call reset before step.")
        episode_id = int(self.trials.episode_id)
        inputs, step, trial_over = self.trials.step(np.asarray(action)[None])
        self._running = not bool(trial_over)
        info = {
            "task": self.task,
            "success": bool(step.success),
            "failed": bool(step.failed),
            "episode_id": episode_id,
            "episode_over": bool(step.terminated | step.truncated),
        }
        terminated, truncated = bool(step.terminated & trial_over), bool(step.truncated & trial_over)
        return to_numpy(inputs[0]), float(step.reward), terminated, truncated, info

    @property
    def task(self) -> dict[str, float | np.ndarray]:
        """The task of this trial by name."""
        return copy.deepcopy(self._task)

    def render(self) -> np.ndarray | None:
        """The world as an image, (height, width, 3) uint8; None without render mode."""
        return None if self.render_mode is None else self._frames.draw(0)

    def close(self) -> None:
        """Give the renderer back."""
        self._frames.close()


class TrialVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Trials in many worlds on one batched engine, restarted in the step that ends them (SAME_STEP).

    Args:
        env, num_envs, task, split, device, num_threads, **options: as in `GymVectorEnv`.
        episodes_per_trial: K.
    """

    def __init__(
        self,
        env: str | Spec,
        num_envs: int,
        episodes_per_trial: int,
        *,
        task: TaskLike | None = None,
        split: str = "train",
        device: str | torch.device = "cpu",
        num_threads: int = 0,
        **options: Any,
    ):
        worlds = TaskWorlds(
            env, num_envs, task=task, split=split, device=device, num_threads=num_threads, options=options
        )
        self.trials = Trials(worlds, episodes_per_trial)
        self.num_envs = num_envs
        self.single_observation_space = box(self.trials.input_dim)
        self.single_action_space = gym_action_space(worlds.spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self._is_reset = False

    @property
    def worlds(self) -> TaskWorlds:
        """The worlds that the trials run in."""
        return self.trials.worlds

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start a trial in every world, or in those of `options["reset_mask"]`."""
        seed_batch(self, self.worlds, seed, is_first=not self._is_reset)
        options = options or {}
        mask = reset_mask(options, self.num_envs)
        if mask is None or not self._is_reset:
            inputs = self.trials.reset(options.get("task"))
            mask = torch.ones(self.num_envs, dtype=torch.bool)
        else:
            inputs = self.trials.start(mask.to(self.worlds.env.device))
        self._is_reset = True
        return to_numpy(inputs), task_infos(self.worlds, mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Advance every world by one control step and start new trials where one is over."""
        if not self._is_reset:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        episode_id = self.trials.episode_id
        inputs, step, over = self.trials.step(actions)
        infos = final_infos(self.worlds, inputs, step, over) | step_infos(step, ~over)
        everywhere = np.ones(self.num_envs, np.bool_)
        infos |= {"episode_id": to_numpy(episode_id), "_episode_id": everywhere}
        infos |= {"episode_over": to_numpy(step.terminated | step.truncated), "_episode_over": everywhere.copy()}
        if bool(over.any()):
            inputs = self.trials.start(over)
            infos |= task_infos(self.worlds, over)
        terminated, truncated = to_numpy(step.terminated & over), to_numpy(step.truncated & over)
        return to_numpy(inputs), to_numpy(step.reward), terminated, truncated, infos
