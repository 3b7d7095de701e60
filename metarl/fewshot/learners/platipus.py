"""Probabilistic MAML (PLATIPUS): the initialisation is a random variable, drawn for a task before its inner steps.

    p(theta | support) = N(mu - gamma_p grad L(mu; support), sigma_p^2)
    q(theta | query)   = N(mu - gamma_q grad L(mu; query),   sigma_q^2)
    theta ~ q;  phi = K inner steps of SGD from theta on the support
    loss = L(phi; query) + c KL(q || p) / |query|

Predictions draw several theta from p, adapt each and average their probabilities.
mu, both sigma (of every adapted weight) and both gamma are meta-learned.

Source: Finn et al. 2018, "Probabilistic Model-Agnostic Meta-Learning", algorithms 1 and 2. Deviations: c, which is 1
in the paper's bound; theta is drawn for the adapted weights only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl.fewshot.gaussian import Gaussian, kl, sample, standard_noise
from metarl.fewshot.inner_loop import descend
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


@dataclass(frozen=True)
class PlatipusSettings(InnerSettings):
    """Settings of PLATIPUS."""

    num_outer_samples: int = 1
    """Draws of the initialisation in the meta-training loss."""
    num_test_samples: int = 10
    """Draws of the initialisation whose probabilities a prediction averages."""
    initial_std: float = 0.02
    """Standard deviations sigma_p and sigma_q at the start."""
    initial_gamma: float = 0.01
    """Step sizes gamma_p and gamma_q at the start."""
    kl_coef: float = 1e-4
    """c."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values(
            self,
            at_least_one=("num_outer_samples", "num_test_samples"),
            positive=("initial_std",),
            not_negative=("initial_gamma", "kl_coef"),
        )


class Platipus(GradientLearner):
    """Learner: a random initialisation of the adapted weights; the others are shared and certain. See the module."""

    settings: PlatipusSettings

    def __init__(
        self, settings: PlatipusSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(settings, x_shape, num_ways, generator)
        adapted = {name: value for name, value in self.network.named_parameters() if name in self.adapted_names}
        start = {name: torch.full_like(value, math.log(settings.initial_std)) for name, value in adapted.items()}
        self.log_std_p, self.log_std_q = module_of(start), module_of(start)
        self.gamma_p = nn.Parameter(torch.tensor(settings.initial_gamma))
        self.gamma_q = nn.Parameter(torch.tensor(settings.initial_gamma))

    def noise(self, num_tasks: int, generator: torch.Generator, is_training: bool) -> dict[str, Tensor]:
        """Draws of the initialisation, by name (B, S, ...); predictions of all tasks use the same ones."""
        shapes = group(dict(self.named_parameters()), "log_std_p")
        count = self.settings.num_outer_samples if is_training else self.settings.num_test_samples
        drawn = standard_noise(shapes, (num_tasks if is_training else 1, count), generator)
        return {name: value.expand(num_tasks, *value.shape[1:]) for name, value in drawn.items()}

    def task_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        """See `GradientLearner.task_loss`."""
        prior = self.initialisation(meta, task.support, "p")
        posterior = self.initialisation(meta, task.query, "q")
        outputs = self._adapted_outputs(meta, posterior, task, self.settings.num_inner_steps)  # (S, Q, W)
        loss = torch.func.vmap(lambda of_draw: prediction_loss(of_draw, task.query))(outputs).mean()
        divergence = kl(posterior, prior)
        predictions = torch.func.vmap(lambda o: as_prediction(o, task.query))(outputs)
        metrics = {**query_metrics(averaged(predictions, task.query), task.query), "kl": divergence}
        return loss + self.settings.kl_coef * divergence / num_examples(task.query), metrics

    def task_prediction(self, meta: Parameters, task: Task, num_steps: int) -> Tensor:
        """See `GradientLearner.task_prediction`."""
        outputs = self._adapted_outputs(meta, self.initialisation(meta, task.support, "p"), task, num_steps)
        return averaged(torch.func.vmap(lambda o: as_prediction(o, task.query))(outputs), task.query)

    def initialisation(self, meta: Parameters, examples: Examples, which: str) -> Gaussian:
        """p (of the support) or q (of the query): the distribution of theta, of one task."""
        start = group(meta, "network")
        model, read = self.inner_problem(start, examples)

        def loss(adapted: Parameters, examples: Examples) -> Tensor:
            return prediction_loss(model(adapted, examples.x), examples)

        mean = {name: start[name] for name in self.adapted_names}
        moved = descend(mean, read, loss, meta[f"gamma_{which}"], 1, self.settings.first_order)[-1]
        return Gaussian(moved, group(meta, f"log_std_{which}"))

    def _adapted_outputs(self, meta: Parameters, drawn_from: Gaussian, task: Task, num_steps: int) -> Tensor:
        """What S drawn and adapted networks say of the queries, (S, Q, W)."""
        start, settings = group(meta, "network"), self.settings
        model, support = self.inner_problem(start, task.support)

        def loss(adapted: Parameters, examples: Examples) -> Tensor:
            return prediction_loss(model(adapted, examples.x), examples)

        def of_draw(theta: Parameters) -> Tensor:
            phi = descend(theta, support, loss, settings.inner_lr, num_steps, settings.first_order)[-1]
            return self.outputs({**start, **phi}, task.query.x)

        return torch.func.vmap(of_draw)(sample(drawn_from, task.noise))
