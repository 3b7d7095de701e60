"""What the metric learners share: encoding the samples of an episode, and judging log probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.fewshot.types import Episode, accuracy, cross_entropy


def encode(encoder: Callable[[Tensor], Tensor], episode: Episode) -> tuple[Tensor, Tensor]:
    """Embed all samples of all tasks in one pass; padding is left out of it, so that it cannot touch batch statistics.

    Args:
        encoder: (N, *X) -> (N, *E).
        episode: the tasks.

    Returns:
        Support (B, S, *E) and query (B, Q, *E); zero where it is padding.
    """
    x = torch.cat([episode.support_x, episode.query_x], dim=1)  # (B, S + Q, *X)
    mask = torch.cat([episode.support_mask, episode.query_mask], dim=1)  # (B, S + Q)
    if bool(mask.all()):
        embedded = encoder(x.flatten(0, 1)).unflatten(0, mask.shape)  # (B, S + Q, *E)
    else:
        there = encoder(x[mask])  # (N, *E)
        embedded = there.new_zeros(*mask.shape, *there.shape[1:])
        embedded[mask] = there
    num_support = episode.support_y.shape[1]
    return embedded[:, :num_support], embedded[:, num_support:]


def judged(log_probs: Tensor, episode: Episode) -> tuple[Tensor, dict[str, float]]:
    """The cross-entropy of log probabilities (B, Q, W), and the mean accuracy as a metric."""
    with torch.no_grad():
        mean_accuracy = float(accuracy(log_probs, episode).mean())
    return cross_entropy(log_probs, episode), {"accuracy": mean_accuracy}
