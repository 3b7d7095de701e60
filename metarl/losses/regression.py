"""Meta-training of a loss on regression: gradients through K steps of SGD, all tasks of a batch at once.

    task:  theta_{k+1} = theta_k - alpha grad_theta L_phi(f_theta_k(x), y)         k = 0 ... K - 1
    meta:  Adam on phi (and on log alpha), objective sum_k w_k MSE(f_theta_k(x), y)  k = 1 ... K

A lifetime is one network learning one task. It may be longer than the K steps that a meta-gradient goes through: then
the next meta-step continues from where the last one ended, as a constant, and lifetimes begin at different times.

Source: Bechtle et al. 2020, "Meta-Learning via Learned Loss", algorithm 1, where K = 1 and a lifetime is one step.
Deviations, all off by default: K > 1 with a weight for each step (as in MAML++, Antoniou et al. 2019), longer
lifetimes, learned alpha, meta-gradients clipped task by task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.nets.mlp import mlp
from metarl.rl.inner_loop import adapt

Parameters = Mapping[str, Tensor]

Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""(its parameters, prediction (M, D), target (M, D)) -> scalar, for one task."""


class Points(NamedTuple):
    """What a task is: M points of a function. With a leading dimension B: B tasks.

    Attributes:
        input: (M, D_in).
        target: (M, D).
    """

    input: Tensor
    target: Tensor


class LearnedLoss(NamedTuple):
    """What is meta-learned.

    Attributes:
        parameters: of the loss.
        log_inner_lr: (), natural logarithm of the step size of SGD.
    """

    parameters: Parameters
    log_inner_lr: Tensor


@dataclass(frozen=True)
class MetaConfig:
    """Settings of `meta_train`; the defaults are those of Bechtle et al. 2020 on sines."""

    num_meta_steps: int = 500
    """steps of Adam on the loss"""
    meta_batch_size: int = 1
    """B, tasks per meta-step"""
    step_weights: tuple[float, ...] = (1.0,)
    """weight of the task loss after each of the K inner steps that are differentiated through; their number is K"""
    lifetime: int = 1
    """inner steps after which a network begins anew on another task; a multiple of K"""
    inner_lr: float = 1e-3
    """step size of SGD; the first one where it is learned"""
    learns_inner_lr: bool = False
    """whether the step size is learned too"""
    outer_lr: float = 1e-3
    """of Adam"""
    max_grad_norm: float = math.inf
    """the meta-gradient of each task is scaled down to this norm"""

    def __post_init__(self) -> None:
        for name in ("num_meta_steps", "meta_batch_size", "lifetime", "inner_lr", "outer_lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        if not self.step_weights or min(self.step_weights) < 0 or not sum(self.step_weights) > 0:
            raise ConfigError(
                f"step_weights must be one number >= 0 per inner step, not all 0, got {self.step_weights}."
            )
        if self.lifetime % len(self.step_weights):
            raise ConfigError(f"lifetime must be a multiple of K = {len(self.step_weights)}, got {self.lifetime}.")


def meta_train(
    config: MetaConfig,
    loss: Loss,
    initial_loss: Parameters,
    sample_tasks: Callable[[int, torch.Generator], Points],
    sample_networks: Callable[[int, torch.Generator], Parameters],
    generator: torch.Generator,
    on_step: Callable[[int, float], None] = lambda step, objective: None,
) -> LearnedLoss:
    """Learn the parameters of a loss, so that SGD on it lowers the mean squared error.

    Args:
        config: settings.
        loss: the family of losses.
        initial_loss: where its parameters start.
        sample_tasks: (B, generator) -> B tasks.
        sample_networks: (B, generator) -> B untrained ReLU networks, the parameters of `metarl.nets.mlp.mlp`.
        generator: of tasks and networks.
        on_step: is told each meta-step and its objective.

    Returns:
        The learned loss.

    Raises:
        FloatingPointError: the objective is not finite.
    """
    learned = LearnedLoss(
        {name: value.detach().clone() for name, value in initial_loss.items()}, torch.tensor(math.log(config.inner_lr))
    )
    trained = [*learned.parameters.values(), *([learned.log_inner_lr] if config.learns_inner_lr else [])]
    optimizer = torch.optim.Adam(trained, lr=config.outer_lr)
    count, num_inner_steps = config.meta_batch_size, len(config.step_weights)
    tasks, networks = sample_tasks(count, generator), sample_networks(count, generator)
    # Lifetimes end one after the other, so that every batch holds young and old networks.
    age = torch.arange(count) * (config.lifetime // num_inner_steps) // count * num_inner_steps  # (B,)
    for step in range(config.num_meta_steps):
        gradient, objectives, networks = meta_gradient(
            learned, networks, tasks, loss, config.step_weights, config.max_grad_norm
        )
        objective = float(objectives.mean())
        if not math.isfinite(objective):
            raise FloatingPointError(
                f"the objective is {objective} at meta-step {step}: inner SGD diverged; lower inner_lr "
                f"({config.inner_lr:g} at first, {float(learned.log_inner_lr.exp()):g} now) or outer_lr."
            )
        for value, slope in zip(trained, [*gradient.parameters.values(), gradient.log_inner_lr], strict=False):
            value.grad = slope
        optimizer.step()
        on_step(step, objective)
        age += num_inner_steps
        ends = age >= config.lifetime  # (B,)
        age[ends] = 0
        tasks = Points(*map(partial(_where, ends), sample_tasks(count, generator), tasks))
        fresh = sample_networks(count, generator)
        networks = {name: _where(ends, fresh[name], value) for name, value in networks.items()}
    return learned


def meta_gradient(
    learned: LearnedLoss,
    networks: Parameters,
    tasks: Points,
    loss: Loss,
    step_weights: tuple[float, ...],
    max_grad_norm: float = math.inf,
) -> tuple[LearnedLoss, Tensor, Parameters]:
    """The gradient of the objective by what is learned, clipped for each of B tasks and then averaged.

    Returns:
        The gradient, the objective of each task (B,), and the networks after K steps; none holds a graph.
    """
    one_task = partial(task_objective, loss=loss, step_weights=step_weights)
    of_task = torch.func.grad_and_value(one_task, has_aux=True)
    gradient, (objective, adapted) = torch.func.vmap(of_task, in_dims=(None, 0, 0))(learned, networks, tasks)
    slopes = [*gradient.parameters.values(), gradient.log_inner_lr[:, None]]  # (B, ...) each
    norm = torch.stack([slope.square().flatten(1).sum(1) for slope in slopes]).sum(0).sqrt()  # (B,)
    scale = (max_grad_norm / norm).clamp(max=1.0) / len(norm)  # (B,)
    averaged = LearnedLoss(
        {name: torch.tensordot(scale, slope, 1) for name, slope in gradient.parameters.items()},
        torch.tensordot(scale, gradient.log_inner_lr, 1),
    )
    return averaged, objective.detach(), {name: value.detach() for name, value in adapted.items()}


def task_objective(
    learned: LearnedLoss, network: Parameters, points: Points, loss: Loss, step_weights: tuple[float, ...]
) -> tuple[Tensor, Parameters]:
    """sum_k w_k MSE after k inner steps, and the network after all K; written for one task, differentiable."""
    objective = torch.zeros(())
    for weight in step_weights:
        network = inner_step(learned, network, points, loss)
        objective = objective + weight * squared_error(network, points)
    return objective, network


def inner_step(learned: LearnedLoss, network: Parameters, points: Points, loss: Loss) -> dict[str, Tensor]:
    """One step of SGD on the learned loss; written for one task."""

    def value(network: Parameters, points: Points) -> Tensor:
        return loss(learned.parameters, predict(network, points.input), points.target)

    return adapt(network, points, value, learned.log_inner_lr.exp())


def squared_error_traces(
    learned: LearnedLoss, networks: Parameters, tasks: Points, loss: Loss, num_steps: int
) -> Tensor:
    """Mean squared error of B networks before each of `num_steps` steps and after the last, (num_steps + 1, B)."""
    step = torch.func.vmap(partial(inner_step, loss=loss), in_dims=(None, 0, 0))
    traces = [squared_error(networks, tasks)]
    for _ in range(num_steps):
        networks = step(learned, networks, tasks)
        traces.append(squared_error(networks, tasks))
    return torch.stack(traces)


def fixed_loss(inner_lr: float) -> LearnedLoss:
    """A step size beside a loss without parameters, such as `mse`, to be judged like a learned one."""
    return LearnedLoss({}, torch.tensor(math.log(inner_lr)))


def mse(parameters: Parameters, prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error as a `Loss`; it has no parameters."""
    return (prediction - target).square().mean((-2, -1))


def squared_error(network: Parameters, points: Points) -> Tensor:
    """Mean squared error of one network, (), or of B networks, (B,)."""
    return mse({}, predict(network, points.input), points.target)


def predict(network: Parameters, value: Tensor) -> Tensor:
    """(M, D_in) -> (M, D), or (B, M, D_in) -> (B, M, D)."""
    return mlp(network, value, torch.relu)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where chosen, of `old` elsewhere."""
    return torch.where(chosen.reshape(-1, *[1] * (old.ndim - 1)), new, old)
