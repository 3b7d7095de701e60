"""Seconds of a meta-iteration of MAML-TRPO, split into its parts, and its update against a Python loop over tasks.

The loop is the same algorithm written as public implementations have it: for each task in turn an inner step with
`torch.autograd.grad(create_graph=True)`, all graphs kept for the Hessian-vector products, all samples in the metric.
All contenders take turns in one process, on the same batch.

    python scripts/bench_maml.py --env half-cheetah-dir --meta-batch-size 40 --episodes-per-task 20
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _measure import RESULTS, median_ratio, paired_seconds, save, show
from torch import Tensor

import envs
from metarl.env import BatchedEnv
from metarl.learners import preset
from metarl.learners.gradient import MetaBatch, task_sum
from metarl.learners.maml_trpo import MAMLTRPO
from metarl.rl.trpo import Objective, trust_region_step
from metarl.run import resolve_device
from metarl.seeding import make_generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="half-cheetah-dir")
    parser.add_argument("--meta-batch-size", type=int, default=40)
    parser.add_argument("--episodes-per-task", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_maml.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = resolve_device(arguments.device)
    spec = envs.make_spec(arguments.env)
    config = replace(
        preset("maml-trpo", arguments.env),
        meta_batch_size=arguments.meta_batch_size,
        episodes_per_task=arguments.episodes_per_task,
    )
    learner = MAMLTRPO(spec, config, 0, device)
    env = BatchedEnv(spec, config.num_worlds, device=device)
    env.set_tasks(spec.tasks.sample_train(config.meta_batch_size, make_generator(0, "tasks")))
    parts = iteration_parts(learner, env, arguments.rounds)
    total = sum(parts.values())
    rows = [(name, f"{seconds:.3f}", f"{100 * seconds / total:.0f} %") for name, seconds in parts.items()]
    size = f"{config.meta_batch_size} tasks x {config.episodes_per_task} episodes"
    show(f"{arguments.env}: a meta-iteration, {size}, {device}", ("part", "seconds", "share"), rows)

    seconds = update_seconds(learner, env, arguments.rounds)
    ratios = {name: median_ratio(seconds[name], seconds["loop, all samples"]) for name in seconds}
    rows = [(name, f"{median(values):.3f}", f"{ratios[name]:.2f}") for name, values in seconds.items()]
    show(f"{arguments.env}: outer step", ("contender", "seconds", "times the loop's speed"), rows)
    save(
        arguments.out,
        {
            "env": arguments.env,
            "device": device,
            "config": {"meta_batch_size": config.meta_batch_size, "episodes_per_task": config.episodes_per_task},
            "iteration": parts,
            "share_outside_physics": 1 - parts["physics"] / total,
            "outer_step_seconds": seconds,
            "times_the_loop": ratios,
        },
    )


def iteration_parts(learner: MAMLTRPO, env: BatchedEnv, num_rounds: int) -> dict[str, float]:
    """Median seconds of each part of an iteration."""
    rounds: list[dict[str, float]] = []
    for round_id in range(num_rounds + 1):
        spent = dict.fromkeys(("physics", "inner step", "advantages"), 0.0)
        begun = now()
        with (
            timed(env.engine, "step", spent, "physics"),
            timed(learner, "_inner_step", spent, "inner step"),
            timed(learner, "samples", spent, "advantages"),
        ):
            rollout = learner.collect(env)
        collected = now()
        learner.update(rollout, 0.5)
        updated = now()
        if round_id:  # the first one warms up, and sets the scale of observations only
            rest = collected - begun - sum(spent.values())
            rounds.append(
                {
                    "physics": spent["physics"],
                    "environment and policy": rest,
                    "advantages and inner step": spent["inner step"] + spent["advantages"],
                    "update": updated - collected,
                }
            )
    return {name: median(part[name] for part in rounds) for name in rounds[0]}


def now() -> float:
    """Seconds on a clock, once the device has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def timed(owner: Any, method: str, spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of a method's calls to `spent[name]`."""
    original = getattr(owner, method)

    def wrapper(*arguments: Any, **options: Any) -> Any:
        begun = now()
        result = original(*arguments, **options)
        spent[name] += now() - begun
        return result

    setattr(owner, method, wrapper)
    try:
        yield
    finally:
        delattr(owner, method)


def update_seconds(learner: MAMLTRPO, env: BatchedEnv, num_rounds: int) -> dict[str, list[float]]:
    """Seconds of an outer step of each contender on one batch; the meta-parameters are put back after each."""
    batch = learner.batch(learner.collect(env))
    start = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}

    def ours(threads: int) -> None:
        learner.config = replace(learner.config, update_threads=threads)
        learner._threads = None
        learner.improve(batch, 0.5)
        learner._set_meta_parameters(start)
        now()

    calls: dict[str, Callable[[], None]] = {
        "metarl, 2 threads": lambda: ours(2),
        "metarl, 1 thread": lambda: ours(1),
        "loop, metric of as many samples": lambda: loop_over_tasks(learner, batch, learner._share(batch)),
        "loop, all samples": lambda: loop_over_tasks(learner, batch, batch),
    }
    return paired_seconds(calls, num_rounds)


def loop_over_tasks(learner: MAMLTRPO, batch: MetaBatch, of_metric: MetaBatch) -> Any:
    """The outer step with one inner step, task after task."""
    config, policy = learner.config, learner.policy

    def adapted(meta: Mapping[str, Tensor], task: MetaBatch) -> Mapping[str, Tensor]:
        support = type(task.phases[0])(*(value[0] for value in task.phases[0]))
        with torch.enable_grad():
            start = {n: v if v.requires_grad else v.detach().requires_grad_() for n, v in meta.items()}
            log_prob = policy.distribution(start, support.obs).log_prob(support.action)
            loss = -(support.weight * support.advantage * log_prob).sum()
            slopes = torch.autograd.grad(loss, list(start.values()), create_graph=True)
        return {n: v - config.inner_lr * slope for (n, v), slope in zip(start.items(), slopes, strict=True)}

    def objective(meta: Mapping[str, Tensor]) -> Objective:
        loss = kl = torch.zeros(())
        for task in batch.split(1):
            query = task.phases[1]
            new = policy.distribution(adapted(meta, task), query.obs)
            ratio = (new.log_prob(query.action) - query.log_prob).exp()
            loss = loss - task_sum(ratio * query.advantage, query)
            kl = kl + task_sum(task.acted[1].kl_divergence(new), query)
        return Objective(loss / batch.num_tasks, kl / batch.num_tasks)

    def divergence(meta: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for task in of_metric.split(1):
            new = policy.distribution(adapted(meta, task), task.phases[1].obs)
            old = type(new)(*(value.detach() for value in new))
            total = total + task_sum(old.kl_divergence(new), task.phases[1])
        return total / batch.num_tasks

    return trust_region_step(
        learner.meta_parameters,
        [objective],
        [divergence],
        config.max_kl,
        num_cg_iterations=config.num_cg_iterations,
        damping=config.cg_damping,
        num_backtracks=config.num_backtracks,
        backtrack_ratio=config.backtrack_ratio,
    )


if __name__ == "__main__":
    main()
