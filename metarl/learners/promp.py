"""ProMP, proximal meta-policy search (Rothfuss et al. 2019), and MAML-PPO, which is ProMP without its corrections.

promp      likelihood ratio in the inner steps, KL penalty on them, clipped outer objective
maml-ppo   MAML's inner steps, clipped outer objective
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl.env import EnvSpec
from metarl.errors import ConfigError
from metarl.learners.gradient import GradientConfig, GradientLearner, Improvement, MetaBatch, task_sum
from metarl.rl.ppo import clipped_surrogate


@dataclass(frozen=True)
class ProMPConfig(GradientConfig):
    """Settings of ProMP and MAML-PPO."""

    outer_lr: float = 1e-3
    """Step size of Adam."""
    num_epochs: int = 5
    """Outer steps on each batch."""
    clip: float = 0.3
    """Half-width of the clipping interval of the outer objective."""
    inner_kl_coef: float = 5e-4
    """Weight of the KL divergence of the policies before adaptation from those that acted."""
    adapts_inner_kl: bool = False
    """Adjust that weight so that the divergence stays near its target."""
    inner_kl_target: float = 0.01
    """Target of the divergence, in nats, where the weight adjusts itself."""
    max_grad_norm: float = 10.0
    """Largest norm of an outer gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("outer_lr", "clip", "inner_kl_target", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.num_epochs < 1 or self.inner_kl_coef < 0:
            raise ConfigError(
                f"num_epochs must be at least 1 and inner_kl_coef at least 0, "
                f"got {self.num_epochs} and {self.inner_kl_coef}."
            )


class ProMP(GradientLearner):
    """Learner: adapts by policy gradients, meta-trained with Adam on a clipped objective.

    Source: Rothfuss et al. 2019, eq. 13: J = J_clip(adapted) - sum_k eta_k KL(pi_old_k || pi_k) over the inner steps k.
    """

    def __init__(self, spec: EnvSpec, config: ProMPConfig, seed: int, device: str | torch.device = "cpu"):
        super().__init__(spec, config, seed, device)
        self.config = config
        self.optimizer = torch.optim.Adam(list(self.meta_parameters.values()), lr=config.outer_lr)
        self.inner_kl_coef = torch.full((config.num_inner_steps,), config.inner_kl_coef, device=self.device)

    def improve(self, batch: MetaBatch, progress: float) -> Improvement:
        """A few steps of Adam on the same batch."""
        config, chunks, leaves = self.config, self.chunks(batch), list(self.meta_parameters.values())
        before = {name: value.detach().clone() for name, value in self.meta_parameters.items()}
        losses, norms = [], []
        for _ in range(config.num_epochs):
            parts = self.each(partial(self._loss_and_gradient, batch=batch), chunks)
            loss, inner_kl = sum(part[0] for part in parts), torch.stack([part[1] for part in parts]).sum(0)
            for parameter, *slopes in zip(leaves, *(part[2] for part in parts), strict=True):
                parameter.grad = torch.stack(slopes).sum(0)
            norm = torch.nn.utils.clip_grad_norm_(leaves, config.max_grad_norm)
            if not bool(torch.isfinite(norm)):
                self._set_meta_parameters(before)
                return Improvement({}, is_finite=False)
            self.optimizer.step()
            losses.append(loss)
            norms.append(float(norm))
        if config.adapts_inner_kl:
            self._adjust(inner_kl)
        metrics = {
            "loss_before": losses[0],
            "loss_after": losses[-1],
            "grad_norm": sum(norms) / len(norms),
            "inner_kl": float(inner_kl.mean()),
            "inner_kl_coef": float(self.inner_kl_coef.mean()),
        }
        return Improvement(metrics)

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`."""
        state = super().state_dict()
        state["model"]["inner_kl_coef"] = self.inner_kl_coef
        return state | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner.load_state_dict`."""
        super().load_state_dict(state)
        self.inner_kl_coef.copy_(state["model"]["inner_kl_coef"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _loss_and_gradient(self, chunk: MetaBatch, batch: MetaBatch) -> tuple[float, Tensor, tuple[Tensor, ...]]:
        """Loss, inner KL divergences (K,) and gradient of some tasks."""
        loss, inner_kl = self._loss(chunk, batch)
        slopes = torch.autograd.grad(loss, list(self.meta_parameters.values()), materialize_grads=True)
        return float(loss.detach()), inner_kl.detach(), slopes

    def _loss(self, chunk: MetaBatch, batch: MetaBatch) -> tuple[Tensor, Tensor]:
        """The share of some tasks in the loss, and in the KL divergence before each inner step, (K,)."""
        meta = self.meta_parameters
        adapted = self.unroll(meta, chunk.supports, chunk.num_tasks)
        loss, judged = torch.zeros((), device=self.device), self.judged(batch)
        for k in judged:
            query = chunk.phases[k]
            log_prob = self.distribution(meta, adapted[k], query).log_prob(query.action)
            surrogate = clipped_surrogate(log_prob, query.log_prob, query.advantage, self.config.clip)
            loss = loss - task_sum(surrogate, query) / (batch.num_tasks * len(judged))
        inner_kl = []
        for parameters, old, support in zip(adapted, chunk.acted, chunk.supports, strict=False):
            kl = old.kl_divergence(self.distribution(meta, parameters, support))
            inner_kl.append(task_sum(kl, support) / batch.num_tasks)
        return loss + (self.inner_kl_coef * torch.stack(inner_kl)).sum(), torch.stack(inner_kl)

    def _adjust(self, inner_kl: Tensor) -> None:
        """Halve the weight of a step whose divergence is small, double that of one whose divergence is large."""
        target = self.config.inner_kl_target
        scale = torch.where(inner_kl < target / 1.5, 0.5, torch.where(inner_kl > 1.5 * target, 2.0, 1.0))
        self.inner_kl_coef.mul_(scale)
