"""What the learners that adapt weights share: an encoder and a head as one function of named parameters, and episodes
taken apart into tasks, a chunk of which is differentiated at a time.

A subclass says for one task what its loss and its prediction are, as functions of the meta-parameters;
`GradientLearner` gives it all tasks of an episode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError
from metarl.fewshot.encoders import Encoder, EncoderSettings, initialise, make_encoder
from metarl.fewshot.gaussian import log_mean_prob
from metarl.fewshot.inner_loop import activation_bytes, chunk_size, map_tasks, mean_over_tasks
from metarl.fewshot.named_tensors import group
from metarl.fewshot.tasks import Examples, Task, tasks_of
from metarl.fewshot.types import Episode, require_ways

Parameters = Mapping[str, Tensor]

Model = Callable[[Parameters, Tensor], Tensor]
"""(adapted weights, inputs (M, ...)) -> outputs (M, W)."""

HEAD = "head."
"""Prefix of the names of the last layer."""


@dataclass(frozen=True)
class InnerSettings(EncoderSettings):
    """Settings of the adaptation to a task, which all of them share."""

    num_inner_steps: int = 1
    """Inner steps of SGD on the support, in meta-training."""
    num_test_steps: int = 0
    """Inner steps when predicting; 0: as many as in meta-training."""
    inner_lr: float = 0.4
    """Size of an inner step; where step sizes are learned, their start."""
    adapts: Literal["all", "head", "body"] = "all"
    """What inner steps change: all weights, the last layer (ANIL) or all but the last layer (BOIL)."""
    first_order: bool = False
    """Take inner gradients as constants."""
    task_chunk: int = 0
    """Tasks that are differentiated at a time; 0: as many as keep their activations in the cache of a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "running":
            raise ConfigError(
                "norm must be batch, group or none, got 'running': inner steps on a few samples keep no averages."
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{field.name} must be finite, got {value}.")
        require_values(self, not_negative=("num_inner_steps", "num_test_steps", "inner_lr", "task_chunk"))

    @property
    def test_steps(self) -> int:
        """Inner steps when predicting."""
        return self.num_test_steps or self.num_inner_steps


def require_values(
    settings: object,
    *,
    at_least_one: tuple[str, ...] = (),
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
) -> None:
    """Refuse settings out of their range.

    Args:
        settings: a record of numbers.
        at_least_one, positive, not_negative: names of what must be so.

    Raises:
        ConfigError: one that is not, by name.
    """
    for names, is_right, rule in (
        (at_least_one, lambda value: value >= 1, "be at least 1"),
        (positive, lambda value: value > 0, "be positive"),
        (not_negative, lambda value: value >= 0, "not be negative"),
    ):
        for name in names:
            if not is_right(getattr(settings, name)):
                raise ConfigError(f"{name} must {rule}, got {getattr(settings, name)}.")


class Network(nn.Module):
    """An encoder and a linear head.

    Args:
        encoder: (M, *X) -> (M, Z).
        output_dim: W logits, or D numbers.
        generator: of the head's weights.
    """

    def __init__(self, encoder: Encoder, output_dim: int, generator: torch.Generator):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding_dim, output_dim)
        initialise(self.head, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(M, *X) -> (M, W)."""
        return self.head(self.encoder(x))


class GradientLearner(nn.Module):
    """Adapts the weights of a network to each task; a subclass says how, for one task.

    Args:
        settings: of the adaptation.
        x_shape: *X, the shape of one input.
        num_ways: W, outputs of the network; or D, where targets are numbers.
        generator: of the initial weights.

    Attributes:
        num_ways: W.
        network: what adapts; its parameters are the meta-learned start.
        adapted_names: which of the network's parameters inner steps change.
    """

    any_ways = False

    def __init__(
        self, settings: InnerSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.settings = settings
        self.num_ways = num_ways
        self.network = Network(make_encoder(settings, x_shape, generator), num_ways, generator)
        self.activation_bytes = activation_bytes(self.network, torch.zeros(2, *x_shape)) // 2
        chosen = {"all": lambda _: True, "head": _is_head, "body": lambda name: not _is_head(name)}[settings.adapts]
        self.adapted_names = tuple(name for name, _ in self.network.named_parameters() if chosen(name))

    def task_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        """The meta-training loss of one task and its metrics, () each.

        Args:
            meta: `named_parameters` of the learner.
            task: one task.
        """
        raise NotImplementedError

    def task_prediction(self, meta: Parameters, task: Task, num_steps: int) -> Tensor:
        """What is predicted for the queries of one task after `num_steps` inner steps on its support.

        Returns:
            (Q, W) log probabilities of the classes, or (Q, D) numbers where the targets are numbers.
        """
        raise NotImplementedError

    def noise(self, num_tasks: int, generator: torch.Generator, is_training: bool) -> dict[str, Tensor]:
        """Standard normal numbers for `num_tasks` tasks, for `Task.noise`; none unless overridden."""
        return {}

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """See `FewShotLearner.loss`; differentiable once."""
        tasks = self._tasks(episode, generator, is_training=True)
        meta = dict(self.named_parameters())
        is_normalised = self.settings.norm != "none"
        loss, metrics = mean_over_tasks(self.task_loss, meta, tasks, self.chunk(episode), is_normalised=is_normalised)
        return loss, {name: float(value) for name, value in metrics.items()}

    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """See `FewShotLearner.log_probs`."""
        return self.predict(episode, generator)

    @torch.no_grad()
    def predict(self, episode: Episode, generator: torch.Generator, num_steps: int | None = None) -> Tensor:
        """Adapt and predict.

        Args:
            episode: B tasks.
            generator: of what is drawn, if anything is.
            num_steps: inner steps, as `settings` say if None.

        Returns:
            (B, Q, W) log probabilities, or (B, Q, D) numbers where the targets are numbers.
        """
        meta = {name: value.detach() for name, value in self.named_parameters()}
        steps = self.settings.test_steps if num_steps is None else num_steps
        tasks = self._tasks(episode, generator, is_training=False)
        return map_tasks(lambda task: self.task_prediction(meta, task, steps), tasks, self.chunk(episode))

    def chunk(self, episode: Episode) -> int:
        """Tasks that are differentiated at a time."""
        num_examples = episode.support_x.shape[1] + episode.query_x.shape[1]
        chosen = self.settings.task_chunk or chunk_size(self.activation_bytes, num_examples, episode.support_x.device)
        return min(chosen, episode.num_tasks)

    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        """The network with these parameters: (M, *X) -> (M, W)."""
        return torch.func.functional_call(self.network, dict(parameters), (x,), tie_weights=False)

    def encode(self, parameters: Parameters, x: Tensor) -> Tensor:
        """The encoder alone with the network's parameters: (M, *X) -> (M, Z)."""
        return torch.func.functional_call(self.network.encoder, group(parameters, "encoder"), (x,), tie_weights=False)

    def inner_problem(self, start: Parameters, support: Examples) -> tuple[Model, Examples]:
        """What inner steps descend through: a model of the adapted weights, and its support, of one task.

        Where the head alone adapts the support is embedded once, whatever the number of steps.

        Args:
            start: the network's parameters before adaptation.
            support: of one task.

        Returns:
            (adapted weights, inputs (M, ...)) -> (M, W), and the support whose inputs it reads.
        """
        if self.settings.adapts != "head":
            return lambda adapted, x: self.outputs({**start, **adapted}, x), support
        embedded = support._replace(x=self.encode(start, support.x))  # (S, Z)
        return linear_head, embedded

    def _tasks(self, episode: Episode, generator: torch.Generator, is_training: bool) -> Task:
        require_ways(type(self).__name__, self.num_ways, episode)
        return tasks_of(episode, self.noise(episode.num_tasks, generator, is_training))


def linear_head(adapted: Parameters, embedding: Tensor) -> Tensor:
    """The last layer: (M, Z) -> (M, W)."""
    return embedding @ adapted["head.weight"].mT + adapted["head.bias"]


def as_prediction(outputs: Tensor, examples: Examples) -> Tensor:
    """Log probabilities from logits where the targets are classes; numbers as they are."""
    return outputs if examples.y.is_floating_point() else outputs.log_softmax(-1)


def averaged(predictions: Tensor, examples: Examples) -> Tensor:
    """(S, M, ...) predictions of S sets of weights -> the prediction of their mixture, (M, ...)."""
    return predictions.mean(0) if examples.y.is_floating_point() else log_mean_prob(predictions)


def _is_head(name: str) -> bool:
    return name.startswith(HEAD)
