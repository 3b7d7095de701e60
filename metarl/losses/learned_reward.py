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
    """r~ = r + c tanh(f(x, x' - x, |a|^2, r) / c), credited like any reward, with a learned decay of credit.

    Nothing keeps the policy that is best for r: the meta-objective alone says what f is good for (Zheng et al. 2018,
    LIRPG; there f reads state and action, here signals that mean the same on every robot).

    Attributes:
        signals: what it reads.
        horizon: H.
        discount, gae_lambda: of later rewards, their product is the decay to begin with.
        head: f.
        learns_decay: else the decay stays.
    """

    signals: tuple[str, ...]
    horizon: int
    discount: float
    gae_lambda: float
    head: Head | FormulaHead
    learns_decay: bool = True

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the head reads."""
        return step_input_names(self.signals)

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of the head, and the logit of a learned decay (as in Xu et al. 2018), (1,)."""
        drawn = self.head.initial_parameters(generator)
        if not self.learns_decay:
            return drawn
        decay = torch.tensor([self.discount * self.gae_lambda]).clamp(1e-3, 1 - 1e-3)
        return drawn | {"decay": decay.logit()}

    def reward(self, parameters: Mapping[str, Tensor], support: Support) -> Tensor:
        """r~ of each step, (M,)."""
        return support.reward + self.head(parameters, step_inputs(support))

    def advantage(self, parameters: Mapping[str, Tensor], support: Support, step: Tensor) -> Tensor:
        """(M,); `step` counts the task's inner updates from 0."""
        reward = self.reward(parameters, support) * (support.weight > 0)
        return credit(reward, support.weight, self.horizon, self.decay(parameters))

    def decay(self, parameters: Mapping[str, Tensor]) -> Tensor | float:
        """What later rewards decay by at each step."""
        return parameters["decay"].sigmoid() if self.learns_decay else self.discount * self.gae_lambda
