"""Trust region policy optimisation: natural gradient step with a line search (Schulman et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Objective(NamedTuple):
    """What a step is judged by.

    Attributes:
        loss: scalar, to descend on.
        kl: scalar, mean KL divergence from the policy that acted.
    """

    loss: Tensor
    kl: Tensor


class TrustRegionStep(NamedTuple):
    """What `trust_region_step` returns.

    Attributes:
        parameters: the new ones, or the old ones where no step was found.
        accepted: a step was taken.
        loss_before, loss_after: the objective's loss.
        kl: the objective's divergence after the step.
        num_backtracks: how often the step was shortened.
        is_finite: gradient and metric were finite.
    """

    parameters: dict[str, Tensor]
    accepted: bool
    loss_before: float
    loss_after: float
    kl: float
    num_backtracks: int
    is_finite: bool = True


def trust_region_step(
    parameters: Mapping[str, Tensor],
    objectives: Sequence[Callable[[Mapping[str, Tensor]], Objective]],
    divergences: Sequence[Callable[[Mapping[str, Tensor]], Tensor]],
    max_kl: float,
    *,
    num_cg_iterations: int = 10,
    damping: float = 1e-5,
    num_backtracks: int = 15,
    backtrack_ratio: float = 0.8,
    each: Callable[..., Iterable[Any]] = map,
) -> TrustRegionStep:
    """Minimise the linearised loss within KL <= max_kl, then shorten the step until the loss really falls.

    Source: Schulman et al. 2015, appendix C: step = sqrt(2 max_kl / x F x) x with F x = g.

    Args:
        parameters: leaves that are stepped.
        objectives: parameters -> loss and KL, in parts that add up, such as some tasks each: one part at a time is
            differentiated, so that it stays in the cache. The KL is zero at `parameters`.
        divergences: parameters -> a KL whose Hessian at `parameters` is the metric F, in parts that add up; it may
            look at fewer samples.
        max_kl: the bound, in nats.
        num_cg_iterations, damping: of the conjugate gradients that solve for x.
        num_backtracks, backtrack_ratio: of the line search.
        each: how a function is applied to all parts: `map`, or that of a pool of threads. Sums are in the order of
            the parts, so the result is the same.

    Returns:
        The step. Where the gradient is not finite, the metric not positive along x, or no step lowers the loss
        within the bound, the parameters are handed back as they were and `accepted` is False.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}

    def loss_and_gradient(objective: Callable[[Mapping[str, Tensor]], Objective]) -> tuple[float, Tensor]:
        loss = objective(leaves).loss
        slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return float(loss.detach()), flatten(slopes, leaves)

    losses, gradients = zip(*each(loss_and_gradient, objectives), strict=True)
    loss_before, gradient = sum(losses), torch.stack(gradients).sum(0)
    unchanged = {name: value.detach() for name, value in parameters.items()}
    refused = TrustRegionStep(unchanged, False, loss_before, loss_before, 0.0, 0)
    if not bool(torch.isfinite(gradient).all()):
        return refused._replace(is_finite=False)
    products = list(each(lambda divergence: hessian_product(divergence, leaves), divergences))

    def metric(vector: Tensor) -> Tensor:
        return torch.stack(list(each(lambda product: product(vector), products))).sum(0)

    direction = conjugate_gradient(lambda x: metric(x) + damping * x, gradient, num_cg_iterations)
    curvature = direction @ (metric(direction) + damping * direction)
    if not float(curvature) > 0 or not bool(torch.isfinite(curvature)):
        return refused._replace(is_finite=bool(torch.isfinite(curvature)))
    step = torch.sqrt(2 * max_kl / curvature) * direction
    for shortened in range(num_backtracks):
        moved = unflatten(step * backtrack_ratio**shortened, unchanged)
        candidate = {name: value - moved[name] for name, value in unchanged.items()}
        after = list(each(lambda objective: _without_graph(objective, candidate), objectives))  # noqa: B023
        loss, kl = float(sum(part.loss for part in after)), float(sum(part.kl for part in after))
        if loss < loss_before and kl <= max_kl:  # False where either is NaN
            return TrustRegionStep(candidate, True, loss_before, loss, kl, shortened)
    return refused._replace(num_backtracks=num_backtracks)


@torch.no_grad()
def _without_graph(function: Callable[[Mapping[str, Tensor]], Objective], at: Mapping[str, Tensor]) -> Objective:
    """The value alone; a context of its own, because each thread has its own switch for gradients."""
    return function(at)


def hessian_product(
    function: Callable[[Mapping[str, Tensor]], Tensor], leaves: Mapping[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    """The map from a flat vector v to H v, with H the Hessian of a scalar function at `leaves`."""
    inputs = list(leaves.values())
    first = torch.autograd.grad(function(leaves), inputs, create_graph=True, allow_unused=True)
    gradient = flatten(first, leaves)

    def product(vector: Tensor) -> Tensor:
        second = torch.autograd.grad(gradient @ vector, inputs, retain_graph=True, allow_unused=True)
        return flatten(second, leaves)

    return product


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], right: Tensor, num_iterations: int, tolerance: float = 1e-10
) -> Tensor:
    """Solve A x = b for a positive definite A given as v -> A v (Hestenes and Stiefel 1952).

    Args:
        product: v -> A v.
        right: b, (n,).
        num_iterations: at most this many products.
        tolerance: stop once the squared residual is below this share of that of x = 0.
    """
    solution = torch.zeros_like(right)
    residual = direction = right
    squared = residual @ residual
    enough = tolerance * squared
    for _ in range(num_iterations):
        if not bool(squared > enough):
            break
        image = product(direction)
        length = squared / (direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        previous, squared = squared, residual @ residual
        direction = residual + squared / previous * direction
    return solution


def flatten(values: tuple[Tensor | None, ...], like: Mapping[str, Tensor]) -> Tensor:
    """Tensors in the order of `like` as one vector, (n,); None stands for zeros."""
    parts = zip(values, like.values(), strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if v is None else v.flatten() for v, p in parts])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One vector, (n,), as tensors of the names and shapes of `like`."""
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}
