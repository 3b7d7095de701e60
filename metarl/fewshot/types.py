"""What the few-shot half is made of: episodes, and the contract of its learners.

Shape key: B tasks, W ways (classes of a task), S support samples and Q query samples of a task, X the shape of one
sample: (C, H, W) of an image, (C, L) of a signal, (F,) of features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError


class Episode(NamedTuple):
    """B few-shot tasks, padded to the same number of samples.

    Every class 0 .. W - 1 has at least one support sample in every task. What is padding holds copies of other samples
    of its task, so that batch statistics keep their meaning; losses and metrics must leave it out by the masks.

    Attributes:
        support_x: (B, S, *X) float32.
        support_y: (B, S) int64 in [0, W).
        support_mask: (B, S) bool, False where it is padding.
        query_x: (B, Q, *X) float32.
        query_y: (B, Q) int64 in [0, W), or -1 for a query of no class of the task.
        query_mask: (B, Q) bool, False where it is padding.
        num_ways: W.
    """

    support_x: Tensor
    support_y: Tensor
    support_mask: Tensor
    query_x: Tensor
    query_y: Tensor
    query_mask: Tensor
    num_ways: int

    @property
    def num_tasks(self) -> int:
        """B."""
        return self.support_y.shape[0]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """X, the shape of one sample."""
        return tuple(self.support_x.shape[2:])

    def to(self, device: torch.device | str) -> Episode:
        """The same tasks on another device."""
        return self._each(lambda value: value.to(device))

    def tasks(self, start: int, stop: int) -> Episode:
        """The tasks `start` to `stop` - 1 alone."""
        return self._each(lambda value: value[start:stop])

    def _each(self, function: Callable[[Tensor], Tensor]) -> Episode:
        return Episode(
            support_x=function(self.support_x),
            support_y=function(self.support_y),
            support_mask=function(self.support_mask),
            query_x=function(self.query_x),
            query_y=function(self.query_y),
            query_mask=function(self.query_mask),
            num_ways=self.num_ways,
        )


class FewShotLearner(Protocol):
    """What training and evaluation need of a learner: a `torch.nn.Module` made by

        Learner(settings, x_shape, num_ways, generator)

    with its frozen settings, X, W and the generator that initial weights are drawn from.

    Attributes:
        any_ways: whether it takes episodes of other W than it was made with; those with a head of W outputs do not.
    """

    any_ways: bool

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the meta-optimiser trains."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint keeps."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take over what `state_dict` gave."""
        ...

    def to(self, device: torch.device | str) -> Any:
        """Move to a device."""
        ...

    def loss(self, episode: Episode, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """One meta-training loss: a differentiable scalar, the mean over tasks, and metrics such as accuracy."""
        ...

    def log_probs(self, episode: Episode, generator: torch.Generator) -> Tensor:
        """Log probabilities (B, Q, W) of the queries' classes after adapting on the support; no graph is kept."""
        ...


@runtime_checkable
class UpdatesItself(Protocol):
    """A learner whose meta-update follows no gradient, such as Reptile's: the loop calls this instead of `loss`."""

    def update(self, episode: Episode, generator: torch.Generator) -> dict[str, float]:
        """Make one meta-update; returns metrics."""
        ...


@runtime_checkable
class FollowsProgress(Protocol):
    """A learner with a schedule of its own, such as MAML++'s loss weights: told before every update."""

    def set_progress(self, progress: float) -> None:
        """The share of training that is done, in [0, 1]."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A learner with one embedding for all tasks, which pictures can show."""

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of samples (N, *X)."""
        ...


@runtime_checkable
class ComparesFeatures(Protocol):
    """A learner that makes features of each sample and compares those, so that many tasks can share them.

    Attributes:
        is_inductive: whether the features of a sample are its own, whatever else is in the batch.
    """

    is_inductive: bool

    def eval(self) -> Any:
        """Stop normalising by the batch at hand."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Features (N, *E) of samples (N, *X)."""
        ...

    def log_probs_of_features(self, episode: Episode) -> Tensor:
        """Log probabilities (B, Q, W) of the queries of an episode whose samples are features; no graph is kept."""
        ...


def known(query_y: Tensor, query_mask: Tensor) -> Tensor:
    """(B, Q) bool: queries that are no padding and belong to a class of the task."""
    return query_mask & (query_y >= 0)


def task_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over tasks of each task's mean over the entries of a mask.

    Args:
        value: (B, Q).
        mask: (B, Q) bool; a task without an entry counts as zero.
    """
    weight = mask.to(value.dtype)
    per_task = (torch.where(mask, value, 0.0)).sum(-1) / weight.sum(-1).clamp(min=1)  # (B,)
    return per_task.mean()


def cross_entropy(log_probs: Tensor, episode: Episode) -> Tensor:
    """Mean negative log probability of the right class over the queries that have one, then over tasks.

    Args:
        log_probs: (B, Q, W).
        episode: the tasks they belong to.
    """
    right = log_probs.gather(-1, episode.query_y.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, Q)
    return -task_mean(right, known(episode.query_y, episode.query_mask))


def accuracy(log_probs: Tensor, episode: Episode) -> Tensor:
    """Share of the queries that have a class whose likeliest class is the right one, (B,).

    Args:
        log_probs: (B, Q, W).
        episode: the tasks they belong to.
    """
    counts = known(episode.query_y, episode.query_mask)
    hits = (log_probs.argmax(-1) == episode.query_y) & counts
    return hits.sum(-1).float() / counts.sum(-1).clamp(min=1).float()


def require_ways(learner: str, made_for: int, episode: Episode) -> None:
    """Refuse tasks of other W than a learner's head has outputs.

    Raises:
        ConfigError: they differ.
    """
    if episode.num_ways != made_for:
        raise ConfigError(
            f"{learner} has {made_for} outputs and cannot judge {episode.num_ways}-way tasks: train it with "
            f"--ways {episode.num_ways}, or evaluate it with --ways {made_for}."
        )
