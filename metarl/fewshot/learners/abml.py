"""Amortised Bayesian meta-learning: weights are normal distributions, which inner steps fit to a task.

    theta = (mean, log std) of every adapted weight: the prior of all tasks, meta-learned
    q_0 = theta;  q_{k+1} = q_k - alpha * grad F(q_k; support)
    F(q; D) = E_{w ~ q}[L(w; D)] + c KL(q || theta) / |D|
    loss = F(q_K; support and query)       outer_data="all" (abml)
    loss = E_{w ~ q_K}[L(w; query)]        outer_data="query", outer_kl_coef=0 (vampire)

Predictions average the probabilities of several draws of the weights. With c = 1, F is the negative evidence lower
bound per example. The gradient of its second part by the mean is c (mean_q - mean_theta) / (|D| std^2), so steps are
stable as long as alpha c < 2 |D| std^2: narrow weights and few examples want a small c, which is a "cold" posterior.

Source: Ravi and Beatson 2019, "Amortized Bayesian Meta-Learning", algorithm 1; Nguyen et al. 2020,
"Uncertainty in Model-Agnostic Meta-Learning using Variational Inference", algorithm 1 (VAMPIRE). Deviations: no
hyper-prior over theta; plain draws of the weights instead of flipout; c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarl.fewshot.gaussian import Gaussian, kl, sample, standard_noise
from metarl.fewshot.learners.gradient import (
    GradientLearner,
    InnerSettings,
    Parameters,
    as_prediction,
    averaged,
    require_values,
)
from metarl.fewshot.named_tensors import group, module_of
from metarl.fewshot.tasks import Examples, Task, num_examples, prediction_loss, query_metrics
from metarl.rl.inner_loop import adapt


@dataclass(frozen=True)
class ABMLSettings(InnerSettings):
    """Settings of amortised Bayesian meta-learning."""

    num_inner_samples: int = 2
    """Draws of the weights in an inner step."""
    num_outer_samples: int = 2
    """Draws of the weights in the meta-training loss."""
    num_test_samples: int = 10
    """Draws of the weights whose probabilities a prediction averages."""
    initial_std: float = 0.02
    """Standard deviation of the weights at the start."""
    inner_kl_coef: float = 1e-4
    """c of inner steps."""
    outer_kl_coef: float = 1e-4
    """c of the meta-training loss."""
    outer_data: Literal["all", "query"] = "all"
    """Examples that the meta-training loss is of: support and query, or the query alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values(
            self,
            at_least_one=("num_inner_samples", "num_outer_samples", "num_test_samples"),
            positive=("initial_std",),
            not_negative=("inner_kl_coef", "outer_kl_coef"),
        )


class _Evidence(NamedTuple):
    """What an inner step descends on: examples and the draws of the weights, (S, ...) by name."""

    examples: Examples
    noise: Parameters


class ABML(GradientLearner):
    """Learner: normal distributions over the adapted weights; the others are shared and certain. See the module.

    Where the head alone adapts this is a Bayesian last layer.
    """

    settings: ABMLSettings

    def __init__(
        self, settings: ABMLSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(settings, x_shape, num_ways, generator)
        adapted = {name: value for name, value in self.network.named_parameters() if name in self.adapted_names}
        log_std = math.log(settings.initial_std)
        self.log_std = module_of({name: torch.full_like(value, log_std) for name, value in adapted.items()})

    def noise(self, num_tasks: int, generator: torch.Generator, is_training: bool) -> dict[str, Tensor]:
        """Draws for every inner step, `inner.NAME` (B, K, S, ...), and for the judgement, `outer.NAME` (B, S, ...).

        Predictions of all tasks use the same draws.
        """
        settings, shapes = self.settings, group(dict(self.named_parameters()), "log_std")
        steps = settings.num_inner_steps if is_training else settings.test_steps
        count = settings.num_outer_samples if is_training else settings.num_test_samples
        leading = num_tasks if is_training else 1
        inner = standard_noise(shapes, (leading, max(1, steps), settings.num_inner_samples), generator)
        outer = standard_noise(shapes, (leading, count), generator)
        drawn = {f"inner.{n}": v for n, v in inner.items()} | {f"outer.{n}": v for n, v in outer.items()}
        return {name: value.expand(num_tasks, *value.shape[1:]) for name, value in drawn.items()}

    def task_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        """See `GradientLearner.task_loss`."""
        prior = self.prior(meta)
        posterior = self.posterior(meta, task, self.settings.num_inner_steps)
        weights = sample(posterior, group(task.noise, "outer"))  # (S, ...)
        queries = self.sampled_outputs(meta, weights, task.query.x)  # (S, Q, W)
        loss, count = _mean_loss(queries, task.query), num_examples(task.query)
        if self.settings.outer_data == "all":
            # Separate forward passes, so that a query is normalised with queries, as when predicting.
            supports = self.sampled_outputs(meta, weights, task.support.x)
            num_support = num_examples(task.support)
            total = loss * count + _mean_loss(supports, task.support) * num_support
            count = count + num_support
            loss = total / count
        divergence = kl(posterior, prior)
        predictions = torch.func.vmap(lambda outputs: as_prediction(outputs, task.query))(queries)
        metrics = {**query_metrics(averaged(predictions, task.query), task.query), "kl": divergence}
        return loss + self.settings.outer_kl_coef * divergence / count, metrics

    def task_prediction(self, meta: Parameters, task: Task, num_steps: int) -> Tensor:
        """See `GradientLearner.task_prediction`."""
        weights = sample(self.posterior(meta, task, num_steps), group(task.noise, "outer"))  # (S, ...)
        outputs = self.sampled_outputs(meta, weights, task.query.x)
        return averaged(torch.func.vmap(lambda o: as_prediction(o, task.query))(outputs), task.query)

    def prior(self, meta: Parameters) -> Gaussian:
        """theta: what every task starts from."""
        network = group(meta, "network")
        return Gaussian({name: network[name] for name in self.adapted_names}, group(meta, "log_std"))

    def posterior(self, meta: Parameters, task: Task, num_steps: int) -> Gaussian:
        """q after `num_steps` inner steps on the support of one task."""
        prior, start = self.prior(meta), group(meta, "network")
        model, support = self.inner_problem(start, task.support)

        def free_energy(variational: Parameters, evidence: _Evidence) -> Tensor:
            gaussian = _as_gaussian(variational)
            drawn = sample(gaussian, evidence.noise)  # (S, ...)
            outputs = torch.func.vmap(lambda weights: model(weights, evidence.examples.x))(drawn)
            divergence = kl(gaussian, prior) / num_examples(evidence.examples)
            return _mean_loss(outputs, evidence.examples) + self.settings.inner_kl_coef * divergence

        variational = {f"mean.{n}": v for n, v in prior.mean.items()}
        variational |= {f"log_std.{n}": v for n, v in prior.log_std.items()}
        noise = group(task.noise, "inner")  # (K, S, ...)
        for step in range(num_steps):
            draws = {name: value[step % len(value)] for name, value in noise.items()}
            evidence = _Evidence(support, draws)
            variational = adapt(variational, evidence, free_energy, self.settings.inner_lr, self.settings.first_order)
        return _as_gaussian(variational)

    def sampled_outputs(self, meta: Parameters, weights: Parameters, x: Tensor) -> Tensor:
        """The network with S sets of adapted weights, (S, M, W)."""
        start = group(meta, "network")
        return torch.func.vmap(lambda drawn: self.outputs({**start, **drawn}, x))(dict(weights))


def _as_gaussian(variational: Parameters) -> Gaussian:
    return Gaussian(group(variational, "mean"), group(variational, "log_std"))


def _mean_loss(outputs: Tensor, examples: Examples) -> Tensor:
    """Mean over S draws of the loss of (S, M, W)."""
    return torch.func.vmap(lambda of_draw: prediction_loss(of_draw, examples))(outputs).mean()
