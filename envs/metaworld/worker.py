"""Meta-World's environments as worker processes see them: one object per world, with one task.

Loads no torch, so that workers start quickly, and the package itself when the first environment is made.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from envs.metaworld.shim import load
from metarl.errors import SpecError

GOAL_DIM = 6
"""Numbers of a goal; classes that have three leave the others at zero."""


class MakeEnv:
    """The factory of a benchmark: class and goal -> `GoalEnv`.

    Environments that are given back are kept and used again, so that no model of a class is compiled while an idle one
    is there. Each takes about 20 MB; a worker keeps at most as many of a class as its worlds have had at once.

    Args:
        classes: names of all classes, "reach-v3", ...; a task's class counts in them.
    """

    def __init__(self, classes: tuple[str, ...]):
        self._classes = classes
        self._idle: dict[str, list[Any]] = {}

    def __call__(self, task_class: float, goal: np.ndarray) -> GoalEnv:
        name = self._classes[round(task_class)]
        idle = self._idle.setdefault(name, [])
        env = idle.pop() if idle else load().env_dict.ALL_V3_ENVIRONMENTS[name]()
        return GoalEnv(env, name, goal, idle)


class GoalEnv:
    """An environment of Meta-World with one goal, which it does not show.

    Args:
        env: of any class.
        name: of its class.
        goal: (6,) the class's random vector: where the object and the target stand.
        idle: where `close` leaves the environment.
    """

    spec = None

    def __init__(self, env: Any, name: str, goal: np.ndarray, idle: list[Any]):
        self._env, self._name, self._idle = env, name, idle
        self._goal = np.asarray(goal, np.float64)[: env._random_reset_space.low.size]
        self._expert: Any = None
        self._was_reset = self._is_drawn = False
        # What `set_task` writes, which would take the task as pickled bytes.
        env._freeze_rand_vec = env._set_task_called = env._partially_observable = True
        env._get_state_rand_vec = self._draw_goal
        self.observation_space, self.action_space = env.sawyer_observation_space, env.action_space

    @property
    def unwrapped(self) -> GoalEnv:
        """Itself."""
        return self

    @property
    def data(self) -> Any:
        """The mujoco.MjData."""
        return self._env.data

    @property
    def model(self) -> Any:
        """The mujoco.MjModel, with the goal's marks where the environment moves them without telling the model."""
        model, data = copy.copy(self._env.model), self._env.data
        for name, position in self._env._target_site_config:
            body = model.body(model.site(name).bodyid[0]).id
            model.site(name).pos = data.xmat[body].reshape(3, 3).T @ (position - data.xpos[body])
        return model

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; all episodes of a task start alike, so the seed means nothing.

        `SawyerXYZEnv.reset` calls `reset_model` twice. In some classes the first call reads positions that it changes
        afterwards, so both are made in the first episode; in later ones of the task the second alone does the same.
        """
        env = self._env
        if not self._was_reset:
            env.reset_model()
            self._was_reset = True
        self._is_drawn = False
        env.curr_path_length = 0
        base: Any = super(load().sawyer_xyz_env.SawyerXYZEnv, env)
        obs, info = base.reset()
        obs[18:36] = env._prev_obs = obs[:18].copy()
        return obs, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step; success does not end an episode."""
        return self._env.step(action)

    def expert_action(self) -> np.ndarray:
        """What the package's scripted policy of the class does, which sees the goal."""
        if self._expert is None:
            load()
            from metaworld.policies import ENV_POLICY_MAP

            policies: dict[str, Any] = ENV_POLICY_MAP
            self._expert = policies[self._name]()
        env = self._env
        obs = np.concatenate([env._get_curr_obs_combined_no_goal(), env._prev_obs, env._get_pos_goal()])
        return self._expert.get_action(obs)

    def close(self) -> None:
        """Leave the environment to the next world that needs one of its class."""
        self._idle.append(self._env)

    def _draw_goal(self) -> np.ndarray:
        # Classes draw again while the object stands too close to the target, which would never end.
        if self._is_drawn:
            raise SpecError(f"{self._name}: the class refuses the goal {self._goal}, object and target are too close.")
        self._is_drawn = True
        return self._goal.copy()
