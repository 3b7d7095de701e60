"""Meta-World's protocol for a run: 10 episodes to adapt, then 3 to be judged, on the goals of the test classes.

    python scripts/metaworld_success.py runs/rl2-metaworld-ml10-seed0 --num-goals 40

Prints for each test class, and as means over classes, the success rate of the official evaluator, which is biased
upwards (`envs.metaworld.success`), and the unbiased one. `--expert` and `--random` judge the package's scripted
policies and random actions instead of the run's policy, on its environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.metaworld.benchmarks import class_of
from envs.metaworld.success import NUM_COUNTED, OFFICIAL_META_BATCH, official_success, unbiased_success
from metarl.errors import ConfigError, MetarlError
from metarl.evaluate import samples_support
from metarl.expert import Expert
from metarl.learners.random_policy import RandomPolicy
from metarl.rollout import Adapts
from metarl.run import load_run
from metarl.seeding import make_generator
from metarl.worlds import Spec, make_worlds

_GOALS_AT_ONCE = 8


def success_steps(
    agent: Adapts,
    spec: Spec,
    num_goals: int,
    num_adaptation: int,
    seed: int,
    *,
    num_phases: int = 2,
    samples: bool = False,
) -> dict[str, np.ndarray]:
    """When success first came in the episodes after adaptation.

    A memory plays `num_adaptation` episodes and then those that are judged. A gradient learner makes its inner steps
    on `num_adaptation` episodes side by side; of those after the last step the first ones are judged.

    Args:
        agent: a learner, or a policy.
        spec: an environment of Meta-World.
        num_goals: of each test class.
        num_adaptation: episodes to adapt on.
        seed: of worlds and sampled actions.
        num_phases: of a gradient learner, one more than inner steps.
        samples: sample actions of a memory, else take the likeliest.

    Returns:
        Class -> (goals, 3) steps from 1, 0 where success never came.
    """
    by_steps = samples_support(agent)
    per_task = num_adaptation if by_steps else 1
    if by_steps and per_task < NUM_COUNTED:
        raise ConfigError(f"at least {NUM_COUNTED} episodes to adapt on are needed, got {num_adaptation}.")
    num_episodes = num_phases if by_steps else num_adaptation + NUM_COUNTED
    num_classes = len(spec.tasks.fixed["test"][:, 0].unique())
    tasks = spec.tasks.split("test", num_goals * num_classes)
    generator = make_generator(seed, "evaluation") if samples or by_steps else None
    found: dict[str, list[np.ndarray]] = {}
    worlds = None
    for part in tasks.split(_GOALS_AT_ONCE * num_classes):
        if worlds is None or worlds.num_worlds != len(part) * per_task:
            worlds = make_worlds(spec, len(part) * per_task, seed=seed)
        worlds.set_tasks(part)
        success = agent.trial(worlds, num_episodes, generator).success.unflatten(0, (num_episodes, -1))  # (K, H, N)
        if by_steps:
            judged = success[-1].unflatten(1, (len(part), -1))[:, :, :NUM_COUNTED].permute(1, 2, 0)  # (B, 3, H)
        else:
            judged = success[-NUM_COUNTED:].permute(2, 0, 1)  # (B, 3, H)
        for task, steps in zip(part, _first(judged).numpy(), strict=True):
            found.setdefault(class_of(task), []).append(steps)
    return {name: np.stack(rows) for name, rows in found.items()}


def rates(steps: dict[str, np.ndarray], horizon: int) -> dict[str, dict[str, float]]:
    """Both success rates of each class, and their means as "mean"."""
    num_parallel = OFFICIAL_META_BATCH // len(steps)
    by_class = {
        name: {"official": official_success(of_class, horizon, num_parallel), "unbiased": unbiased_success(of_class)}
        for name, of_class in steps.items()
    }
    means = {kind: float(np.mean([both[kind] for both in by_class.values()])) for kind in ("official", "unbiased")}
    return {**by_class, "mean": means}


def _first(success: Tensor) -> Tensor:
    """The first step, from 1, at which it held, (..., H) -> (...); 0 where it never did."""
    return torch.where(success.any(-1), success.to(torch.uint8).argmax(-1) + 1, 0)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Judge a run, print the table and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-goals", type=int, default=40, help="goals of each test class, at most 50")
    parser.add_argument("--adaptation-episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stochastic", action="store_true", help="sample actions; gradient learners always do")
    parser.add_argument("--expert", action="store_true", help="judge the scripted policies")
    parser.add_argument("--random", action="store_true", help="judge random actions")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args(arguments)
    if not (1 <= options.num_goals <= 50 and options.adaptation_episodes >= 0):
        raise ConfigError("--num-goals must be 1 to 50 and --adaptation-episodes not negative.")
    run = load_run(options.run)
    if not run.spec.name.startswith("metaworld-"):
        raise ConfigError(f"{options.run} is a run on {run.spec.name}, not on an environment of Meta-World.")
    agent = Expert() if options.expert else RandomPolicy(run.spec) if options.random else run.learner
    steps = success_steps(
        agent,
        run.spec,
        options.num_goals,
        options.adaptation_episodes,
        options.seed,
        num_phases=run.config.settings.episodes_per_trial,
        samples=options.stochastic or options.random,
    )
    table = rates(steps, run.spec.horizon)
    print(f"{'class':<24} official  unbiased")
    for name, both in table.items():
        print(f"{name:<24} {100 * both['official']:6.1f} %  {100 * both['unbiased']:6.1f} %")
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))
    return table


if __name__ == "__main__":
    try:
        main()
    except MetarlError as error:
        sys.exit(f"metaworld_success: {error}")
