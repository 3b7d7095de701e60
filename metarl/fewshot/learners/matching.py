"""Matching Networks: a query's class is the average of the support's labels, weighted by attention.

    a(x, x_i) = softmax_i(s * similarity(f(x), g(x_i)))
    p(c | x) = sum of a(x, x_i) over the support x_i of class c

Similarity is the cosine, as published, or minus the squared Euclidean distance, which learns better (the cosine lies
in [-1, 1], so with s = 1 no attention is far from uniform).

With full-context embeddings g reads the support as a sequence, and f looks at the support before it compares. Both are
blind to labels, but g depends on the order of the support: it is shuffled in training.

Source: Vinyals et al. 2016, "Matching Networks for One Shot Learning", section 2.1, appendices A.1 and A.2. Deviations:
the squared distance; the factor s, which is one as published; the same encoder for f' and g'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from metarl.errors import ConfigError
from metarl.fewshot.encoders import EncoderSettings, Norm, initialise, make_encoder
from metarl.fewshot.learners.metric import MetricLearner, members
from metarl.fewshot.learners.protonet import squared_distances
from metarl.fewshot.types import Episode


@dataclass(frozen=True)
class MatchingSettings(EncoderSettings):
    """Settings of Matching Networks."""

    norm: Norm = "running"
    """Normalisation: batch (of the batch at hand, always), running (averages in evaluation), group or none."""
    distance: Literal["l2", "cosine"] = "l2"
    """What attention goes by: minus the squared Euclidean distance, or the cosine of embeddings."""
    initial_scale: float = 1.0
    """s, which similarities are multiplied by, at the start."""
    learns_scale: bool = False
    """Whether s is learned; the cosine needs it, or a large s, to be sure of anything."""
    full_context: bool = False
    """Whether embeddings depend on the whole support."""
    num_reads: int = 5
    """How often a query looks at the support, with full_context."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.initial_scale) and self.initial_scale > 0):
            raise ConfigError(f"initial_scale must be positive, got {self.initial_scale}.")
        if self.num_reads < 1:
            raise ConfigError(f"num_reads must be at least 1, got {self.num_reads}.")


class Matching(MetricLearner):
    """Learner: attention over the support; see the module.

    Args:
        settings: of the learner.
        x_shape: *X.
        num_ways: not used: attention takes any number of classes.
        generator: of the initial weights.
    """

    def __init__(
        self, settings: MatchingSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(make_encoder(settings, x_shape, generator), settings.norm)
        self.distance = settings.distance
        self.log_scale = nn.Parameter(torch.tensor(settings.initial_scale).log(), requires_grad=settings.learns_scale)
        self.context = FullContext(self.encoder.embedding_dim, settings.num_reads) if settings.full_context else None
        if self.context is not None:
            initialise(self.context, generator)

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the queries, and their accuracy."""
        return super().loss(episode if self.context is None else shuffled(episode, generator), generator)

    def log_attention(self, episode: Episode) -> Tensor:
        """log a, (B, Q, S), of an episode of features; minus infinity where the support is padding."""
        support, query = episode.support_x, episode.query_x  # (B, S, D), (B, Q, D)
        if self.context is not None:
            support, query = self.context(support, query, episode.support_mask)
        if self.distance == "cosine":
            support, query = nn.functional.normalize(support, dim=-1), nn.functional.normalize(query, dim=-1)
            similarity = query @ support.mT  # (B, Q, S)
        else:
            similarity = -squared_distances(query, support)
        logits = (self.log_scale.exp() * similarity).masked_fill(~episode.support_mask.unsqueeze(1), -math.inf)
        return logits.log_softmax(-1)

    def compare(self, episode: Episode) -> Tensor:
        """See `MetricLearner.compare`."""
        member = members(episode.support_y, episode.support_mask, episode.num_ways)  # (B, S, W)
        return class_log_probs(self.log_attention(episode), member)


class FullContext(nn.Module):
    """Embeddings that depend on the whole support.

        g(x_i) = g'(x_i) + forward_i + backward_i        of an LSTM that reads g'(x_1) ... g'(x_S)
        h_k = LSTM([f'(x), r_{k-1}], h_{k-1}) + f'(x),   r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i)
        f(x) = h_K

    Source: Vinyals et al. 2016, appendices A.1 and A.2.

    Args:
        embedding_dim: D.
        num_reads: K.
    """

    def __init__(self, embedding_dim: int, num_reads: int) -> None:
        super().__init__()
        self.num_reads = num_reads
        self.of_support = nn.LSTM(embedding_dim, embedding_dim, batch_first=True, bidirectional=True)
        self.of_query = nn.LSTMCell(2 * embedding_dim, embedding_dim)

    def forward(self, support: Tensor, query: Tensor, support_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Put support (B, S, D) and queries (B, Q, D) into context; support_mask (B, S) bool."""
        support = support + self._read_sequence(support, support_mask)
        flat = query.flatten(0, 1)  # (B Q, D)
        hidden, cell, read = torch.zeros_like(flat), torch.zeros_like(flat), torch.zeros_like(flat)
        for _ in range(self.num_reads):
            hidden, cell = self.of_query(torch.cat([flat, read], -1), (hidden, cell))
            hidden = hidden + flat
            logits = (hidden.view_as(query) @ support.mT).masked_fill(~support_mask.unsqueeze(1), -math.inf)
            read = (logits.softmax(-1) @ support).flatten(0, 1)  # (B Q, D)
        return support, hidden.view_as(query)

    def _read_sequence(self, support: Tensor, support_mask: Tensor) -> Tensor:
        """forward_i + backward_i, (B, S, D); the sequence of a task is its support without the padding."""
        order = (~support_mask).int().argsort(dim=-1, stable=True)  # padding last
        at = order.unsqueeze(-1).expand_as(support)
        lengths = support_mask.sum(-1).cpu()
        packed = pack_padded_sequence(support.gather(1, at), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.of_support(packed)[0], batch_first=True, total_length=support.shape[1])
        forward, backward = hidden.chunk(2, -1)  # (B, S, D) each
        return torch.zeros_like(support).scatter(1, at, forward + backward)


def class_log_probs(log_attention: Tensor, member: Tensor) -> Tensor:
    """Log of the attention that each class gets, (B, Q, W).

    Args:
        log_attention: (B, Q, S).
        member: (B, S, W) bool.
    """
    per_class = log_attention.unsqueeze(-1).masked_fill(~member.unsqueeze(1), -math.inf)  # (B, Q, S, W)
    return per_class.logsumexp(2)


def shuffled(episode: Episode, generator: torch.Generator) -> Episode:
    """The episode with the support of each task in another order."""
    shape = episode.support_y.shape
    order = torch.rand(shape, generator=generator, device=generator.device).argsort(-1).to(episode.support_y.device)
    task = torch.arange(len(order), device=order.device).unsqueeze(-1)
    return episode._replace(
        support_x=episode.support_x[task, order],
        support_y=episode.support_y[task, order],
        support_mask=episode.support_mask[task, order],
    )
