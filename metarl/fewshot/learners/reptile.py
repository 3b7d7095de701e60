"""Reptile: move the initialisation towards the weights that tasks adapt to; no gradient of a gradient.

    phi_i = K steps of the inner optimiser from phi on the examples of task i
    phi <- phi + epsilon * mean_i (phi_i - phi)

Support and query of an episode are one set of labelled examples in training; minibatches of it are drawn for each step.

Source: Nichol et al. 2018, "On First-Order Meta-Learning Algorithms", algorithm 2, and their released code (Adam with
beta_1 = 0 inside). Deviation: second moments of the inner Adam begin anew with every task, as they do in their
test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.fewshot.inner_loop import map_tasks
from metarl.fewshot.learners.gradient import GradientLearner, InnerSettings, Parameters, as_prediction
from metarl.fewshot.named_tensors import group
from metarl.fewshot.tasks import Examples, Task, prediction_loss, query_metrics
from metarl.fewshot.types import Episode

_BETA_2, _EPSILON = 0.999, 1e-8


@dataclass(frozen=True)
class ReptileSettings(InnerSettings):
    """Settings of Reptile; the defaults are near those of Nichol et al. 2018 for 5-way Omniglot."""

    num_inner_steps: int = 5
    """Inner steps in meta-training; with one, Reptile is training on all tasks at once."""
    num_test_steps: int = 50
    """Inner steps when predicting; 0: as many as in meta-training."""
    inner_lr: float = 1e-3
    """Step size of the inner optimiser."""
    inner_optimizer: Literal["adam", "sgd"] = "adam"
    """Inner optimiser; Adam has no momentum (beta_1 = 0)."""
    minibatch_size: int = 10
    """Examples of an inner step, drawn without replacement in meta-training; 0: all."""
    outer_lr: float = 1.0
    """Epsilon, the share of the way to the mean of the adapted weights, at the start."""
    anneals: bool = True
    """Decrease that share linearly to zero over the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.outer_lr <= 1:
            raise ConfigError(f"outer_lr must lie in (0, 1], got {self.outer_lr}.")
        if self.adapts != "all":
            raise ConfigError(f"Reptile moves all weights: adapts must be 'all', got {self.adapts!r}.")
        if self.minibatch_size < 0:
            raise ConfigError(f"minibatch_size must not be negative, got {self.minibatch_size}.")


class Reptile(GradientLearner):
    """Learner: updates itself (`update`) instead of giving a loss; see the module."""

    settings: ReptileSettings

    def __init__(
        self, settings: ReptileSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(settings, x_shape, num_ways, generator)
        self.progress = 0.0

    def set_progress(self, progress: float) -> None:
        """See `FollowsProgress.set_progress`; epsilon follows it."""
        self.progress = progress

    @torch.no_grad()
    def update(self, episode: Episode, generator: torch.Generator) -> dict[str, float]:
        """Move towards the weights that the tasks of an episode adapt to.

        Returns:
            `loss` and accuracy of the adapted networks on their tasks' examples, `move`, the length of the step.
        """
        tasks = self._tasks(episode, generator, is_training=True)
        order = self._minibatches(tasks, generator)  # (B, K, size)
        meta = dict(self.named_parameters())
        adapted, metrics = map_tasks(partial(self._adapted, meta), (tasks, order), self.chunk(episode))
        start, share = group(meta, "network"), self._share()
        moves = {name: share * (value.mean(0) - start[name]) for name, value in adapted.items()}
        for name, parameter in self.network.named_parameters():
            parameter.add_(moves[name])
        length = torch.stack([move.square().sum() for move in moves.values()]).sum().sqrt()
        return {**{name: float(value.mean()) for name, value in metrics.items()}, "move": float(length)}

    def task_prediction(self, meta: Parameters, task: Task, num_steps: int) -> Tensor:
        """See `GradientLearner.task_prediction`; every step sees the whole support."""
        adapted = self._descend(group(meta, "network"), [task.support] * num_steps)
        return as_prediction(self.outputs(adapted, task.query.x), task.query)

    def _adapted(self, meta: Parameters, task_and_order: tuple[Task, Tensor]) -> tuple[dict[str, Tensor], Mapping]:
        """The weights that one task adapts to, and their metrics on its examples."""
        task, order = task_and_order
        examples = task.joint
        batches = []
        for chosen in order:  # (size,)
            weight = examples.weight[chosen]
            weight = weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
            batches.append(Examples(examples.x[chosen], examples.y[chosen], weight))
        adapted = self._descend(group(meta, "network"), batches)
        outputs = self.outputs(adapted, examples.x)
        return adapted, {"loss": prediction_loss(outputs, examples), **query_metrics(outputs, examples)}

    def _descend(self, start: Parameters, batches: list[Examples]) -> dict[str, Tensor]:
        """Steps of the inner optimiser, one for each batch; of one task."""

        def loss(parameters: Parameters, examples: Examples) -> Tensor:
            return prediction_loss(self.outputs(parameters, examples.x), examples)

        parameters, second = dict(start), {name: torch.zeros_like(value) for name, value in start.items()}
        for step, examples in enumerate(batches, 1):
            gradient = torch.func.grad(loss)(parameters, examples)
            if self.settings.inner_optimizer == "adam":
                # v <- beta_2 v + (1 - beta_2) g^2,  theta <- theta - lr g / (sqrt(v / (1 - beta_2^t)) + eps)
                second = {n: _BETA_2 * second[n] + (1 - _BETA_2) * g.square() for n, g in gradient.items()}
                correction = 1 - _BETA_2**step
                gradient = {n: g / ((second[n] / correction).sqrt() + _EPSILON) for n, g in gradient.items()}
            parameters = {n: value - self.settings.inner_lr * gradient[n] for n, value in parameters.items()}
        return parameters

    def _minibatches(self, tasks: Task, generator: torch.Generator) -> Tensor:
        """Which examples of support and query each inner step sees, (B, K, size)."""
        counted = torch.cat([tasks.support.weight > 0, tasks.query.weight > 0], 1)  # (B, M)
        count, num_examples = counted.shape
        size = min(self.settings.minibatch_size or num_examples, num_examples)
        shape = (count, self.settings.num_inner_steps, num_examples)
        key = torch.rand(shape, generator=generator, device=generator.device).to(counted.device)
        # Padding comes last, so that it is drawn only where a task has fewer examples than a minibatch.
        return torch.where(counted[:, None], key, key + 1).argsort(-1)[..., :size]

    def _share(self) -> float:
        """Epsilon of this update."""
        return self.settings.outer_lr * (1 - self.progress if self.settings.anneals else 1.0)
