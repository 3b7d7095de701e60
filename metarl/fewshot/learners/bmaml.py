"""Bayesian MAML: particles that Stein variational gradient descent moves to a task's posterior together.

    Theta_0 = P sets of the adapted weights, meta-learned
    Theta_{k+1} = Theta_k + alpha * SVGD direction of log p(support | w) / |support|
    loss = L(mean of the particles' probabilities; query)                                  outer_loss="query"
    loss = sum_p |w_p(K) - leader_p|^2,  the leader S more steps ahead, on support and query     outer_loss="chaser"

The prior within a task is flat: the meta-learned start and few steps are what keeps particles near what is known.

Source: Yoon et al. 2018, "Bayesian Model-Agnostic Meta-Learning", section 3. By default the
particles share the encoder and each has a last layer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.fewshot.learners.gradient import (
    GradientLearner,
    InnerSettings,
    Model,
    Parameters,
    as_prediction,
    averaged,
    require_values,
)
from metarl.fewshot.named_tensors import flatten, group, module_of, unflatten
from metarl.fewshot.svgd import svgd_direction
from metarl.fewshot.tasks import Examples, Task, num_examples, prediction_loss, query_metrics


@dataclass(frozen=True)
class BMAMLSettings(InnerSettings):
    """Settings of Bayesian MAML."""

    adapts: Literal["all", "head", "body"] = "head"
    """What particles have of their own and inner steps change: the last layer, or (several times the work) all
    weights."""
    num_particles: int = 5
    """P."""
    initial_spread: float = 0.5
    """Deviation of the particles at the start, relative to the size of each tensor's entries."""
    temperature: float = 1.0
    """Of the posterior: 1 is Bayes' with the examples' likelihood, 0 has no repulsion between particles."""
    outer_loss: Literal["query", "chaser"] = "query"
    """Meta-training loss: that of the queries, or the distance to the particles some steps ahead that saw them."""
    num_leader_steps: int = 1
    """Those steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values(
            self,
            at_least_one=("num_particles", "num_leader_steps"),
            not_negative=("initial_spread", "temperature"),
        )


class BMAML(GradientLearner):
    """Learner: particles of the adapted weights; the others are shared. See the module.

    Args:
        settings, x_shape, num_ways, generator: as of `GradientLearner`, whose network gives the shared weights and
            the centre
            of the particles at the start.
    """

    settings: BMAMLSettings

    def __init__(
        self, settings: BMAMLSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(settings, x_shape, num_ways, generator)
        particles = {}
        for name, value in self.network.named_parameters():
            if name in self.adapted_names:
                noise = torch.randn(settings.num_particles, *value.shape, generator=generator)
                scale = settings.initial_spread * value.detach().square().mean().sqrt()
                particles[name] = value.detach() + scale * noise  # (P, ...)
                value.requires_grad_(False)
        self.particles = module_of(particles)

    def task_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        """See `GradientLearner.task_loss`."""
        start = group(meta, "network")
        adapted = self.adapted(meta, task.support, self.settings.num_inner_steps)
        outputs = self.particle_outputs(start, adapted, task.query.x)  # (P, Q, W)
        predictions = torch.func.vmap(lambda o: as_prediction(o, task.query))(outputs)
        mixture = averaged(predictions, task.query)
        metrics = query_metrics(mixture, task.query)
        if self.settings.outer_loss == "query":
            # Log probabilities are logits of themselves.
            return prediction_loss(mixture, task.query), metrics
        with torch.no_grad():
            leader = self._steps(start, adapted, task.joint, self.settings.num_leader_steps)
        squares = [(adapted[name] - leader[name]).square().sum() for name in adapted]
        return torch.stack(squares).sum(), metrics

    def task_prediction(self, meta: Parameters, task: Task, num_steps: int) -> Tensor:
        """See `GradientLearner.task_prediction`."""
        adapted = self.adapted(meta, task.support, num_steps)
        outputs = self.particle_outputs(group(meta, "network"), adapted, task.query.x)
        return averaged(torch.func.vmap(lambda o: as_prediction(o, task.query))(outputs), task.query)

    def adapted(self, meta: Parameters, support: Examples, num_steps: int) -> dict[str, Tensor]:
        """The particles after `num_steps` steps on one task, (P, ...)."""
        return self._steps(group(meta, "network"), group(meta, "particles"), support, num_steps)

    def particle_outputs(self, start: Parameters, particles: Parameters, x: Tensor) -> Tensor:
        """The network with each particle's weights, (P, M, W)."""
        return torch.func.vmap(lambda own: self.outputs({**start, **own}, x))(dict(particles))

    def _steps(self, start: Parameters, particles: Parameters, support: Examples, num_steps: int) -> dict[str, Tensor]:
        """SVGD from given particles, on one task."""
        model, support = self.inner_problem(start, support)
        particles = dict(particles)
        for _ in range(num_steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.first_order):
                moves = self._direction(model, particles, support)
            particles = {name: value + self.settings.inner_lr * moves[name] for name, value in particles.items()}
        return particles

    def _direction(self, model: Model, particles: Parameters, support: Examples) -> dict[str, Tensor]:
        """The SVGD direction of the mean log likelihood: the repulsion is divided by the number of examples."""

        def log_likelihood(weights: Parameters) -> Tensor:
            return -prediction_loss(model(weights, support.x), support)

        scores = flatten(torch.func.vmap(torch.func.grad(log_likelihood))(dict(particles)))  # (P, D)
        heat = self.settings.temperature / num_examples(support)
        return unflatten(svgd_direction(flatten(particles), scores, heat), particles)
