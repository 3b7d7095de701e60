"""Prototypical Networks: a class is the mean of its support's embeddings.

Source: Snell, Swersky and Zemel 2017, "Prototypical Networks for Few-shot Learning", algorithm 1, with the squared
Euclidean distance of section 2.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl.fewshot.encoders import EncoderSettings, Norm, make_encoder
from metarl.fewshot.learners.metric import MetricLearner
from metarl.fewshot.types import Episode


@dataclass(frozen=True)
class ProtoNetSettings(EncoderSettings):
    """Settings of Prototypical Networks."""

    norm: Norm = "running"
    """Normalisation: batch (of the batch at hand, always), running (averages in evaluation), group or none."""
    learns_temperature: bool = False
    """Whether distances are scaled by a learned factor, which starts at one."""


class ProtoNet(MetricLearner):
    """Learner: log probabilities are minus squared distances to the classes' means, normalised."""

    def __init__(
        self, settings: ProtoNetSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(make_encoder(settings, x_shape, generator), settings.norm)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=settings.learns_temperature)

    def compare(self, episode: Episode) -> Tensor:
        """See `MetricLearner.compare`."""
        means = prototypes(episode.support_x, episode.support_y, episode.support_mask, episode.num_ways)  # (B, W, D)
        return torch.log_softmax(-self.log_scale.exp() * squared_distances(episode.query_x, means), dim=-1)


def prototypes(support: Tensor, support_y: Tensor, support_mask: Tensor, num_ways: int) -> Tensor:
    """The mean embedding of each class, (B, W, D); eq. 1.

    Args:
        support: (B, S, D).
        support_y: (B, S) int64.
        support_mask: (B, S) bool.
        num_ways: W.
    """
    member = torch.nn.functional.one_hot(support_y, num_ways).to(support.dtype)  # (B, S, W)
    member = member * support_mask.unsqueeze(-1)
    totals = member.transpose(1, 2) @ support  # (B, W, D)
    return totals / member.sum(1).clamp(min=1).unsqueeze(-1)


def squared_distances(query: Tensor, means: Tensor) -> Tensor:
    """Squared Euclidean distances (B, Q, W) of queries (B, Q, D) to points (B, W, D)."""
    # |q - m|^2 = |q|^2 - 2 q.m + |m|^2
    product = query @ means.transpose(1, 2)
    return query.square().sum(-1, keepdim=True) - 2 * product + means.square().sum(-1).unsqueeze(1)


def as_linear_classifier(means: Tensor) -> tuple[Tensor, Tensor]:
    """The linear classifier that nearest means are: logits w x + b with w = 2 m and b = -|m|^2 (eq. 8).

    Args:
        means: prototypes (B, W, D).

    Returns:
        Weights (B, W, D) and biases (B, W), which gradient steps can start from (Proto-MAML).
    """
    return 2 * means, -means.square().sum(-1)
