"""The evaluation protocol: adaptation on unseen tasks, episode by episode. Training uses it too.

For each task of a split one trial of K episodes; for each episode of the trial the interquartile mean of the
return over tasks, with a 95 % bootstrap interval, and the rate of success. A gradient learner plays each episode in
E worlds of a task and makes an inner step on them before the next one: its episode k + 1 is that after k inner steps.
The tasks, the noise of the worlds and the sampled actions depend on the seed alone, so that two people judge on the
very same trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.rollout import Adapts
from metarl.seeding import make_generator
from metarl.statistics import bootstrap
from metarl.types import Rollout
from metarl.worlds import Spec, Worlds, make_worlds


@dataclass(frozen=True)
class Evaluation:
    """How a learner adapts on the tasks of a split; B tasks, K episodes.

    Attributes:
        env, algorithm, split, num_tasks, num_episodes, seed: what was evaluated.
        episodes_per_task: E, worlds of a task, over which returns and success are means.
        adapts_by: "memory" or "inner steps".
        env_steps_spent: K numbers, environment steps taken on a task before each of its episodes.
        deterministic: the likeliest action was taken, else actions were sampled.
        tasks: B rows of P task parameters.
        returns: B rows of K undiscounted returns.
        success: B rows of K shares of the E episodes, None where the environment has no success criterion.
        iqm_return: K interquartile means over tasks.
        ci95_return: K intervals.
        mean_return, stderr_return: K means and standard errors, as the older literature reports them; the
            errors are NaN for a single task.
        success_rate: K rates, or None.
        failed_worlds: how many of the B simulations diverged.
        metrics: for each of `EnvSpec.metrics`, K means over the tasks that it applies to, None where there are none.
    """

    env: str
    algorithm: str
    split: str
    num_tasks: int
    num_episodes: int
    episodes_per_task: int
    adapts_by: str
    env_steps_spent: list[int]
    seed: int
    deterministic: bool
    tasks: list[list[float]]
    returns: list[list[float]]
    success: list[list[float]] | None
    iqm_return: list[float]
    ci95_return: list[list[float]]
    mean_return: list[float]
    stderr_return: list[float]
    success_rate: list[float] | None
    failed_worlds: int
    metrics: dict[str, list[float | None]]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; the standard errors are null for a single task."""
        errors = [None if math.isnan(value) else value for value in self.stderr_return]
        return asdict(self) | {"stderr_return": errors}


def evaluate(
    learner: Adapts,
    spec: Spec,
    *,
    algorithm: str,
    split: str = "test",
    num_tasks: int = 64,
    num_episodes: int = 3,
    episodes_per_task: int = 1,
    seed: int = 0,
    deterministic: bool | None = None,
    device: str | torch.device = "cpu",
) -> Evaluation:
    """Let a learner adapt to each task of a split.

    Args:
        learner: anything with a `trial` method.
        spec: the environment.
        algorithm: name for the record.
        split: one of `spec.tasks.splits()`.
        num_tasks: B.
        num_episodes: K.
        episodes_per_task: E, worlds of each task; the support of an inner step, or more episodes to average over.
        seed: of the tasks, of the worlds' noise and of sampled actions.
        deterministic: take the likeliest action, else sample; None: as `EnvSpec.samples_actions` has it. Learners
            that adapt by policy gradients sample in any case.
        device: where the worlds run.

    Raises:
        UnknownNameError: the environment has no such split.
        ConfigError: no task, no episode or a negative seed.
    """
    if min(num_tasks, num_episodes, episodes_per_task) < 1:
        got = f"{num_tasks}, {num_episodes} and {episodes_per_task}"
        raise ConfigError(f"evaluation needs at least one task, one episode and one world per task, got {got}.")
    if seed < 0:
        raise ConfigError(f"the seed of an evaluation must not be negative, got {seed}.")
    env = make_worlds(spec, num_tasks * episodes_per_task, device=device)
    return evaluate_in(
        env,
        learner,
        algorithm=algorithm,
        split=split,
        num_episodes=num_episodes,
        episodes_per_task=episodes_per_task,
        seed=seed,
        deterministic=deterministic,
    )


def evaluate_in(
    env: Worlds,
    learner: Adapts,
    *,
    algorithm: str,
    split: str,
    num_episodes: int,
    episodes_per_task: int = 1,
    seed: int = 0,
    deterministic: bool | None = None,
) -> Evaluation:
    """`evaluate` in worlds that exist already, E neighbouring ones for each task."""
    if deterministic is None:
        deterministic = not env.spec.samples_actions
    env.generator = make_generator(seed, "env", env.device)
    env.set_tasks(env.spec.tasks.split(split, env.num_worlds // episodes_per_task, seed))
    deterministic = deterministic and not samples_support(learner)
    generator = None if deterministic else make_generator(seed, "evaluation", env.device)
    rollout = learner.trial(env, num_episodes, generator)
    adapts_by = "inner steps" if samples_support(learner) else "memory"
    return _summarise(rollout, env, algorithm, split, seed, deterministic, adapts_by)


def samples_support(learner: Adapts) -> bool:
    """Whether a learner adapts by policy gradients and so has to sample its actions."""
    return bool(getattr(learner, "samples_support", False))


def _summarise(
    rollout: Rollout, env: Worlds, algorithm: str, split: str, seed: int, deterministic: bool, adapts_by: str
) -> Evaluation:
    def of_tasks(values: Tensor) -> np.ndarray:
        """The mean over the worlds of each task, (K, N) -> (B, K)."""
        return values.double().unflatten(1, (env.num_tasks, -1)).mean(2).T.cpu().numpy()

    returns = of_tasks(rollout.episode_returns())
    success = of_tasks(rollout.episode_success()) if env.has_success else None
    per_task = env.num_worlds // env.num_tasks
    estimate = bootstrap(returns[None], np.random.default_rng(seed))
    num_tasks = len(returns)
    stderr = returns.std(0, ddof=1) / np.sqrt(num_tasks) if num_tasks > 1 else np.full(returns.shape[1], np.nan)
    return Evaluation(
        env=env.spec.name,
        algorithm=algorithm,
        split=split,
        num_tasks=num_tasks,
        num_episodes=rollout.num_episodes,
        episodes_per_task=per_task,
        adapts_by=adapts_by,
        env_steps_spent=[k * per_task * env.spec.horizon for k in range(rollout.num_episodes)],
        seed=seed,
        deterministic=deterministic,
        tasks=rollout.task[::per_task].cpu().tolist(),
        returns=returns.tolist(),
        success=None if success is None else success.tolist(),
        iqm_return=estimate.value.tolist(),
        ci95_return=np.stack([estimate.low, estimate.high], 1).tolist(),
        mean_return=returns.mean(0).tolist(),
        stderr_return=stderr.tolist(),
        success_rate=None if success is None else success.mean(0).tolist(),
        failed_worlds=int(rollout.failed.any(0).sum()),
        metrics=_metrics(rollout, env),
    )


def _metrics(rollout: Rollout, env: Worlds) -> dict[str, list[float | None]]:
    names = () if env.spec.metrics is None else env.spec.metrics.names
    means = rollout.metrics.double().nanmean(1).T.tolist()  # (M, K)
    return {
        name: [None if math.isnan(value) else value for value in row] for name, row in zip(names, means, strict=True)
    }


def metrics_table(evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Rows of text, header first: the metrics of each label and stage; empty where the environment has none."""
    names = list(next(iter(evaluations.values())).metrics)
    if not names:
        return []
    rows = [["policy", "stage", *names]]
    for label, evaluation in evaluations.items():
        for k in range(evaluation.num_episodes):
            values = [evaluation.metrics[name][k] for name in names]
            cells = ["-" if value is None else _short(value) for value in values]
            rows.append([label if k == 0 else "", stage(evaluation.adapts_by, k), *cells])
    return rows


def table(evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Rows of text, header first: a row of returns per label and stage of its adaptation.

    "spent" are the environment steps taken on each task until then.
    """
    rows = [["policy", "stage", "spent", "IQM", "95 % interval", "mean ± s.e.", "success"]]
    for label, evaluation in evaluations.items():
        for k in range(evaluation.num_episodes):
            low, high = evaluation.ci95_return[k]
            rate = "-" if evaluation.success_rate is None else f"{100 * evaluation.success_rate[k]:.0f} %"
            mean, stderr = evaluation.mean_return[k], evaluation.stderr_return[k]
            rows.append(
                [
                    label if k == 0 else "",
                    stage(evaluation.adapts_by, k),
                    f"{evaluation.env_steps_spent[k]:,}",
                    _short(evaluation.iqm_return[k]),
                    f"[{_short(low)}, {_short(high)}]",
                    f"{_short(mean)} ± {_short(stderr)}",
                    rate,
                ]
            )
    return rows


def _short(value: float) -> str:
    """A number to three digits, at most two of them behind the point; the JSON has them all."""
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def axis_of(adapts_by: str) -> dict[str, Any]:
    """How the stages of a trial are counted in a picture: arguments of `metarl.plots.adaptation_curve`."""
    return {} if adapts_by == "memory" else {"x_label": "inner steps", "first": 0}


def stage(adapts_by: str, k: int) -> str:
    """What the k-th episode of a trial, from 0, is called: "episode 2", or "after 1" (inner step)."""
    if adapts_by == "memory":
        return f"episode {k + 1}"
    return f"after {k}" if k else "before"
