"""A learned advantage: it needs no reward at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.losses.formula import FormulaHead
from metarl.losses.head import Head
from metarl.losses.support import Support, standardised, step_input_names, step_inputs


@dataclass(frozen=True)
class LearnedAdvantage:
    """A = c tanh(f(x, x' - x, |a|^2) / c): each step is judged by itself, without reward and without credit.

    Source: Yang et al. 2019, NoRML, eq. 5; their f reads raw states and actions. Here the reward is withheld by feeding
    zero in its place.

    Attributes:
        signals: what it reads.
        head: f.
    """

    signals: tuple[str, ...]
    head: Head | FormulaHead

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the head reads."""
        return step_input_names(self.signals)

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of the head."""
        return self.head.initial_parameters(generator)

    def advantage(self, parameters: Mapping[str, Tensor], support: Support, step: Tensor) -> Tensor:
        """(M,); `step` counts the task's inner updates from 0."""
        blind = support._replace(reward=torch.zeros_like(support.reward))
        return standardised(self.head(parameters, step_inputs(blind)), support.weight)
