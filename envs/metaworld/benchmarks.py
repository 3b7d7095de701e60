"""Meta-World: a Sawyer arm and 50 classes of manipulation tasks, as the benchmarks ML1, ML10 and ML45.

    metaworld-ml1-CLASS   one class, such as metaworld-ml1-door-open; new goals at test time
    metaworld-ml10        ten classes to train on, five others to test on
    metaworld-ml45        45 classes to train on, five others to test on

The environments are those of the package metaworld 3.1.1, run by worker processes (`envs.metaworld.shim` says how to
install it). The goals are those that the package draws for seed 0, rounded to float32 (`scripts/metaworld_goals.py`).

Task parameters
    task_class  1  index of the class in `envs.metaworld.CLASSES`
    goal        m  (6,) the class's random vector: mostly where the object stands and where it shall go; classes with
                   three numbers leave the last three at zero. Only the goals of the splits are valid.

Splits
    train          50 goals of each train class
    validation     20 more goals of each train class; ours, the benchmark has none
    test           the official one: 50 goals of each test class; for ML1 50 other goals of the class
    extrapolation  ML10 and ML45: the same as test
Tasks stand goal by goal: the first 5 n tasks of a test split of five classes are n goals of each class.

Action, 4 numbers in [-1, 1], at 80 Hz
    0-2  displacement of the hand along x, y, z, 1 cm for 1
    3    closing of the gripper

Observation, 39 numbers
    0-2    position of the hand, m
    3      opening of the gripper, 0-1
    4-17   position (m) and quaternion of up to two objects, zero where there are fewer
    18-35  the same of the step before
    36-38  zero: the goal is hidden

Reward, end, success, start
    The package's version 2 rewards, 0-10 per step. An episode has 500 steps; success (`info["success"]`) does not end
    it. All episodes of a task start alike.

Expert
    The package's scripted policy of the class, which sees the goal.

Source: Yu et al. 2019, Meta-World; the package's `ML1`, `ML10` and `ML45`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.metaworld import CLASSES, ML10, ML45, Split
from envs.metaworld.shim import INSTALL
from envs.metaworld.worker import GOAL_DIM, MakeEnv
from metarl.errors import ConfigError, UnknownNameError
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Continuous
from metarl.worlds import ProcessBody, ProcessSpec

HORIZON = 500
OBS_DIM = 39
GOALS_FILE = Path(__file__).with_name("goals.npz")
NUM_VALIDATION_GOALS = 20
_CONTROL_DT_S = 0.0125
_GOAL_RANGE_M = (-1.0, 1.0)


def make_ml1(task_class: str, *, horizon: int = HORIZON) -> ProcessSpec:
    """One class with new goals at test time.

    Args:
        task_class: one of `envs.metaworld.CLASSES`.
        horizon: H, control steps of an episode, at most 500.
    """
    if task_class not in CLASSES:
        raise UnknownNameError("class of Meta-World", task_class, CLASSES)
    index = CLASSES.index(task_class)
    fixed = {
        "train": _tasks([task_class], _goals()["ml1_train"][[index]]),
        "validation": _tasks([task_class], _goals()["validation"][[index]]),
        "test": _tasks([task_class], _goals()["ml1_test"][[index]]),
    }
    description = "One class of Meta-World, new goals at test time."
    return _spec(f"metaworld-ml1-{task_class}", Choice((index,)), fixed, horizon, description)


def make_ml10(*, horizon: int = HORIZON) -> ProcessSpec:
    """Ten classes to train on, five others to test on."""
    return _multi("ml10", ML10, horizon, "Ten classes of Meta-World, five other classes at test time.")


def make_ml45(*, horizon: int = HORIZON) -> ProcessSpec:
    """45 classes to train on, five others to test on."""
    return _multi("ml45", ML45, horizon, "45 classes of Meta-World, five other classes at test time.")


def class_name(name: str) -> str:
    """What the package calls a class."""
    return f"{name}-v3"


def class_of(task: Tensor) -> str:
    """The class of a task, (P,)."""
    return CLASSES[round(float(task[0]))]


def _multi(label: str, split: Split, horizon: int, description: str) -> ProcessSpec:
    train_ids, test_ids = ([CLASSES.index(name) for name in names] for names in split)
    test = _tasks(split.test, _goals()[f"{label}_test"])
    fixed = {
        "train": _tasks(split.train, _goals()[f"{label}_train"]),
        "validation": _tasks(split.train, _goals()["validation"][train_ids]),
        "test": test,
        "extrapolation": test,
    }
    classes = Choice(tuple(map(float, train_ids)), held_out=tuple(map(float, test_ids)))
    return _spec(f"metaworld-{label}", classes, fixed, horizon, description)


def _spec(name: str, classes: Choice, fixed: dict[str, Tensor], horizon: int, description: str) -> ProcessSpec:
    if not 1 <= horizon <= HORIZON:
        raise ConfigError(f"{name}: horizon must be 1 to {HORIZON}, the package's own limit, got {horizon}.")
    parameters = (
        Parameter("task_class", "1", classes, "index of the class"),
        Parameter("goal", "m", Uniform(*_GOAL_RANGE_M), "random vector of the class", shape=(GOAL_DIM,)),
    )
    return ProcessSpec(
        name=name,
        tasks=TaskDistribution(parameters, fixed=fixed),
        obs_dim=OBS_DIM,
        action_space=Continuous(4),
        horizon=horizon,
        factory=MakeEnv(tuple(map(class_name, CLASSES))),
        expert="expert_action",
        body=ProcessBody(_CONTROL_DT_S, camera="video"),
        describe=class_of,
        description=f"{description} Needs `{INSTALL}`.",
    )


@cache
def _goals() -> dict[str, Tensor]:
    with np.load(GOALS_FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _tasks(classes: Sequence[str], goals: Tensor) -> Tensor:
    """Tasks of some classes from their goals, (classes, goals, 6) -> (goals * classes, 7), goal by goal."""
    ids = goals.new_tensor([CLASSES.index(name) for name in classes])
    rows = torch.cat([ids.view(-1, 1, 1).expand(-1, goals.shape[1], 1), goals], 2)
    return rows.transpose(0, 1).flatten(0, 1).contiguous()
