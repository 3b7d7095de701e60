"""The data that flows through the package.

SHAPE KEY
    B  tasks in a meta-batch              E  episodes per task collected side by side
    N  worlds, N = B * E                  K  episodes of a trial, one after the other
    H  control steps of an episode        T  control steps of a rollout, T = K * H
    O  observation   A  action   P  task parameters   D  hidden units   S  signals
Time first: (T, N, ...).

WORDS
    task     one draw of the task parameters, a row of a (N, P) tensor
    episode  one run until it is terminated or truncated (H steps at most)
    trial    the K episodes that one memory lives through on one task
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Arrays = Mapping[str, Tensor]
"""Named tensors whose leading dimension is the world, (N, ...)."""


@dataclass(frozen=True)
class Continuous:
    """Actions in the box [-1, 1]^dim; an environment scales them to its actuators."""

    dim: int

    @property
    def input_dim(self) -> int:
        """Numbers that a network reads to be told an action."""
        return self.dim


@dataclass(frozen=True)
class Discrete:
    """Actions 0 .. num_actions - 1."""

    num_actions: int

    @property
    def input_dim(self) -> int:
        """Numbers that a network reads to be told an action (one-hot)."""
        return self.num_actions


ActionSpace = Continuous | Discrete


@dataclass(frozen=True)
class Step:
    """What `BatchedEnv.step` gives back; all tensors belong to the instant after the step.

    Attributes:
        obs: (N, O) float32, before any reset.
        reward: (N,) float32, 0 once the world's episode has ended.
        terminated: (N,) bool, the episode ended in this step, by its own rule or because the
            simulation of this world failed. True once per episode.
        truncated: (N,) bool, the time limit was reached in this step and the episode had not ended.
        success: (N,) bool, the task's success criterion holds; all False where it has none.
        failed: (N,) bool, this world diverged in this step: the simulation, its observation or its reward.
        valid: (N,) bool, the episode was still running when the action was taken.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    success: Tensor
    failed: Tensor
    valid: Tensor


class PolicyInput(NamedTuple):
    """What a policy may see at one control step.

    `prev_*` describe the step before on the same task, also when that step ended an episode: they
    survive the reset between the episodes of a trial and are zero only at the start of the trial.

    Attributes:
        obs: (..., N, O) float32.
        prev_action: (..., N, A) float32, one-hot for discrete actions.
        prev_reward: (..., N) float32.
        prev_done: (..., N) float32, 1 where the episode of the step before was over after it.
        prev_change: (..., N) float32, `prev_reward` minus the reward of the step before that one; zero where that one
            ended an episode, and at the first two steps of the trial.
        task: (N, P) float32 task parameters; read by oracle policies only.
    """

    obs: Tensor
    prev_action: Tensor
    prev_reward: Tensor
    prev_done: Tensor
    prev_change: Tensor
    task: Tensor


class Act(NamedTuple):
    """What `Policy.act` returns.

    Attributes:
        action: (N, A) float32 or (N,) int64.
        log_prob: (N,) float32.
        memory: what the policy wants to see again at the next step.
    """

    action: Tensor
    log_prob: Tensor
    memory: Any


@dataclass(frozen=True)
class Rollout:
    """K episodes of H steps in N worlds, one task per world.

    Attributes:
        task: (N, P) float32 task parameters.
        obs: (T, N, O) float32, the observation that the action was taken on.
        final_obs: (K, N, O) float32, the observation after the last step of each episode.
        action: (T, N, A) float32, or (T, N) int64 for discrete actions.
        log_prob: (T, N) float32, log-density of the action when it was taken.
        reward: (T, N) float32.
        terminated, truncated, success, failed, valid: (T, N) bool, as in `Step`.
        signals: (K, H + 1, N, S) float32, what learned losses read of the states before each step and after the
            last one; S = 0 where `collect` was not asked for them.
        feedback: (T, N) float32, the reward that a learned loss reads; `reward` where the environment has no other.
        metrics: (K, N, M) float32, `EnvSpec.metrics` after each episode; M = 0 where it is None.
        num_episodes: K.
    """

    task: Tensor
    obs: Tensor
    final_obs: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    success: Tensor
    failed: Tensor
    valid: Tensor
    signals: Tensor
    feedback: Tensor
    metrics: Tensor
    num_episodes: int

    @property
    def num_steps(self) -> int:
        """T."""
        return self.reward.shape[0]

    @property
    def num_worlds(self) -> int:
        """N."""
        return self.reward.shape[1]

    def episode_returns(self) -> Tensor:
        """Undiscounted return of each episode, (K, N)."""
        return self.reward.unflatten(0, (self.num_episodes, -1)).sum(1)

    def episode_success(self) -> Tensor:
        """Whether the success criterion held at any step of each episode, (K, N) bool."""
        return self.success.unflatten(0, (self.num_episodes, -1)).any(1)


def encode_action(action: Tensor, space: ActionSpace) -> Tensor:
    """Turn actions into what a network reads: (..., A) float32, one-hot for discrete actions."""
    if isinstance(space, Discrete):
        return torch.nn.functional.one_hot(action.long(), space.num_actions).to(torch.float32)
    return action
