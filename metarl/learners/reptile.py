"""Reptile (Nichol et al. 2018) for policies: move the initialisation towards the parameters that tasks adapt to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarl.errors import ConfigError
from metarl.learners.gradient import GradientLearner, Improvement, MetaBatch
from metarl.learners.gradient_config import LEARNED_CREDITS, GradientConfig


@dataclass(frozen=True)
class ReptileConfig(GradientConfig):
    """Settings of Reptile."""

    outer_lr: float = 1.0
    """Share of the way to the mean of the adapted parameters, at the start."""
    anneal: bool = True
    """Decrease that share linearly to a tenth over the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.outer_lr <= 1:
            raise ConfigError(f"outer_lr must lie in (0, 1], got {self.outer_lr}.")
        if self.adapts != "all" or self.learns_inner_lr:
            raise ConfigError("Reptile moves all parameters: it takes neither adapts nor learns_inner_lr.")
        if self.inner_reward in LEARNED_CREDITS:
            raise ConfigError(
                f"inner_reward {self.inner_reward} is learned by the gradient through inner steps, of which Reptile "
                "takes none. Name a finished loss: learned:RUN or formula:FILE."
            )


class Reptile(GradientLearner):
    """Learner: adapts by policy gradients; no gradient runs through the inner steps.

    Source: Nichol et al. 2018, algorithm 2: phi += epsilon * mean_i(phi_i - phi), with phi_i after K + 1 inner steps
    on task i: the last phase, which other learners only judge by, is learned from too.
    """

    config: ReptileConfig

    @torch.no_grad()
    def improve(self, batch: MetaBatch, progress: float) -> Improvement:
        """One move towards the adapted parameters."""
        share = self.config.outer_lr * (1 - 0.9 * progress if self.config.anneal else 1.0)
        steps = [*batch.supports, batch.phases[-1]]
        adapted = self.unroll(self.meta_parameters, steps, batch.num_tasks)[-1]
        moves = {name: share * (value.mean(0) - self.meta_parameters[name]) for name, value in adapted.items()}
        length = torch.stack([move.square().sum() for move in moves.values()]).sum().sqrt()
        if not bool(torch.isfinite(length)):
            return Improvement({}, is_finite=False)
        self._set_meta_parameters({name: self.meta_parameters[name] + move for name, move in moves.items()})
        return Improvement({"move": float(length)})
