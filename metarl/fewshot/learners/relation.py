"""Relation Networks: a second network is learned that says how well a query and a class go together.

    r(x, c) = sigmoid(g([maps of x, mean of the maps of c's support]))
    loss = mean over queries and classes of (r - [c is the class of x])^2

Each score is the probability of an event of its own. Given that exactly one of them happens, a class has a probability
proportional to r / (1 - r), the softmax of g, which is what is predicted.

Source: Sung et al. 2018, "Learning to Compare: Relation Network for Few-Shot Learning", section 3. Deviations: the mean
of the support's maps in place of their sum, so that the number of shots may change; padded convolutions; the mean over
space at the end (which is one place for 28x28 images); the published network judges by the largest score and has no
probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError
from metarl.fewshot.encoders import EncoderSettings, Norm, initialise, make_encoder, norm_layers
from metarl.fewshot.learners.metric import MetricLearner, accuracy_metric, apply_where, channels_last, featured
from metarl.fewshot.learners.protonet import prototypes
from metarl.fewshot.types import Episode, known, task_mean


@dataclass(frozen=True)
class RelationSettings(EncoderSettings):
    """Settings of Relation Networks."""

    norm: Norm = "running"
    """Normalisation: batch (of the batch at hand, always), running (averages in evaluation), group or none."""
    relation_dim: int = 8
    """Units of the last hidden layer of the network that compares."""
    objective: Literal["mse", "cross-entropy"] = "mse"
    """Meta-training loss: squared error of each score, as published, or cross-entropy of the classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relation_dim < 1:
            raise ConfigError(f"relation_dim must be at least 1, got {self.relation_dim}.")


class Relation(MetricLearner):
    """Learner: a learned comparison; see the module.

    Args:
        settings: of the learner.
        x_shape: *X.
        num_ways: not used: classes are compared one by one.
        generator: of the initial weights.
    """

    def __init__(
        self, settings: RelationSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(make_encoder(settings, x_shape, generator, num_halved=2), settings.norm)
        self.objective = settings.objective
        self.comparison = Comparison(self.encoder.map_shape, settings.relation_dim, settings.norm)
        initialise(self.comparison, generator)

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The squared error of the scores (or the cross-entropy), and the accuracy of the queries."""
        if self.objective == "cross-entropy":
            return super().loss(episode, generator)
        self.train()
        logits = self._logits(featured(self.features, episode))
        target = episode.query_y.unsqueeze(-1) == torch.arange(episode.num_ways, device=logits.device)  # (B, Q, W)
        error = (logits.sigmoid() - target.to(logits.dtype)).square().mean(-1)  # (B, Q)
        return task_mean(error, known(episode.query_y, episode.query_mask)), accuracy_metric(logits, episode)

    def compare(self, episode: Episode) -> Tensor:
        """See `MetricLearner.compare`."""
        return self._logits(episode).log_softmax(-1)

    def features(self, x: Tensor) -> Tensor:
        """The maps (N, *M) of samples (N, *X)."""
        return self.encoder.maps(channels_last(x))

    def _logits(self, episode: Episode) -> Tensor:
        """g for each query and class, (B, Q, W), of an episode of maps; zero where the query is padding."""
        support, query = episode.support_x, episode.query_x  # (B, S, *M), (B, Q, *M)
        means = prototypes(support.flatten(2), episode.support_y, episode.support_mask, episode.num_ways)
        return self.comparison(query, means.unflatten(-1, support.shape[2:]), episode.query_mask)


class Comparison(nn.Module):
    """g: two blocks of convolution, normalisation and ReLU, which halve images, the mean over space, two linear layers.

    The first layer reads query and class beside each other. It is linear, so its two halves are computed once for each
    query and once for each class, and added for each pair. Maps without space get linear layers for convolutions.

    Args:
        map_shape: of the encoder's maps, channels first.
        relation_dim: units of the last hidden layer.
        norm: normalisation.
    """

    def __init__(self, map_shape: tuple[int, ...], relation_dim: int, norm: Norm) -> None:
        super().__init__()
        channels, *space = map_shape
        dims = len(space)
        layer = (nn.Linear, partial(nn.Conv1d, kernel_size=3, padding=1), partial(nn.Conv2d, kernel_size=3, padding=1))
        halving = [nn.MaxPool2d(2, ceil_mode=min(space) < 4)] if dims == 2 else []
        self.of_query: nn.Module = layer[dims](channels, channels)
        self.of_class: nn.Module = layer[dims](channels, channels)
        self.blocks = nn.Sequential(
            *norm_layers(channels, norm, dims),
            *halving,
            nn.ReLU(),
            layer[dims](channels, channels),
            *norm_layers(channels, norm, dims),
            *halving,
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(channels, relation_dim), nn.ReLU(), nn.Linear(relation_dim, 1))

    def forward(self, query: Tensor, classes: Tensor, query_mask: Tensor) -> Tensor:
        """Compare queries (B, Q, *M) and classes (B, W, *M): (B, Q, W), zero where query_mask (B, Q) is false."""
        of_query = self.of_query(query.flatten(0, 1)).unflatten(0, query.shape[:2])  # (B, Q, *M)
        of_class = self.of_class(classes.flatten(0, 1)).unflatten(0, classes.shape[:2])  # (B, W, *M)
        pairs = of_query.unsqueeze(2) + of_class.unsqueeze(1)  # (B, Q, W, *M)
        return apply_where(self._of_pairs, pairs, query_mask.unsqueeze(-1).expand(pairs.shape[:3]))

    def _of_pairs(self, pairs: Tensor) -> Tensor:
        """(N, *M) -> (N,)."""
        maps = self.blocks(pairs)
        return self.head(maps if maps.dim() == 2 else maps.flatten(2).mean(-1)).squeeze(-1)
