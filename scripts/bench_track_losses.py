"""Learned shaping on a MuJoCo car: how few episodes a policy needs to learn an unseen track, by what it maximises.

All contenders but the last start from one policy that drives but does not know its task (domain-randomised), and learn
each unseen task by gradient steps on E episodes each:

    learned reward        meta-trained for this start; reads the environment's signals
    learned potential     the same, a function of the offset from the swept line and the heading error
    ppo                   the hand-designed reward of the environment
    ppo, hand shaping     that reward, shaped by a person who reads the same signals
    maml                  the hand-designed reward, and a start that is meta-trained for it (Meta-SGD)
    maml, learned reward  start and inner reward meta-trained together (`--inner-reward reward`)
    ppo from nothing      the hand-designed reward, from random weights

What is not learned is tuned on training tasks: shaping, step size, and one or five gradient steps on a batch (PPO).
Runs lie in RUNS/CONTENDER-seedS and are gone on with. The policy to start from is made by

    metarl train domain-randomised --env track --num-worlds 320 --total-steps 2500000 --out runs/track/domain-randomised
    python scripts/bench_track_losses.py --seeds 0
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, save, show
from numpy.typing import NDArray
from reproduce import describe, trained
from torch import Tensor

from metarl.config import RunConfig
from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import MetarlError
from metarl.learners import preset
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.losses.formula import PREFIX as FORMULA
from metarl.losses.formula import Formula
from metarl.plots import budget_curve
from metarl.rollout import Adapts
from metarl.run import LoadedRun, load_run
from metarl.seeding import make_generator
from metarl.start_policy import PREFIX as POLICY
from metarl.start_policy import RANDOM
from metarl.statistics import bootstrap, bootstrap_difference
from metarl.types import Rollout

ENV = "track"
SHAPINGS = {
    "line": "reward + 10 * (abs(line_offset) - abs(line_offset + change_of_line_offset))",
    "line, ahead": "reward + 20 * (abs(line_offset + 0.7 * heading_error) - abs(line_offset + change_of_line_offset"
    " + 0.7 * (heading_error + change_of_heading_error)))",
}
"""Potentials that a person would write: the distance from the swept line, now and where the car is heading."""
STEPS = ((1, 0.025), (1, 0.05), (5, 0.005), (5, 0.01))
"""Gradient steps on a batch, and their size."""
STEPS_FROM_NOTHING = ((5, 0.05), (5, 0.2))
DISCOUNT, GAE_LAMBDA = 0.97, 0.9
SHOWN = (0, 1, 2, 3, 5)
LEARNED: dict[str, dict[str, Any]] = {
    "learned reward": {"change_scale": 20.0, "outer_lr": 0.04},
    "learned potential": {"loss": "potential", "signals": ("line_offset", "heading_error"), "outer_lr": 0.05},
}
META = (*LEARNED, "maml", "maml, learned reward")
TUNING_TASKS = 10

METRIC = (
    "undiscounted return of an episode, mean over the E episodes of each task after k inner steps on E episodes each; "
    "IQM over seeds and tasks with 95 % interval; minus_X: learned reward less X on the same tasks, same k"
)


TUNED = ("shaping", "gradient_steps", "step_size", "from_start", "mean_return")

Trial = Callable[[BatchedEnv, int], Rollout]
"""(worlds that hold the tasks, seed) -> K + 1 phases with an inner step between two of them."""


@dataclass(frozen=True)
class Line:
    """An adaptation curve for `metarl.plots`."""

    iqm_return: list[float]
    ci95_return: list[list[float]]
    env_steps_spent: list[int]
    success_rate: None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("runs/track/domain-randomised"), help="run to start from")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of meta-training")
    parser.add_argument("--total-steps", type=int, default=1_920_000, help="of meta-training")
    parser.add_argument("--episodes-per-task", type=int, default=10, help="before and after each inner step")
    parser.add_argument("--num-updates", type=int, default=5, help="inner steps that are judged")
    parser.add_argument("--num-tasks", type=int, default=40, help="unseen tasks of each split")
    parser.add_argument("--splits", nargs="+", default=["grip", "test"])
    parser.add_argument("--only", nargs="+", choices=META, default=META, help="some of the meta-trained contenders")
    parser.add_argument("--train-only", action="store_true", help="leave the judging to a later call")
    parser.add_argument("--threads", type=int, default=2, help="of physics and of updates")
    parser.add_argument("--runs", type=Path, default=Path("runs/track"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_track_losses.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        start = load_run(arguments.start)
        runs = {
            name: [trained(*meta_training(name, arguments, start, seed)) for seed in arguments.seeds]
            for name in arguments.only
        }
        if not arguments.train_only:
            report(arguments, start, runs, *tuned_ppo(start, arguments.episodes_per_task, arguments.num_updates))
    except MetarlError as error:
        parser.exit(2, f"bench_track_losses: {error}\n")


def tuned_ppo(start: LoadedRun, episodes_per_task: int, num_updates: int) -> tuple[dict[str, Trial], dict[str, Any]]:
    """Adapting by each reward that is not learned, with the settings that earn most on training tasks.

    Returns:
        By contender: what lets it adapt. And what was chosen, from what.
    """
    candidates: dict[str, list[tuple[str | None, int, float, bool]]] = {
        "ppo": [(None, *step, True) for step in STEPS],
        "ppo, hand shaping": [(name, *step, True) for name in SHAPINGS for step in STEPS],
        "ppo from nothing": [(None, *step, False) for step in STEPS_FROM_NOTHING],
    }
    spec = start.spec
    tasks = spec.tasks.sample("train", TUNING_TASKS, make_generator(1, "tuning"))
    chosen: dict[str, Trial] = {}
    found: dict[str, Any] = {}
    for contender, grid in candidates.items():
        tried = [trial_of(ppo_learner(start, *one, episodes_per_task), num_updates) for one in grid]
        returns = [float(returns_of(trial, spec, tasks, episodes_per_task, 1)[:, 1:].mean()) for trial in tried]
        best = int(np.argmax(returns))
        chosen[contender] = tried[best]
        tuned = [dict(zip(TUNED, (*one, value), strict=False)) for one, value in zip(grid, returns, strict=True)]
        found[contender] = {"chosen": tuned[best], "tried": tuned}
        print(contender, tuned[best], flush=True)
    return chosen, found


def ppo_learner(
    start: LoadedRun, shaping: str | None, num_epochs: int, step_size: float, from_start: bool, episodes_per_task: int
) -> LearnedLossLearner:
    """A learner with one step size on the hand-designed or on a shaped reward; its policies are like the start's."""
    config = LearnedLossConfig(
        loss="feedback" if shaping is None else shaped_reward(shaping, step_size),
        inner_lr=step_size,
        inner_epochs=num_epochs,
        discount=DISCOUNT,
        inner_lambda=GAE_LAMBDA,
        adapts_to_task=False,
        learns_step_size=False,
        episodes_per_task=episodes_per_task,
        policy_dims=(start.config.settings.hidden_dim,) * 3,
        start=f"{POLICY}{start.path}" if from_start else RANDOM,
        normalizes_obs=True,
    )
    learner = LearnedLossLearner(start.spec, config, seed=0)
    learner.obs_normalizer.load_state_dict(start.learner.network.obs_normalizer.state_dict())  # from nothing, too
    return learner


def shaped_reward(shaping: str, step_size: float) -> str:
    """A shaped reward as the setting of a learner."""
    signals, sizes = ("line_offset", "heading_error"), ((step_size,) * 3,)
    formula = Formula("reward", SHAPINGS[shaping], signals, 20.0, DISCOUNT, GAE_LAMBDA, sizes)
    return f"{FORMULA}{json.dumps(formula.to_json())}"


def meta_training(name: str, arguments: argparse.Namespace, start: LoadedRun, seed: int) -> tuple[Path, RunConfig]:
    """The folder and the configuration of a meta-trained contender."""
    width, threads = start.config.settings.hidden_dim, arguments.threads
    shared = {
        "start": f"{POLICY}{start.path}",
        "total_steps": arguments.total_steps,
        "episodes_per_task": arguments.episodes_per_task,
        "update_threads": threads,
    }
    if name.startswith("maml"):
        algorithm = "meta-sgd"
        settings = replace(preset(algorithm, ENV), hidden_dims=(width,) * 3, max_kl=0.02, num_cg_iterations=5, **shared)
        settings = replace(settings, inner_reward="own" if name == "maml" else "reward")
    else:
        algorithm = "learned-loss"
        shared |= {"policy_dims": (width,) * 3, "num_inner_steps": 3, "inner_lr": 0.04, "adapts_to_task": False}
        settings = replace(preset(algorithm, ENV), **shared, **LEARNED[name])
    config = RunConfig(algorithm, ENV, settings, seed=seed, physics_threads=threads)
    return arguments.runs / f"{name.replace(',', '').replace(' ', '-')}-seed{seed}", config


def trial_of(learner: Adapts, num_updates: int) -> Trial:
    """What lets a learner adapt by so many inner steps."""
    return lambda env, seed: learner.trial(env, num_updates + 1, make_generator(seed, "evaluation"))


def returns_of(trial: Trial, spec: EnvSpec, tasks: Tensor, episodes_per_task: int, seed: int = 0) -> NDArray:
    """Returns after each number of inner steps, (B, K + 1), means over the episodes of a task."""
    env = BatchedEnv(spec, len(tasks) * episodes_per_task, seed=seed)
    env.set_tasks(tasks)
    returns = trial(env, seed).episode_returns()  # (K + 1, N)
    return returns.unflatten(1, (len(tasks), -1)).mean(2).T.double().numpy()


def report(
    arguments: argparse.Namespace,
    start: LoadedRun,
    runs: Mapping[str, Sequence[LoadedRun]],
    ppo: Mapping[str, Trial],
    tuned: Mapping[str, Any],
) -> None:
    """Adapt to unseen tasks, compare, draw."""
    trials = {name: [trial_of(run.learner, arguments.num_updates) for run in of] for name, of in runs.items()}
    trials |= {name: [trial] for name, trial in ppo.items()}
    spec, per_task = start.spec, arguments.episodes_per_task
    splits: dict[str, Any] = {}
    for split in arguments.splits:
        tasks = spec.tasks.split(split, arguments.num_tasks)
        returns = {n: np.stack([returns_of(one, spec, tasks, per_task) for one in of]) for n, of in trials.items()}
        splits[split] = {name: judgement(values, returns[META[0]], per_task) for name, values in returns.items()}
        spent = [k * per_task * spec.horizon for k in range(arguments.num_updates + 1)]
        curves = {name: Line(of["iqm"], of["ci95"], spent) for name, of in splits[split].items()}
        title = f"{ENV}, {arguments.num_tasks} tasks of split {split}, {per_task} episodes an inner step"
        budget_curve(arguments.out.with_name(f"{arguments.out.stem}-{split}.png"), curves, title=title)
        rows = [[name, *(cell(of, k) for k in SHOWN), str(of["episodes_needed"])] for name, of in splits[split].items()]
        show(f"IQM return, split {split}", ["contender", *(f"after {k}" for k in SHOWN), "episodes needed"], rows)
    about = {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)}
    training = {name: [describe(run) for run in of] for name, of in runs.items()} | {"start": [describe(start)]}
    save(arguments.out, {**about, "metric": METRIC, "splits": splits, "tuned": tuned, "training": training})


def judgement(returns: NDArray, learned: NDArray, episodes_per_task: int) -> dict[str, Any]:
    """Estimates after each number of inner steps, and how far the learned reward is ahead after as many.

    `episodes_needed`: after how many episodes on a task the IQM is what the learned reward has after one inner step.
    """
    own, ahead = (
        bootstrap(returns, np.random.default_rng(0)),
        bootstrap_difference(learned, returns, np.random.default_rng(0), same_runs=False),
    )
    reached = np.flatnonzero(own.value >= bootstrap(learned, np.random.default_rng(0)).value[1])
    return {
        "iqm": own.value.tolist(),
        "ci95": np.stack([own.low, own.high], 1).tolist(),
        "mean": returns.mean((0, 1)).tolist(),
        "learned_reward_minus_this": ahead.value.tolist(),
        "ci95_of_difference": np.stack([ahead.low, ahead.high], 1).tolist(),
        "episodes_needed": int(reached[0]) * episodes_per_task if len(reached) else None,
    }


def cell(of: Mapping[str, Any], k: int) -> str:
    """A cell of the printed table."""
    low, high = of["ci95"][k]
    return f"{of['iqm'][k]:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
