"""What the tests of driving environments share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.env import BatchedEnv, EnvSpec, Noise
from metarl.tasks import Choice, Uniform


class Drive(NamedTuple):
    """One episode of the expert: (N,) success, early end, failure, and (N, M) metrics."""

    success: Tensor
    ended: Tensor
    failed: Tensor
    metrics: dict[str, Tensor]


def drive(spec: EnvSpec, split: str, num_tasks: int, engine: str = "auto") -> Drive:
    """Let the scripted expert drive one episode of each of the first tasks of a split."""
    env = BatchedEnv(spec, num_tasks, engine=engine, num_threads=1)
    env.set_tasks(spec.tasks.split(split, num_tasks))
    env.reset()
    steps = [env.step(env.expert_action()) for _ in range(spec.horizon)]
    flags = (torch.stack([getattr(s, name) for s in steps]).any(0) for name in ("success", "terminated", "failed"))
    return Drive(*flags, dict(zip(spec.metrics.names, env.metrics().unbind(1), strict=True)))


def ends_of_ranges(spec: EnvSpec, visible: set[str]) -> Tensor:
    """Two tasks that differ in all hidden parameters, at the ends of their ranges, (2, P)."""
    tasks = spec.tasks.split("train", 1).repeat(2, 1)
    column = 0
    for parameter in spec.tasks.parameters:
        prior = parameter.distribution
        if parameter.name not in visible:
            assert isinstance(prior, Uniform | Choice)
            ends = (prior.low, prior.high) if isinstance(prior, Uniform) else (prior.values[0], prior.values[-1])
            tasks[:, column] = torch.tensor(ends)
        column += parameter.size
    return tasks


def first_observations(spec: EnvSpec, tasks: Tensor) -> Tensor:
    """First observations of tasks with the same noise, (N, O)."""
    env = BatchedEnv(spec, len(tasks), num_threads=1)
    env.set_tasks(tasks)
    uniform = torch.linspace(0.05, 0.95, spec.reset_noise[0]).repeat(len(tasks), 1)
    start = spec.reset(env._task, Noise(uniform, torch.zeros(len(tasks), 0)))
    env.engine.reset()
    for name, value in start.writes.items():
        env.engine.write(name, value)
    env.engine.forward()
    return spec.observe(env._task, env._data, start.state)


def on_both_engines(spec: EnvSpec, split: str, num_tasks: int, num_steps: int) -> tuple[list, list]:
    """The same actions, those of the expert on mujoco.batch, on both engines: the steps of each."""
    pair = [BatchedEnv(spec, num_tasks, engine=engine, num_threads=1) for engine in ("batch", "warp")]
    for env in pair:
        env.set_tasks(spec.tasks.split(split, num_tasks))
        env.reset()
    steps: tuple[list, list] = ([], [])
    for _ in range(num_steps):
        action = pair[0].expert_action()
        for env, kept in zip(pair, steps, strict=True):
            kept.append(env.step(action))
    return steps
