"""A learned potential: shaping that keeps the best policy, and speeds up learning as a critic does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.losses.formula import FormulaHead
from metarl.losses.head import Head
from metarl.losses.support import Support, credit


@dataclass(frozen=True)
class LearnedPotential:
    """r~ = r + discount Phi(s') - Phi(s), with Phi = c tanh(f(x) / c) and Phi = 0 after a true end.

    Guaranteed (Ng et al. 1999): for any Phi the policies that are best for r~ are those that are best for r, as long as
    Phi is zero where an episode truly ends. A time limit is no such end: there Phi(s') counts.

    Not guaranteed: that learning is faster, or that a truncated estimator is unbiased. With lambda = 1 the shaping sums
    to -Phi(s_t): a baseline, which changes no policy gradient in expectation, so Phi then has nothing to teach. With
    lambda < 1 it acts as a critic with that critic's bias. `anneal_steps` raises lambda to 1 over the inner updates, so
    that the last ones follow the unshaped gradient.

    Attributes:
        signals: what it reads.
        horizon: H.
        discount: of later rewards.
        gae_lambda: lambda of the first inner update.
        anneal_steps: inner updates over which lambda rises linearly to 1; 0: it stays.
        head: f, over the signals alone.
    """

    signals: tuple[str, ...]
    horizon: int
    discount: float
    gae_lambda: float
    anneal_steps: int
    head: Head | FormulaHead

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the head reads."""
        return self.signals

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of the head."""
        return self.head.initial_parameters(generator)

    def reward(self, parameters: Mapping[str, Tensor], support: Support) -> Tensor:
        """r~ of each step, (M,)."""
        before = self.head(parameters, support.before)
        after = self.head(parameters, support.after) * (1 - support.ended)
        return support.reward + self.discount * after - before

    def advantage(self, parameters: Mapping[str, Tensor], support: Support, step: Tensor) -> Tensor:
        """(M,); `step` counts the task's inner updates from 0."""
        reward = self.reward(parameters, support) * (support.weight > 0)
        return credit(reward, support.weight, self.horizon, self.discount * self.lambda_at(step))

    def lambda_at(self, step: Tensor) -> Tensor:
        """Lambda of an inner update."""
        risen = (step / self.anneal_steps).clamp(max=1.0) if self.anneal_steps else torch.zeros(())
        return self.gae_lambda + (1 - self.gae_lambda) * risen
