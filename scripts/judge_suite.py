"""How well policies of the suite do on tasks that they never saw, beside the scripted expert and acting at random.

Each run is judged on every split, over trials of two episodes; `second_minus_first` is what the second episode earns
more on the same task. Environments that were judged before stay in the result, and so do their expert and random
actions, which no training changes; `--references` judges these two again, as a changed environment needs.

    metarl train rl2 --env push --out runs/suite/push
    python scripts/judge_suite.py runs/suite/push
    metarl train domain-randomised --env traffic --out runs/suite/traffic-blind
    python scripts/judge_suite.py runs/suite/traffic-blind --out benchmarks/results/suite-without-memory.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, circumstances, show

from metarl.config_json import config_to_json
from metarl.errors import MetarlError
from metarl.evaluate import Evaluation, evaluate
from metarl.expert import Expert
from metarl.learners.random_policy import RandomPolicy
from metarl.rollout import Adapts
from metarl.run import LoadedRun, load_run
from metarl.statistics import bootstrap

SPLITS = ("test", "interpolation", "extrapolation")
NUM_TASKS, NUM_EPISODES = 64, 2
KEPT = ("split", "num_tasks", "seed", "iqm_return", "ci95_return", "success_rate", "metrics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, one for each environment")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help="default: all held-out ones")
    parser.add_argument("--references", action="store_true", help="judge expert and random actions again")
    parser.add_argument("--stochastic", action="store_true", help="sample actions; keep them apart with --out")
    parser.add_argument("--out", type=Path, default=RESULTS / "suite-rl2.json")
    arguments = parser.parse_args()
    try:
        for path in arguments.runs:
            run = load_run(path, "cpu")
            known = {} if arguments.references else read_results(arguments.out).get(run.config.env, {})
            deterministic = False if arguments.stochastic else None
            splits = {split: judged(run, split, known.get(split, {}), deterministic) for split in arguments.splits}
            keep_judgement(arguments.out, run, splits)
    except MetarlError as error:
        parser.exit(2, f"judge_suite: {error}\n")
    show_all(arguments.out)


def judged(run: LoadedRun, split: str, known: dict[str, Any], deterministic: bool | None = None) -> dict[str, Any]:
    """The run, the expert and random actions on the tasks of a split; `known`, what was judged there before.

    `deterministic` is how the run acts, as in `evaluate`.
    """
    protocol: dict[str, Any] = {"split": split, "num_tasks": NUM_TASKS, "num_episodes": NUM_EPISODES, "seed": 0}
    policies: dict[str, tuple[Adapts, bool | None]] = {run.config.algorithm: (run.learner, deterministic)}
    if run.spec.expert is not None and "expert" not in known:
        policies["expert"] = (Expert(), None)
    if "random" not in known:
        policies["random"] = (RandomPolicy(run.spec), False)
    references = {label: known[label] for label in ("expert", "random") if label in known}
    new = {
        label: kept(evaluate(policy, run.spec, algorithm=label, deterministic=acts, **protocol))
        for label, (policy, acts) in policies.items()
    }
    return new | references


def kept(evaluation: Evaluation) -> dict[str, Any]:
    """What of an evaluation goes into the file: summaries, no returns of single tasks."""
    values = evaluation.to_json()
    returns = np.array(evaluation.returns)  # (tasks, episodes)
    gain = bootstrap((returns[:, -1] - returns[:, 0])[None, :, None], np.random.default_rng(0))
    difference = {"iqm": float(gain.value[0]), "ci95": [float(gain.low[0]), float(gain.high[0])]}
    return {name: values[name] for name in KEPT} | {"second_minus_first": difference}


def keep_judgement(path: Path, run: LoadedRun, splits: dict[str, Any]) -> None:
    """Put the splits of one run beside those of the other environments."""
    contents = json.loads(path.read_text()) if path.exists() else {}
    now = circumstances()
    results = contents.setdefault("results", {})
    results[run.config.env] = {
        "algorithm": run.config.algorithm,
        "env_steps": run.env_steps,
        "seed": run.config.seed,
        "settings": config_to_json(run.config.settings),
        "judged": {name: now[name] for name in ("command", "commit", "date")},
        **splits,
    }
    path.write_text(json.dumps(contents, indent=1) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """What was judged before, by environment."""
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    return results


def show_all(path: Path) -> None:
    rows = []
    for env, result in read_results(path).items():
        for split in (split for split in SPLITS if split in result):
            policies = result[split]
            own = policies[result.get("algorithm", "rl2")]
            returns = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, (low, high) in _returns(own)]
            success = " / ".join(f"{100 * rate:.0f} %" for rate in own["success_rate"])
            ends = [f"{policies[name]['iqm_return'][0]:.0f}" for name in ("expert", "random")]
            rows.append((f"{env}, {result['env_steps'] / 1e6:.1f} M, {split}", *returns, success, *ends))
    show("IQM return on 64 unseen tasks", ("run", "episode 1", "episode 2", "success", "expert", "random"), rows)
    print(f"written: {path}")


def _returns(policy: dict[str, Any]) -> list[tuple[float, tuple[float, float]]]:
    return list(zip(policy["iqm_return"], policy["ci95_return"], strict=True))


if __name__ == "__main__":
    main()
