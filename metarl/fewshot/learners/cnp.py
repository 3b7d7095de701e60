"""Conditional neural processes: adaptation is one pass of a network that reads the support as a set.

    classes:  r_c = h({encoder(x) : x of class c}),   r = h({encoder(x)})              h of sets: `SetEncoder`
              logit of class c for a query x = g([encoder(x), r_c, r])
    numbers:  r = h({[encoder(x), y]})
              y of a query x ~ N(m, s^2),  m, s from g([encoder(x), r])

No step of a gradient is taken when adapting; the order of the support does not matter.

Source: Garnelo et al. 2018, "Conditional Neural Processes", sections 2.1 (numbers) and 4.3 (classes). There, too,
classes are aggregated apart; the decoder reads all r_c in one long vector. Deviation: one decoder for every class,
which reads its own r_c and that of the whole support, so that classes are exchangeable and their number is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError
from metarl.fewshot.encoders import EncoderSettings, initialise, make_encoder
from metarl.fewshot.inner_loop import TaskObjective, activation_bytes, chunk_size, map_tasks, mean_over_tasks
from metarl.fewshot.tasks import Examples, Task, indicators, prediction_loss, query_metrics, tasks_of
from metarl.fewshot.types import Episode
from metarl.set_encoder import Pooling, SetEncoder

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
    pooling: Pooling = "mean"
    """How the members of a set become one: their mean, a weighted mean, or a product of normal distributions."""
    representation_dim: int = 128
    """Numbers in the representation of a class, or of a task."""
    set_hidden_dim: int = 128
    """Width of the two hidden layers of h and of g."""
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
            member_dim, decoded_dim, output_dim = inputs, inputs + 2 * size, 1
        else:
            member_dim, decoded_dim, output_dim = inputs + num_ways, inputs + size, 2 * num_ways
        self.h = SetEncoder(member_dim, size, width, settings.pooling, is_bounded=False)
        self.g = nn.Sequential(
            *(nn.Linear(decoded_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, output_dim),
        )
        for part in (self.h, self.g):
            initialise(part, generator)

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
        logits = map_tasks(partial(self.logits, episode.num_ways), tasks_of(episode, {}), self._chunk(episode))
        return logits.log_softmax(-1)

    def predict(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """Log probabilities of the queries' classes (B, Q, W), or means of their targets (B, Q, D)."""
        if self.settings.targets == "numbers":
            return self.predict_numbers(episode).mean
        return self.log_probs(episode, generator)

    @torch.no_grad()
    def predict_numbers(self, episode: Episode) -> Normal:
        """Mean and deviation of the queries' targets, (B, Q, D) each, where targets are numbers."""
        return Normal(*map_tasks(self.numbers, tasks_of(episode, {}), self._chunk(episode)))

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (N, Z) of samples (N, *X)."""
        return self.encoder(x)

    def logits(self, num_ways: int, task: Task) -> Tensor:
        """Of the queries of one task, (Q, W)."""
        query, member = self.encoder(task.query.x), self._members(task.support)  # (Q, Z), (S, K)
        of_class = indicators(task.support.y, num_ways).to(member).mT @ member  # (W, K)
        of_sets = torch.cat([self.h.embed(of_class), self.h.embed(member.sum(0)).expand(num_ways, -1)], -1)  # (W, 2 R)
        pairs = torch.cat(
            [query.unsqueeze(1).expand(-1, num_ways, -1), of_sets.expand(len(query), -1, -1)], -1
        )  # (Q, W, Z + 2 R)
        return self.g(pairs).squeeze(-1)

    def numbers(self, task: Task) -> Normal:
        """What is said of the targets of the queries of one task, (Q, D)."""
        query = self.encoder(task.query.x)  # (Q, Z)
        of_task = self.h.embed(self._members(task.support, task.support.y).sum(0))  # (R,)
        mean, raw = self.g(torch.cat([query, of_task.expand(len(query), -1)], -1)).chunk(2, -1)
        return Normal(mean, _LEAST_STD + (1 - _LEAST_STD) * nn.functional.softplus(raw))

    def forward(self, method: str, *arguments: Any) -> Any:
        """Call a method by name, for `torch.func.functional_call`."""
        return getattr(self, method)(*arguments)

    def _members(self, support: Examples, *beside: Tensor) -> Tensor:
        """What each sample of the support of one task adds to the sums of a set, (S, K)."""
        return self.h.statistics(torch.cat([self.encoder(support.x), *beside], -1), support.weight > 0)

    def _class_loss(self, num_ways: int, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        logits = torch.func.functional_call(self, dict(meta), ("logits", num_ways, task), tie_weights=False)
        return prediction_loss(logits, task.query), query_metrics(logits, task.query)

    def _number_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        mean, std = torch.func.functional_call(self, dict(meta), ("numbers", task), tie_weights=False)
        # -log N(y; m, s^2) = ((y - m) / s)^2 / 2 + log s + log(2 pi) / 2
        nll = ((task.query.y - mean) / std).square() / 2 + std.log() + math.log(2 * math.pi) / 2  # (Q, D)
        return (task.query.weight * nll.mean(-1)).sum(), query_metrics(mean, task.query)

    def _chunk(self, episode: Episode) -> int:
        num_examples = episode.support_x.shape[1] + episode.query_x.shape[1]
        chosen = self.settings.task_chunk or chunk_size(self.activation_bytes, num_examples, episode.support_x.device)
        return min(chosen, episode.num_tasks)
