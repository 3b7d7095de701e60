"""Learned losses against hand-designed ones: how near fresh policies come to their goals in a few updates.

Every contender trains policies from nothing on tasks of reach-robots: the same networks, episodes per update and
optimiser. Hand-designed losses (and PPO on each) have one step size for all updates and one lambda, tuned over a grid
on training tasks, apart for each number of updates. Losses with learned step sizes have these times one factor, tuned
in the same way. Judged on unseen tasks: other goals, other directions, farther goals, other dynamics, other robots,
and an arm in MuJoCo (reach-planar). RL² and MAML, trained for as many steps on the dense reward, are there for
orientation: the goal is visible, so they need not adapt. Runs lie in runs/losses/NAME-seedS and are gone on with.

    python scripts/bench_losses.py --seeds 0 1 2 3 4 5 6 7 8 9
    python scripts/bench_losses.py --only "learned reward" --seeds 0 --train-only        # a share of the training
    python scripts/bench_losses.py --only LPG --hand dense --seeds 0 1 2 --no-long-lives --out lpg.json
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
from metarl.checkpoint import has_checkpoint, newest_checkpoint
from metarl.config import RunConfig
from metarl.distil import with_step_scale, without_adaptation
from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import MetarlError
from metarl.learners import preset
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.run import LoadedRun
from metarl.seeding import make_generator
from metarl.statistics import bootstrap, bootstrap_difference, iqm
from metarl.transfer import transfer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENV = "reach-robots"
UPDATES = (3, 10)
LONG = 100
STEP_SIZES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
LAMBDAS = (0.9, 1.0)
TUNING_SEEDS = 5
"""Runs of a learned loss that its factor is tuned on."""
FACTORS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
HAND_DESIGNED = ("feedback", "dense", "dense-bonus", "hand-potential")
HAND = (*HAND_DESIGNED, *(f"PPO on {loss}" for loss in HAND_DESIGNED))
LEARNED: dict[str, dict[str, Any]] = {
    "learned reward": {},
    "learned reward, same for all tasks": {"adapts_to_task": False},
    "learned potential": {"loss": "potential", "inner_lambda": 0.7},
    "learned advantage": {"loss": "advantage"},
    "ML3 (absolute inputs)": {"loss": "ml3"},
    "LPG": {
        "loss": "lpg",
        "given_reward": "dense",
        "total_steps": 4_000_000,
        "meta_batch_size": 8,
        "adapts_to_task": False,
        "outer_lr": 2e-3,
        "task_chunk": 8,
        "update_threads": 1,
    },
    # In the setting that was better for it, of two.
    "dense, learned steps": {
        "loss": "dense",
        "adapts_to_task": False,
        "total_steps": 16_000_000,
        "first_order": False,
        "inner_lr": 0.5,
        "outer_lr": 1e-2,
        "step_size_lr": 0.0,
        "early_weight": 0.3,
    },
}
NOT_ADAPTED = "learned reward, adaptation off"
ORIENTATION = ("rl2", "maml-trpo")
SPLITS = {
    "seen tasks": "train",
    "unseen goals": "test",
    "unseen directions": "directions",
    "farther goals": "distances",
    "unseen dynamics": "dynamics",
    "unseen arm": "robots",
    "unseen car": "robots",
    "MuJoCo arm": "test",
}
ROBOTS = {"unseen arm": 2, "unseen car": 3}
MAIN_SPLITS = ("seen tasks", "unseen directions", "unseen dynamics", "unseen arm")
"""Of hand-designed losses that are not the best ones."""
LONG_SPLITS = ("unseen directions", "unseen dynamics", "unseen arm")
LONG_CONTENDERS = ("dense", "learned reward", "dense, learned steps")

METRIC = (
    "distance to the goal at the end of an episode, m, mean over the episodes after an update; IQM over seeds and "
    "tasks with 95 % interval; minus_best: less that of the best hand-designed loss on the same tasks"
)

Distances = dict[str, NDArray]
"""Column of the table -> final distances (S, B, K + 1), m."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", help=f"some of: {', '.join([*LEARNED, *ORIENTATION])}")
    parser.add_argument("--few-seeds", type=int, default=3, help="of all but the contenders that matter most")
    parser.add_argument("--train-only", action="store_true", help="leave the judging to a later call")
    parser.add_argument("--judge-only", action="store_true", help="take the runs that are finished, train none")
    parser.add_argument("--preset", default="default", help="of learned-loss")
    parser.add_argument(
        "--hand", nargs="+", default=HAND, choices=HAND, help="hand-designed losses to compare with; default all"
    )
    parser.add_argument("--columns", nargs="+", default=[*SPLITS], choices=SPLITS, help=f"some of: {', '.join(SPLITS)}")
    parser.add_argument("--no-long-lives", action="store_true", help="do not judge after 100 updates")
    parser.add_argument("--num-tasks", type=int, default=64, help="of each split")
    parser.add_argument("--runs", type=Path, default=Path("runs/losses"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_losses.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        runs = {name: runs_of(name, arguments) for name in arguments.only or [*LEARNED, *ORIENTATION]}
        if not arguments.train_only:
            report(arguments, runs)
    except MetarlError as error:
        parser.exit(2, f"bench_losses: {error}\n")


def runs_of(name: str, arguments: argparse.Namespace) -> list[LoadedRun]:
    """Train a contender with each of its seeds, or take what is there."""
    start = preset("learned-loss", ENV, arguments.preset)
    if name in ORIENTATION:
        settings, algorithm = replace(preset(name, ENV), total_steps=start.total_steps), name
        seeds = arguments.seeds[:1]
    else:
        settings, algorithm = replace(start, **LEARNED[name]), "learned-loss"
        has_all = name.startswith(("learned reward", "dense"))
        seeds = arguments.seeds if has_all or arguments.train_only else arguments.seeds[: arguments.few_seeds]
    label = "-".join(name.replace(",", "").replace("(", "").replace(")", "").split())
    folders = {seed: arguments.runs / f"{label}-seed{seed}" for seed in seeds}
    if arguments.judge_only:
        folders = {seed: folder for seed, folder in folders.items() if _is_finished(folder, settings.total_steps)}
    return [trained(folder, RunConfig(algorithm, ENV, settings, seed=seed)) for seed, folder in folders.items()]


def _is_finished(folder: Path, total_steps: int) -> bool:
    checkpoints = folder / "checkpoints"
    return has_checkpoint(checkpoints) and newest_checkpoint(checkpoints).state["env_steps"] >= total_steps


def report(arguments: argparse.Namespace, runs: Mapping[str, Sequence[LoadedRun]]) -> None:
    """Tune, judge, compare, draw."""
    start = preset("learned-loss", ENV, arguments.preset)
    wanted = [name for name in SPLITS if name in ("seen tasks", *arguments.columns)]
    columns = {name: (spec_of(name), tasks_of(name, arguments.num_tasks)) for name in wanted}
    distances: dict[str, Distances] = {}
    tuned: dict[str, dict[str, dict[str, float]]] = {}
    chosen: dict[str, dict[int, LearnedLossConfig]] = {}
    for name in arguments.hand:
        config = replace(
            start,
            loss=name.removeprefix("PPO on "),
            inner_epochs=5 if name.startswith("PPO") else 1,
            adapts_to_task=False,
            learns_step_size=False,
        )
        spec = envs.make_spec(ENV)
        grid = [replace(config, inner_lr=size, inner_lambda=decay) for decay in LAMBDAS for size in STEP_SIZES]
        best = tune([[LearnedLossLearner(spec, tried, 0)] for tried in grid], arguments.num_tasks)
        tuned[name] = {
            f"after {k}": {"inner_lr": grid[i].inner_lr, "inner_lambda": grid[i].inner_lambda} for k, i in best
        }
        chosen[name] = {k: grid[i] for k, i in best}
        some = {column: columns[column] for column in columns if column in MAIN_SPLITS}
        distances[name] = judge(fixed(chosen[name], arguments.seeds[: arguments.few_seeds]), some)
        print(name, tuned[name], flush=True)
    best = {k: min(arguments.hand, key=lambda name: distances[name]["seen tasks"][:, :, k].mean()) for k in UPDATES}
    for name in dict.fromkeys([*best.values(), *({"dense"} & chosen.keys())]):
        distances[name] = judge(fixed(chosen[name], arguments.seeds), columns)
    for name, of_seeds in runs.items():
        if name in ORIENTATION or not of_seeds:
            continue
        learners = [run.learner for run in of_seeds]
        by_updates, tuned[name] = tune_factor(learners, arguments.num_tasks)
        distances[name] = judge(by_updates, columns, one_robot=learners[0].loss.fits_one_robot)
        print(name, tuned[name], flush=True)
        if name == "learned reward":
            still = {k: [without_adaptation(learner) for learner in of_seeds] for k, of_seeds in by_updates.items()}
            distances[NOT_ADAPTED] = judge(still, columns)
    table = {
        name: {c: numbers(v, [distances[best[k]][c] for k in UPDATES]) for c, v in of_columns.items()}
        for name, of_columns in distances.items()
    }
    result = {
        "env": ENV,
        "updates": list(UPDATES),
        "metric": METRIC,
        "num_tasks": arguments.num_tasks,
        "best_hand_designed_on_seen_tasks": {str(k): name for k, name in best.items()},
        "tuned_on_training_tasks": tuned,
        "grid": {"inner_lr": STEP_SIZES, "inner_lambda": LAMBDAS, "factor": FACTORS},
        "training": {name: [describe(run) for run in of_seeds] for name, of_seeds in runs.items()},
        "contenders": table,
        "adaptation_gain": adaptation_gain(distances),
        "after_100": {} if arguments.no_long_lives else long_lives(arguments, start, runs),
        "orientation": {name: orientation(runs[name][0], columns) for name in ORIENTATION if runs.get(name)},
        "curves": {name: {c: v.mean((0, 1)).tolist() for c, v in d.items()} for name, d in distances.items()},
    }
    save(arguments.out, result)
    draw(arguments.out.with_suffix(".png"), distances, best)
    for k in UPDATES:
        order = sorted(distances, key=lambda name: next(iter(table[name].values()))[f"after_{k}"][0])
        rows = [[name, *(cell(table[name].get(c), f"after_{k}") for c in columns)] for name in order]
        show(f"IQM of the final distance (cm) after {k} updates", ["loss", *(c.split()[-1] for c in columns)], rows)


def fixed(by_updates: Mapping[int, LearnedLossConfig], seeds: Sequence[int]) -> dict[int, list[LearnedLossLearner]]:
    """Learners of a hand-designed loss, one per seed."""
    spec = envs.make_spec(ENV)
    return {k: [LearnedLossLearner(spec, config, seed) for seed in seeds] for k, config in by_updates.items()}


def spec_of(column: str) -> EnvSpec:
    """The environment of a column of the table."""
    return envs.make_spec("reach-planar" if column == "MuJoCo arm" else ENV)


def tasks_of(column: str, num_tasks: int) -> Tensor:
    """The tasks of a column of the table, (B, P)."""
    tasks = spec_of(column).tasks
    if column not in ROBOTS:
        return tasks.split(SPLITS[column], num_tasks)
    drawn = tasks.split(SPLITS[column], 8 * num_tasks)
    return drawn[drawn[:, 0] == ROBOTS[column]][:num_tasks]


def tune(candidates: Sequence[Sequence[LearnedLossLearner]], num_tasks: int) -> list[tuple[int, int]]:
    """Which candidate, a learner of each of some seeds, comes nearest to the goals of training tasks by the IQM:
    (number of updates, index) pairs.
    """
    spec = envs.make_spec(ENV)
    tasks = spec.tasks.sample("train", num_tasks, make_generator(1, "tuning"))
    curves = [judged(of_seeds, spec, tasks, max(UPDATES), seed=1) for of_seeds in candidates]  # (S, B, K + 1) each
    return [(k, int(np.argmin([iqm(curve[:, :, k].ravel()) for curve in curves]))) for k in UPDATES]


def tune_factor(
    learners: Sequence[LearnedLossLearner], num_tasks: int
) -> tuple[dict[int, list[LearnedLossLearner]], dict[str, dict[str, float]]]:
    """Learners with their step sizes times the factor that is best for each number of updates, on average over seeds.

    One seed alone chose factors from 0.35 to 0.7 on one set of 32 and another of 64 tasks, which moved the results by
    more than what they were to tell apart.
    """
    best = tune([[with_step_scale(each, factor) for each in learners[:TUNING_SEEDS]] for factor in FACTORS], num_tasks)
    by_updates = {k: [with_step_scale(learner, FACTORS[i]) for learner in learners] for k, i in best}
    return by_updates, {f"after {k}": {"factor": FACTORS[i]} for k, i in best}


def judge(
    by_updates: Mapping[int, Sequence[LearnedLossLearner]],
    columns: Mapping[str, tuple[EnvSpec, Tensor]],
    one_robot: bool = False,
) -> Distances:
    """Final distances on every column, after each number of updates with the learners that were tuned for it."""
    found = {}
    for column, (spec, tasks) in columns.items():
        if one_robot and spec.name != ENV:
            continue
        last = max(by_updates)
        curve = judged(_taken_to(spec, by_updates[last]), spec, tasks, last)
        for k, learners in by_updates.items():
            if k != last:
                curve[:, :, k] = judged(_taken_to(spec, learners), spec, tasks, k)[:, :, k]
        found[column] = curve
    return found


def _taken_to(spec: EnvSpec, learners: Sequence[LearnedLossLearner]) -> Sequence[LearnedLossLearner]:
    return learners if spec.name == ENV else [transfer(learner, spec, seed) for seed, learner in enumerate(learners)]


def judged(
    learners: Sequence[LearnedLossLearner], spec: EnvSpec, tasks: Tensor, num_updates: int, seed: int = 0
) -> NDArray:
    """Final distances, (S, B, K + 1), means over the episodes of a phase; every learner has policies of its own."""
    assert spec.signals is not None
    column, of_seeds = spec.signals.names.index("log_distance"), []
    for index, learner in enumerate(learners):
        env = BatchedEnv(spec, len(tasks) * learner.config.episodes_per_task, seed=seed)
        env.set_tasks(tasks)
        generator = make_generator(1000 * seed + (index if seed == 0 else 0), "evaluation")
        rollout = learner.trial(env, num_updates + 1, generator)
        last = torch.expm1(rollout.signals[:, -1, :, column]) * TYPICAL_M
        of_seeds.append(last.unflatten(1, (len(tasks), -1)).mean(2).T.numpy())
    return np.stack(of_seeds)


TYPICAL_M = 0.1
"""Of the signal log_distance = log(1 + d / 0.1 m)."""


def numbers(values: NDArray, best_hand_designed: Sequence[NDArray]) -> dict[str, list[float]]:
    """Estimates with intervals after each number of updates, and the difference to the best hand-designed loss."""
    found = {}
    for k, best in zip(UPDATES, best_hand_designed, strict=True):
        found[f"after_{k}"] = [float(x) for x in bootstrap(values[:, :, k], np.random.default_rng(0))]
        difference = bootstrap_difference(values[:, :, k], best[:, :, k], np.random.default_rng(0), same_runs=False)
        found[f"after_{k}_minus_best"] = [float(x) for x in difference]
    return found


def adaptation_gain(distances: Mapping[str, Distances]) -> dict[str, dict[str, list[float]]]:
    """How much nearer the loss that adapts comes than itself with the adaptation off, and than one trained without.

    A negative number is nearer. Pairs of seeds: runs of one seed started from the same head and met the same tasks.
    """
    if NOT_ADAPTED not in distances:
        return {}
    ours = distances["learned reward"]
    gain: dict[str, dict[str, list[float]]] = {}
    for other in (NOT_ADAPTED, "learned reward, same for all tasks"):
        if other not in distances:
            continue
        gain[other] = {}
        for column, values in ours.items():
            for k in UPDATES:
                rest = distances[other][column][:, :, k]
                both = min(len(values), len(rest))
                estimate = bootstrap_difference(
                    values[:both, :, k], rest[:both], np.random.default_rng(0), same_runs=True
                )
                gain[other][f"{column}, after {k}"] = [float(x) for x in estimate]
    return gain


def long_lives(
    arguments: argparse.Namespace, start: LearnedLossConfig, runs: Mapping[str, Sequence[LoadedRun]]
) -> dict[str, dict[str, list[float]]]:
    """Final distances after 100 updates; step sizes beyond the last learned one are that one, tuned anew."""
    spec, num_tasks = envs.make_spec(ENV), max(arguments.num_tasks // 4, 4)
    tuning = spec.tasks.sample("train", num_tasks, make_generator(1, "tuning"))
    dense = replace(start, loss="dense", adapts_to_task=False, learns_step_size=False)
    found: dict[str, dict[str, list[float]]] = {}
    for name in LONG_CONTENDERS:
        if name == "dense":
            tried = [[LearnedLossLearner(spec, replace(dense, inner_lr=size), 0)] for size in STEP_SIZES]
            tried = [learners * arguments.few_seeds for learners in tried]
        elif runs.get(name):
            first = [run.learner for run in runs[name][: arguments.few_seeds]]
            tried = [[with_step_scale(learner, factor) for learner in first] for factor in FACTORS]
        else:
            continue
        ends = [judged(learners[:1], spec, tuning, LONG, seed=1)[0, :, LONG].mean() for learners in tried]
        learners = tried[int(np.argmin(ends))]
        found[name] = {
            column: [
                float(x)
                for x in bootstrap(
                    judged(learners, spec, tasks_of(column, num_tasks), LONG)[:, :, LONG], np.random.default_rng(0)
                )
            ]
            for column in LONG_SPLITS
        }
        print(f"after {LONG}: {name} {found[name]}", flush=True)
    return found


def orientation(run: LoadedRun, columns: Mapping[str, tuple[EnvSpec, Tensor]]) -> dict[str, list[float]]:
    """Mean final distance in each episode of a trial of another algorithm, on the columns of its environment."""
    found = {}
    for column, (spec, tasks) in columns.items():
        if spec.name != ENV:
            continue
        per_task = run.config.settings.episodes_per_task
        env = BatchedEnv(spec, len(tasks) * per_task, seed=0)
        env.set_tasks(tasks)
        steps: list[Tensor] = []
        run.learner.trial(
            env,
            run.config.settings.episodes_per_trial,
            make_generator(0, "evaluation"),
            lambda worlds: steps.append(worlds.signals()[0][:, 0]),  # noqa: B023
        )
        ends = torch.stack(steps).unflatten(0, (-1, spec.horizon + 1))[:, -1]  # (K, N)
        found[column] = (torch.expm1(ends) * TYPICAL_M).mean(1).tolist()
    return found


def cell(of_column: Mapping[str, Sequence[float]] | None, key: str) -> str:
    """A cell of the printed table, cm; the intervals are in the JSON."""
    return "-" if of_column is None else f"{100 * of_column[key][0]:.1f}"


def draw(path: Path, distances: Mapping[str, Distances], best: Mapping[int, str]) -> None:
    """Distance over updates, a panel per column."""
    names = [*dict.fromkeys(["feedback", *best.values(), "dense, learned steps", "learned reward"])]
    names += [name for name in ("learned reward, same for all tasks", "LPG") if name in distances]
    names = [name for name in names if name in distances]
    columns = [column for column in SPLITS if any(column in of_name for of_name in distances.values())]
    width = min(-(-len(columns) // 2), 4) if len(columns) > 3 else len(columns)
    shape = (-(-len(columns) // width), width)
    size = (3.25 * width, 3.2 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, sharex=True, sharey=True, constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis, column in zip(axes.flat, columns, strict=False):
        for index, name in enumerate(names):
            if column not in distances[name]:
                continue
            curve = bootstrap(distances[name][column], np.random.default_rng(0), num_resamples=500)
            updates, style = range(len(curve.value)), "--" if name in HAND else "-"
            axis.plot(updates, 100 * curve.value, style, color=f"C{index}", label=name)
            axis.fill_between(updates, 100 * curve.low, 100 * curve.high, color=f"C{index}", alpha=0.15)
        axis.set_title(column, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("distance at the end (cm)")
    for axis in axes[-1]:
        axis.set_xlabel("updates of a fresh policy")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
