"""What it is worth that a loss adapts to its task: fresh policies on reach-either, where two things are in view.

One number at the end of an episode tells how near the wanted thing was. Contenders: that feedback as it is, a learned
reward that is the same for all tasks, and the same learned reward adapting to its task; for reference the hand-designed
dense reward and a learned reward that are told which thing is wanted. Step sizes (and lambda) of hand-designed losses,
and one factor on the step sizes of learned ones, are tuned on training tasks for each number of updates. Where
`metarl explain` found a formula for every run that adapts, the formulas are judged too.

    python scripts/bench_adaptation.py --seeds 0 1 2 3
    python scripts/bench_adaptation.py --seeds 0 1 --only "learned reward" --columns "unseen dynamics" --out some.json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from _measure import RESULTS, save, show
from bench_losses import FACTORS, LAMBDAS, STEP_SIZES, TUNING_SEEDS, UPDATES
from numpy.typing import NDArray
from reproduce import describe, trained
from torch import Tensor

import envs
from metarl.config import RunConfig
from metarl.distil import with_formula, with_step_scale, without_adaptation
from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import MetarlError
from metarl.learners import preset
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.losses.formula import Formula, read_formula
from metarl.run import LoadedRun
from metarl.seeding import make_generator
from metarl.statistics import Estimate, bootstrap, bootstrap_difference, iqm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENV = "reach-either"
SPLITS = {
    "unseen things": "test",
    "unseen directions": "directions",
    "farther things": "distances",
    "unseen dynamics": "dynamics",
    "unseen arm": "robots",
    "unseen car": "robots",
}
ROBOTS = {"unseen arm": 2, "unseen car": 3}
ADAPTS, SAME, OFF = "learned reward", "learned reward, same for all tasks", "learned reward, adaptation off"
FORMULA, FORMULA_OFF = "its formula", "its formula, adaptation off"
METRIC = (
    "distance to the wanted thing at the end of an episode, m, mean over the episodes after an update; IQM over seeds "
    "and tasks with 95 % interval; differences are of the same tasks, of learned losses also of the same seeds"
)


@dataclass(frozen=True)
class Contender:
    """A loss: settings beside those of the preset, and whether it is told which thing is wanted."""

    settings: Mapping[str, Any]
    told: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return {"told": True} if self.told else {}

    @property
    def spec(self) -> EnvSpec:
        return envs.make_spec(ENV, **self.options)


HAND = {
    "feedback": Contender({"loss": "feedback", "adapts_to_task": False, "learns_step_size": False}),
    "dense, told": Contender({"loss": "dense", "adapts_to_task": False, "learns_step_size": False}, told=True),
}
LEARNED = {
    ADAPTS: Contender({}),
    SAME: Contender({"adapts_to_task": False}),
    "learned reward, told": Contender({"adapts_to_task": False}, told=True),
}
FOLDERS = {ADAPTS: "adapts", SAME: "same", "learned reward, told": "told"}

Curves = dict[str, NDArray]
"""Column of the table -> final distances (S, B, K + 1), m."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", choices=(*HAND, *LEARNED), default=(*HAND, *LEARNED), metavar="NAME")
    parser.add_argument("--columns", nargs="+", choices=tuple(SPLITS), default=tuple(SPLITS), metavar="COLUMN")
    parser.add_argument("--num-tasks", type=int, default=64, help="of each split")
    parser.add_argument("--runs", type=Path, default=Path("runs/either"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_adaptation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        measure(arguments)
    except MetarlError as error:
        parser.exit(2, f"bench_adaptation: {error}\n")


def measure(arguments: argparse.Namespace) -> None:
    """Train or take what is there, tune, judge, compare, draw."""
    start, num_tasks = preset("learned-loss", ENV), arguments.num_tasks
    columns = {column: tasks_of(column, num_tasks) for column in arguments.columns}
    curves: dict[str, Curves] = {}
    tuned: dict[str, Any] = {}
    for name, contender in wanted(HAND, arguments.only).items():
        config = replace(start, **contender.settings)
        grid = [replace(config, inner_lr=size, inner_lambda=decay) for decay in LAMBDAS for size in STEP_SIZES]
        best = tune([[LearnedLossLearner(contender.spec, tried, 0)] for tried in grid], num_tasks)
        tuned[name] = {
            f"after {k}": {"inner_lr": grid[i].inner_lr, "inner_lambda": grid[i].inner_lambda} for k, i in best.items()
        }
        learners = {
            k: [LearnedLossLearner(contender.spec, grid[i], seed) for seed in arguments.seeds] for k, i in best.items()
        }
        curves[name] = judge(learners, columns)
        print(name, tuned[name], flush=True)
    runs: dict[str, list[LoadedRun]] = {}
    for name, contender in wanted(LEARNED, arguments.only).items():
        config = replace(start, **contender.settings)
        runs[name] = [
            trained(
                arguments.runs / f"{FOLDERS[name]}-seed{seed}",
                RunConfig("learned-loss", ENV, config, contender.options, seed=seed),
            )
            for seed in arguments.seeds
        ]
        learners, tuned[name] = tune_factor([run.learner for run in runs[name]], num_tasks)
        curves[name] = judge(learners, columns)
        if name == ADAPTS:
            curves[OFF] = judge(off(learners), columns)
        print(name, tuned[name], flush=True)
    formulas = formulas_of(runs.get(ADAPTS, []))
    if formulas:
        taught = [with_formula(run.learner, formula) for run, formula in zip(runs[ADAPTS], formulas, strict=True)]
        learners, tuned[FORMULA] = tune_factor(taught, num_tasks)
        curves[FORMULA], curves[FORMULA_OFF] = judge(learners, columns), judge(off(learners), columns)
        print(FORMULA, tuned[FORMULA], flush=True)
    result = {
        "env": ENV,
        "updates": list(UPDATES),
        "metric": METRIC,
        "num_tasks": num_tasks,
        "tuned_on_training_tasks": tuned,
        "grid": {"inner_lr": STEP_SIZES, "inner_lambda": LAMBDAS, "factor": FACTORS},
        "training": {name: [describe(run) for run in of_seeds] for name, of_seeds in runs.items()},
        "formulas": [formula.to_json() for formula in formulas],
        "contenders": {name: {c: estimates(v) for c, v in of_name.items()} for name, of_name in curves.items()},
        f"{ADAPTS}_minus": {
            other: {c: differences(v, curves[other][c], other not in HAND) for c, v in curves[ADAPTS].items()}
            for other in curves
            if ADAPTS in curves and other != ADAPTS
        },
        "within_5_cm": {name: {c: within(v) for c, v in of_name.items()} for name, of_name in curves.items()},
        "curves": {name: {c: v.mean((0, 1)).tolist() for c, v in of_name.items()} for name, of_name in curves.items()},
    }
    save(arguments.out, result)
    if len(columns) == len(SPLITS):
        draw(arguments.out.with_suffix(".png"), curves)
    rows = [
        [
            name,
            *(f"{100 * iqm(v[:, :, 3].ravel()):.1f} / {100 * iqm(v[:, :, 10].ravel()):.1f}" for v in of_name.values()),
        ]
        for name, of_name in curves.items()
    ]
    show("IQM of the final distance (cm) after 3 / 10 updates", ["loss", *columns], rows)


def wanted(contenders: Mapping[str, Contender], names: Sequence[str]) -> dict[str, Contender]:
    return {name: contender for name, contender in contenders.items() if name in names}


def formulas_of(runs: Sequence[LoadedRun]) -> list[Formula]:
    """What `metarl explain` found for each run; empty if it found none for one of them."""
    files = [run.path / "explain" / "formula.json" for run in runs]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        print(f"no formulas are judged: metarl explain RUN writes {', '.join(missing)}", flush=True)
        return []
    return [read_formula(str(file)) for file in files]


def tune_factor(
    fresh: Sequence[LearnedLossLearner], num_tasks: int
) -> tuple[dict[int, list[LearnedLossLearner]], dict[str, Any]]:
    """Learners with their step sizes times the factor that is best for each number of updates, and these factors."""
    best = tune([[with_step_scale(each, factor) for each in fresh[:TUNING_SEEDS]] for factor in FACTORS], num_tasks)
    learners = {k: [with_step_scale(each, FACTORS[i]) for each in fresh] for k, i in best.items()}
    return learners, {f"after {k}": {"factor": FACTORS[i]} for k, i in best.items()}


def off(by_updates: Mapping[int, Sequence[LearnedLossLearner]]) -> dict[int, list[LearnedLossLearner]]:
    """The same learners, taking every task for the typical one."""
    return {k: [without_adaptation(each) for each in of_seeds] for k, of_seeds in by_updates.items()}


def tune(candidates: Sequence[Sequence[LearnedLossLearner]], num_tasks: int) -> dict[int, int]:
    """Number of updates -> which candidate, a learner of each of some seeds, ends nearest on training tasks."""
    tasks = envs.make_spec(ENV).tasks.sample("train", num_tasks, make_generator(1, "tuning"))
    curves = [distances(of_seeds, tasks, max(UPDATES), seed=1) for of_seeds in candidates]  # (S, B, K + 1) each
    return {k: int(np.argmin([iqm(curve[:, :, k].ravel()) for curve in curves])) for k in UPDATES}


def tasks_of(column: str, num_tasks: int) -> Tensor:
    """The tasks of a column of the table, (B, P)."""
    tasks = envs.make_spec(ENV).tasks
    if column not in ROBOTS:
        return tasks.split(SPLITS[column], num_tasks)
    drawn = tasks.split(SPLITS[column], 8 * num_tasks)
    return drawn[drawn[:, 0] == ROBOTS[column]][:num_tasks]


def judge(by_updates: Mapping[int, Sequence[LearnedLossLearner]], columns: Mapping[str, Tensor]) -> Curves:
    """Final distances on every column, after each number of updates with the learners that were tuned for it."""
    found = {}
    for column, tasks in columns.items():
        last = max(by_updates)
        curve = distances(by_updates[last], tasks, last)
        for k in by_updates.keys() - {last}:
            curve[:, :, k] = distances(by_updates[k], tasks, k)[:, :, k]
        found[column] = curve
    return found


def distances(learners: Sequence[LearnedLossLearner], tasks: Tensor, num_updates: int, seed: int = 0) -> NDArray:
    """Final distances, (S, B, K + 1), means over the episodes of a phase; every learner has policies of its own."""
    of_seeds = []
    for index, learner in enumerate(learners):
        assert isinstance(learner.spec, EnvSpec)
        env = BatchedEnv(learner.spec, len(tasks) * learner.config.episodes_per_task, seed=seed)
        env.set_tasks(tasks)
        rollout = learner.trial(env, num_updates + 1, make_generator(1000 * seed + index, "evaluation"))
        last = -rollout.reward.unflatten(0, (num_updates + 1, -1))[:, -1]  # (K + 1, N), the reward is -d
        of_seeds.append(last.unflatten(1, (len(tasks), -1)).mean(2).T.numpy())
    return np.stack(of_seeds)


def estimates(curve: NDArray) -> dict[str, list[float]]:
    """IQM and its interval after each number of updates."""
    return {f"after_{k}": numbers(bootstrap(curve[:, :, k], np.random.default_rng(0))) for k in UPDATES}


def differences(ours: NDArray, other: NDArray, same_runs: bool) -> dict[str, list[float]]:
    """Ours less the other's; negative is nearer."""
    return {
        f"after_{k}": numbers(
            bootstrap_difference(ours[:, :, k], other[:, :, k], np.random.default_rng(0), same_runs=same_runs)
        )
        for k in UPDATES
    }


def within(curve: NDArray) -> dict[str, float]:
    """Share of seeds and tasks whose episodes end within 5 cm on average."""
    return {f"after_{k}": float((curve[:, :, k] < 0.05).mean()) for k in UPDATES}


def numbers(estimate: Estimate) -> list[float]:
    return [float(number) for number in estimate]


def draw(path: Path, curves: Mapping[str, Curves]) -> None:
    """Distance over updates, a panel per column."""
    names = [name for name in curves if name not in (OFF, FORMULA_OFF)]
    figure, axes = plt.subplots(2, 3, figsize=(9.5, 6.2), sharex=True, sharey=True, constrained_layout=True)
    for axis, column in zip(axes.flat, SPLITS, strict=True):
        for index, name in enumerate(names):
            curve = bootstrap(curves[name][column], np.random.default_rng(0), num_resamples=500)
            style = "--" if name in HAND else ":" if name in LEARNED and LEARNED[name].told else "-"
            axis.plot(range(len(curve.value)), 100 * curve.value, style, color=f"C{index}", label=name)
            axis.fill_between(range(len(curve.value)), 100 * curve.low, 100 * curve.high, color=f"C{index}", alpha=0.15)
        axis.set_title(column, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("distance at the end (cm)")
    for axis in axes[-1]:
        axis.set_xlabel("updates of a fresh policy")
    labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
