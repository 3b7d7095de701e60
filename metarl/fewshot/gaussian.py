"""Independent normal distributions over named tensors: weights of a network that are not known exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """One normal distribution for every entry of every tensor.

    Attributes:
        mean: by name.
        log_std: by name, natural logarithm of the standard deviation; of the mean's shape, or broadcast to it.
    """

    mean: Mapping[str, Tensor]
    log_std: Mapping[str, Tensor]


def sample(gaussian: Gaussian, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mean + std * noise, differentiable by both (Kingma and Welling 2014).

    Args:
        gaussian: of tensors (...).
        noise: standard normal, (...) or (S, ...) for S samples.
    """
    return {name: mean + gaussian.log_std[name].exp() * noise[name] for name, mean in gaussian.mean.items()}


def kl(posterior: Gaussian, prior: Gaussian) -> Tensor:
    """KL(posterior || prior) in nats, summed over all entries of all tensors.

    Per entry: log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2.
    """
    terms = []
    for name, mean in posterior.mean.items():
        log_ratio = posterior.log_std[name] - prior.log_std[name]
        distance = (mean - prior.mean[name]) * (-prior.log_std[name]).exp()
        terms.append((0.5 * ((2 * log_ratio).exp() + distance.square() - 1) - log_ratio).sum())
    return torch.stack(terms).sum()


def standard_noise(
    shapes: Mapping[str, Tensor], leading: tuple[int, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """Standard normal numbers (*leading, *shape) for each of the tensors.

    Args:
        shapes: tensors whose shapes, dtypes and devices are taken.
        leading: such as (B, S).
        generator: where they are drawn.
    """
    return {
        name: torch.randn(*leading, *value.shape, generator=generator, dtype=value.dtype, device=generator.device).to(
            value.device
        )
        for name, value in shapes.items()
    }


def log_mean_prob(log_probs: Tensor) -> Tensor:
    """The logarithm of the averaged probabilities, (S, ...) -> (...).

    A Bayesian prediction averages probabilities over samples of the weights; averaging logarithms is over-confident.
    """
    return log_probs.logsumexp(0) - math.log(len(log_probs))
