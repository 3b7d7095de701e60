"""The evaluation protocol of few-shot learners: accuracy and calibration on tasks that were never seen.

Tasks are drawn from a seed, so that all learners are judged on the same ones. Intervals are 1.96 standard errors over
tasks, as published everywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.sources import EpisodeSource
from metarl.fewshot.types import Episode, FewShotLearner, accuracy, known
from metarl.seeding import make_generator

_SAMPLES_AT_ONCE = 2_500
_UNKNOWN_TASKS = 200
_NUM_BINS = 15


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks.

    Attributes:
        mean: over tasks.
        ci95: half the width of its 95 % interval.
    """

    mean: float
    ci95: float

    @staticmethod
    def of(values: Tensor) -> Estimate:
        """Of one value per task, (B,)."""
        count = len(values)
        spread = float(values.double().std()) if count > 1 else math.nan
        return Estimate(float(values.double().mean()), 1.96 * spread / math.sqrt(count))


@dataclass(frozen=True)
class FewShotEvaluation:
    """How a learner does on one kind of task.

    Attributes:
        learner: its name.
        data, split: where the tasks are from.
        shape: what they look like.
        num_tasks, seed: how many, and from which seed.
        accuracy: share of the queries whose likeliest class is right.
        nll: mean negative log probability of the right class, nats.
        brier: mean squared distance of the probabilities to the right class's indicator, 0 to 2.
        ece: expected calibration error over `bins`, in [0, 1].
        bins: confidence, accuracy and number of queries of each bin of the reliability diagram, where there are any.
        unknown_auroc: of telling queries of the task's classes from queries of none by the largest probability; None
            where the split has no further class.
        seconds_per_task: adaptation and prediction, by the wall clock.
    """

    learner: str
    data: str
    split: str
    shape: EpisodeShape
    num_tasks: int
    seed: int
    accuracy: Estimate
    nll: Estimate
    brier: Estimate
    ece: float
    bins: tuple[tuple[float, float, int], ...]
    unknown_auroc: Estimate | None
    seconds_per_task: float

    @property
    def task_name(self) -> str:
        """Such as "5-way 1-shot"."""
        return f"{self.shape.ways}-way {self.shape.shots}-shot"

    def to_json(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        return asdict(self)


def evaluate_few_shot(
    learner: FewShotLearner,
    source: EpisodeSource,
    shape: EpisodeShape,
    *,
    name: str,
    split: str = "test",
    num_tasks: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> FewShotEvaluation:
    """Judge a learner on unseen tasks of one kind.

    Queries of no class are judged on tasks of their own, so that they do not touch the accuracy of learners that
    normalise over the queries.

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
        DataError: a class with too few samples.
    """
    if num_tasks < 2:
        raise ConfigError(f"num_tasks must be at least 2, got {num_tasks}.")
    shape = replace(shape, unknown_queries=0)
    source.require(split, shape)
    judged = _Judged()
    tasks, noise = make_generator(seed, "evaluation"), make_generator(seed, "evaluation noise", device)
    for count in _batches(num_tasks, shape):
        judged.add(learner, source.sample(split, shape, count, tasks), noise)
    with_unknown = replace(shape, unknown_queries=shape.queries)
    auroc = None
    if source.num_classes(split) > shape.ways:
        values = []
        tasks = make_generator(seed, "evaluation of unknown classes")
        for count in _batches(min(num_tasks, _UNKNOWN_TASKS), with_unknown):
            episode = source.sample(split, with_unknown, count, tasks)
            values.append(unknown_auroc(learner.log_probs(episode, noise), episode))
        auroc = Estimate.of(torch.cat(values))
    bins = reliability_bins(torch.cat(judged.confidence), torch.cat(judged.right))
    return FewShotEvaluation(
        learner=name,
        data=source.name,
        split=split,
        shape=shape,
        num_tasks=num_tasks,
        seed=seed,
        accuracy=Estimate.of(torch.cat(judged.accuracy)),
        nll=Estimate.of(torch.cat(judged.nll)),
        brier=Estimate.of(torch.cat(judged.brier)),
        ece=calibration_error(bins),
        bins=bins,
        unknown_auroc=auroc,
        seconds_per_task=judged.seconds / num_tasks,
    )


def judge_episode(learner: FewShotLearner, episode: Episode, seed: int = 0) -> tuple[float, int]:
    """Share and number of right answers over given tasks, such as Lake's official runs.

    Args:
        learner: trained.
        episode: the tasks, on the learner's device.
        seed: of what the learner draws.
    """
    noise = make_generator(seed, "evaluation noise", episode.support_x.device)
    log_probs = learner.log_probs(episode, noise)
    counts = known(episode.query_y, episode.query_mask)
    hits = int(((log_probs.argmax(-1) == episode.query_y) & counts).sum())
    return hits / int(counts.sum()), hits


def table(evaluations: Sequence[FewShotEvaluation]) -> list[tuple[str, ...]]:
    """Rows for the command line; the first is the header."""
    rows: list[tuple[str, ...]] = [("learner", "tasks", "accuracy %", "NLL", "Brier", "ECE %", "AUROC %", "ms/task")]
    for e in evaluations:
        unknown = "-" if e.unknown_auroc is None else percent(e.unknown_auroc)
        rows.append(
            (
                e.learner,
                e.task_name,
                percent(e.accuracy),
                f"{e.nll.mean:.3f}",
                f"{e.brier.mean:.3f}",
                f"{100 * e.ece:.1f}",
                unknown,
                f"{1000 * e.seconds_per_task:.1f}",
            )
        )
    return rows


def percent(estimate: Estimate) -> str:
    """A share as "98.1 ± 0.2"."""
    return f"{100 * estimate.mean:.1f} ± {100 * estimate.ci95:.1f}"


def unknown_auroc(log_probs: Tensor, episode: Episode) -> Tensor:
    """How well the largest probability tells queries of the task's classes from queries of none, (B,).

    The share of pairs of one of each in which the former is surer; ties count half.

    Args:
        log_probs: (B, Q, W).
        episode: the tasks, each with queries of both kinds.
    """
    surest = log_probs.amax(-1)  # (B, Q)
    is_known = known(episode.query_y, episode.query_mask)
    is_unknown = episode.query_mask & (episode.query_y < 0)
    pairs = (is_known.unsqueeze(2) & is_unknown.unsqueeze(1)).double()  # (B, Q, Q)
    difference = surest.unsqueeze(2) - surest.unsqueeze(1)
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()
    return (wins * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def reliability_bins(
    confidence: Tensor, right: Tensor, num_bins: int = _NUM_BINS
) -> tuple[tuple[float, float, int], ...]:
    """Mean confidence, accuracy and number of predictions in each of equal intervals of confidence that has any.

    Args:
        confidence: (N,) probability of the likeliest class.
        right: (N,) bool, whether it was the right one.
        num_bins: intervals of [0, 1].
    """
    index = (confidence * num_bins).long().clamp(max=num_bins - 1)
    count = torch.zeros(num_bins, dtype=torch.float64).index_add(0, index, torch.ones_like(confidence).double())
    total = torch.zeros(num_bins, dtype=torch.float64).index_add(0, index, confidence.double())
    hits = torch.zeros(num_bins, dtype=torch.float64).index_add(0, index, right.double())
    return tuple(
        (float(total[i] / count[i]), float(hits[i] / count[i]), int(count[i])) for i in range(num_bins) if count[i] > 0
    )


def calibration_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """Expected calibration error, the mean of |accuracy - confidence| of a prediction's bin; Guo et al. 2017, eq. 3."""
    total = sum(count for _, _, count in bins)
    return sum(count * abs(right - confidence) for confidence, right, count in bins) / total


class _Judged:
    """What is collected over batches of tasks."""

    def __init__(self) -> None:
        self.accuracy: list[Tensor] = []
        self.nll: list[Tensor] = []
        self.brier: list[Tensor] = []
        self.confidence: list[Tensor] = []
        self.right: list[Tensor] = []
        self.seconds = 0.0

    def add(self, learner: FewShotLearner, episode: Episode, noise: torch.Generator) -> None:
        started = time.perf_counter()
        log_probs = learner.log_probs(episode, noise)  # (B, Q, W)
        probs, chosen = log_probs.exp().cpu(), log_probs.argmax(-1).cpu()
        self.seconds += time.perf_counter() - started
        label, counts = episode.query_y.cpu(), known(episode.query_y, episode.query_mask).cpu()
        per_task = counts.sum(-1).clamp(min=1)
        of_right = log_probs.cpu().gather(-1, label.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, Q)
        indicator = torch.nn.functional.one_hot(label.clamp(min=0), episode.num_ways)
        squared = (probs - indicator).square().sum(-1)  # (B, Q)
        self.accuracy.append(accuracy(log_probs, episode).cpu())
        self.nll.append(-torch.where(counts, of_right, 0.0).sum(-1) / per_task)
        self.brier.append(torch.where(counts, squared, 0.0).sum(-1) / per_task)
        self.confidence.append(probs.amax(-1)[counts])
        self.right.append((chosen == label)[counts])


def _batches(num_tasks: int, shape: EpisodeShape) -> list[int]:
    """How many tasks are judged at a time."""
    at_once = max(1, _SAMPLES_AT_ONCE // (shape.ways * (shape.shots + shape.queries) + shape.unknown_queries))
    return [min(at_once, num_tasks - start) for start in range(0, num_tasks, at_once)]
