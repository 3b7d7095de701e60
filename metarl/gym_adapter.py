"""Environments as gymnasium environments, one world or many.

    import gymnasium, metarl
    env = gymnasium.make("metarl/ReachPlanar-v0", split="test")
    envs = gymnasium.make_vec("metarl/ReachPlanar-v0", num_envs=256)

Both draw a task anew at every reset, from `split`, with the seed given to `reset`; `task=` fixes one
for good, `reset(options={"task": ...})` for one episode. `info["task"]` is the task by name. The task is
not in the observation: meta-learning is about finding it out.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.errors import ConfigError, RenderError, UnknownNameError
from metarl.task_worlds import TaskLike, TaskWorlds, named_task
from metarl.types import ActionSpace, Continuous, Step
from metarl.worlds import Spec


def box(dim: int) -> spaces.Box:
    """An unbounded observation space of `dim` float32 numbers."""
    return spaces.Box(-np.inf, np.inf, (dim,), np.float32)


def gym_action_space(space: ActionSpace) -> spaces.Box | spaces.Discrete:
    """The action space in gymnasium's words."""
    if isinstance(space, Continuous):
        return spaces.Box(-1.0, 1.0, (space.dim,), np.float32)
    return spaces.Discrete(space.num_actions)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy that later steps do not change."""
    return np.array(tensor.cpu().numpy())


class GymEnv(gymnasium.Env[np.ndarray, Any]):
    """One world of an environment.

    `info` has the task by name, and after a step `success` and `failed` (the simulation diverged).

    Args:
        env: an environment's name, such as "reach-planar", or an `EnvSpec`.
        task: a task for all episodes, by name or as its row; None draws one at every reset.
        split: where tasks are drawn from.
        render_mode: None or "rgb_array".
        width, height: pixels of a frame.
        **options: options of the environment's factory.

    Raises:
        UnknownNameError: no such environment, split, task parameter or render mode.
        SpecError: a task of a wrong shape.
        RenderError: `render_mode` for an environment that has no body.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's own way to declare it)

    def __init__(
        self,
        env: str | Spec,
        *,
        task: TaskLike | None = None,
        split: str = "train",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **options: Any,
    ):
        self.worlds = TaskWorlds(env, 1, task=task, split=split, num_threads=1, options=options)
        self.observation_space = box(self.worlds.spec.obs_dim)
        self.action_space = gym_action_space(self.worlds.spec.action_space)
        self.metadata = render_metadata(self.worlds.spec)
        self.render_mode = checked_render_mode(self.worlds.spec, render_mode)
        self._frames = Frames(self.worlds, width, height)
        self._seeded = False
        self._task: dict[str, float | np.ndarray] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode on a new task; `options["task"]` is the task of this one."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.worlds.seed(self.np_random_seed)
            self._seeded = True
        obs = self.worlds.reset((options or {}).get("task"))
        self._task = named_task(self.worlds.spec.tasks, self.worlds.env.task[0])
        return to_numpy(obs[0]), {"task": self.task}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Advance by one control step; the time limit is the environment's horizon."""
        step = self.worlds.step(np.asarray(action)[None])
        info = {"task": self.task, "success": bool(step.success), "failed": bool(step.failed)}
        return to_numpy(step.obs[0]), float(step.reward), bool(step.terminated), bool(step.truncated), info

    @property
    def task(self) -> dict[str, float | np.ndarray]:
        """The task of this episode by name."""
        return copy.deepcopy(self._task)

    def render(self) -> np.ndarray | None:
        """The world as an image, (height, width, 3) uint8; None without render mode."""
        return None if self.render_mode is None else self._frames.draw(0)

    def close(self) -> None:
        """Give the renderer back."""
        self._frames.close()


class GymVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many worlds of an environment on one batched engine, each restarted when its own episode ends.

    Args:
        env, task, split, render_mode, width, height, **options: as in `GymEnv`.
        num_envs: N.
        autoreset_mode: NEXT_STEP (gymnasium's default: the step after an episode's last one ignores the
            action and returns the first observation of the next episode) or SAME_STEP (the step that
            ends an episode returns it; the last observation is in `info["final_obs"]`).
        device: "cpu" or "cuda".
        num_threads: threads of the CPU engine, 0 for all cores.

    `reset` takes one seed for the batch: the worlds share a random stream. Its options are "task" (one
    task for all, or (N, P)) and gymnasium's "reset_mask".
    """

    def __init__(
        self,
        env: str | Spec,
        num_envs: int,
        *,
        task: TaskLike | None = None,
        split: str = "train",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: str | torch.device = "cpu",
        num_threads: int = 0,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **options: Any,
    ):
        self.worlds = TaskWorlds(
            env, num_envs, task=task, split=split, device=device, num_threads=num_threads, options=options
        )
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        self.num_envs = num_envs
        self.single_observation_space = box(self.worlds.spec.obs_dim)
        self.single_action_space = gym_action_space(self.worlds.spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**render_metadata(self.worlds.spec), "autoreset_mode": self.autoreset_mode}
        self.render_mode = checked_render_mode(self.worlds.spec, render_mode)
        self._frames = Frames(self.worlds, width, height)
        self._over: Tensor | None = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode in every world, or in those of `options["reset_mask"]`."""
        seed_batch(self, self.worlds, seed, is_first=self._over is None)
        options = options or {}
        mask = reset_mask(options, self.num_envs)
        if mask is None or self._over is None:
            obs = self.worlds.reset(options.get("task"))
            self._over = torch.zeros(self.num_envs, dtype=torch.bool, device=obs.device)
            mask = ~self._over
        else:
            mask = mask.to(self._over.device)
            obs = self.worlds.reset_worlds(mask)
            self._over = self._over & ~mask
        return to_numpy(obs), task_infos(self.worlds, mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Advance every world by one control step and restart those whose episode is over."""
        if self._over is None:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        before = self._over
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and bool(before.all()):
            return self._start_all()
        step = self.worlds.step(actions)
        self._over = step.terminated | step.truncated
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            starts, ran, infos = before, ~before, {}
        elif self.autoreset_mode is AutoresetMode.SAME_STEP:
            starts, ran, infos = self._over, ~self._over, final_infos(self.worlds, step.obs, step, self._over)
        else:
            starts, ran, infos = torch.zeros_like(before), torch.ones_like(before), {}
        infos |= step_infos(step, ran)
        obs = step.obs
        if bool(starts.any()):
            obs = self.worlds.reset_worlds(starts)
            infos |= task_infos(self.worlds, starts)
        return to_numpy(obs), to_numpy(step.reward), to_numpy(step.terminated), to_numpy(step.truncated), infos

    def _start_all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        obs = self.worlds.reset()
        self._over = torch.zeros(self.num_envs, dtype=torch.bool, device=obs.device)
        nothing = np.zeros(self.num_envs, np.bool_)
        infos = task_infos(self.worlds, ~self._over)
        return to_numpy(obs), np.zeros(self.num_envs, np.float32), nothing, nothing.copy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """All worlds as images, N x (height, width, 3) uint8."""
        return None if self.render_mode is None else tuple(self._frames.draw(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Give the renderers back."""
        self._frames.close()


class Frames:
    """Draws single worlds, with a renderer for each model that is looked at."""

    def __init__(self, worlds: TaskWorlds, width: int, height: int):
        self._worlds = worlds
        self._size = (width, height)
        self._renderers: dict[int, tuple[Tensor, Any]] = {}

    def draw(self, world_id: int) -> np.ndarray:
        """One world as it is now, (height, width, 3) uint8."""
        env = self._worlds.env
        physics = env.spec.physics
        if physics is None:
            raise RenderError(f"{env.spec.name} has no body to draw.")
        # Where no scene depends on the task, all worlds look through one renderer.
        key, task = (0, torch.zeros(0)) if physics.scene is None else (world_id, env.task[world_id].cpu())
        if key not in self._renderers or not torch.equal(self._renderers[key][0], task):
            self._open(key, task)
        pose = {name: value[world_id].cpu().numpy() for name, value in env.pose().items()}
        return self._renderers[key][1].draw(**pose)

    def close(self) -> None:
        """Close all renderers; drawing again opens new ones."""
        while self._renderers:
            self._renderers.popitem()[1][1].close()

    def _open(self, key: int, task: Tensor) -> None:
        from metarl.render import Renderer

        if key in self._renderers:
            self._renderers.pop(key)[1].close()
        physics = self._worlds.spec.physics
        assert physics is not None  # draw has looked
        model = physics.model if physics.scene is None else self._scene(task)
        self._renderers[key] = (task, Renderer(model, *self._size, camera=physics.camera))

    def _scene(self, task: Tensor) -> mujoco.MjModel:
        spec = self._worlds.spec
        named = spec.tasks.unpack(task.unsqueeze(0))
        if spec.derive is not None:
            named |= spec.derive(named)
        assert spec.physics is not None and spec.physics.scene is not None
        return spec.physics.scene({name: value[0] for name, value in named.items()})


def render_metadata(spec: Spec) -> dict[str, Any]:
    """What gymnasium wants to know about frames; environments without a body have none."""
    if spec.physics is None:
        return {"render_modes": []}
    return {"render_modes": ["rgb_array"], "render_fps": round(1.0 / spec.physics.control_dt_s)}


def checked_render_mode(spec: Spec, render_mode: str | None) -> str | None:
    """The render mode, if the environment has it.

    Raises:
        UnknownNameError: no such mode.
        RenderError: the environment has no body.
    """
    if render_mode not in (None, "rgb_array"):
        raise UnknownNameError("render mode", render_mode, ("rgb_array",))
    if render_mode is not None and spec.physics is None:
        raise RenderError(f"{spec.name} has no body to draw: leave render_mode out.")
    return render_mode


def checked_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode as gymnasium's enumeration, from itself, its name or its value.

    Raises:
        UnknownNameError: no such mode.
    """
    for known in AutoresetMode:
        if mode in (known, known.name, known.value):
            return known
    raise UnknownNameError("autoreset mode", str(mode), [known.value for known in AutoresetMode])


def seed_batch(env: gymnasium.vector.VectorEnv, worlds: TaskWorlds, seed: int | None, is_first: bool) -> None:
    """Seed all worlds as `VectorEnv.reset(seed=...)` asks; a first reset without seed takes a random one.

    Raises:
        ConfigError: one seed per world, which a shared random stream cannot follow.
    """
    if seed is not None and not isinstance(seed, (int, np.integer)):
        raise ConfigError(f"the worlds share one random stream: expected one integer as seed, got {seed!r}.")
    gymnasium.vector.VectorEnv.reset(env, seed=None if seed is None else int(seed))
    if seed is not None or is_first:
        chosen = env.np_random_seed
        assert chosen is not None
        worlds.seed(chosen)


def reset_mask(options: dict[str, Any], num_envs: int) -> Tensor | None:
    """The worlds that `VectorEnv.reset` was asked to start, (N,) bool; None for all.

    Raises:
        ConfigError: a mask that is not (N,) bool with a world in it.
    """
    mask = options.get("reset_mask")
    if mask is None:
        return None
    if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (num_envs,) and mask.any()):
        raise ConfigError(f"options['reset_mask'] must be a bool array of shape ({num_envs},), not all False.")
    if "task" in options:
        raise ConfigError("options 'task' and 'reset_mask' do not go together: 'task' is for a reset of all worlds.")
    return torch.from_numpy(mask)


def task_infos(worlds: TaskWorlds, mask: Tensor) -> dict[str, Any]:
    """The tasks by name in gymnasium's vector form: an array per parameter, `_name` says for which worlds."""
    which = to_numpy(mask)
    infos: dict[str, Any] = {}
    for name, values in worlds.spec.tasks.unpack(worlds.env.task).items():
        infos |= {name: to_numpy(values), f"_{name}": which.copy()}
    return {"task": infos, "_task": which}


def step_infos(step: Step, mask: Tensor) -> dict[str, np.ndarray]:
    """Success and failure in gymnasium's vector form."""
    infos: dict[str, np.ndarray] = {}
    for name, values in (("success", step.success), ("failed", step.failed)):
        infos |= {name: to_numpy(values & mask), f"_{name}": to_numpy(mask)}
    return infos


def final_infos(worlds: TaskWorlds, obs: Tensor, step: Step, over: Tensor) -> dict[str, Any]:
    """The end of the episodes that a SAME_STEP autoreset hides: `final_obs` and `final_info`."""
    if not bool(over.any()):
        return {}
    which = to_numpy(over)
    final_obs = np.full(len(which), None, dtype=object)
    for i in np.flatnonzero(which):
        final_obs[i] = to_numpy(obs[i])
    return {
        "final_obs": final_obs,
        "_final_obs": which,
        "final_info": step_infos(step, over) | task_infos(worlds, over),
        "_final_info": which.copy(),
    }
