"""Worlds that draw a task for every episode and start their episodes one by one.

What the gymnasium and stable-baselines3 adapters have in common, in torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SpecError, UnknownNameError
from metarl.seeding import make_generator
from metarl.tasks import TaskDistribution
from metarl.types import Discrete, Step
from metarl.worlds import Spec, make_worlds

TaskLike = Mapping[str, Any] | Tensor | np.ndarray
"""One task by name, {"goal_angle": 0.3, ...}, or its row of P numbers, on the CPU."""


def resolve_spec(env: str | Spec, options: Mapping[str, Any]) -> Spec:
    """Look an environment up by name; a specification is taken as it is.

    Raises:
        UnknownNameError: no such environment.
        SpecError: options for a specification that is already made.
    """
    if isinstance(env, str):
        import envs

        return envs.make_spec(env, **options)
    if options:
        raise SpecError(f"options {sorted(options)} go with the name of an environment, not with a made specification.")
    return env


def task_row(tasks: TaskDistribution, task: TaskLike, split: str) -> Tensor:
    """One task as its row, (P,) float32.

    A task by name must lie in the ranges of the split (`TaskDistribution.pack`); a row is taken as it is.

    Raises:
        UnknownNameError, SpecError: a parameter that does not exist, is missing, has a wrong shape or is out of range.
    """
    if isinstance(task, Mapping):
        return tasks.pack(task, split)
    row = torch.tensor(np.asarray(task), dtype=torch.float32)
    if tuple(row.shape) != (tasks.dim,):
        raise SpecError(f"a task must have shape ({tasks.dim},), got {tuple(row.shape)}.")
    return row


def named_task(tasks: TaskDistribution, row: Tensor) -> dict[str, float | np.ndarray]:
    """A row of P numbers as {name: float, or an array where the parameter has a shape}."""
    named = tasks.unpack(row.unsqueeze(0).cpu())
    return {
        name: float(value[0]) if value.dim() == 1 else value[0].numpy().astype(np.float32)
        for name, value in named.items()
    }


class TaskWorlds:
    """N worlds, each with a task of its own that is drawn anew for every episode.

    Args:
        env: an environment's name or specification.
        num_worlds: N.
        task: a task for all episodes of all worlds; None draws tasks from `split`.
        split: where tasks are drawn from, `train`, `validation`, `test`, ...
        device, num_threads: as in `BatchedEnv`.
        options: options of the environment's factory, with a name only.

    Attributes:
        on_step: called with each step before any world starts its next episode, to watch the worlds.

    Raises:
        UnknownNameError: no such environment, split or task parameter.
        SpecError: a task of a wrong shape.
    """

    def __init__(
        self,
        env: str | Spec,
        num_worlds: int,
        *,
        task: TaskLike | None = None,
        split: str = "train",
        device: str | torch.device = "cpu",
        num_threads: int = 0,
        options: Mapping[str, Any] | None = None,
    ):
        spec = resolve_spec(env, options or {})
        if split not in spec.tasks.splits():
            raise UnknownNameError("split", split, spec.tasks.splits())
        self.split = split
        self._fixed = None if task is None else task_row(spec.tasks, task, split).expand(num_worlds, -1)
        self.env = make_worlds(spec, num_worlds, device=device, num_threads=num_threads)
        self.on_step: Callable[[Step], None] | None = None
        self.seed(0)

    @property
    def spec(self) -> Spec:
        """The environment's specification."""
        return self.env.spec

    @property
    def num_worlds(self) -> int:
        """N."""
        return self.env.num_worlds

    def seed(self, seed: int) -> None:
        """Start the random numbers of tasks, resets and steps afresh."""
        self._generator = make_generator(seed, f"tasks/{self.split}")
        self.env.generator = make_generator(seed, "env", self.env.device)

    def draw(self) -> Tensor:
        """Tasks for the next episodes, (N, P) float32; from the fixed set where the split has one."""
        tasks = self.spec.tasks
        if self._fixed is not None:
            return self._fixed
        if self.split in tasks.fixed:
            rows = tasks.fixed[self.split]
            return rows[torch.randint(len(rows), (self.num_worlds,), generator=self._generator)]
        return tasks.sample(self.split, self.num_worlds, self._generator)

    def reset(self, task: TaskLike | None = None) -> Tensor:
        """Start an episode in every world, on newly drawn tasks or on `task`; returns (N, O) float32.

        Args:
            task: one task for all worlds, or (N, P), for this episode.
        """
        parameters = self.draw() if task is None else self._rows(task)
        # Writing a task again would be harmless, but costs the model constants and tables of every world.
        if not torch.equal(parameters, self.env.task.cpu()):
            self.env.set_tasks(parameters)
        return self.env.reset()

    def reset_worlds(self, mask: Tensor, *, keep_task: Tensor | None = None) -> Tensor:
        """Start an episode in the worlds of `mask` (N,) bool; returns the observations of all, (N, O).

        Args:
            mask: the worlds to start.
            keep_task: (N,) bool, worlds that keep their task; None draws a task for every world of `mask`.
        """
        redraw = mask if keep_task is None else mask & ~keep_task
        parameters = torch.where(redraw.unsqueeze(1), self.draw().to(self.env.device), self.env.task)
        unchanged = torch.equal(parameters, self.env.task)
        return self.env.reset_worlds(mask, None if unchanged else parameters)

    def step(self, action: np.ndarray) -> Step:
        """Advance all worlds by one control step.

        Args:
            action: (N, A) numbers, clipped to [-1, 1], or (N,) integers.

        Raises:
            SpecError: an action of the wrong shape, not finite, or out of range.
        """
        step = self.env.step(self._checked(action))
        if self.on_step is not None:
            self.on_step(step)
        return step

    def _checked(self, action: np.ndarray) -> Tensor:
        space = self.spec.action_space
        values = torch.as_tensor(np.asarray(action))
        if isinstance(space, Discrete):
            if values.is_floating_point() or bool(((values < 0) | (values >= space.num_actions)).any()):
                raise SpecError(f"{self.spec.name}: actions must be integers 0..{space.num_actions - 1}, got {action}.")
            return values.to(self.env.device, torch.int64)
        if not bool(torch.isfinite(values).all()):
            raise SpecError(f"{self.spec.name}: actions must be finite, got {action}.")
        return values.to(self.env.device, torch.float32)

    def _rows(self, task: TaskLike) -> Tensor:
        tasks = self.spec.tasks
        if not isinstance(task, Mapping) and np.ndim(task) == 2:
            return torch.tensor(np.asarray(task), dtype=torch.float32)
        return task_row(tasks, task, self.split).expand(self.num_worlds, -1)
