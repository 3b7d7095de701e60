"""Losses that people design by hand: what learned ones are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.losses.support import Support, credit

HandDesign = Literal["feedback", "dense", "dense-bonus", "hand-potential"]

_BONUS = 10.0


@dataclass(frozen=True)
class HandDesigned:
    """A reward without parameters.

    - "feedback": r, what the environment gives the learning agent; sparse where that is sparse.
    - "dense": -d, d the distance in the unit of the signal `log_distance` = log(1 + d).
    - "dense-bonus": -d + 10 r.
    - "hand-potential": r + discount Phi(s') - Phi(s) with Phi = -d (Ng et al. 1999).

    Attributes:
        kind: which.
        signals: ("log_distance",), or none for "feedback".
        horizon: H.
        discount, gae_lambda: of later rewards, their product is the decay.
    """

    kind: HandDesign
    signals: tuple[str, ...]
    horizon: int
    discount: float
    gae_lambda: float

    @property
    def input_names(self) -> tuple[str, ...]:
        """What it reads."""
        return (*self.signals, "reward")

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """It has none."""
        return {}

    def reward(self, parameters: Mapping[str, Tensor], support: Support) -> Tensor:
        """The reward of each step, (M,)."""
        if self.kind == "feedback":
            return support.reward
        after = torch.expm1(support.after[:, 0])
        if self.kind == "dense":
            return -after
        if self.kind == "dense-bonus":
            return _BONUS * support.reward - after
        before = torch.expm1(support.before[:, 0])
        return support.reward - self.discount * after * (1 - support.ended) + before

    def advantage(self, parameters: Mapping[str, Tensor], support: Support, step: Tensor) -> Tensor:
        """(M,); `step` counts the task's inner updates from 0."""
        reward = self.reward(parameters, support) * (support.weight > 0)
        return credit(reward, support.weight, self.horizon, self.discount * self.gae_lambda)
