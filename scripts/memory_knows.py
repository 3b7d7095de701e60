"""What the memory of RL² knows of the task, and how soon: the share of each parameter's variance that it tells.

For runs that were trained with `--task-coef`, whose memory has a head that says what the task parameters are. 1: told
exactly; 0: no better than the mean over tasks; below: misled; the mean over those of several numbers. Likeliest
actions, as in evaluation.

    metarl train rl2 --env push --task-coef 0.2 --reads-reward-change --out runs/push-told
    python scripts/memory_knows.py runs/push-told

Where it knows little, `memory_could_know.py` says whether it could.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from _measure import RESULTS, keep, show

from metarl.env import BatchedEnv
from metarl.errors import ConfigError, MetarlError
from metarl.learners.rl2 import RL2
from metarl.rollout import policy_inputs
from metarl.run import LoadedRun, load_run
from metarl.types import Rollout
from metarl.worlds import Spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of rl2")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--num-tasks", type=int, default=128)
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 20, 40, 80, 149, 200, 299], help="of the trial")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory-knows.json")
    arguments = parser.parse_args()
    try:
        for path in arguments.runs:
            found = known(load_run(path, "cpu"), arguments.split, arguments.num_tasks, arguments.steps)
            keep(arguments.out, path.name, found)
            show_told(f"{path}, {found['env_steps'] / 1e6:.1f} M steps", found)
    except MetarlError as error:
        parser.exit(2, f"memory_knows: {error}\n")


def known(run: LoadedRun, split: str, num_tasks: int, steps: list[int]) -> dict[str, Any]:
    """Play trials on unseen tasks, and compare what the memory says on the way with what is true."""
    learner = run.learner
    if not isinstance(learner, RL2) or learner.network.teller is None:
        raise ConfigError("the memory of this run was not trained to tell the task: train rl2 with --task-coef.")
    env = BatchedEnv(run.spec, num_tasks)
    env.set_tasks(run.spec.tasks.split(split, num_tasks))
    rollout = learner.trial(env, run.config.settings.episodes_per_trial, None)
    return {
        "env": run.spec.name,
        "env_steps": run.env_steps,
        "seed": run.config.seed,
        "task_coef": run.config.settings.task_coef,
        "reads_reward_change": run.config.settings.reads_reward_change,
        "split": split,
        "num_tasks": num_tasks,
        "mean_return": rollout.episode_returns().mean(1).tolist(),
    } | told_of(learner, rollout, run.spec, steps)


def told_of(learner: RL2, rollout: Rollout, spec: Spec, steps: list[int]) -> dict[str, Any]:
    """What a memory that reads these trials says of their tasks after some of the steps."""
    steps = [step for step in steps if step < rollout.num_steps]
    with torch.no_grad():
        seen = learner.network.read(policy_inputs(rollout, spec.action_space))
        told = learner.network.heads(seen)[2][steps]  # (T, N, told)
        truth = learner.network.task_normalizer(rollout.task)[:, learner.asked]  # (N, told)
    share = torch.full((len(steps), spec.tasks.dim), math.nan)  # NaN where nothing was asked
    share[:, learner.asked] = 1 - (told - truth).square().mean(1) / truth.var(0, correction=0)
    by_name = {name: value.reshape(len(steps), -1).mean(1) for name, value in spec.tasks.unpack(share).items()}
    asked = {name: value for name, value in by_name.items() if not value.isnan().any()}
    return {
        "steps": steps,
        "told": {name: [round(float(value), 3) for value in values] for name, values in asked.items()},
    }


def show_told(title: str, found: dict[str, Any]) -> None:
    """A row for each parameter."""
    rows = [(name, *(f"{value:.2f}" for value in values)) for name, values in found["told"].items()]
    show(f"{title}: share of the variance told after so many steps", ("parameter", *map(str, found["steps"])), rows)


if __name__ == "__main__":
    main()
