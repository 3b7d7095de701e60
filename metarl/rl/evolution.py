"""Evolution strategies: an outer step from returns alone, for what no gradient reaches.

    population, noise = perturb(parameters, num_pairs, sigma, generator)
    fitness = ...                                  # (2 num_pairs,), the two of a pair on the same task
    step = estimate_gradient(noise, fitness, sigma)
    parameters = {name: value + lr * step.gradient[name] for name, value in parameters.items()}

A pair are two neighbours in the population, parameters + sigma * noise and parameters - sigma * noise. So
worlds of neighbours belong to a pair, as they belong to a task in `BatchedEnv.set_tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Shaping = Callable[[Tensor], Tensor]
"""(fitness of both members of each of M pairs (M, 2)) -> utility of each pair's noise (M,), in [-1/2, 1/2]."""


class EvolutionStep(NamedTuple):
    """What a population tells.

    Attributes:
        gradient: to ascend on, by name, in the shapes of the parameters; zero where no pair is left.
        dropped_pairs: pairs of which a fitness was not finite.
    """

    gradient: dict[str, Tensor]
    dropped_pairs: int


def perturb(
    parameters: Mapping[str, Tensor], num_pairs: int, sigma: float, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw a population of antithetic pairs around some parameters.

    Args:
        parameters: by name, (...).
        num_pairs: M.
        sigma: standard deviation of the perturbations.
        generator: of the noise.

    Returns:
        population (2 M, ...), members 2 i and 2 i + 1 being a pair, and standard normal noise (M, ...).
    """
    population, noise = {}, {}
    for name, value in parameters.items():
        drawn = torch.randn(num_pairs, *value.shape, generator=generator, device=generator.device, dtype=value.dtype)
        noise[name] = drawn.to(value.device)
        step = sigma * noise[name]
        population[name] = torch.stack([value + step, value - step], 1).flatten(0, 1)  # (2 M, ...)
    return population, noise


def centred_rank_utility(fitness: Tensor) -> Tensor:
    """Half the difference of the ranks of a pair's members among all, ranks being spread over [-1/2, 1/2].

    It is the same for every increasing transformation of the fitness. Ties share their mean rank.

    Source: Salimans et al. 2017, section 2.1 (fitness shaping).
    """
    values = fitness.flatten()
    below = (values.unsqueeze(1) > values).sum(1)
    above = (values.unsqueeze(1) < values).sum(1)
    ranks = (below - above).to(fitness.dtype) / (2 * max(len(values) - 1, 1))
    plus, minus = ranks.unflatten(0, (-1, 2)).unbind(1)
    return (plus - minus) / 2


def signed_rank_utility(fitness: Tensor) -> Tensor:
    """The rank of the size of a pair's difference among all pairs, in (0, 1/2], with the sign of the difference.

    It is the same whatever is added to both members of a pair: how hard their task is does not count. Ties
    share their mean rank. The ranks are those of Wilcoxon's signed-rank test.
    """
    difference = fitness[:, 0] - fitness[:, 1]
    size = difference.abs()
    not_above = (size.unsqueeze(1) >= size).sum(1)
    below = (size.unsqueeze(1) > size).sum(1)
    ranks = (not_above + below + 1).to(fitness.dtype) / 2  # 1 .. M
    return difference.sign() * ranks / (2 * max(len(size), 1))


def estimate_gradient(
    noise: Mapping[str, Tensor], fitness: Tensor, sigma: float, shaping: Shaping = centred_rank_utility
) -> EvolutionStep:
    """Estimate the gradient of the shaped fitness from a population of pairs.

    Source: Salimans et al. 2017, algorithm 1 with mirrored sampling. A pair of which a fitness is not finite
    leaves the population before it is ranked.

    Args:
        noise: (M, ...) by name, as from `perturb`.
        fitness: (2 M,), the larger the better.
        sigma: as given to `perturb`.
        shaping: fitness to utilities; `centred_rank_utility`, or `signed_rank_utility` where pairs have
            tasks of different difficulty.
    """
    pairs = fitness.unflatten(0, (-1, 2))  # (M, 2)
    is_finite = pairs.isfinite().all(1)
    num_pairs = int(is_finite.sum())
    utility = shaping(pairs[is_finite])
    # gradient = sum_i utility_i * noise_i / (sigma * M)
    gradient = {
        name: torch.tensordot(utility.to(drawn), drawn[is_finite], 1) / (sigma * max(num_pairs, 1))
        for name, drawn in noise.items()
    }
    return EvolutionStep(gradient, len(pairs) - num_pairs)
