"""PPO with one policy objective against PPO with another: learning curves side by side, steps until PPO's final return.

Contenders are names of the setting `loss`; the first one is the reference. Preset, seeds and tasks are the same, and
so are the first weights of a seed. Runs lie in runs/bench_drift/ENV/LOSS-seedSEED; those that are there already
are gone on with, so seeds and contenders can be added later.

    python scripts/bench_drift.py --losses clip dpo --env half-cheetah-vel-maml --seeds 0 1 2 --total-steps 1500000
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, save, show
from numpy.typing import NDArray
from reproduce import describe, returns_of, trained

from metarl.config import RunConfig
from metarl.errors import MetarlError
from metarl.evaluate import evaluate
from metarl.learners import preset
from metarl.log import read_metrics
from metarl.losses.policy_objective import policy_objective
from metarl.named_loss import PREFIX
from metarl.plots import learning_curve
from metarl.run import LoadedRun, resolve_device
from metarl.statistics import bootstrap, bootstrap_difference

NOTES = [
    "all settings but the loss are the preset's, which was found with clip",
    "training return: of sampled actions on the tasks of training, mean of the last --smooth updates",
    "final return: the training return at the end",
    "steps_to_reference: environment steps until a seed's training return is the mean final return of the reference, "
    "null where it never is; annealing depends on --total-steps, so they are steps of a training of that length",
    "intervals: 95 %, bootstrap over seeds and tasks; with few seeds too narrow, see metarl/statistics.py",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["clip", "dpo"], help="the first one is the reference")
    parser.add_argument("--env", default="half-cheetah-vel-maml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--total-steps", type=int, default=1_500_000)
    parser.add_argument("--num-worlds", type=int, help="default the preset's")
    parser.add_argument("--num-train-tasks", type=int, default=0, help="as in `metarl train`; they are judged on then")
    parser.add_argument("--num-tasks", type=int, default=64, help="unseen tasks to be judged on")
    parser.add_argument("--smooth", type=int, default=10, help="updates that a point of a curve is the mean of")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_drift"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_drift.json")
    arguments = parser.parse_args()
    try:
        configs = {
            loss: [configuration(arguments, loss, seed) for seed in arguments.seeds] for loss in arguments.losses
        }
        folder = arguments.runs / arguments.env
        runs = {
            loss: [trained(folder / f"{_folder_name(loss)}-seed{c.seed}", c) for c in of_seeds]
            for loss, of_seeds in configs.items()
        }
        for loss, of_seeds in runs.items():
            for run, config in zip(of_seeds, configs[loss], strict=True):
                if run.config != config:
                    parser.exit(2, f"bench_drift: {run.path} was trained with other settings. Choose another --runs.\n")
        report(arguments, runs)
    except MetarlError as error:
        parser.exit(2, f"bench_drift: {error}\n")


def configuration(arguments: argparse.Namespace, loss: str, seed: int) -> RunConfig:
    """The preset of PPO with another loss and length."""
    start = preset("ppo", arguments.env)
    if not loss.startswith(PREFIX):
        policy_objective(loss, start.clip)  # an unknown name is told before the first contender has trained
    num_worlds = arguments.num_worlds or start.num_worlds
    settings = replace(start, loss=loss, total_steps=arguments.total_steps, num_worlds=num_worlds)
    device, num_train_tasks = resolve_device(arguments.device), arguments.num_train_tasks
    return RunConfig("ppo", arguments.env, settings, seed=seed, device=device, num_train_tasks=num_train_tasks)


def report(arguments: argparse.Namespace, runs: Mapping[str, Sequence[LoadedRun]]) -> None:
    """Put the learning curves side by side, judge the policies, write numbers and picture, print a table."""
    reference = arguments.losses[0]
    steps, curves = training_curves(runs, arguments.smooth)
    goal = float(curves[reference][:, -1].mean())
    split, num_tasks = (
        ("train", arguments.num_train_tasks) if arguments.num_train_tasks else ("test", arguments.num_tasks)
    )
    judged = {loss: judge(of_seeds, split, num_tasks) for loss, of_seeds in runs.items()}
    results = {
        loss: {
            "training_return": curves[loss].tolist(),
            "final_return": curves[loss][:, -1].tolist(),
            "steps_to_reference": [steps_until(steps, curve, goal) for curve in curves[loss]],
            **_judgement(judged[loss], judged[reference]),
            "training": [describe(run) for run in runs[loss]],
        }
        for loss in runs
    }
    about = {name: getattr(arguments, name) for name in ("env", "seeds", "total_steps", "num_train_tasks", "smooth")}
    about |= {"reference": reference, "reference_final_return": goal, "split": split, "num_tasks": num_tasks}
    save(arguments.out, {**about, "notes": NOTES, "env_steps": steps.tolist(), "losses": results})
    metrics = {loss: [run.path / "metrics.jsonl" for run in of_seeds] for loss, of_seeds in runs.items()}
    title = f"PPO on {arguments.env}, by what it ascends on"
    learning_curve(arguments.out.with_suffix(".png"), metrics, smooth=arguments.smooth, title=title)
    columns = ("loss", "final", "steps to it", f"{num_tasks} {split} tasks", f"minus {reference}")
    title = f"{arguments.env}: {arguments.total_steps:,} steps, seeds {arguments.seeds}; it: {goal:.1f}"
    show(title, columns, [_row(loss, result) for loss, result in results.items()])


def training_curves(
    runs: Mapping[str, Sequence[LoadedRun]], smooth: int
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Environment steps (U,), and for each contender the training return of each seed (S, U)."""
    metrics = {loss: [read_metrics(run.path / "metrics.jsonl") for run in of_seeds] for loss, of_seeds in runs.items()}
    curves = {
        loss: np.array([trailing_mean([m["return_last"] for m in of_run], smooth) for of_run in of_seeds])
        for loss, of_seeds in metrics.items()
    }
    return np.array([m["env_steps"] for m in next(iter(metrics.values()))[0]]), curves


def trailing_mean(values: Sequence[float], size: int) -> NDArray[np.float64]:
    """The mean of each value and the `size - 1` before it, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - size, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def steps_until(steps: NDArray[np.int64], curve: NDArray[np.float64], goal: float) -> int | None:
    """Environment steps after which a curve first is at the goal; None if it never is."""
    reached = np.flatnonzero(curve >= goal)
    return int(steps[reached[0]]) if len(reached) else None


def judge(runs: Sequence[LoadedRun], split: str, num_tasks: int) -> NDArray[np.float64]:
    """Return of each seed's policy on the tasks of a split, (S, B)."""
    protocol: dict[str, Any] = {"algorithm": "ppo", "split": split, "num_tasks": num_tasks, "num_episodes": 1}
    return returns_of([evaluate(r.learner, r.spec, device=r.config.device, **protocol) for r in runs])[:, :, 0]


def _judgement(returns: NDArray[np.float64], of_reference: NDArray[np.float64]) -> dict[str, Any]:
    own = bootstrap(returns, np.random.default_rng(0))
    more = bootstrap_difference(returns, of_reference, np.random.default_rng(0), same_runs=False)
    return {
        "iqm_return": float(own.value),
        "ci95_return": [float(own.low), float(own.high)],
        "mean_return_per_seed": returns.mean(1).tolist(),
        "minus_reference": {"iqm": float(more.value), "ci95": [float(more.low), float(more.high)]},
    }


def _row(loss: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    reached = ", ".join("never" if steps is None else f"{steps / 1000:.0f}k" for steps in result["steps_to_reference"])
    low, high = result["ci95_return"]
    more = result["minus_reference"]
    return (
        loss,
        f"{np.mean(result['final_return']):.1f}",
        reached,
        f"{result['iqm_return']:.1f} [{low:.1f}, {high:.1f}]",
        f"{more['iqm']:+.1f} [{more['ci95'][0]:.1f}, {more['ci95'][1]:.1f}]",
    )


def _folder_name(loss: str) -> str:
    return re.sub(r"[^\w.-]+", "-", loss)


if __name__ == "__main__":
    main()
