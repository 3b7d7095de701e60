"""Seconds that the evaluation of a few-shot run takes, with features shared by its tasks and without.

Seconds are those of the process on the CPU. The accuracies of both ways are printed, which must agree.

    python scripts/bench_judging.py runs/fewshot/omniglot/protonet-seed0 --ways 5 --shots 1
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import torch
from _measure import RESULTS, save, show

from metarl.fewshot.evaluate import evaluate_few_shot, sharing_features
from metarl.fewshot.run import load_few_shot_run, open_source
from metarl.fewshot.sampler import EpisodeShape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ways", nargs="+", type=int, default=[5])
    parser.add_argument("--shots", nargs="+", type=int, default=[1])
    parser.add_argument("--num-tasks", type=int, default=1000)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = load_few_shot_run(arguments.run)
    source = open_source(run.config, arguments.data_dir)
    shared, rows, results = sharing_features(run.learner, source), [], []
    for ways, shots in product(arguments.ways, arguments.shots):
        seconds, accuracies = [], []
        for learner, tasks in ((run.learner, source), shared):
            begun = time.process_time()
            found = evaluate_few_shot(
                learner, tasks, EpisodeShape(ways, shots), name=run.config.learner, num_tasks=arguments.num_tasks
            )
            seconds.append(time.process_time() - begun)
            accuracies.append(found.accuracy.mean)
        kind = f"{ways}-way {shots}-shot"
        results.append({"tasks": kind, "num_tasks": arguments.num_tasks, "cpu_s": seconds, "accuracy": accuracies})
        rows.append((kind, *(f"{s:.1f}" for s in seconds), f"{seconds[0] / seconds[1]:.1f}", f"{accuracies}"))
    save(RESULTS / "bench_judging.json", {"name": "bench_judging", "run": str(arguments.run), "kinds": results})
    show(
        f"evaluation of {arguments.run}, {arguments.num_tasks} tasks",
        ("tasks", "all samples, CPU s", "shared features, CPU s", "ratio", "accuracies"),
        rows,
    )


if __name__ == "__main__":
    main()
