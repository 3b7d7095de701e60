"""A learned drift: how far, and in which direction, a policy may go from the one that acted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.losses.adaptive import Credit
from metarl.losses.drift import init_drift, learned_drift, mirror_objective
from metarl.losses.support import Support
from metarl.nets.distributions import ActionDistribution

_HIDDEN_DIM = 32


@dataclass(frozen=True)
class LearnedDrift:
    """L = -E[ratio A - D(ratio, A)], with A from a reward designed by hand and D learned.

    It reads ratio and advantage only, which every environment has. At ratio 1 the drift has no slope, so an update of
    one gradient step cannot tell it from another: it shows with several `inner_epochs`.

    Source: Lu et al. 2022; there evolution trains D, here the meta-gradient can too.

    Attributes:
        credit: where A comes from.
    """

    credit: Credit

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of the credit."""
        return self.credit.signals

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the drift reads."""
        return ("log_ratio", "advantage")

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A drift near PPO's."""
        return init_drift(generator, _HIDDEN_DIM)

    def __call__(
        self, parameters: Mapping[str, Tensor], policy: ActionDistribution, support: Support, step: Tensor
    ) -> Tensor:
        """See `metarl.losses.adaptive.InnerLoss`."""

        def drift(log_ratio: Tensor, advantage: Tensor) -> Tensor:
            return learned_drift(parameters, log_ratio, advantage)

        advantage = self.credit.advantage({}, support, step)
        objective = mirror_objective(policy.log_prob(support.action), support.log_prob, advantage, drift)
        return -(support.weight * objective).sum()
