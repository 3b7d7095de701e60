"""Stein variational gradient descent: particles that follow a log density together and keep apart.

Source: Liu and Wang 2016, "Stein Variational Gradient Descent", eq. 8, with their radial kernel and median heuristic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def svgd_direction(particles: Tensor, scores: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Where each particle moves; written for one task.

    phi(x_i) = 1/P sum_j [k(x_j, x_i) grad log p(x_j) + T grad_{x_j} k(x_j, x_i)],  k(x, y) = exp(-|x - y|^2 / h)

    T = 1 is the paper's; the stationary density is p^(1/T). With one particle it is the score: SVGD is then gradient
    ascent.

    Args:
        particles: (P, D).
        scores: (P, D), gradients of the log density at the particles.
        temperature: T, a number or (); 1/n with the score of a mean over n examples is the posterior of all of them.

    Returns:
        (P, D).
    """
    difference = particles[:, None] - particles[None]  # (P, P, D), [j, i] = x_j - x_i
    squared = difference.square().sum(-1)  # (P, P)
    width = bandwidth(squared)
    kernel = (-squared / width).exp()  # (P, P), symmetric
    attraction = kernel @ scores  # (P, D)
    # grad_{x_j} k(x_j, x_i) = -2 (x_j - x_i) k / h
    repulsion = -2 / width * (kernel[..., None] * difference).sum(0)  # (P, D)
    return (attraction + temperature * repulsion) / len(particles)


def bandwidth(squared: Tensor) -> Tensor:
    """h = median of squared distances / log(P + 1), differentiable; 1 where all particles are in one place.

    With it sum_j k(x_j, x_i) is about 1 for the particles beside x_i. The paper divides by log P, the authors' code by
    log(P + 1), which is defined for one particle too. The median is of pairs of different particles.

    Args:
        squared: (P, P), squared distances.

    Returns:
        A scalar > 0.
    """
    count = len(squared)
    if count == 1:
        return torch.ones_like(squared[0, 0])
    above = torch.triu_indices(count, count, 1, device=squared.device)  # (2, P (P - 1) / 2)
    median = squared[above[0], above[1]].median() / math.log(count + 1)
    return torch.where(median > 0, median, torch.ones_like(median))
