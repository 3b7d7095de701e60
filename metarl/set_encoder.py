"""Encode a set of vectors, whatever its order and size: the transitions of a task, or the samples of a signal.

Every pooling here is a function of sums over the members of a set. So the embedding of a window that moves along a
trial costs one network evaluation per step, and that of any stretch is a difference of two cumulative sums. Both
halves of the package use it: `metarl.learners.context_rl` on transitions, few-shot learners on windows of signals.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError

Pooling = Literal["mean", "attention", "gaussian"]
POOLINGS: tuple[Pooling, ...] = ("mean", "attention", "gaussian")

_MAX_SCORE = 5.0
_MIN_LOG_PRECISION, _MAX_LOG_PRECISION = -10.0, 4.0


class Posterior(NamedTuple):
    """A diagonal normal distribution over embeddings.

    Attributes:
        mean: (..., E).
        variance: (..., E), positive.
    """

    mean: Tensor
    variance: Tensor

    def kl_to_prior(self) -> Tensor:
        """KL(self || N(0, 1)) in nats, (...)."""
        return 0.5 * (self.variance + self.mean.square() - 1 - self.variance.log()).sum(-1)


class SetEncoder(nn.Module):
    """Sets of vectors to embeddings; works under `torch.func.functional_call` and `torch.func.vmap`.

    mean       the mean of features of the members, then a linear layer (Zaheer et al. 2017, theorem 2)
    attention  the same with a weight exp(s) of each member, s in [-5, 5] (Ilse et al. 2018, eq. 8, with another s)
    gaussian   every member says where the embedding is and how surely; the embedding is the mean of the product of
               these normal factors (Rakelly et al. 2019, section 4.1). Deviation: the prior N(0, 1) is one more
               factor, so that the empty set has a posterior too and a few members do not look like certainty.

    Args:
        in_dim: D, numbers of a member.
        embedding_dim: E.
        hidden_dim: width of the two hidden layers.
        pooling: see above.
        is_bounded: embeddings by mean or attention end in tanh, so that distances between them are bounded.

    Raises:
        ConfigError: no such pooling.
    """

    def __init__(
        self,
        in_dim: int,
        embedding_dim: int,
        hidden_dim: int = 64,
        pooling: Pooling = "mean",
        *,
        is_bounded: bool = True,
    ):
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}.")
        self.pooling, self.embedding_dim, self.is_bounded = pooling, embedding_dim, is_bounded
        self.features = nn.Sequential(
            nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim), nn.ReLU()
        )
        if pooling == "gaussian":
            self.head = nn.Linear(hidden_dim, 2 * embedding_dim)
            self.statistics_dim = 2 * embedding_dim + 1
        else:
            self.head = nn.Linear(hidden_dim, embedding_dim)
            self.statistics_dim = hidden_dim + 2
        if pooling == "attention":
            self.score = nn.Linear(hidden_dim, 1)

    def forward(self, members: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode sets.

        Args:
            members: (B, S, D), or with any other leading dimensions; what is masked may hold anything finite.
            mask: (B, S) bool, which of them belong to the set; None: all.

        Returns:
            (B, E) embeddings; an empty set has one too.
        """
        return self.embed(self.statistics(members, mask).sum(-2))

    def statistics(self, members: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each member adds to the sums of its set, (..., D) -> (..., K); the last number is 1 for a member.

        Args:
            members: (..., D).
            mask: (...) bool; zeros are returned where it is False.
        """
        features = self.features(members)
        count = torch.ones_like(features[..., :1])
        if self.pooling == "gaussian":
            location, log_precision = self.head(features).chunk(2, -1)
            precision = log_precision.clamp(_MIN_LOG_PRECISION, _MAX_LOG_PRECISION).exp()
            parts = [precision * location, precision, count]
        else:
            weight = self._weight(features) if self.pooling == "attention" else count
            parts = [weight * features, weight, count]
        statistics = torch.cat(parts, -1)
        return statistics if mask is None else statistics * mask.unsqueeze(-1)

    def embed(self, sums: Tensor) -> Tensor:
        """The embedding of a set from the sums of its members' statistics, (..., K) -> (..., E)."""
        if self.pooling == "gaussian":
            return self.posterior(sums).mean
        total, weight, _ = sums.split([self.statistics_dim - 2, 1, 1], -1)
        embedding = self.head(total / weight.clamp(min=1e-6))
        return embedding.tanh() if self.is_bounded else embedding

    def posterior(self, sums: Tensor) -> Posterior:
        """The product of the members' normal factors and the prior N(0, 1); with pooling "gaussian" only.

        precision = 1 + sum_i precision_i,  mean = sum_i precision_i location_i / precision
        """
        assert self.pooling == "gaussian", "only Gaussian factors have a posterior"
        weighted, precision, _ = sums.split([self.embedding_dim, self.embedding_dim, 1], -1)
        variance = 1 / (1 + precision)
        return Posterior(weighted * variance, variance)

    def _weight(self, features: Tensor) -> Tensor:
        return (_MAX_SCORE * torch.tanh(self.score(features) / _MAX_SCORE)).exp()


def cumulative(statistics: Tensor) -> Tensor:
    """Sums over the first t steps, t = 0 .. T: (T, ...) -> (T + 1, ...), float64 so that differences stay exact."""
    sums = statistics.double().cumsum(0)
    return torch.cat([torch.zeros_like(sums[:1]), sums])


def window_sums(statistics: Tensor, window: int) -> Tensor:
    """Sums over the last `window` steps up to and including each step, (T, ...) -> (T, ...).

    Args:
        statistics: (T, ...), zeros where a step adds nothing.
        window: W; 0: over all steps so far.
    """
    sums = cumulative(statistics)
    end = sums[1:]
    if 0 < window < len(statistics):
        begin = torch.cat([torch.zeros_like(end[:window]), end[:-window]])
        end = end - begin
    return end.to(statistics.dtype)


def segment_sums(cumulative_sums: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Sums over steps begin .. end - 1 of each world.

    Args:
        cumulative_sums: (T + 1, N, K), see `cumulative`.
        begin, end: (R, N) int64 in [0, T].

    Returns:
        (R, N, K) float32.
    """
    world = torch.arange(cumulative_sums.shape[1], device=cumulative_sums.device)
    return (cumulative_sums[end, world] - cumulative_sums[begin, world]).float()
