"""Write envs/metaworld/goals.npz: the goals of Meta-World's benchmarks, as the package draws them for seed 0.

    python scripts/metaworld_goals.py

Arrays (number of classes, 50, 6) float32, classes in the order of `envs.metaworld.benchmarks`: `ml1_train` is what
`metaworld.ML1(class, seed=0)` draws for each class, `ml1_test` its test goals (its seed + 1), `validation` a third draw
(seed 2, 20 goals), `ml10_train` ... `ml45_test` what `metaworld.ML10(seed=0)` and `metaworld.ML45(seed=0)` draw.
Takes about a minute.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.metaworld import CLASSES, ML10, ML45
from envs.metaworld.benchmarks import GOALS_FILE, NUM_VALIDATION_GOALS, class_name
from envs.metaworld.shim import load
from envs.metaworld.worker import GOAL_DIM


def goals(tasks: Sequence[Any], classes: Sequence[str]) -> np.ndarray:
    """The random vectors of some tasks of the package, (classes, goals, 6) float32."""
    by_class: dict[str, list[np.ndarray]] = {class_name(name): [] for name in classes}
    for task in tasks:
        vector = pickle.loads(task.data)["rand_vec"]  # bytes that the installed package made itself, just now
        by_class[task.env_name].append(np.pad(vector, (0, GOAL_DIM - len(vector))))
    return np.array(list(by_class.values()), np.float32)


def draw() -> dict[str, np.ndarray]:
    """All arrays of the file."""
    metaworld = load()
    parts: dict[str, list[np.ndarray]] = {"ml1_train": [], "ml1_test": [], "validation": []}
    for name in CLASSES:
        first, second = (metaworld.ML1(class_name(name), seed=seed) for seed in (0, 1))
        parts["ml1_train"].append(goals(first.train_tasks, [name]))
        parts["ml1_test"].append(goals(first.test_tasks, [name]))
        parts["validation"].append(goals(second.test_tasks, [name])[:, :NUM_VALIDATION_GOALS])
    arrays = {name: np.concatenate(rows) for name, rows in parts.items()}
    for label, split in (("ml10", ML10), ("ml45", ML45)):
        benchmark = getattr(metaworld, label.upper())(seed=0)
        arrays[f"{label}_train"] = goals(benchmark.train_tasks, split.train)
        arrays[f"{label}_test"] = goals(benchmark.test_tasks, split.test)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(GOALS_FILE, **draw())
    print(f"wrote {GOALS_FILE}: {GOALS_FILE.stat().st_size:,} bytes")
