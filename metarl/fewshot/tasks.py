"""One few-shot task as the gradient learners see it, and the losses that adaptation and judgement descend on.

An `Episode` is a batch of padded tasks. Here the padding has become weights, which are zero for what does not count and
sum to one, so that a mean over a task's examples is a weighted sum, vmapped or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.fewshot.types import Episode


class Examples(NamedTuple):
    """Labelled examples of one task; with a leading dimension B: of B tasks.

    Attributes:
        x: (M, *X), as the encoder reads it.
        y: (M,) int64 class within the task, or (M, D) floating point: a regression target.
        weight: (M,), sums to one over the examples that count (or is zero, where none does).
    """

    x: Tensor
    y: Tensor
    weight: Tensor


class Task(NamedTuple):
    """One task; with a leading dimension B: B tasks.

    Attributes:
        support: to adapt on.
        query: to be judged on.
        noise: standard normal numbers for the learners that draw weights, by name; empty for the others.
    """

    support: Examples
    query: Examples
    noise: Mapping[str, Tensor]

    @property
    def joint(self) -> Examples:
        """Support and query as one set, every example that counts with the same weight; of one task."""
        counted = torch.cat([self.support.weight > 0, self.query.weight > 0])
        return Examples(
            torch.cat([self.support.x, self.query.x]),
            torch.cat([self.support.y, self.query.y]),
            equal_weights(counted, self.support.weight.dtype),
        )


def tasks_of(episode: Episode, noise: Mapping[str, Tensor]) -> Task:
    """The tasks of an episode, (B, ...); queries of no class of their task do not count.

    Args:
        episode: B tasks.
        noise: (B, ...) each.
    """
    dtype, counted = episode.support_x.dtype, episode.query_mask
    if not episode.query_y.is_floating_point():
        counted = counted & (episode.query_y >= 0)
    return Task(
        Examples(episode.support_x, episode.support_y, equal_weights(episode.support_mask, dtype)),
        Examples(episode.query_x, episode.query_y, equal_weights(counted, dtype)),
        noise,
    )


def equal_weights(counted: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """1 / (number that counts) for those that count, 0 elsewhere: (..., M) bool -> (..., M)."""
    weight = counted.to(dtype)
    return weight / weight.sum(-1, keepdim=True).clamp(min=1.0)


def num_examples(examples: Examples) -> Tensor:
    """How many examples of one task count, () of the weights' dtype, at least 1."""
    return (examples.weight > 0).sum().clamp(min=1).to(examples.weight)


def prediction_loss(prediction: Tensor, examples: Examples) -> Tensor:
    """What a prediction is worth on one task: cross-entropy in nats of a class, mean squared error of a number.

    Args:
        prediction: (M, W) logits where the targets are classes, (M, D) where they are numbers.
        examples: of one task.

    Returns:
        (), the weighted mean over examples.
    """
    if examples.y.is_floating_point():
        return (examples.weight * (prediction - examples.y).square().mean(-1)).sum()
    chosen = prediction.log_softmax(-1).gather(-1, examples.y.clamp(min=0)[:, None])  # (M, 1)
    return -(examples.weight * chosen[:, 0]).sum()


def query_metrics(prediction: Tensor, query: Examples) -> dict[str, Tensor]:
    """The accuracy of one task, where its targets are classes; their squared error otherwise; without a graph."""
    prediction = prediction.detach()
    if query.y.is_floating_point():
        return {"mse": prediction_loss(prediction, query)}
    return {"accuracy": (query.weight * (prediction.argmax(-1) == query.y)).sum()}


def indicators(y: Tensor, num_ways: int) -> Tensor:
    """(M,) classes -> (M, W) bool, true for the class of each; a row of -1 is false everywhere."""
    return y[:, None] == torch.arange(num_ways, device=y.device)


def class_shares(support: Examples, num_ways: int) -> Tensor:
    """(S, W), 1 / (examples of the class) for those of the class that count: averages over classes, of one task."""
    member = indicators(support.y, num_ways) & (support.weight > 0)[:, None]  # (S, W)
    return member.to(support.weight) / member.sum(0).clamp(min=1)
