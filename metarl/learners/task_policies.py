"""The policies of several tasks as one policy over all worlds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.nets.distributions import ActionDistribution
from metarl.nets.mlp_policy import Parameters
from metarl.types import Act, PolicyInput


class TaskPolicies:
    """The policies of B tasks as one over N = B * E worlds; see `metarl.rollout.Policy`.

    Args:
        distribution: (parameters, observations (B, E, O)) -> action distributions (B, E, ...).
        parameters: what adapts with a leading dimension B, and what is shared without.
        num_tasks: B.
    """

    def __init__(
        self, distribution: Callable[[Parameters, Tensor], ActionDistribution], parameters: Parameters, num_tasks: int
    ):
        self._distribution, self._parameters, self._num_tasks = distribution, parameters, num_tasks

    def initial_memory(self, num_worlds: int) -> Any:
        """None: these policies do not remember."""
        return None

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        """See `metarl.rollout.Policy`."""
        distribution = self._distribution(self._parameters, inputs.obs.unflatten(0, (self._num_tasks, -1)))
        action = distribution.sample(generator)
        return Act(action.flatten(0, 1), distribution.log_prob(action).flatten(), memory)


def finite_tasks(*values: Tensor) -> Tensor:
    """(B,) bool, whether all numbers of a task are finite; each of `values` is (B, ...)."""
    return torch.stack([torch.isfinite(value).flatten(1).all(1) for value in values]).all(0)


def like(mask: Tensor, value: Tensor) -> Tensor:
    """A mask over tasks, (B,), that broadcasts against (B, ...)."""
    return mask.view(-1, *[1] * (value.dim() - 1))


Goal = Tensor | dict[str, Tensor]
"""How the true return changes with a policy, see `LearnedLossLearner.goals`."""


def of_tasks(goal: Goal, chosen: slice) -> Goal:
    """The part of some tasks of a meta-batch."""
    return {name: value[chosen] for name, value in goal.items()} if isinstance(goal, dict) else goal[chosen]


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name of parts of a meta-batch, as one batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
