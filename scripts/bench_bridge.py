"""The bridge: a policy that reads its task from seconds of driving, against those that know it, ignore it or adapt.

Each contender is trained for the same environment steps in trials of the same length, then drives unseen tasks of each
split once. What counts is the return from `--after-s` on, when context-rl has seen that much of the task; the curve
shows all of it. MAML adapts between whole episodes, on one episode per inner step, so it has seen more by then: its
lines say how many seconds. Runs lie in RUNS/ENV/CONTENDER-seedSEED; those that are there already are gone on with.

    python scripts/bench_bridge.py --env track --env-options horizon=150 --splits test grip --seeds 0 1 2
    python scripts/bench_bridge.py --env point-robot-pearl --episodes 2 --after-s 20 --splits test
    python scripts/bench_bridge.py --episodes 3 --contenders context-rl --runs-of oracle=runs/oracle
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, save, show
from numpy.typing import NDArray
from reproduce import describe, trained

from metarl.config import RunConfig
from metarl.errors import MetarlError
from metarl.evaluate import samples_support
from metarl.learners import preset
from metarl.learners.context_rl import ENCODER_LOSSES
from metarl.plots import adaptation_curve
from metarl.rollout import Adapts
from metarl.run import LoadedRun, load_run, resolve_device
from metarl.seeding import make_generator
from metarl.statistics import Estimate, bootstrap, bootstrap_difference
from metarl.worlds import Spec, make_worlds

MAIN = "context-rl"
REFERENCES = ("domain-randomised", "oracle")
CONTENDERS = (MAIN, *(f"{MAIN}-{loss}" for loss in ENCODER_LOSSES), *REFERENCES, "rl2", "maml-trpo")
MAML_STEPS = 3

NOTES = [
    "after: undiscounted return from after_s on until the end of the trial; curve: reward per bin",
    "context-rl, prototypes: the same policy, told the nearest embedding of a task of its last update",
    "maml-trpo drives whole episodes and adapts between two of them, on a single one per inner step; seconds_before "
    "is what it has driven on the task before the episode that counts; its after and curve are of that episode",
    "likeliest actions, but maml-trpo and environments that are judged on sampled actions sample",
    "intervals: 95 %, bootstrap over seeds and tasks; with few seeds too narrow, see metarl/statistics.py",
]


@dataclass(frozen=True)
class Driven:
    """How a contender drove, S seeds and B tasks.

    Attributes:
        reward: (S, B, T).
        metrics: means over seeds and tasks of the environment's metrics, of the last episode.
        seconds_before: driven on the task before the trial that counts.
    """

    reward: NDArray[np.float64]
    metrics: dict[str, float]
    seconds_before: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="track")
    parser.add_argument("--env-options", nargs="*", default=[], metavar="NAME=INT")
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=[MAIN, *REFERENCES, "rl2", "maml-trpo"])
    parser.add_argument("--runs-of", nargs="*", default=[], metavar="NAME=RUN", help="finished runs, as they are")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--total-steps", type=int, default=4_000_000)
    parser.add_argument("--maml-total-steps", type=int, help="default --total-steps")
    parser.add_argument("--episodes", type=int, default=1, help="of a trial, in training and judgement")
    parser.add_argument("--window", type=int, default=50, help="of context-rl, control steps")
    parser.add_argument("--after-s", type=float, default=2.0, help="from when on returns count; steps without physics")
    parser.add_argument("--bin-s", type=float, default=1.0, help="what a point of the curve sums over")
    parser.add_argument("--num-tasks", type=int, default=64, help="unseen tasks of each split")
    parser.add_argument("--num-worlds", type=int, help="default the preset's")
    parser.add_argument("--threads", type=int, default=2, help="of physics and of updates")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_bridge"))
    parser.add_argument("--out", type=Path, help="default benchmarks/results/bench_bridge-ENV.json")
    arguments = parser.parse_args()
    out = arguments.out or RESULTS / f"bench_bridge-{arguments.env}.json"
    try:
        configs = {c: [configuration(arguments, c, seed) for seed in arguments.seeds] for c in arguments.contenders}
        folder = arguments.runs / arguments.env
        runs = {
            contender: [trained(folder / f"{contender}-seed{config.seed}", config) for config in of_seeds]
            for contender, of_seeds in configs.items()
        }
        for contender, of_seeds in runs.items():
            for run, config in zip(of_seeds, configs[contender], strict=True):
                if run.config != config:
                    parser.exit(2, f"bench_bridge: {run.path} has other settings. Choose another --runs.\n")
        for pair in arguments.runs_of:
            name, _, path = pair.partition("=")
            runs.setdefault(name, []).append(load_run(path, arguments.device))
        report(arguments, runs, out)
    except MetarlError as error:
        parser.exit(2, f"bench_bridge: {error}\n")


def configuration(arguments: argparse.Namespace, contender: str, seed: int) -> RunConfig:
    """The preset of an algorithm, with the length, the trials and the steps that all contenders share."""
    algorithm, changes = contender, {}
    if contender.startswith(MAIN):
        algorithm = MAIN
        changes = {"window": arguments.window}
        if contender != MAIN:
            changes["encoder_loss"] = contender.removeprefix(f"{MAIN}-")
    if algorithm != "maml-trpo":
        episodes = arguments.episodes if algorithm in (MAIN, "rl2") else 1
        changes |= {"episodes_per_trial": episodes, "update_threads": arguments.threads}
        if arguments.num_worlds:
            changes["num_worlds"] = arguments.num_worlds
    total_steps = arguments.total_steps
    if algorithm == "maml-trpo":
        total_steps = arguments.maml_total_steps or total_steps
    settings = replace(preset(algorithm, arguments.env), total_steps=total_steps, **changes)
    return RunConfig(
        algorithm,
        arguments.env,
        settings,
        env_options={name: int(value) for name, _, value in (pair.partition("=") for pair in arguments.env_options)},
        seed=seed,
        device=resolve_device(arguments.device),
        physics_threads=arguments.threads,
    )


def report(arguments: argparse.Namespace, runs: Mapping[str, Sequence[LoadedRun]], out: Path) -> None:
    """Drive unseen tasks, write numbers and pictures, print tables."""
    spec = next(iter(runs.values()))[0].spec
    dt_s = step_s(spec)
    first, size = round(arguments.after_s / dt_s), max(round(arguments.bin_s / dt_s), 1)
    splits: dict[str, Any] = {}
    for split in arguments.splits:
        driven = drive_all(runs, split, arguments.num_tasks, arguments.episodes)
        if not 0 <= first < next(iter(driven.values())).reward.shape[2]:
            raise SystemExit(f"bench_bridge: the trial is over after {arguments.after_s} s; take a longer horizon.")
        splits[split] = {name: _judgement(name, of, driven, first, size) for name, of in driven.items()}
        curves = {_label(name, of): _Curve(per_bin(of.reward, size)) for name, of in driven.items()}
        picture = out.with_name(f"{out.stem}-{split}.png")
        unit = "step" if spec.physics is None else "second"
        x_label = f"{unit} of the trial" if arguments.bin_s == 1 else f"of the trial, {arguments.bin_s:g} {unit}s each"
        title = f"{arguments.env}, {arguments.num_tasks} tasks of split {split}, seeds {arguments.seeds}"
        adaptation_curve(picture, curves, x_label=x_label, y_label="reward (IQM, 95 % interval)", title=title)
        rows = [_row(_label(name, driven[name]), result) for name, result in splits[split].items()]
        columns = ("contender", f"after {arguments.after_s:g} s", "minus domain-randomised", "minus oracle")
        show(title, columns, rows)
    about = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    training = {contender: [describe(run) for run in of_seeds] for contender, of_seeds in runs.items()}
    save(out, {**about, "step_s": dt_s, "notes": NOTES, "splits": splits, "training": training})


def step_s(spec: Spec) -> float:
    """Seconds of a control step; environments without a clock count steps."""
    return spec.physics.control_dt_s if spec.physics is not None else 1.0


def drive_all(
    runs: Mapping[str, Sequence[LoadedRun]], split: str, num_tasks: int, num_episodes: int
) -> dict[str, Driven]:
    """Let every contender drive the same tasks; context-rl with its prototypes too, MAML after each inner step."""
    driven = {}
    for name, of_seeds in runs.items():
        spec = of_seeds[0].spec
        if samples_support(of_seeds[0].learner):
            reward, metrics = drive([run.learner for run in of_seeds], spec, split, num_tasks, MAML_STEPS + 1)
            for step, of_step in enumerate(np.split(reward, MAML_STEPS + 1, axis=2)):
                seconds = step * spec.horizon * step_s(spec)
                driven[f"{name}, {step} steps"] = Driven(of_step, metrics[step], seconds)
            continue
        reward, metrics = drive([run.learner for run in of_seeds], spec, split, num_tasks, num_episodes)
        driven[name] = Driven(reward, metrics[-1])
        if name.startswith(MAIN):
            learners = [run.learner.with_prototypes() for run in of_seeds]
            reward, metrics = drive(learners, spec, split, num_tasks, num_episodes)
            driven[f"{name}, prototypes"] = Driven(reward, metrics[-1])
    return driven


def drive(
    learners: Sequence[Adapts], spec: Spec, split: str, num_tasks: int, num_episodes: int
) -> tuple[NDArray[np.float64], list[dict[str, float]]]:
    """Rewards (S, B, T) of a trial of each learner, and the means of the metrics of each episode."""
    rewards, metrics = [], []
    env = make_worlds(spec, num_tasks)
    names = () if spec.metrics is None else spec.metrics.names
    for learner in learners:
        env.generator = make_generator(0, "env", env.device)
        env.set_tasks(spec.tasks.split(split, num_tasks, 0))
        is_sampled = samples_support(learner) or spec.samples_actions
        rollout = learner.trial(env, num_episodes, make_generator(0, "evaluation") if is_sampled else None)
        rewards.append(rollout.reward.T.double().cpu().numpy())
        metrics.append(rollout.metrics.double().nanmean(1).cpu().numpy())  # (K, M)
    means = np.mean(metrics, 0)
    return np.stack(rewards), [dict(zip(names, row.tolist(), strict=True)) for row in means]


def per_bin(reward: NDArray[np.float64], size: int) -> Estimate:
    """Reward summed over bins of `size` steps, IQM over seeds and tasks; an incomplete last bin is left out."""
    num_bins = reward.shape[2] // size
    binned = reward[:, :, : num_bins * size].reshape(*reward.shape[:2], num_bins, size).sum(-1)
    return bootstrap(binned, np.random.default_rng(0))


class _Curve:
    """An `Estimate` over bins as a curve that `metarl.plots` draws."""

    success_rate = None

    def __init__(self, estimate: Estimate) -> None:
        self.iqm_return = estimate.value.tolist()
        self.ci95_return = np.stack([estimate.low, estimate.high], 1).tolist()


def _judgement(name: str, own: Driven, driven: Mapping[str, Driven], first: int, size: int) -> dict[str, Any]:
    def estimate(found: Estimate) -> dict[str, Any]:
        return {"iqm": float(found.value), "ci95": [float(found.low), float(found.high)]}

    after, curve = own.reward[:, :, first:].sum(2), per_bin(own.reward, size)
    result: dict[str, Any] = {
        "seconds_before": own.seconds_before,
        "after": estimate(bootstrap(after, np.random.default_rng(0))),
        "after_per_seed": after.mean(1).tolist(),
        "whole": estimate(bootstrap(own.reward.sum(2), np.random.default_rng(0))),
        "curve": {"iqm": curve.value.tolist(), "low": curve.low.tolist(), "high": curve.high.tolist()},
        "metrics": {name: None if np.isnan(value) else value for name, value in own.metrics.items()},
    }
    for other in REFERENCES:
        if other in driven and other != name and driven[other].reward.shape == own.reward.shape:
            theirs = driven[other].reward[:, :, first:].sum(2)
            result[f"minus_{other}"] = estimate(
                bootstrap_difference(after, theirs, np.random.default_rng(0), same_runs=False)
            )
    return result


def _label(name: str, own: Driven) -> str:
    return f"{name} ({own.seconds_before:g} s before)" if own.seconds_before else name


def _row(label: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [result["after"], *(result.get(f"minus_{other}") for other in REFERENCES)]
    texts = ["-" if c is None else f"{c['iqm']:.2f} [{c['ci95'][0]:.2f}, {c['ci95'][1]:.2f}]" for c in cells]
    return (label, *texts)


if __name__ == "__main__":
    main()
