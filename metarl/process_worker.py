"""A worker process of `GymTaskDistribution`: some gymnasium environments behind a pipe.

Loads neither torch nor MuJoCo of its own, so that workers start quickly.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector.utils import CloudpickleWrapper

from metarl.errors import SpecError

_POLL_S = 1.0


class Spaces(NamedTuple):
    """What the parent needs to know about the spaces of an environment.

    Attributes:
        obs_dim: numbers of a flattened observation.
        num_actions: of a Discrete action space, else None.
        action_dim: numbers of a flattened Box action, else None.
    """

    obs_dim: int
    num_actions: int | None
    action_dim: int | None


class WorkerStep(NamedTuple):
    """`metarl.types.Step` in numpy, for the n environments of one worker."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray
    failed: np.ndarray
    valid: np.ndarray


def serve(connection: Connection, factory: CloudpickleWrapper, num_envs: int, horizon: int) -> None:
    """Answer the parent's requests until it closes the pipe or is gone.

    A request is (method of `WorkerEnvs`, arguments); an answer is ("done", result), or ("spec" or "raised",
    what went wrong), "spec" where the environment cannot be used.
    """
    # The parent decides about Ctrl-C, and its own signal handlers (inherited by fork) are not for here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent_pid = os.getppid()
    worlds = WorkerEnvs(factory.fn, num_envs, horizon)
    try:
        while True:
            # A forked sibling may hold the other end open, so a parent that is gone shows in the pid alone.
            while not connection.poll(_POLL_S):
                if os.getppid() != parent_pid:
                    return
            method, arguments = connection.recv()
            if method == "close":
                return
            try:
                answer = ("done", getattr(worlds, method)(*arguments))
            except SpecError as error:
                answer = ("spec", str(error))
            except Exception as error:  # the user's environment may raise anything: the parent tells it on
                answer = ("raised", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            connection.send(answer)
    except (EOFError, OSError):
        return  # the parent is gone
    finally:
        worlds.close()
        connection.close()


class WorkerEnvs:
    """Some environments of one factory, each with its own task, with an absorbing end.

    Args:
        factory: task parameters by name -> a gymnasium environment.
        num_envs: how many.
        horizon: H, control steps of an episode.
    """

    def __init__(self, factory: Callable[..., gymnasium.Env], num_envs: int, horizon: int):
        self._factory = factory
        self._horizon = horizon
        self._envs: list[gymnasium.Env | None] = [None] * num_envs
        self._obs = np.zeros((num_envs, 0), np.float32)
        self._running = np.zeros(num_envs, np.bool_)
        self._age = np.zeros(num_envs, np.int64)
        self._tells_success = False

    def set_tasks(self, tasks: Sequence[Mapping[str, Any] | None]) -> Spaces:
        """Make the environments of these tasks anew; None keeps what is there."""
        changed = [i for i, task in enumerate(tasks) if task is not None]
        for i in changed:  # all before the first is made, so that a factory may use again what was closed
            old, self._envs[i] = self._envs[i], None
            if old is not None:
                old.close()
        for i in changed:
            self._envs[i] = self._factory(**(tasks[i] or {}))
        found = {_spaces(env, self._horizon) for env in self._envs if env is not None}
        if len(found) != 1:
            raise SpecError(f"tasks must not change the spaces, found {sorted(found, key=str)}.")
        return found.pop()

    def reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        """Start an episode in every environment that gets a seed; returns all observations, (n, O) float32."""
        starts = np.array([seed is not None for seed in seeds])
        obs = [
            self._obs[i] if seed is None else _flat(env, env.reset(seed=int(seed))[0])
            for i, (env, seed) in enumerate(zip(self._made(), seeds, strict=True))
        ]
        self._obs = np.stack(obs)
        if not np.isfinite(self._obs).all():
            raise SpecError("reset returned an observation with NaN or infinity.")
        self._running |= starts
        self._age[starts] = 0
        return self._obs

    def step(self, actions: np.ndarray) -> WorkerStep:
        """Advance the environments whose episode still runs; the others stay where they ended."""
        n = len(self._running)
        valid = self._running.copy()
        reward = np.zeros(n, np.float32)
        terminated, truncated, success, failed = (np.zeros(n, np.bool_) for _ in range(4))
        obs = self._obs.copy()
        self._age += 1
        envs = self._made()
        for i in np.flatnonzero(valid).tolist():
            raw, value, ended, timed_out, info = envs[i].step(_native(envs[i], actions[i]))
            new, value = _flat(envs[i], raw), float(value)
            failed[i] = not (np.isfinite(new).all() and np.isfinite(value))
            terminated[i] = ended or failed[i]
            truncated[i] = not terminated[i] and (timed_out or self._age[i] >= self._horizon)
            if not failed[i]:
                obs[i], reward[i] = new, value
                success[i] = bool(info.get("is_success", info.get("success", False)))
                self._tells_success |= "is_success" in info or "success" in info
        self._obs = obs
        self._running = valid & ~terminated & ~truncated
        return WorkerStep(obs, reward, terminated, truncated, success, failed, valid)

    def expert_actions(self, method: str) -> np.ndarray:
        """What a method of the environments says to do, as actions of a policy, (n, A) float32 or (n,) int64."""
        return np.stack([_policy_action(env, getattr(env.unwrapped, method)()) for env in self._made()])

    def poses(self) -> list[dict[str, np.ndarray]]:
        """The state of MuJoCo that a picture of each environment needs."""
        datas = [getattr(env.unwrapped, "data") for env in self._made()]  # noqa: B009
        return [{name: getattr(data, name).copy() for name in ("qpos", "mocap_pos", "mocap_quat")} for data in datas]

    def models(self, env_ids: Sequence[int]) -> list[Any]:
        """The MuJoCo models of some environments, as they are now."""
        envs = self._made()
        return [getattr(envs[i].unwrapped, "model") for i in env_ids]  # noqa: B009

    def tells_success(self) -> bool:
        """Whether a step so far has told of success."""
        return self._tells_success

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs:
            if env is not None:
                env.close()
        self._envs = [None] * len(self._envs)

    def _made(self) -> list[gymnasium.Env]:
        return [env for env in self._envs if env is not None]


def _spaces(env: gymnasium.Env, horizon: int) -> Spaces:
    limit = None if env.spec is None else env.spec.max_episode_steps
    if limit is not None and limit < horizon:
        raise SpecError(f"horizon {horizon} is longer than the environment's own time limit of {limit} steps.")
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return Spaces(flatdim(env.observation_space), int(space.n), None)
    if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
        return Spaces(flatdim(env.observation_space), None, flatdim(space))
    raise SpecError(f"actions must be Discrete or a bounded Box, got {space}.")


def _flat(env: gymnasium.Env, obs: Any) -> np.ndarray:
    return np.asarray(flatten(env.observation_space, obs), np.float32)


def _native(env: gymnasium.Env, action: np.ndarray) -> Any:
    """An action of the policy in the words of the environment: [-1, 1] becomes [low, high]."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(action) + int(space.start)
    assert isinstance(space, gymnasium.spaces.Box)  # _spaces has looked
    scaled = space.low + (action.reshape(space.shape) + 1.0) * 0.5 * (space.high - space.low)
    return np.clip(scaled, space.low, space.high).astype(space.dtype)


def _policy_action(env: gymnasium.Env, action: Any) -> np.ndarray:
    """An action of the environment in the words of a policy, the inverse of `_native`."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.asarray(action - space.start, np.int64)
    assert isinstance(space, gymnasium.spaces.Box)  # _spaces has looked
    scaled = 2.0 * (np.asarray(action) - space.low) / (space.high - space.low) - 1.0
    return scaled.reshape(-1).clip(-1.0, 1.0).astype(np.float32)
