"""What the metric learners share: an encoder, an episode of its features, and judging log probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metarl.fewshot.encoders import Encoder, Norm
from metarl.fewshot.types import Episode, accuracy, cross_entropy


class MetricLearner(nn.Module):
    """Compares features of samples; a subclass says with what probabilities.

    Args:
        encoder: (N, *X) -> (N, D).
        norm: its normalisation.

    Attributes:
        is_inductive: whether the features of a sample do not depend on what it is evaluated with.
    """

    any_ways = True

    def __init__(self, encoder: Encoder, norm: Norm) -> None:
        super().__init__()
        self.encoder = encoder
        self.is_inductive = norm != "batch"

    def compare(self, episode: Episode) -> Tensor:
        """Log probabilities of the queries, (B, Q, W), in the module's mode and with a graph.

        Args:
            episode: of features, as `featured` makes them.
        """
        raise NotImplementedError

    def forward(self, episode: Episode) -> Tensor:
        """Log probabilities of the queries, (B, Q, W), in the module's mode and with a graph."""
        return self.compare(featured(self.features, episode))

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the queries, and their accuracy."""
        self.train()
        return judged(self(episode), episode)

    @torch.no_grad()
    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """Log probabilities of the queries, (B, Q, W)."""
        self.eval()
        return self.log_probs_of_features(featured(self.features, episode))

    @torch.no_grad()
    def log_probs_of_features(self, episode: Episode) -> Tensor:
        """Log probabilities of the queries, (B, Q, W), of an episode of features."""
        self.eval()
        return self.compare(episode)

    def features(self, x: Tensor) -> Tensor:
        """What is compared, (N, *E), of samples (N, *X)."""
        return self.encoder(channels_last(x))

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of samples (N, *X): their features, flattened."""
        return self.features(x).flatten(1)


def featured(features: Callable[[Tensor], Tensor], episode: Episode) -> Episode:
    """The episode with the features of its samples in their place, which are zero where it is padding.

    All samples of all tasks are one batch; padding is left out of it, so that it cannot touch batch statistics.

    Args:
        features: (N, *X) -> (N, *E).
        episode: the tasks.
    """
    x = torch.cat([episode.support_x, episode.query_x], dim=1)  # (B, S + Q, *X)
    mask = torch.cat([episode.support_mask, episode.query_mask], dim=1)  # (B, S + Q)
    found = apply_where(features, x, mask)  # (B, S + Q, *E)
    num_support = episode.support_y.shape[1]
    return episode._replace(support_x=found[:, :num_support], query_x=found[:, num_support:])


def apply_where(function: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """Apply a function of a batch to the entries where a mask is true, as one batch.

    Args:
        function: (N, *X) -> (N, *E).
        x: (..., *X).
        mask: (...) bool.

    Returns:
        (..., *E), zero where the mask is false.
    """
    if bool(mask.all()):
        return function(x.flatten(0, mask.dim() - 1)).unflatten(0, mask.shape)
    there = function(x[mask])  # (N, *E)
    everywhere = there.new_zeros(*mask.shape, *there.shape[1:])
    everywhere[mask] = there
    return everywhere


def members(y: Tensor, mask: Tensor, num_ways: int) -> Tensor:
    """Which samples belong to which class, (B, S, W) bool; padding belongs to none.

    Args:
        y: (B, S) int64.
        mask: (B, S) bool.
        num_ways: W.
    """
    return (y.unsqueeze(-1) == torch.arange(num_ways, device=y.device)) & mask.unsqueeze(-1)


def judged(log_probs: Tensor, episode: Episode) -> tuple[Tensor, dict[str, float]]:
    """The cross-entropy of log probabilities (B, Q, W), and the mean accuracy as a metric."""
    return cross_entropy(log_probs, episode), accuracy_metric(log_probs, episode)


@torch.no_grad()
def accuracy_metric(scores: Tensor, episode: Episode) -> dict[str, float]:
    """The mean accuracy of scores (B, Q, W) over tasks."""
    return {"accuracy": float(accuracy(scores, episode).mean())}


def channels_last(x: Tensor) -> Tensor:
    """Images in the memory order in which convolutions on the CPU take two thirds of the time; the same numbers."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 and x.device.type == "cpu" else x
