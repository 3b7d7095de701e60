"""The evaluation protocol of few-shot learners: accuracy and calibration on tasks that were never seen.

Tasks are drawn from a seed, so that all learners are judged on the same ones. Intervals are 1.96 standard errors over
tasks, as published everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from metarl.errors import ConfigError, MetarlError
from metarl.fewshot.calibration import (
    Bin,
    at_temperature,
    calibration_error,
    calibration_floor,
    calibration_interval,
    confidences,
    fit_temperature,
    query_brier,
    query_nll,
    reliability_bins,
    unknown_auroc,
)
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.sources import EpisodeSource, FeatureSource, PackedSource
from metarl.fewshot.types import ComparesFeatures, Episode, accuracy, known
from metarl.seeding import make_generator

_SAMPLES_AT_ONCE = 2_500
_UNKNOWN_TASKS = 200
_TEMPERATURE_TASKS = 100
_LEAST_LOG_PROB = -1e4


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
        ece, ece_ci95: expected calibration error over `bins`, in [0, 1], and its interval.
        ece_floor: what it would be by chance if all probabilities were right.
        bins: the reliability diagram.
        temperature: fitted on tasks of the validation split; the probabilities above are without it. None without such
            a split: on training data every learner looks too modest.
        scaled_nll, scaled_ece: with that temperature.
        unknown_auroc: of telling queries of the task's classes from queries of none by the largest probability; None
            where the split has no further class.
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
    ece_ci95: tuple[float, float]
    ece_floor: float
    bins: tuple[Bin, ...]
    temperature: float | None
    scaled_nll: Estimate | None
    scaled_ece: float | None
    unknown_auroc: Estimate | None

    @property
    def task_name(self) -> str:
        """Such as "5-way 1-shot"."""
        return f"{self.shape.ways}-way {self.shape.shots}-shot"

    def to_json(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        return asdict(self) | {"bins": [b._asdict() for b in self.bins]}


class Predicts(Protocol):
    """What is judged: a learner, or what it says of features."""

    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """See `FewShotLearner.log_probs`."""
        ...


@dataclass(frozen=True)
class _OfFeatures:
    """A learner for episodes of its own features."""

    learner: ComparesFeatures

    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        return self.learner.log_probs_of_features(episode)


def sharing_features(learner: Any, source: EpisodeSource) -> tuple[Predicts, EpisodeSource]:
    """Learner and source for several evaluations: each sample is encoded once, however many tasks it is in.

    The numbers are those of learner and source themselves but for rounding. Learners whose features depend on the
    batch, and those that adapt weights, are returned as they are. The learner must not be trained meanwhile.

    Args:
        learner: trained.
        source: of the tasks.
    """
    if isinstance(learner, ComparesFeatures) and learner.is_inductive and isinstance(source, PackedSource):
        learner.eval()
        return _OfFeatures(learner), FeatureSource(source, learner.features)
    return learner, source


def evaluate_few_shot(
    learner: Predicts,
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
        learner: trained; see `sharing_features`.
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
    temperature = None
    if _can_give(source, "validation", shape):
        temperature = _temperature(learner, source, "validation", shape, seed, device)
    judged = _Judged(temperature)
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
    bins, collected = _bins(judged.confidences)
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
        ece_ci95=calibration_interval(*collected, make_generator(seed, "evaluation resamples")),
        ece_floor=calibration_floor(bins),
        bins=bins,
        temperature=temperature,
        scaled_nll=None if temperature is None else Estimate.of(torch.cat(judged.scaled_nll)),
        scaled_ece=None if temperature is None else calibration_error(_bins(judged.scaled_confidences)[0]),
        unknown_auroc=auroc,
    )


def judge_episode(learner: Predicts, episode: Episode, seed: int = 0) -> tuple[float, int]:
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
    """Rows for the command line, of at most 80 characters; the first is the header."""
    header = ("learner", "ways", "shots", "accuracy %", "NLL", "Brier", "ECE %", "scaled", "AUROC %")
    rows = [
        (
            e.learner,
            str(e.shape.ways),
            str(e.shape.shots),
            percent(e.accuracy),
            f"{e.nll.mean:.3f}",
            f"{e.brier.mean:.3f}",
            f"{100 * e.ece:.1f}",
            "-" if e.scaled_ece is None else f"{100 * e.scaled_ece:.1f}",
            "-" if e.unknown_auroc is None else percent(e.unknown_auroc),
        )
        for e in evaluations
    ]
    return [header, *rows]


def percent(estimate: Estimate) -> str:
    """A share as "98.1 ± 0.2"."""
    return f"{100 * estimate.mean:.1f} ± {100 * estimate.ci95:.1f}"


class _Judged:
    """What is collected over batches of tasks, on the CPU."""

    def __init__(self, temperature: float | None) -> None:
        self.temperature = temperature
        self.accuracy: list[Tensor] = []
        self.nll: list[Tensor] = []
        self.brier: list[Tensor] = []
        self.scaled_nll: list[Tensor] = []
        self.confidences: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scaled_confidences: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, learner: Predicts, episode: Episode, noise: torch.Generator) -> None:
        log_probs = learner.log_probs(episode, noise).cpu()  # (B, Q, W)
        episode = episode.to("cpu")
        self.accuracy.append(accuracy(log_probs, episode))
        self.nll.append(query_nll(log_probs, episode))
        self.brier.append(query_brier(log_probs, episode))
        self.confidences.append(confidences(log_probs, episode))
        if self.temperature is not None:
            scaled = at_temperature(log_probs, self.temperature)
            self.scaled_nll.append(query_nll(scaled, episode))
            self.scaled_confidences.append(confidences(scaled, episode))


def _bins(collected: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[tuple[Bin, ...], tuple[Tensor, Tensor, Tensor]]:
    """The reliability diagram of batches of `confidences`, and these as one."""
    confidence, is_right, counts = (torch.cat(values) for values in zip(*collected, strict=True))
    return reliability_bins(confidence[counts], is_right[counts]), (confidence, is_right, counts)


def _temperature(
    learner: Predicts,
    source: EpisodeSource,
    split: str,
    shape: EpisodeShape,
    seed: int,
    device: torch.device | str,
) -> float:
    """The temperature that suits a learner on tasks of another split."""
    tasks = make_generator(seed, "evaluation of temperature")
    noise = make_generator(seed, "evaluation of temperature, noise", device)
    log_probs, labels = [], []
    for count in _batches(_TEMPERATURE_TASKS, shape):
        episode = source.sample(split, shape, count, tasks)
        counts = known(episode.query_y, episode.query_mask)
        log_probs.append(learner.log_probs(episode, noise)[counts].cpu())
        labels.append(episode.query_y[counts].cpu())
    # A class that is ruled out has a log probability of minus infinity, which no temperature changes.
    return fit_temperature(torch.cat(log_probs).clamp(min=_LEAST_LOG_PROB), torch.cat(labels))


def _can_give(source: EpisodeSource, split: str, shape: EpisodeShape) -> bool:
    try:
        source.require(split, shape)
    except MetarlError:
        return False
    return True


def _batches(num_tasks: int, shape: EpisodeShape) -> list[int]:
    """How many tasks are judged at a time."""
    at_once = max(1, _SAMPLES_AT_ONCE // (shape.ways * (shape.shots + shape.queries) + shape.unknown_queries))
    return [min(at_once, num_tasks - start) for start in range(0, num_tasks, at_once)]
