"""Action distributions as pure functions of a network's outputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """A diagonal normal distribution over actions.

    Attributes:
        mean: (..., A).
        log_std: (..., A) or anything that broadcasts to it.
    """

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """Draw actions, (..., A); the mean when `generator` is None."""
        if generator is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density, (...)."""
        standardised = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * standardised.square() - self.log_std - _LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, (...)."""
        return (self.log_std + 0.5 + _LOG_SQRT_2PI).expand_as(self.mean).sum(-1)

    def kl_divergence(self, other: ActionDistribution) -> Tensor:
        """KL(self || other) in nats, (...); `other` is normal too."""
        assert isinstance(other, Gaussian)
        variance = (2 * (self.log_std - other.log_std)).exp()  # of self in units of other's
        offset = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (variance + offset.square() - 1) + other.log_std - self.log_std).sum(-1)


class Categorical(NamedTuple):
    """A distribution over discrete actions.

    Attributes:
        logits: (..., num_actions), unnormalised.
    """

    logits: Tensor

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """Draw actions, (...) int64; the likeliest when `generator` is None."""
        if generator is None:
            return self.logits.argmax(-1)
        uniform = torch.rand(self.logits.shape, generator=generator, device=self.logits.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))  # argmax(logits + Gumbel) ~ softmax
        return (self.logits + gumbel).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability, (...)."""
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, (...)."""
        log_prob = self.logits.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)

    def kl_divergence(self, other: ActionDistribution) -> Tensor:
        """KL(self || other) in nats, (...); `other` is categorical too."""
        assert isinstance(other, Categorical)
        log_prob, other_log_prob = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        return (log_prob.exp() * (log_prob - other_log_prob)).sum(-1)


ActionDistribution = Gaussian | Categorical


class Embedded(NamedTuple):
    """A distribution over actions, and what else the network says of the states.

    Attributes:
        actions: the distribution.
        extra: (..., Y), further outputs of the network.
    """

    actions: ActionDistribution
    extra: Tensor

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """Draw actions; see `actions`."""
        return self.actions.sample(generator)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density or log-probability, (...)."""
        return self.actions.log_prob(action)


PolicyOutput = ActionDistribution | Embedded
