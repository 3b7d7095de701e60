"""The evaluation protocol where targets are numbers: the squared error on tasks that were never seen, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.fewshot.evaluate import Estimate
from metarl.fewshot.learners.cnp import CNP
from metarl.fewshot.learners.gradient import GradientLearner
from metarl.fewshot.pictures import new_figure, quiet, save_figure
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.sources import EpisodeSource
from metarl.fewshot.types import Episode
from metarl.plots import COLORS
from metarl.seeding import make_generator

STEPS = (0, 1, 5, 10)
"""Inner steps after which learners that adapt weights are judged, as Finn et al. 2017 do."""
_PICTURE_POINTS = 200
_TASKS_AT_ONCE = 500


@dataclass(frozen=True)
class RegressionEvaluation:
    """How a learner does on one kind of task.

    Attributes:
        learner: its name.
        data, split: where the tasks are from.
        shape: what they look like; `shots` support and `queries` query points.
        num_tasks, seed: how many, and from which seed.
        num_steps: inner steps before each error; None for a learner that takes none.
        mse: the mean squared error after so many; None where it is not finite.
    """

    learner: str
    data: str
    split: str
    shape: EpisodeShape
    num_tasks: int
    seed: int
    num_steps: tuple[int | None, ...]
    mse: tuple[Estimate | None, ...]

    def to_json(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        return asdict(self)


def evaluate_regression(
    learner: GradientLearner | CNP,
    source: EpisodeSource,
    shape: EpisodeShape,
    *,
    name: str,
    split: str = "test",
    num_tasks: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> RegressionEvaluation:
    """Judge a learner on unseen tasks of one kind.

    Args:
        learner: trained.
        source: of the tasks.
        shape: what they look like.
        name: of the learner, for tables.
        split: part of the data set.
        num_tasks: how many.
        seed: of the tasks and of what the learner draws.
        device: of the learner.

    Raises:
        ConfigError: fewer than two tasks, or tasks that the data cannot give.
    """
    if num_tasks < 2:
        raise ConfigError(f"num_tasks must be at least 2, got {num_tasks}.")
    steps = steps_of(learner)
    tasks, noise = make_generator(seed, "evaluation"), make_generator(seed, "evaluation noise", device)
    errors: list[Tensor] = []
    for start in range(0, num_tasks, _TASKS_AT_ONCE):
        episode = source.sample(split, shape, min(_TASKS_AT_ONCE, num_tasks - start), tasks)
        predictions = [predicted(learner, episode, noise, count) for count in steps]  # (B, Q, D) each
        errors.append(torch.stack([(p - episode.query_y).square().mean((1, 2)).cpu() for p in predictions]))
    mse = tuple(_finite(Estimate.of(of_step)) for of_step in torch.cat(errors, 1))
    return RegressionEvaluation(name, source.name, split, shape, num_tasks, seed, steps, mse)


def steps_of(learner: GradientLearner | CNP) -> tuple[int | None, ...]:
    """`STEPS`; a single None for a learner that takes none."""
    return STEPS if isinstance(learner, GradientLearner) else (None,)


def predicted(
    learner: GradientLearner | CNP, episode: Episode, generator: torch.Generator, num_steps: int | None
) -> Tensor:
    """What a learner says of the queries, (B, Q, D), after so many inner steps if it takes any."""
    if isinstance(learner, GradientLearner):
        return learner.predict(episode, generator, num_steps)
    return learner.predict(episode, generator)


def table(evaluations: Sequence[RegressionEvaluation]) -> list[tuple[str, ...]]:
    """Rows for the command line; the first is the header."""
    header = ("learner", "points", "without steps", *(_after(count) for count in STEPS))
    rows = []
    for e in evaluations:
        found = dict(zip(e.num_steps, e.mse, strict=True))
        cells = (_cell(found[count]) if count in found else "-" for count in (None, *STEPS))
        rows.append((e.learner, str(e.shape.shots), *cells))
    return [header, *rows]


def curves_picture(
    path: Path, learner: GradientLearner | CNP, source: EpisodeSource, split: str, shots: int, num_tasks: int = 3
) -> Path:
    """Draw a few tasks: the curve, the points that are given of it, and what is predicted after each number of steps.

    Args:
        path: of the PNG.
        learner: trained; one input and one target.
        source: of the tasks.
        split: part of the data set.
        shots: points of the support.
        num_tasks: a panel each.

    Returns:
        The PNG.

    Raises:
        CheckpointError: it cannot be written.
    """
    shape = EpisodeShape(ways=1, shots=shots, queries=_PICTURE_POINTS)
    episode = source.sample(split, shape, num_tasks, make_generator(0, "picture"))
    order = episode.query_x[..., :1].argsort(1)  # (B, Q, 1)
    x, y = (value.gather(1, order)[..., 0].cpu() for value in (episode.query_x, episode.query_y))  # (B, Q)
    noise = make_generator(0, "picture noise", episode.query_x.device)
    figure = new_figure(3.4 * num_tasks, 2.9)
    panels = figure.subplots(1, num_tasks, squeeze=False, sharey=True)[0]
    for panel in panels:
        quiet(panel)
        panel.set_xlabel("input")
    panels[0].set_ylabel("target")
    for task, panel in enumerate(panels):
        panel.plot(x[task], y[task], color="#777777", linestyle=(0, (4, 2)), linewidth=1, label="the task")
        panel.plot(
            *(value[task, :, 0].cpu() for value in (episode.support_x, episode.support_y)),
            *("o",),
            color="#333333",
            label="support",
        )
    for index, count in enumerate(steps_of(learner)):
        prediction = predicted(learner, episode, noise, count).gather(1, order)[..., 0].cpu()  # (B, Q)
        for task, panel in enumerate(panels):
            label = "prediction" if count is None else _after(count)
            panel.plot(x[task], prediction[task], color=COLORS[index % len(COLORS)], linewidth=1.4, label=label)
    largest = float(y.abs().max())
    panels[0].set_ylim(-1.3 * largest, 1.3 * largest)
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def _after(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _finite(estimate: Estimate) -> Estimate | None:
    """More steps than were trained may diverge."""
    return estimate if math.isfinite(estimate.mean) and math.isfinite(estimate.ci95) else None


def _cell(estimate: Estimate | None) -> str:
    return "diverges" if estimate is None else f"{estimate.mean:.2f} ± {estimate.ci95:.2f}"
