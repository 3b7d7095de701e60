"""Conditional neural processes: adaptation is one pass of a network that reads the support as a set.

    classes:  r_c = mean over the support of class c of h(encoder(x)),   r = mean over classes of r_c
              logit of class c for a query x = g([encoder(x), r_c, r])
    numbers:  r = mean over the support of h([encoder(x), y])
              y of a query x ~ N(m, s^2),  m, s from g([encoder(x), r])

No step of a gradient is taken when adapting; the order of the support does not matter.

Source: Garnelo et al. 2018, "Conditional Neural Processes", sections 2.1 (numbers) and 4.3 (classes). There, too,
classes are aggregated apart; the decoder reads all r_c in one long vector. Deviation: one decoder for every class,
which reads its own r_c and the mean r, so that classes are exchangeable and their number is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError
from metarl.fewshot.encoders import EncoderSettings, make_encoder
from metarl.fewshot.inner_loop import TaskObjective, activation_bytes, chunk_size, map_tasks, mean_over_tasks
from metarl.fewshot.named_tensors import group, module_of
from metarl.fewshot.tasks import Task, class_shares, prediction_loss, query_metrics, tasks_of
from metarl.fewshot.types import Episode
from metarl.nets.mlp import mlp, uniform_mlp

Parameters = Mapping[str, Tensor]

_LEAST_STD = 0.1
"""Smallest deviation of a predicted number, as in the released code: s = 0.1 + 0.9 softplus."""


class Normal(NamedTuple):
    """Independent normal distributions of numbers.

    Attributes:
        mean, std: (..., D) each.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class CNPSettings(EncoderSettings):
    """Settings of the conditional neural process."""

    targets: Literal["classes", "numbers"] = "classes"
    """What is predicted: one of a task's classes, or numbers with their uncertainty."""
    representation_dim: int = 128
    """Numbers in the representation of a class, or of a task."""
    set_hidden_dim: int = 128
    """Width of the hidden layers of h and g, which have one and two."""
    task_chunk: int = 0
    """Tasks that are differentiated at a time; 0: as many as keep their activations in the cache of a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "running":
            raise ConfigError("norm must be batch, group or none, got 'running': tasks are encoded one by one.")
        for name in ("representation_dim", "set_hidden_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.task_chunk < 0:
            raise ConfigError(f"task_chunk must not be negative, got {self.task_chunk}.")


class CNP(nn.Module):
    """Learner: reads the support as a set; see the module.

    Args:
        settings: of the learner.
        x_shape: *X.
        num_ways: D, where targets are numbers; one decoder serves any number of classes.
        generator: of the initial weights.
    """

    any_ways = True

    def __init__(
        self, settings: CNPSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = make_encoder(settings, x_shape, generator)
        self.activation_bytes = activation_bytes(self.encoder, torch.zeros(2, *x_shape)) // 2
        width, size, inputs = settings.set_hidden_dim, settings.representation_dim, self.encoder.embedding_dim
        if settings.targets == "classes":
            read_dim, decoded_dim, output_dim = inputs, inputs + 2 * size, 1
        else:
            read_dim, decoded_dim, output_dim = inputs + num_ways, inputs + size, 2 * num_ways
        self.h = module_of(uniform_mlp((read_dim, width, size), generator))
        self.g = module_of(uniform_mlp((decoded_dim, width, width, output_dim), generator))

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """See `FewShotLearner.loss`; differentiable once."""
        objective: TaskObjective = self._number_loss
        if self.settings.targets == "classes":
            objective = partial(self._class_loss, episode.num_ways)
        meta = dict(self.named_parameters())
        tasks, is_normalised = tasks_of(episode, {}), self.settings.norm != "none"
        loss, metrics = mean_over_tasks(objective, meta, tasks, self._chunk(episode), is_normalised=is_normalised)
        return loss, {name: float(value) for name, value in metrics.items()}

    @torch.no_grad()
    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """See `FewShotLearner.log_probs`."""
        meta = dict(self.named_parameters())
        logits = map_tasks(partial(self.logits, episode.num_ways, meta), tasks_of(episode, {}), self._chunk(episode))
        return logits.log_softmax(-1)

    def predict(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """Log probabilities of the queries' classes (B, Q, W), or means of their targets (B, Q, D)."""
        if self.settings.targets == "numbers":
            return self.predict_numbers(episode).mean
        return self.log_probs(episode, generator)

    @torch.no_grad()
    def predict_numbers(self, episode: Episode) -> Normal:
        """Mean and deviation of the queries' targets, (B, Q, D) each, where targets are numbers."""
        meta = dict(self.named_parameters())
        return Normal(*map_tasks(partial(self.numbers, meta), tasks_of(episode, {}), self._chunk(episode)))

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (N, Z) of samples (N, *X)."""
        return self.encoder(x)

    def logits(self, num_ways: int, meta: Parameters, task: Task) -> Tensor:
        """Of the queries of one task, (Q, W)."""
        support, query = self._embedded(meta, task)
        read = mlp(group(meta, "h"), support, torch.relu)  # (S, R)
        of_class = class_shares(task.support, num_ways).to(read).mT @ read  # (W, R)
        of_task = of_class.mean(0).expand_as(of_class)
        of_query = query.unsqueeze(1).expand(-1, num_ways, -1)  # (Q, W, Z)
        of_set = torch.cat([of_class, of_task], -1).expand(len(query), -1, -1)  # (Q, W, 2 R)
        return mlp(group(meta, "g"), torch.cat([of_query, of_set], -1), torch.relu)[..., 0]

    def numbers(self, meta: Parameters, task: Task) -> Normal:
        """What is said of the targets of the queries of one task, (Q, D)."""
        support, query = self._embedded(meta, task)
        read = mlp(group(meta, "h"), torch.cat([support, task.support.y], -1), torch.relu)  # (S, R)
        of_set = (task.support.weight @ read).expand(len(query), -1)  # (Q, R)
        mean, raw = mlp(group(meta, "g"), torch.cat([query, of_set], -1), torch.relu).chunk(2, -1)
        return Normal(mean, _LEAST_STD + (1 - _LEAST_STD) * nn.functional.softplus(raw))

    def _embedded(self, meta: Parameters, task: Task) -> tuple[Tensor, Tensor]:
        """Support (S, Z) and query (Q, Z) of one task."""
        support, query = (
            torch.func.functional_call(self.encoder, group(meta, "encoder"), (examples.x,), tie_weights=False)
            for examples in (task.support, task.query)
        )
        return support, query

    def _class_loss(self, num_ways: int, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.logits(num_ways, meta, task)
        return prediction_loss(logits, task.query), query_metrics(logits, task.query)

    def _number_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        mean, std = self.numbers(meta, task)
        # -log N(y; m, s^2) = ((y - m) / s)^2 / 2 + log s + log(2 pi) / 2
        nll = ((task.query.y - mean) / std).square() / 2 + std.log() + math.log(2 * math.pi) / 2  # (Q, D)
        return (task.query.weight * nll.mean(-1)).sum(), query_metrics(mean, task.query)

    def _chunk(self, episode: Episode) -> int:
        num_examples = episode.support_x.shape[1] + episode.query_x.shape[1]
        chosen = self.settings.task_chunk or chunk_size(self.activation_bytes, num_examples, episode.support_x.device)
        return min(chosen, episode.num_tasks)
