"""What the tests of manipulation environments share: experts over splits, both engines side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.env import BatchedEnv, EnvSpec
from metarl.tasks import Choice, Distribution, Uniform
from metarl.types import Step


def tasks_with(spec: EnvSpec, num: int = 1, **values: float | list[float]) -> Tensor:
    """Tasks in the middle of the train ranges, the last of a choice's values; some parameters changed."""
    columns = []
    for parameter in spec.tasks.parameters:
        value = values.get(parameter.name, middle(parameter.distribution))
        columns.append(torch.as_tensor(value, dtype=torch.float32).expand(num))
    return torch.stack(columns, 1)


def middle(prior: Distribution) -> float:
    """A value in the middle of a distribution's train range."""
    if isinstance(prior, Choice):
        return prior.values[-1]
    assert isinstance(prior, Uniform)
    return (prior.low * prior.high) ** 0.5 if prior.log else (prior.low + prior.high) / 2


def started(spec: EnvSpec, tasks: Tensor, engine: str = "auto") -> BatchedEnv:
    """Worlds of these tasks, reset."""
    env = BatchedEnv(spec, len(tasks), num_threads=1, engine=engine)
    env.set_tasks(tasks)
    env.reset()
    return env


def play_expert(env: BatchedEnv) -> list[Step]:
    """One episode of the scripted expert."""
    env.reset()
    return [env.step(env.expert_action()) for _ in range(env.spec.horizon)]


def expert_success(spec: EnvSpec, split: str, num_tasks: int = 64) -> float:
    """Share of the tasks of a split that the expert solves."""
    steps = play_expert(started(spec, spec.tasks.split(split, num_tasks)))
    assert not torch.stack([s.failed for s in steps]).any()
    rewards = torch.stack([s.reward for s in steps])
    assert float(rewards.min()) >= 0.0 and float(rewards.max()) <= 1.0
    return float(torch.stack([s.success for s in steps]).any(0).float().mean())


def both_engines(spec: EnvSpec, tasks: Tensor, num_steps: int) -> tuple[list[list[Step]], list[BatchedEnv]]:
    """Steps of the same expert on mujoco.batch and mujoco_warp, [engine][step]; each sees its own observations."""
    pair = [started(spec, tasks, engine) for engine in ("batch", "warp")]
    steps = [[env.step(env.expert_action()) for _ in range(num_steps)] for env in pair]
    assert not any(bool(s.failed.any()) for run in steps for s in run)
    return steps, pair
