"""How far probabilities can be believed: proper scores, calibration error, unknown classes, temperature scaling.

Shape key as in `metarl.fewshot.types`. What is padding or of no class of its task counts nowhere, but in
`unknown_auroc`.

The expected calibration error of N predictions is larger than zero even where every probability is right, because the
accuracy of a bin of n predictions is off by about sqrt(p (1 - p) / n). `calibration_floor` is its size then, and
errors near it say nothing against a learner. It counts predictions as independent; queries of one task are not, so
intervals (`calibration_interval`) draw whole tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.fewshot.types import Episode, known

NUM_BINS = 15
_COLDEST, _HOTTEST = 0.01, 100.0


class Bin(NamedTuple):
    """One interval of confidence in a reliability diagram.

    Attributes:
        confidence: mean probability of the likeliest class, of the predictions in it.
        accuracy: share of them that were right.
        num_predictions: how many they are, at least one.
    """

    confidence: float
    accuracy: float
    num_predictions: int


def query_nll(log_probs: Tensor, episode: Episode) -> Tensor:
    """Mean negative log probability of the right class in each task, nats, (B,).

    Args:
        log_probs: (B, Q, W).
        episode: the tasks they belong to.
    """
    right = log_probs.gather(-1, episode.query_y.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, Q)
    return _mean_of_known(-right, episode)


def query_brier(log_probs: Tensor, episode: Episode) -> Tensor:
    """Mean of sum_c (p_c - [c is right])^2 in each task, in [0, 2], (B,).

    Args:
        log_probs: (B, Q, W).
        episode: the tasks they belong to.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability", eq. 2.
    """
    is_right = episode.query_y.unsqueeze(-1) == torch.arange(episode.num_ways, device=log_probs.device)  # (B, Q, W)
    return _mean_of_known((log_probs.exp() - is_right.to(log_probs.dtype)).square().sum(-1), episode)


def confidences(log_probs: Tensor, episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
    """What a reliability diagram is made of.

    Args:
        log_probs: (B, Q, W).
        episode: the tasks they belong to.

    Returns:
        (B, Q) each: the probability of the likeliest class, whether it was right, whether the query counts.
    """
    top, chosen = log_probs.max(-1)
    return top.exp(), chosen == episode.query_y, known(episode.query_y, episode.query_mask)


def reliability_bins(confidence: Tensor, is_right: Tensor, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """The reliability diagram: equal intervals (i / M, (i + 1) / M] of confidence, those that hold any prediction.

    Args:
        confidence: (N,) in [0, 1].
        is_right: (N,) bool.
        num_bins: M.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eqs. 1 and 2.
    """
    sums = _bin_sums(confidence[None], is_right[None], torch.ones_like(is_right)[None], num_bins)[0]  # (3, M)
    return tuple(Bin(total / count, hits / count, int(count)) for count, total, hits in sums.T.tolist() if count > 0)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean over predictions of |accuracy - confidence| of their bin, in [0, 1].

    Source: Guo et al. 2017, eq. 3.
    """
    total = sum(b.num_predictions for b in bins)
    return sum(b.num_predictions * abs(b.accuracy - b.confidence) for b in bins) / max(1, total)


def calibration_floor(bins: Sequence[Bin]) -> float:
    """The expected calibration error that independent predictions show if all their probabilities are right.

    E|accuracy - p| of n draws is about sqrt(2 p (1 - p) / (pi n)), the mean absolute value of a normal number. See
    Kumar et al. 2019, "Verified Uncertainty Calibration", section 4, on this bias.
    """
    total = sum(b.num_predictions for b in bins)
    deviations = (math.sqrt(2 / math.pi * b.confidence * (1 - b.confidence) * b.num_predictions) for b in bins)
    return sum(deviations) / max(1, total)


def calibration_interval(
    confidence: Tensor,
    is_right: Tensor,
    counts: Tensor,
    generator: torch.Generator,
    *,
    num_bins: int = NUM_BINS,
    num_resamples: int = 1000,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """An interval of the expected calibration error, from resamples of whole tasks.

    Every resample adds noise of its own, which the error takes for miscalibration; its mean share is subtracted.

    Args:
        confidence, is_right, counts: (B, Q) each, of `confidences`.
        generator: of the resamples, on the CPU.
        num_bins: of the reliability diagram.
        num_resamples: R.
        coverage: the probability that the interval is meant to cover.
    """
    sums = _bin_sums(confidence.cpu(), is_right.cpu(), counts.cpu(), num_bins)  # (B, 3, M)
    num_tasks = len(sums)
    drawn = torch.randint(num_tasks, (num_resamples, num_tasks), generator=generator)
    times = torch.zeros(num_resamples, num_tasks, dtype=sums.dtype)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    errors = _error_of_sums((times @ sums.flatten(1)).unflatten(1, sums.shape[1:]))  # (R,)
    value = _error_of_sums(sums.sum(0))
    tail = (1 - coverage) / 2
    low, high = (errors - errors.mean() + value).quantile(torch.tensor([tail, 1 - tail], dtype=errors.dtype)).tolist()
    return max(0.0, low), high


def unknown_auroc(log_probs: Tensor, episode: Episode) -> Tensor:
    """How well the largest probability tells queries of the task's classes from queries of none, (B,).

    The share of pairs of one of each in which the former is surer; ties count half. 0.5 is chance; NaN for a task
    without a query of either kind.

    Args:
        log_probs: (B, Q, W).
        episode: the tasks, with queries of both kinds.

    Source: Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples".
    """
    surest = log_probs.amax(-1)  # (B, Q)
    is_known = known(episode.query_y, episode.query_mask)
    is_unknown = episode.query_mask & (episode.query_y < 0)
    pairs = (is_known.unsqueeze(2) & is_unknown.unsqueeze(1)).double()  # (B, Q, Q)
    difference = surest.unsqueeze(2) - surest.unsqueeze(1)
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()
    return (wins * pairs).sum((1, 2)) / pairs.sum((1, 2))


def fit_temperature(log_probs: Tensor, y: Tensor) -> float:
    """The temperature T that makes softmax(log p / T) most likely; above 1 for a learner that is too sure.

    Fitted on validation tasks, used on others. The likelihood is concave in 1 / T, so its slope has one zero, which
    bisection finds, within [0.01, 100].

    Args:
        log_probs: (N, W), finite.
        y: (N,) the right classes.

    Raises:
        ValueError: no predictions, or such that are not finite.

    Source: Guo et al. 2017, section 4.2.
    """
    if len(y) == 0 or not bool(torch.isfinite(log_probs).all()):
        raise ValueError(f"a temperature needs finite log probabilities, got {len(y)} of them, not all finite.")
    logits = log_probs.double()
    right = logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)  # (N,)

    def slope(inverse: float) -> float:
        # d/db mean[logsumexp(b l) - b l_y] = mean[E_p l - l_y], increasing in b
        expected = ((inverse * logits).softmax(-1) * logits).sum(-1)
        return float((expected - right).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def at_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """softmax(log p / T) as log probabilities, (..., W): surer below 1, less sure above; the likeliest class stays."""
    return (log_probs / temperature).log_softmax(-1)


def _mean_of_known(value: Tensor, episode: Episode) -> Tensor:
    """Mean in each task over the queries that have a class, (B, Q) -> (B,)."""
    counts = known(episode.query_y, episode.query_mask)
    return torch.where(counts, value, 0.0).sum(-1) / counts.sum(-1).clamp(min=1)


def _bin_sums(confidence: Tensor, is_right: Tensor, counts: Tensor, num_bins: int) -> Tensor:
    """Number, summed confidence and hits in each bin of each task, (B, Q) each -> (B, 3, M) float64."""
    index = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)  # (B, Q)
    weight = counts.double()
    values = torch.stack([weight, weight * confidence, weight * is_right], 1)  # (B, 3, Q)
    sums = torch.zeros(len(index), 3, num_bins, dtype=torch.float64, device=confidence.device)
    return sums.scatter_add(2, index.unsqueeze(1).expand_as(values), values)


def _error_of_sums(sums: Tensor) -> Tensor:
    """The expected calibration error of (..., 3, M) `_bin_sums`: sum_m |hits_m - confidence_m| / N."""
    count, total, hits = sums.unbind(-2)
    return (hits - total).abs().sum(-1) / count.sum(-1).clamp(min=1)
