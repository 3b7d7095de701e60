"""How well the scripted experts, which are told the task, solve every split: the proof that the tasks can be solved.

Environments that were measured before stay in the result.

python scripts/bench_experts.py                  # all environments that have an expert
python scripts/bench_experts.py --envs push park
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from _measure import RESULTS, keep, show

import envs
from metarl.errors import MetarlError
from metarl.evaluate import evaluate
from metarl.expert import Expert

SPLITS_OF_TRAINING = ("train", "validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", help="environments by name")
    parser.add_argument("--num-tasks", type=int, default=100, help="of each split")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_experts.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    try:
        for name in arguments.envs or envs.OWN:
            if envs.make_spec(name).expert is not None:
                splits = judged(name, arguments.num_tasks)
                keep(arguments.out, name, {"num_tasks": arguments.num_tasks, "splits": splits})
                rows += [row(name, split, result) for split, result in splits.items()]
    except MetarlError as error:
        parser.exit(2, f"bench_experts: {error}\n")
    show(f"Scripted experts, {arguments.num_tasks} tasks", ("environment", "split", "IQM", "success", "metrics"), rows)
    print(f"written: {arguments.out}")


def row(name: str, split: str, result: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    success = "-" if result["success"] is None else f"{100 * result['success']:.0f} %"
    rest = ", ".join(f"{k} {v:.3g}" for k, v in result["metrics"].items() if v is not None)
    return name, split, f"{result['iqm_return']:.1f}", success, rest


def judged(name: str, num_tasks: int) -> dict[str, Any]:
    """One episode on each task of every held-out split."""
    spec = envs.make_spec(name)
    found = {}
    for split in spec.tasks.splits():
        if split in SPLITS_OF_TRAINING:
            continue
        result = evaluate(Expert(), spec, algorithm="expert", split=split, num_tasks=num_tasks, num_episodes=1)
        rate = None if result.success_rate is None else result.success_rate[0]
        metrics = {metric: values[0] for metric, values in result.metrics.items()}
        found[split] = {"iqm_return": result.iqm_return[0], "success": rate, "metrics": metrics}
    return found


if __name__ == "__main__":
    main()
