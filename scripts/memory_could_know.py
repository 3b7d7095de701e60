"""What a memory could know of the task: one that learns nothing but to tell the parameters, from a run's own trials.

Policy and tasks are those of a run of RL². A new memory of the same size reads the trials that its policy plays on
training tasks, with sampled actions, and learns by gradient steps to tell the parameters that are named; it is judged
on other trials of the same kind. Where `memory_knows.py` says that the run's memory knows little, this says why: if the
new one learns to tell, knowledge is lost in the training (ask for fewer parameters, weigh them more); if not, the
trials show little of the task to such a memory in so many steps.

    python scripts/memory_could_know.py runs/surface-shift --asked dry_lane
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _measure import RESULTS, keep
from memory_knows import show_told, told_of

from metarl.env import BatchedEnv
from metarl.errors import ConfigError, MetarlError
from metarl.learners.rl2 import RL2
from metarl.rollout import policy_inputs
from metarl.run import LoadedRun, load_run
from metarl.seeding import make_generator
from metarl.types import Rollout

TRIALS_PER_STEP = 4
"""Trials of a gradient step, as in the presets of the suite."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of rl2")
    parser.add_argument("--asked", nargs="*", default=[], help="task parameters; default: all")
    parser.add_argument("--gradient-steps", type=int, default=1200)
    parser.add_argument("--num-tasks", type=int, default=448, help="trials to learn from")
    parser.add_argument("--num-judged", type=int, default=128, help="trials to be judged on")
    parser.add_argument(
        "--steps", nargs="+", type=int, default=[0, 25, 50, 100, 200, 399, 500, 700], help="of the trial"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the new memory, of tasks and actions")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory-could-know.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = could_know(load_run(arguments.run, "cpu"), arguments)
        keep(arguments.out, f"{arguments.run.name}: {' '.join(arguments.asked) or 'all'}", found)
        show_told(f"{arguments.run}, a new memory after {arguments.gradient_steps} gradient steps", found)
    except MetarlError as error:
        parser.exit(2, f"memory_could_know: {error}\n")


def could_know(run: LoadedRun, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a new memory on the trials of a run, and judge it on others."""
    if not isinstance(run.learner, RL2) or not run.learner.network.memory:
        raise ConfigError("this run has no memory: give a run of rl2.")
    settings = run.config.settings
    asked = replace(settings, task_coef=1.0, asked=tuple(arguments.asked))
    learner = RL2(run.spec, asked, arguments.seed)
    trials, judged = (
        played(run, num_tasks, make_generator(arguments.seed, name))
        for num_tasks, name in ((arguments.num_tasks, "trials"), (arguments.num_judged, "judged"))
    )
    learner._update_normalizers(trials)
    learn(learner, trials, arguments.gradient_steps, make_generator(arguments.seed, "minibatches"))
    return {
        "env": run.spec.name,
        "env_steps": run.env_steps,
        "asked": arguments.asked,
        "gradient_steps": arguments.gradient_steps,
        "num_tasks": arguments.num_tasks,
        "num_judged": arguments.num_judged,
        "seed": arguments.seed,
    } | told_of(learner, judged, run.spec, arguments.steps)


def played(run: LoadedRun, num_tasks: int, generator: torch.Generator) -> Rollout:
    """Trials of the run's policy on fresh training tasks, with sampled actions."""
    env = BatchedEnv(run.spec, num_tasks)
    env.set_tasks(run.spec.tasks.sample_train(num_tasks, generator))
    return run.learner.trial(env, run.config.settings.episodes_per_trial, generator)


def learn(learner: RL2, trials: Rollout, gradient_steps: int, generator: torch.Generator) -> None:
    """Descend on the squared error of the task alone."""
    network = learner.network
    seen = network.read(policy_inputs(trials, learner.space))
    for _ in range(gradient_steps):
        worlds = torch.randint(trials.num_worlds, (TRIALS_PER_STEP,), generator=generator)
        told = network.heads(seen[:, worlds])[2]
        loss = learner._task_loss(told, trials.task[worlds], trials.valid[:, worlds])
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), learner.config.max_grad_norm)
        learner.optimizer.step()


if __name__ == "__main__":
    main()
