"""A learned reward, added to the feedback: it may change which policy is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.losses.formula import FormulaHead
from metarl.losses.head import Head
from metarl.losses.support import Support, credit, step_input_names, step_inputs


@dataclass(frozen=True)
class LearnedReward:
    """r~ = r + c tanh(f(x, x' - x, |a|^2, r) / c), credited like any reward.

    Nothing keeps the policy that is best for r: the meta-objective alone says what f is good for (Zheng et al. 2018,
    LIRPG; there f reads state and action, here signals that mean the same on every robot).

    Attributes:
        signals: what it reads.
        horizon: H.
        discount, gae_lambda: of later rewards, their product is the decay.
        head: f.
    """

    signals: tuple[str, ...]
    horizon: int
    discount: float
    gae_lambda: float
    head: Head | FormulaHead

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the head reads."""
        return step_input_names(self.signals)

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of the head."""
        return self.head.initial_parameters(generator)

    def reward(self, parameters: Mapping[str, Tensor], support: Support) -> Tensor:
        """r~ of each step, (M,)."""
        return support.reward + self.head(parameters, step_inputs(support))

    def advantage(self, parameters: Mapping[str, Tensor], support: Support, step: Tensor) -> Tensor:
        """(M,); `step` counts the task's inner updates from 0."""
        reward = self.reward(parameters, support) * (support.weight > 0)
        return credit(reward, support.weight, self.horizon, self.discount * self.gae_lambda)
