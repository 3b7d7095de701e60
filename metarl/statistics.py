"""Interquartile means with bootstrap intervals over tasks and runs.

Scores are arrays (S, M, ...): S runs that differ in their seed, each judged on the same M tasks, then
anything else, such as the episodes of a trial, which is kept.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (the
interquartile mean, percentile bootstrap). Deviation: there every (run, task) pair is a training of its own, so
runs are drawn anew within each task. Here one meta-trained run is judged on all tasks, and a lucky seed is lucky
on all of them, so runs are drawn as whole rows and tasks as whole columns (Owen 2007, "The pigeonhole bootstrap").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import trim_mean

Statistic = Callable[..., NDArray]
"""(values (..., n), axis=-1) -> (...), such as `iqm` or `np.mean`."""


class Estimate(NamedTuple):
    """A statistic with its interval; the three have the same shape.

    Attributes:
        value: the statistic of the scores.
        low, high: bounds of the interval.
    """

    value: NDArray
    low: NDArray
    high: NDArray


def iqm(values: ArrayLike, axis: int = -1) -> NDArray:
    """The interquartile mean: the mean without the lowest and the highest quarter."""
    return np.asarray(trim_mean(values, 0.25, axis=axis))


def bootstrap(
    scores: ArrayLike,
    generator: np.random.Generator,
    *,
    statistic: Statistic = iqm,
    strata: ArrayLike | None = None,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate a statistic over runs and tasks with a percentile-bootstrap interval.

    With one run the interval speaks of new tasks for that run; only with several it speaks of new runs too, and
    few of them underestimate their spread: where it is as large as that between tasks, a 95 % interval covers the
    truth about 77 % of the time with 3 runs, 88 % with 5 and 93 % with 10 (measured on normal scores).

    Args:
        scores: (S, M, ...).
        generator: where the resamples are drawn from.
        statistic: reduces the S * M scores; `iqm`, or `np.mean` for rates.
        strata: (M,) labels; tasks are then drawn within each label, so that every resample holds as many of each
            as the scores do. None: all tasks are of one kind.
        num_resamples: R.
        confidence: the probability that the interval is meant to cover.

    Returns:
        An `Estimate` of the trailing shape (...).

    Raises:
        ValueError: scores that are not finite, or of the wrong shape.
    """
    checked = _checked(scores)
    runs, tasks = _draws(checked, generator, strata, num_resamples)
    resampled = _resample(checked, runs, tasks, statistic)
    return _interval(_reduce(checked, statistic), resampled, confidence)


def bootstrap_difference(
    scores: ArrayLike,
    baseline: ArrayLike,
    generator: np.random.Generator,
    *,
    same_runs: bool,
    statistic: Statistic = iqm,
    strata: ArrayLike | None = None,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate by how much the scores exceed a baseline on the same tasks, in the same order.

    Each resample draws the same tasks for both, so what makes a task easy for both cancels.

    Args:
        scores: (S, M, ...).
        baseline: (S', M, ...) with the same trailing shape.
        generator: where the resamples are drawn from.
        same_runs: row i of both is the same run (its last and its first episode, say); then S' = S and runs are
            drawn together too.
        statistic, strata, num_resamples, confidence: as for `bootstrap`.

    Returns:
        An `Estimate` of statistic(scores) - statistic(baseline), of the trailing shape (...).

    Raises:
        ValueError: scores that are not finite, or of different shapes.
    """
    ours, theirs = _checked(scores), _checked(baseline)
    if ours.shape[1:] != theirs.shape[1:] or (same_runs and len(ours) != len(theirs)):
        raise ValueError(f"scores {ours.shape} and baseline {theirs.shape} are not of the same tasks or runs.")
    runs, tasks = _draws(ours, generator, strata, num_resamples)
    other_runs = runs if same_runs else generator.integers(len(theirs), size=(num_resamples, len(theirs)))
    resampled = _resample(ours, runs, tasks, statistic) - _resample(theirs, other_runs, tasks, statistic)
    return _interval(_reduce(ours, statistic) - _reduce(theirs, statistic), resampled, confidence)


def _checked(scores: ArrayLike) -> NDArray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim < 2 or 0 in array.shape[:2]:
        raise ValueError(
            f"scores must have shape (runs, tasks, ...), got {array.shape}; put one run in as scores[None]."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(array))} of {array.size} scores are NaN or infinite.")
    return array


def _draws(
    scores: NDArray, generator: np.random.Generator, strata: ArrayLike | None, num_resamples: int
) -> tuple[NDArray, NDArray]:
    """Which runs (R, S) and which tasks (R, M) each resample holds."""
    num_runs, num_tasks = scores.shape[:2]
    runs = generator.integers(num_runs, size=(num_resamples, num_runs))
    labels = np.zeros(num_tasks) if strata is None else np.asarray(strata)
    if labels.shape != (num_tasks,):
        raise ValueError(f"strata must have one label for each of {num_tasks} tasks, got shape {labels.shape}.")
    tasks = np.empty((num_resamples, num_tasks), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        tasks[:, members] = generator.choice(members, size=(num_resamples, len(members)))
    return runs, tasks


def _resample(scores: NDArray, runs: NDArray, tasks: NDArray, statistic: Statistic) -> NDArray:
    """The statistic of every resample, (R, ...); one trailing entry at a time bounds the memory to R * S * M."""
    trailing = scores.shape[2:]
    columns = scores.reshape(*scores.shape[:2], -1)  # (S, M, n)
    drawn = [
        statistic(columns[runs[:, :, None], tasks[:, None, :], i].reshape(len(runs), -1), axis=-1)
        for i in range(columns.shape[2])
    ]
    return np.stack(drawn, axis=-1).reshape(len(runs), *trailing)


def _reduce(scores: NDArray, statistic: Statistic) -> NDArray:
    flat = scores.reshape(-1, *scores.shape[2:])  # (S * M, ...)
    return np.asarray(statistic(np.moveaxis(flat, 0, -1), axis=-1))


def _interval(value: NDArray, resampled: NDArray, confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return Estimate(value, low, high)
