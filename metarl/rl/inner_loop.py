"""The inner loop of the gradient learners: policy-gradient steps on one task, differentiable.

Everything here is written for one task; callers give all tasks their own parameters at once with `torch.func.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Support = TypeVar("Support")


class Samples(NamedTuple):
    """What was experienced on one task in one phase: E episodes of H steps, M = H * E, step after step.

    Attributes:
        obs: (M, O), as the policy reads it.
        action: (M, A), or (M,) int64.
        log_prob: (M,), of the actions when they were taken.
        advantage: (M,).
        weight: (M,), sums to one over the steps that count and is zero elsewhere.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    weight: Tensor


Surrogate = Callable[[Tensor, Samples, int], Tensor]
"""(log-probabilities under the parameters in question (M,), samples, H) -> what the inner step descends on."""


def log_prob_surrogate(log_prob: Tensor, samples: Samples, horizon: int) -> Tensor:
    """-E[log pi(a|s) A], the surrogate of MAML (Finn et al. 2017, eq. 4).

    Its gradient is the policy gradient; its Hessian is not that of the return, for which the next two are.
    """
    return -(samples.weight * samples.advantage * log_prob).sum()


def ratio_surrogate(log_prob: Tensor, samples: Samples, horizon: int) -> Tensor:
    """-E[pi(a|s) / pi_old(a|s) A], the low variance curvature surrogate of ProMP (Rothfuss et al. 2019, eq. 9)."""
    ratio = (log_prob - samples.log_prob).exp()
    return -(samples.weight * samples.advantage * ratio).sum()


def dice_surrogate(log_prob: Tensor, samples: Samples, horizon: int) -> Tensor:
    """-sum_t (m_t - m_{t-1}) A_t with m_t = exp(sum_{u<=t} log pi_u - const): right derivatives of every order.

    Source: Foerster et al. 2018 (the operator) with advantages as in Farquhar et al. 2019, eq. 15 (Loaded DiCE).
    """
    weight = samples.weight.unflatten(0, (horizon, -1))  # (H, E)
    counted = torch.where(weight > 0, log_prob.unflatten(0, (horizon, -1)), 0.0)
    score = counted - counted.detach()  # zero in value
    until = score.cumsum(0)
    # exp(until_t) - exp(until_{t-1}), which is zero in value and carries all derivatives.
    credit = until.exp() - (until - score).exp()
    return -(weight * samples.advantage.unflatten(0, (horizon, -1)) * credit).sum()


SURROGATES: dict[str, Surrogate] = {
    "log-prob": log_prob_surrogate,
    "ratio": ratio_surrogate,
    "dice": dice_surrogate,
}


def adapt(
    parameters: Mapping[str, Tensor],
    samples: Support,
    loss: Callable[[Mapping[str, Tensor], Support], Tensor],
    step_size: Mapping[str, Tensor] | Tensor | float,
    first_order: bool = False,
    is_transformed: bool = True,
) -> dict[str, Tensor]:
    """One inner step on one task: parameters - step_size * gradient.

    Args:
        parameters: what is adapted.
        samples: the support; `Samples`, or whatever the loss reads.
        loss: (parameters, samples) -> scalar.
        step_size: one for all, or by name (scalar or of the parameter's shape).
        first_order: take the gradient as a constant when the result is differentiated; its graph is not recorded.
        is_transformed: the call may be inside `vmap` or another transform of `torch.func`. Outside of them plain
            autograd gives the same gradient; with batch normalisation it is quicker to differentiate again.
    """
    keeps_graph = torch.is_grad_enabled() and not first_order
    if is_transformed:
        with torch.set_grad_enabled(keeps_graph):
            gradient = torch.func.grad(loss)(dict(parameters), samples)
    else:
        with torch.enable_grad():
            # Views, since one parameter may have been computed from another.
            inputs = {
                n: v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for n, v in parameters.items()
            }
            value, leaves = loss(inputs, samples), list(inputs.values())
            slopes = torch.autograd.grad(value, leaves, create_graph=keeps_graph, materialize_grads=True)
        gradient = dict(zip(inputs, slopes, strict=True))
    if isinstance(step_size, Mapping):
        return {name: value - step_size[name] * gradient[name] for name, value in parameters.items()}
    return {name: value - step_size * gradient[name] for name, value in parameters.items()}
