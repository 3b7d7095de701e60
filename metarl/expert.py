"""The scripted expert of an environment as something that can be evaluated and recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from metarl.rollout import collect
from metarl.types import Act, PolicyInput, Rollout
from metarl.worlds import Worlds


class Expert:
    """Drives every world by `EnvSpec.expert`, which is told the task; deterministic, without memory.

    Raises:
        SpecError: in `trial`, the environment has no expert.
    """

    def trial(
        self,
        env: Worlds,
        num_episodes: int,
        generator: torch.Generator | None,
        on_step: Callable[[Worlds], None] | None = None,
    ) -> Rollout:
        """Play the episodes of one trial; it does the same in each of them."""
        return collect(env, _ExpertPolicy(env), num_episodes, None, on_step)


class _ExpertPolicy:
    def __init__(self, env: Worlds):
        self._env = env

    def initial_memory(self, num_worlds: int) -> None:
        return None

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        action = self._env.expert_action()
        return Act(action, torch.zeros(len(action), device=action.device), memory)
