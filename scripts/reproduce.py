"""The run behind a number of the README: train, judge on unseen tasks, put it beside what was published.

Runs that are there already are gone on with, and finished ones only judged; so an interrupted reproduction continues,
and seeds can be added later. Runs lie in runs/reproduce/NAME/ALGORITHM-seedSEED, numbers and pictures in
benchmarks/results/NAME.json, NAME.png and NAME-learning.png.

    python scripts/reproduce.py half-cheetah-vel-pearl --seeds 0 1 2
    python scripts/reproduce.py bandit-k5-n10 --quick           # does it run? everything goes to runs/quick/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, circumstances, save, show
from _targets import TARGETS, Target, classical_strategies

import envs
from envs.toy import classical
from metarl.checkpoint import has_checkpoint, newest_checkpoint
from metarl.config import RunConfig
from metarl.env import EnvSpec
from metarl.errors import MetarlError
from metarl.evaluate import Evaluation, axis_of, evaluate, table
from metarl.learners import preset
from metarl.learners.random_policy import RandomPolicy
from metarl.log import read_metrics
from metarl.plots import adaptation_curve, learning_curve
from metarl.run import LoadedRun, load_run, resolve_device
from metarl.seeding import make_generator
from metarl.statistics import Statistic, bootstrap, bootstrap_difference, iqm
from metarl.train import train

HELD_OUT = ("test", "interpolation", "extrapolation")
SAMPLED = "rl2, sampled actions"

Judged = Mapping[str, Sequence[Evaluation]]
"""policy -> the evaluation of each training seed, all on the same tasks"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TARGETS, metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training; the test tasks are the same")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--train-only", metavar="ALGORITHM", help="train this one and leave the judging to a later call"
    )
    parser.add_argument("--algorithms", nargs="+", help="some of the target's, the first one leads; default: all")
    parser.add_argument("--quick", action="store_true", help="two updates and few tasks, into runs/quick/")
    arguments = parser.parse_args()
    name, target, folder, results = arguments.name, TARGETS[arguments.name], Path("runs/reproduce"), RESULTS
    algorithms = [arguments.train_only] if arguments.train_only else arguments.algorithms or target.algorithms
    for algorithm in algorithms:
        if algorithm not in target.algorithms:
            parser.error(f"{name} has no {algorithm}; available: {', '.join(target.algorithms)}.")
    if arguments.quick:
        target, folder = replace(target, num_tasks=20), Path("runs/quick")
        results = folder
    try:
        device = resolve_device(arguments.device)
        configs = {
            a: [configuration(target, a, s, device, arguments.quick) for s in arguments.seeds] for a in algorithms
        }
        runs = {a: [trained(folder / name / f"{a}-seed{c.seed}", c) for c in configs[a]] for a in algorithms}
        if not arguments.train_only:
            report(name, target, runs, device, results)
    except MetarlError as error:
        parser.exit(2, f"reproduce: {error}\n")


def configuration(target: Target, algorithm: str, seed: int, device: str, quick: bool) -> RunConfig:
    """The preset; or two updates of it in few worlds."""
    settings = preset(algorithm, target.env, target.preset)
    if quick:
        by_task = {"meta_batch_size": 4, "episodes_per_task": 8}
        settings = replace(settings, **(by_task if settings.episodes_per_task > 1 else {"num_worlds": 32}))
        steps_per_world = settings.episodes_per_trial * envs.make_spec(target.env).horizon
        settings = replace(settings, total_steps=2 * settings.num_worlds * steps_per_world)
    return RunConfig(algorithm, target.env, settings, seed=seed, device=device)


def trained(out: Path, config: RunConfig) -> LoadedRun:
    """Begin a run, go on with it, or take it as it is where it is finished."""
    checkpoints, total = out / "checkpoints", config.settings.total_steps
    done = newest_checkpoint(checkpoints).state["env_steps"] if has_checkpoint(checkpoints) else 0
    if done < total:
        print(f"{out}: {done:,} of {total:,} environment steps", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        with _sessions(out).open("a") as sessions:
            sessions.write(json.dumps({"from_env_steps": done, **circumstances()}) + "\n")
        outcome = train(config, out, resume=(out / "config.json").exists())
        if not outcome.finished:
            sys.exit(outcome.exit_code)
    return load_run(out, config.device)


def report(name: str, target: Target, runs: Mapping[str, Sequence[LoadedRun]], device: str, results: Path) -> None:
    """Judge runs on every held-out split; write numbers and pictures, print tables."""
    main = next(iter(runs))
    spec = runs[main][0].spec
    num_episodes = target.num_episodes or runs[main][0].config.settings.episodes_per_trial
    protocol = {"num_tasks": target.num_tasks, "num_episodes": num_episodes, "seed": 0, "device": device}
    splits = [split for split in HELD_OUT if split in spec.tasks.splits()]
    judged = {split: judge(runs, spec, {**protocol, "split": split}, target) for split in splits}
    curves = {split: {p: pooled(e) for p, e in policies.items()} for split, policies in judged.items()}
    result: dict[str, Any] = {
        "name": name,
        "env": target.env,
        "preset": target.preset,
        "seeds": [run.config.seed for run in runs[main]],
        "protocol": protocol,
        "training": {algorithm: [describe(run) for run in of_seeds] for algorithm, of_seeds in runs.items()},
        "splits": {s: {p: asdict(curve) for p, curve in policies.items()} for s, policies in curves.items()},
        f"last_of_{main}_minus": {split: differences(policies, main) for split, policies in judged.items()},
        "published": {"source": target.source, "values": dict(target.published)},
    }
    drawn, y_label = curves["test"], "return (IQM, 95 % interval)"
    if target.has_trial_sums:
        result["trial_sums"] = trial_sums(judged["test"], spec, target, num_episodes)
        # The interquartile mean of rewards that are 0 or 1 says little.
        drawn, y_label = {p: pooled(e, np.mean) for p, e in judged["test"].items()}, "return (mean, 95 % interval)"
    save(results / f"{name}.json", result)
    title = f"{name}: {target.num_tasks} unseen tasks, {len(runs[main])} seed{'s' * (len(runs[main]) > 1)}"
    axis = axis_of(drawn[main].adapts_by)
    adaptation_curve(results / f"{name}.png", drawn, **axis, y_label=y_label, title=title)
    metrics = {a: [run.path / "metrics.jsonl" for run in of_seeds] for a, of_seeds in runs.items()}
    learning_curve(results / f"{name}-learning.png", metrics, smooth=20, title=f"{name}: training")
    if target.has_trial_sums:
        show_trial_sums(name, target, result["trial_sums"])
    else:
        show_episodes(name, target, curves)


def judge(
    runs: Mapping[str, Sequence[LoadedRun]], spec: EnvSpec, protocol: dict[str, Any], target: Target
) -> dict[str, list[Evaluation]]:
    """Evaluate every run on one split, and acting at random."""
    judged = {
        algorithm: [
            evaluate(
                run.learner,
                spec,
                algorithm=algorithm,
                episodes_per_task=target.episodes_per_task or run.config.settings.episodes_per_task,
                **protocol,
            )
            for run in of_seeds
        ]
        for algorithm, of_seeds in runs.items()
    }
    sampled = {**protocol, "deterministic": False}
    if target.has_trial_sums:
        judged[SAMPLED] = [evaluate(run.learner, spec, algorithm="rl2", **sampled) for run in runs["rl2"]]
    judged["random"] = [evaluate(RandomPolicy(spec), spec, algorithm="random", **sampled)]
    return judged


@dataclass(frozen=True)
class Pooled:
    """A policy over S training seeds and B tasks, episode by episode; the fields are those of `Evaluation`.

    The interval draws seeds and tasks anew; the standard error is that over tasks of the mean over seeds.
    """

    num_episodes: int
    adapts_by: str
    env_steps_spent: list[int]
    iqm_return: list[float]
    ci95_return: list[list[float]]
    mean_return: list[float]
    stderr_return: list[float]
    mean_return_per_seed: list[list[float]]
    success_rate: list[float] | None
    failed_worlds: int


def pooled(evaluations: Sequence[Evaluation], statistic: Statistic = iqm) -> Pooled:
    """Put the seeds of a policy together; `statistic` may take the place of the interquartile mean."""
    returns = returns_of(evaluations)
    estimate = bootstrap(returns, np.random.default_rng(0), statistic=statistic)
    rates = [evaluation.success_rate for evaluation in evaluations if evaluation.success_rate is not None]
    return Pooled(
        num_episodes=returns.shape[2],
        adapts_by=evaluations[0].adapts_by,
        env_steps_spent=evaluations[0].env_steps_spent,
        iqm_return=estimate.value.tolist(),
        ci95_return=np.stack([estimate.low, estimate.high], 1).tolist(),
        mean_return=returns.mean((0, 1)).tolist(),
        stderr_return=standard_error(returns).tolist(),
        mean_return_per_seed=returns.mean(1).tolist(),
        success_rate=np.mean(rates, 0).tolist() if rates else None,
        failed_worlds=sum(evaluation.failed_worlds for evaluation in evaluations),
    )


def differences(policies: Judged, main: str) -> dict[str, dict[str, Any]]:
    """IQM return of a policy's last episode minus that of its first, and of the last of the others, task by task."""
    own = returns_of(policies[main])
    found = {"its first": bootstrap_difference(own[:, :, -1], own[:, :, 0], np.random.default_rng(0), same_runs=True)}
    for name, evaluations in policies.items():
        if name not in (main, SAMPLED):
            last = returns_of(evaluations)[:, :, -1]
            found[name] = bootstrap_difference(own[:, :, -1], last, np.random.default_rng(0), same_runs=False)
    return {name: {"iqm": float(d.value), "ci95": [float(d.low), float(d.high)]} for name, d in found.items()}


def trial_sums(policies: Judged, spec: EnvSpec, target: Target, num_episodes: int) -> dict[str, dict[str, Any]]:
    """Total reward of a trial: of rl2, and of the classical strategies on the very same tasks."""
    sums = {name: returns_of(policies[name]).sum(2) for name in ("rl2", SAMPLED)}  # (S, B)
    task = spec.tasks.unpack(spec.tasks.split("test", target.num_tasks, seed=0))
    for name, strategy in classical_strategies(target.env).items():
        generator = make_generator(0, f"classical/{name}")
        if target.env == "bandit":
            total = classical.play_bandit(strategy, task["probability"], num_episodes, generator)
        else:
            mdp = (task["transition"], task["reward_mean"])
            total = classical.play_mdp(strategy, *mdp, num_episodes, spec.horizon, generator)
        sums[name] = total.double().numpy()[None]
    return {
        name: {
            "mean": float(total.mean()),
            "stderr": float(standard_error(total)),
            "mean_per_seed": total.mean(1).tolist(),
            "published": target.published["rl2" if name == SAMPLED else name],
        }
        for name, total in sums.items()
    }


def describe(run: LoadedRun) -> dict[str, Any]:
    """What it took to train a run; seconds are those of collecting and learning, on a machine that may be shared."""
    kept = ("from_env_steps", "commit", "date", "cpu", "cpu_cores", "load_average", "gpu")
    kept_by = _sessions(run.path)  # missing where `metarl train` made the run
    sessions = [json.loads(line) for line in kept_by.read_text().splitlines()] if kept_by.exists() else []
    return {
        "config": run.config.to_json(),
        "updates": run.update,
        "env_steps": run.env_steps,
        "seconds": sum(m["time_collect_s"] + m["time_update_s"] for m in read_metrics(run.path / "metrics.jsonl")),
        "sessions": [{key: session[key] for key in kept} for session in sessions],
    }


def show_trial_sums(name: str, target: Target, sums: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [(p, f"{v['mean']:.2f} ± {v['stderr']:.2f}", f"{v['published']:.1f}") for p, v in sums.items()]
    rows += [(p, "-", f"{value:.1f}") for p, value in target.published.items() if p not in sums]
    show(f"{name}: reward of a trial, {target.num_tasks} trials", ("policy", "measured here", "published"), rows)
    print(f"published: {target.source}")


def show_episodes(name: str, target: Target, curves: Mapping[str, Mapping[str, Pooled]]) -> None:
    for split, policies in curves.items():
        rows = table(policies)
        show(f"{name}: {target.num_tasks} tasks of split {split}", rows[0], rows[1:])
    if target.published:
        show(name, ("published", "return"), [(policy, f"{value:.1f}") for policy, value in target.published.items()])
        print(f"published: {target.source}")


def returns_of(evaluations: Sequence[Evaluation]) -> np.ndarray:
    return np.array([evaluation.returns for evaluation in evaluations])  # (S, B, K)


def standard_error(values: np.ndarray) -> np.ndarray:
    """Over tasks, of the mean over seeds: (S, B, ...) -> (...)."""
    return values.mean(0).std(0, ddof=1) / np.sqrt(values.shape[1])


def _sessions(run: Path) -> Path:
    """When and on what a run was trained, a line per session; beside it, for a run is alone in its folder."""
    return run.with_name(f"{run.name}.sessions.jsonl")


if __name__ == "__main__":
    main()
