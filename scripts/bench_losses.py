"""Learned losses against hand-designed ones: how near fresh policies come to their goals in a few updates.

Every contender trains policies from nothing on tasks of reach-robots: the same networks, episodes per update and
optimiser. Hand-designed losses (and PPO on each) have one step size for all updates and one lambda, tuned over a grid
on training tasks, apart for each number of updates; learned ones learn theirs, and so does "dense, learned steps".
Judged on unseen tasks: other goals, other directions, farther goals, other dynamics, other robots. Runs lie in
runs/losses/NAME-seedS and are gone on with.

    python scripts/bench_losses.py --seeds 0 1 2 3 4 5 6 7 8 9
    python scripts/bench_losses.py --only reward --seeds 0 --train-only        # one core's share
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from _measure import RESULTS, save, show
from numpy.typing import NDArray
from reproduce import describe, trained
from torch import Tensor

import envs
from metarl.config import RunConfig
from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import MetarlError
from metarl.learners import preset
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.seeding import make_generator
from metarl.statistics import bootstrap, bootstrap_difference

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENV = "reach-robots"
UPDATES = (3, 10)
STEP_SIZES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
LAMBDAS = (0.9, 1.0)
HAND_DESIGNED = ("feedback", "dense", "dense-bonus", "hand-potential")
LEARNED: dict[str, dict[str, Any]] = {
    "learned reward": {},
    "learned reward, same for all tasks": {"adapts_to_task": False},
    "learned potential": {"loss": "potential", "inner_lambda": 0.7},
    "learned advantage": {"loss": "advantage"},
    # In the setting that was better for it.
    "dense, learned steps": {"loss": "dense", "adapts_to_task": False, "first_order": False, "outer_lr": 1e-2},
}
ARM, CAR = 2, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", help=f"some of: {', '.join(LEARNED)}")
    parser.add_argument("--train-only", action="store_true", help="leave the judging to a later call")
    parser.add_argument("--preset", default="default", help="of learned-loss")
    parser.add_argument("--num-tasks", type=int, default=64, help="of each split")
    parser.add_argument("--runs", type=Path, default=Path("runs/losses"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_losses.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        wanted = arguments.only or list(LEARNED)
        start = preset("learned-loss", ENV, arguments.preset)
        runs = {
            name: [
                trained(
                    arguments.runs / f"{name.replace(',', '').replace(' ', '-')}-seed{seed}",
                    RunConfig("learned-loss", ENV, replace(start, **LEARNED[name]), seed=seed),
                )
                for seed in arguments.seeds
            ]
            for name in wanted
        }
        if not arguments.train_only:
            report(arguments, start, runs)
    except MetarlError as error:
        parser.exit(2, f"bench_losses: {error}\n")


def report(arguments: argparse.Namespace, start: LearnedLossConfig, runs: Mapping[str, Sequence[Any]]) -> None:
    """Tune, judge, compare, draw."""
    spec = envs.make_spec(ENV)
    splits = {name: tasks_of(spec, name, arguments.num_tasks) for name in SPLITS}
    distances: dict[str, dict[str, NDArray]] = {}  # contender -> split -> (seeds, tasks, K + 1)
    tuned = {}
    for loss in HAND_DESIGNED:
        for epochs in (1, 5):
            name = f"PPO on {loss}" if epochs > 1 else loss
            chosen = tune(spec, replace(start, loss=loss, inner_epochs=epochs, adapts_to_task=False), arguments)
            tuned[name] = {str(k): {"inner_lr": c.inner_lr, "inner_lambda": c.inner_lambda} for k, c in chosen.items()}
            learners = {k: [LearnedLossLearner(spec, c, seed) for seed in arguments.seeds] for k, c in chosen.items()}
            distances[name] = {
                split: _each_at_its_best(
                    {k: judged(of_seeds, spec, tasks, k) for k, of_seeds in learners.items()}, max(UPDATES)
                )
                for split, tasks in splits.items()
            }
            print(name, tuned[name], flush=True)
    for name, of_seeds in runs.items():
        learners = [run.learner for run in of_seeds]
        distances[name] = {split: judged(learners, spec, tasks, max(UPDATES)) for split, tasks in splits.items()}
    best = {k: min(HAND, key=lambda name: distances[name]["seen tasks"][:, :, k].mean()) for k in UPDATES}
    table = {
        name: {split: _numbers(values, [distances[best[k]][split] for k in UPDATES]) for split, values in d.items()}
        for name, d in distances.items()
    }
    result = {
        "env": ENV,
        "seeds": arguments.seeds,
        "updates": list(UPDATES),
        "metric": "distance to the goal at the end of an episode, metres; IQM over seeds and tasks, 95 % interval",
        "best_hand_designed": {str(k): name for k, name in best.items()},
        "tuned": tuned,
        "grid": {"inner_lr": STEP_SIZES, "inner_lambda": LAMBDAS},
        "training": {name: [describe(run) for run in of_seeds] for name, of_seeds in runs.items()},
        "contenders": table,
        "curves": {name: {s: np.mean(v, (0, 1)).tolist() for s, v in d.items()} for name, d in distances.items()},
    }
    save(arguments.out, result)
    draw(arguments.out.with_suffix(".png"), distances, runs, best)
    for k in UPDATES:
        rows = [
            [name, *(_cell(table[name][split][f"after_{k}"]) for split in SPLITS)]
            for name in sorted(distances, key=lambda n: table[n]["unseen directions"][f"after_{k}"][0])
        ]
        show(f"final distance (m) after {k} updates", ["loss", *SPLITS], rows)


HAND = [*HAND_DESIGNED, *(f"PPO on {loss}" for loss in HAND_DESIGNED)]
SPLITS = (
    *("seen tasks", "unseen goals", "unseen directions", "farther goals"),
    *("unseen dynamics", "unseen arm", "unseen car"),
)


def tasks_of(spec: EnvSpec, name: str, num_tasks: int) -> Tensor:
    """The tasks of a column of the table, (B, P)."""
    split = {
        "seen tasks": "train",
        "unseen goals": "test",
        "unseen directions": "directions",
        "farther goals": "distances",
        "unseen dynamics": "dynamics",
    }
    if name in split:
        return spec.tasks.split(split[name], num_tasks)
    tasks = spec.tasks.split("robots", 8 * num_tasks)
    return tasks[tasks[:, 0] == (ARM if name == "unseen arm" else CAR)][:num_tasks]


def tune(spec: EnvSpec, config: LearnedLossConfig, arguments: argparse.Namespace) -> dict[int, LearnedLossConfig]:
    """The settings with the smallest mean distance on training tasks after each number of updates."""
    tasks = spec.tasks.sample("train", arguments.num_tasks, make_generator(1, "tuning"))
    found: dict[int, tuple[float, LearnedLossConfig]] = {}
    for gae_lambda in LAMBDAS:
        for step_size in STEP_SIZES:
            tried = replace(config, inner_lr=step_size, inner_lambda=gae_lambda, learns_step_size=False)
            distance = judged([LearnedLossLearner(spec, tried, 0)], spec, tasks, max(UPDATES), seed=1).mean((0, 1))
            for k in UPDATES:
                if k not in found or distance[k] < found[k][0]:
                    found[k] = (float(distance[k]), tried)
    return {k: config for k, (_, config) in found.items()}


def judged(
    learners: Sequence[LearnedLossLearner], spec: EnvSpec, tasks: Tensor, num_updates: int, seed: int = 0
) -> NDArray:
    """Final distances, (S, B, K + 1), in metres, means over the episodes of a phase; a seed has its own policies."""
    column = spec.signals.names.index("log_distance") if spec.signals else 0
    of_seeds = []
    for index, learner in enumerate(learners):
        env = BatchedEnv(spec, len(tasks) * learner.config.episodes_per_task, seed=seed)
        env.set_tasks(tasks)
        rollout = learner.trial(env, num_updates + 1, make_generator(1000 * seed + index, "evaluation"))
        last = torch.expm1(rollout.signals[:, -1, :, column]) * 0.1  # (K + 1, N)
        of_seeds.append(last.unflatten(1, (len(tasks), -1)).mean(2).T.numpy())
    return np.stack(of_seeds)


def _each_at_its_best(by_updates: Mapping[int, NDArray], num_updates: int) -> NDArray:
    """The curve tuned for the longest training, with the entries at other numbers of updates tuned for these."""
    curve = by_updates[num_updates].copy()
    for k, values in by_updates.items():
        curve[:, :, k] = values[:, :, k]
    return curve


def _numbers(values: NDArray, best_hand_designed: Sequence[NDArray]) -> dict[str, list[float]]:
    numbers = {}
    for k, best in zip(UPDATES, best_hand_designed, strict=True):
        estimate = bootstrap(values[:, :, k], np.random.default_rng(0))
        difference = bootstrap_difference(values[:, :, k], best[:, :, k], np.random.default_rng(0), same_runs=False)
        numbers[f"after_{k}"] = [float(part) for part in estimate]
        numbers[f"after_{k}_minus_best_hand_designed"] = [float(part) for part in difference]
    return numbers


def _cell(numbers: Sequence[float]) -> str:
    value, low, high = numbers
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def draw(path: Path, distances: Mapping[str, Mapping[str, NDArray]], learned: Any, best: Mapping[int, str]) -> None:
    """Distance over updates, a panel per column."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.2), sharex=True, sharey=True, constrained_layout=True)
    names = [*dict.fromkeys(["feedback", *best.values()]), *learned]
    for axis, split in zip(axes.flat, SPLITS, strict=False):
        for index, name in enumerate(names):
            curve = bootstrap(distances[name][split], np.random.default_rng(0), num_resamples=500)
            style = "--" if name in HAND else "-"
            axis.plot(100 * curve.value, style, color=f"C{index}", label=name)
            band = (100 * curve.low, 100 * curve.high)
            axis.fill_between(range(len(curve.value)), *band, color=f"C{index}", alpha=0.15)
        axis.set_title(split, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("distance at the end (cm)")
    for axis in axes[1]:
        axis.set_xlabel("updates of a fresh policy")
    axes[1, 3].axis("off")
    axes[1, 3].legend(*axes[0, 0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
