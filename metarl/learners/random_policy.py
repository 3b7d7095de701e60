"""A policy that acts at random: the lower reference line, and a dummy agent to try an environment with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.rollout import collect
from metarl.types import Act, Continuous, PolicyInput, Rollout
from metarl.worlds import Spec, Worlds


class RandomPolicy:
    """Uniform actions, over [-1, 1] or over the discrete ones; has no deterministic action.

    Args:
        spec: the environment.
    """

    def __init__(self, spec: Spec):
        self.space = spec.action_space

    def initial_memory(self, num_worlds: int) -> Any:
        return None

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        num_worlds, device = len(inputs.obs), inputs.obs.device
        log_prob = torch.zeros(num_worlds, device=device)
        if isinstance(self.space, Continuous):
            action: Tensor = torch.rand(num_worlds, self.space.dim, generator=generator, device=device) * 2 - 1
        else:
            action = torch.randint(self.space.num_actions, (num_worlds,), generator=generator, device=device)
        return Act(action, log_prob, memory)

    def trial(
        self,
        env: Worlds,
        num_episodes: int,
        generator: torch.Generator | None,
        on_step: Callable[[Worlds], None] | None = None,
    ) -> Rollout:
        """See `Learner.trial`."""
        return collect(env, self, num_episodes, generator, on_step)
