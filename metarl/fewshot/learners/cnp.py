"""A conditional neural process for classes: adaptation is one pass of a network that reads the support as a set.

    r_c = mean over the support of class c of h(encoder(x)),   r = mean over classes of r_c
    logit of class c for a query x = g([encoder(x), r_c, r])

No step of a gradient is taken when adapting; the order of the support does not matter.

Source: Garnelo et al. 2018, "Conditional Neural Processes", section 4.3. There, too, classes are aggregated apart;
the decoder reads all r_c in one long vector. Deviation: one decoder for every class, which reads its own r_c and
the mean r, so that classes are exchangeable and their number is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError
from metarl.fewshot.encoders import EncoderSettings, make_encoder
from metarl.fewshot.inner_loop import activation_bytes, chunk_size, map_tasks, mean_over_tasks
from metarl.fewshot.named_tensors import group, module_of
from metarl.fewshot.tasks import Task, class_shares, prediction_loss, query_metrics, tasks_of
from metarl.fewshot.types import Episode
from metarl.nets.mlp import mlp, uniform_mlp

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class CNPSettings(EncoderSettings):
    """Settings of the conditional neural process."""

    representation_dim: int = 128
    """Numbers in the representation of a class."""
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
        num_ways: not used: one decoder serves every class.
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
        self.h = module_of(uniform_mlp((inputs, width, size), generator))
        self.g = module_of(uniform_mlp((inputs + 2 * size, width, width, 1), generator))

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """See `FewShotLearner.loss`; differentiable once."""
        tasks = tasks_of(episode, {})
        objective = partial(self._task_loss, episode.num_ways)
        loss, metrics = mean_over_tasks(objective, dict(self.named_parameters()), tasks, self._chunk(episode))
        return loss, {name: float(value) for name, value in metrics.items()}

    @torch.no_grad()
    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """See `FewShotLearner.log_probs`."""
        meta = dict(self.named_parameters())
        logits = map_tasks(partial(self.logits, episode.num_ways, meta), tasks_of(episode, {}), self._chunk(episode))
        return logits.log_softmax(-1)

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (N, Z) of samples (N, *X)."""
        return self.encoder(x)

    def logits(self, num_ways: int, meta: Parameters, task: Task) -> Tensor:
        """Of the queries of one task, (Q, W)."""
        support, query = (
            torch.func.functional_call(self.encoder, group(meta, "encoder"), (examples.x,))
            for examples in (task.support, task.query)
        )  # (S, Z), (Q, Z)
        read = mlp(group(meta, "h"), support, torch.relu)  # (S, R)
        of_class = class_shares(task.support, num_ways).to(read).mT @ read  # (W, R)
        of_task = of_class.mean(0).expand_as(of_class)
        count = len(query)
        pairs = torch.cat(
            [
                query[:, None].expand(-1, num_ways, -1),
                torch.cat([of_class, of_task], -1).expand(count, -1, -1),
            ],
            -1,
        )  # (Q, W, Z + 2 R)
        return mlp(group(meta, "g"), pairs, torch.relu)[..., 0]

    def _task_loss(self, num_ways: int, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.logits(num_ways, meta, task)
        return prediction_loss(logits, task.query), query_metrics(logits, task.query)

    def _chunk(self, episode: Episode) -> int:
        num_examples = episode.support_x.shape[1] + episode.query_x.shape[1]
        chosen = self.settings.task_chunk or chunk_size(self.activation_bytes, num_examples, episode.support_x.device)
        return min(chosen, episode.num_tasks)
