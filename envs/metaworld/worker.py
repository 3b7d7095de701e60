"""Meta-World's environments as worker processes see them: one object per world, with one task.

Loads no torch, so that workers start quickly, and the package itself when the first environment is made.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from envs.metaworld.shim import load
from metarl.errors import SpecError

_CAMERA_POS_M, _CAMERA_FOVY_DEG = (0.95, 0.05, 0.85), 44.0
_CAMERA_LOOKS_AT_M = (0.0, 0.65, 0.1)
_MARK_SIZE_M, _MARK_RGBA = (0.02, 0.0, 0.0), (0.15, 0.85, 0.25, 0.7)

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
        """The mujoco.MjModel to draw: with a mark at the goal, and a camera that stands upright, as none of theirs."""
        import mujoco

        drawn = mujoco.MjSpec.from_file(self._env.fullpath)
        goal = self._env._get_pos_goal()
        sphere = mujoco.mjtGeom.mjGEOM_SPHERE
        drawn.worldbody.add_geom(type=sphere, size=_MARK_SIZE_M, rgba=_MARK_RGBA, pos=goal, contype=0, conaffinity=0)
        drawn.worldbody.add_camera(name="video", pos=_CAMERA_POS_M, quat=_camera_quat(), fovy=_CAMERA_FOVY_DEG)
        model = drawn.compile()
        model.body_pos[:], model.body_quat[:] = self._env.model.body_pos, self._env.model.body_quat
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": actions are clipped
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


def _camera_quat() -> np.ndarray:
    """The rotation of an upright camera: x to the right, y up, z backwards."""
    import mujoco

    forwards = np.subtract(_CAMERA_LOOKS_AT_M, _CAMERA_POS_M)
    right = np.cross(forwards, (0.0, 0.0, 1.0))
    axes = np.stack([right, np.cross(right, forwards), -forwards], 1)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, (axes / np.linalg.norm(axes, axis=0)).flatten())
    return quat
