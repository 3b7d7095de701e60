"""Does an environment need adaptation? The gap between knowing the task and not knowing it.

For each environment two policies without memory are trained on the same budget: `oracle` is given the task
parameters, `domain-randomised` is not. What the first earns more on unseen tasks is what there is to gain by finding
the task out; an environment without a gap teaches nothing about adaptation. The scripted expert and acting at random
give the ends of the scale. Trained runs are kept and gone on with; environments that were measured before stay in the
result.

    python scripts/check_suite.py --envs push door-open track --total-steps 2000000
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, keep, show
from reproduce import trained

import envs
from metarl.config import RunConfig
from metarl.env import EnvSpec
from metarl.errors import MetarlError
from metarl.evaluate import Evaluation, evaluate
from metarl.expert import Expert
from metarl.learners import preset
from metarl.learners.random_policy import RandomPolicy
from metarl.rollout import Adapts
from metarl.run import resolve_device
from metarl.statistics import bootstrap, bootstrap_difference

POLICIES = ("oracle", "domain-randomised")
NUM_TASKS = 100


@dataclass(frozen=True)
class Line:
    """Interquartile mean of the return over tasks and seeds, with its 95 % interval; share of successes."""

    iqm: float
    ci95: tuple[float, float]
    success: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", required=True, help="environments by name")
    parser.add_argument("--total-steps", type=int, default=2_000_000, help="environment steps of each training")
    parser.add_argument("--num-worlds", type=int, help="of each training; default: the preset's; fewer: more updates")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training; the test tasks are the same")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs/check_suite"))
    parser.add_argument("--out", type=Path, default=RESULTS / "check_suite.json")
    arguments = parser.parse_args()
    try:
        device = resolve_device(arguments.device)
        for name in arguments.envs:
            keep(arguments.out, name, checked(name, arguments, device))
    except MetarlError as error:
        parser.exit(2, f"check_suite: {error}\n")
    show_all(arguments.out)


def checked(name: str, arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    """Train and judge the policies of one environment."""
    spec = envs.make_spec(name)
    judged: dict[str, list[Evaluation]] = {}
    for policy in POLICIES:
        judged[policy] = []
        for seed in arguments.seeds:
            settings = replace(preset(policy, name), total_steps=arguments.total_steps)
            if arguments.num_worlds is not None:
                settings = replace(settings, num_worlds=arguments.num_worlds)
            config = RunConfig(policy, name, settings, seed=seed, device=device)
            run = trained(arguments.runs / name / f"{policy}-{arguments.total_steps}-seed{seed}", config)
            judged[policy].append(judge(run.learner, spec, policy))
    judged["random"] = [judge(RandomPolicy(spec), spec, "random")]
    if spec.expert is not None:
        judged["expert"] = [judge(Expert(), spec, "expert")]
    lines = {label: line(evaluations) for label, evaluations in judged.items()}
    oracle, blind = (returns_of(judged[policy]) for policy in POLICIES)
    gap = bootstrap_difference(oracle, blind, np.random.default_rng(0), same_runs=False)
    scale = lines["oracle"].iqm - lines["random"].iqm
    return {
        "total_steps": arguments.total_steps,
        "seeds": arguments.seeds,
        "num_tasks": NUM_TASKS,
        "policies": {label: asdict(value) for label, value in lines.items()},
        "gap": {"iqm": float(gap.value), "ci95": [float(gap.low), float(gap.high)]},
        "gap_of_scale": float(gap.value) / scale if scale > 0 else None,
    }


def judge(agent: Adapts, spec: EnvSpec, label: str) -> Evaluation:
    deterministic = False if label == "random" else None
    return evaluate(
        agent, spec, algorithm=label, num_tasks=NUM_TASKS, num_episodes=1, seed=0, deterministic=deterministic
    )


def line(evaluations: list[Evaluation]) -> Line:
    estimate = bootstrap(returns_of(evaluations)[:, :, None], np.random.default_rng(0))
    rates = [e.success_rate[0] for e in evaluations if e.success_rate is not None]
    interval = (float(estimate.low[0]), float(estimate.high[0]))
    return Line(float(estimate.value[0]), interval, float(np.mean(rates)) if rates else None)


def returns_of(evaluations: list[Evaluation]) -> np.ndarray:
    return np.array([e.returns for e in evaluations])[:, :, 0]  # (seeds, tasks)


def show_all(path: Path) -> None:
    columns = ("environment", "random", "not knowing", "knowing the task", "expert", "gap", "of oracle - random")
    rows = []
    for name, result in json.loads(path.read_text()).items():
        values = result["policies"]
        cells = [
            f"{values[label]['iqm']:.1f}" if label in values else "-"
            for label in ("random", "domain-randomised", "oracle", "expert")
        ]
        low, high = result["gap"]["ci95"]
        share = "-" if result["gap_of_scale"] is None else f"{100 * result['gap_of_scale']:.0f} %"
        rows.append((name, *cells, f"{result['gap']['iqm']:.1f} [{low:.1f}, {high:.1f}]", share))
    show("Return of one episode on 100 unseen tasks, IQM; 95 % interval of the gap", columns, rows)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
