"""ProMP, proximal meta-policy search (Rothfuss et al. 2019), and MAML-PPO, which is ProMP without its corrections.

promp      likelihood ratio in the inner steps, KL penalty on them, clipped outer objective
maml-ppo   MAML's inner steps, clipped outer objective
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.learners.gradient import GradientLearner, Improvement, MetaBatch, task_sum
from metarl.learners.gradient_config import GradientConfig
from metarl.losses.adaptive import LOSS
from metarl.rl.ppo import clipped_surrogate
from metarl.worlds import Spec


@dataclass(frozen=True)
class ProMPConfig(GradientConfig):
    """Settings of ProMP and MAML-PPO."""

    outer_lr: float = 1e-3
    """Step size of Adam."""
    loss_lr: float = 1e-2
    """Step size of Adam for an inner reward that is meta-trained, which has few parameters and a long way to go."""
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
    max_kl: float = 0.1
    """An outer step that moves the adapted policies further from those that acted is taken back, in nats."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("outer_lr", "loss_lr", "clip", "inner_kl_target", "max_grad_norm", "max_kl"):
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

    config: ProMPConfig

    def __init__(self, spec: Spec, config: ProMPConfig, seed: int, device: str | torch.device = "cpu"):
        super().__init__(spec, config, seed, device)
        of_loss = [value for name, value in self.meta_parameters.items() if name.startswith(LOSS)]
        others = [value for name, value in self.meta_parameters.items() if not name.startswith(LOSS)]
        groups: list[dict[str, Any]] = [{"params": others}]
        if of_loss:
            groups.append({"params": of_loss, "lr": config.loss_lr})
        self.optimizer = torch.optim.Adam(groups, lr=config.outer_lr)
        self.inner_kl_coef = torch.full((config.num_inner_steps,), config.inner_kl_coef, device=self.device)

    def improve(self, batch: MetaBatch, progress: float) -> Improvement:
        """A few steps of Adam on the same batch; one that moves the adapted policies too far is taken back."""
        chunks, leaves = self.chunks(batch), list(self.meta_parameters.values())
        first: _Parts | None = None
        accepted, before = None, self._copy()
        for epoch in range(self.config.num_epochs + 1):
            parts = _Parts.sum(self.each(partial(self._parts, batch=batch), chunks))
            if not parts.is_finite():
                self._set_meta_parameters(before)
                return Improvement({}, is_finite=False)
            if parts.kl > self.config.max_kl:  # the step before this look was too long
                self._set_meta_parameters(before)
                break
            first, accepted = first or parts, parts
            if epoch == self.config.num_epochs:
                break
            before = self._copy()
            for parameter, slope in zip(leaves, parts.gradient, strict=True):
                parameter.grad = slope
            torch.nn.utils.clip_grad_norm_(leaves, self.config.max_grad_norm)
            self.optimizer.step()
        assert first is not None and accepted is not None  # the first look is at the policies that acted: its KL is 0
        if self.config.adapts_inner_kl:
            self._adjust(accepted.inner_kl)
        metrics = {
            "loss_before": first.loss,
            "loss_after": accepted.loss,
            "kl": accepted.kl,
            "step_taken_back": float(parts is not accepted),
            "inner_kl": float(accepted.inner_kl.mean()),
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

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.meta_parameters.items()}

    def _parts(self, chunk: MetaBatch, batch: MetaBatch) -> _Parts:
        """The share of some tasks in loss, divergences and gradient."""
        loss, kl, inner_kl = self._loss(chunk, batch)
        slopes = torch.autograd.grad(loss, list(self.meta_parameters.values()), materialize_grads=True)
        return _Parts(float(loss.detach()), float(kl.detach()), inner_kl.detach(), slopes)

    def _loss(self, chunk: MetaBatch, batch: MetaBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The share of some tasks in the loss, in the KL after adaptation, and in that before each inner step, (K,)."""
        meta = self.meta_parameters
        adapted = self.unroll(meta, self.supports(meta, chunk), chunk.num_tasks)
        loss = kl = torch.zeros((), device=self.device)
        judged = self.judged(batch)
        for k in judged:
            query = chunk.phases[k]
            new = self.distribution(meta, adapted[k], query)
            surrogate = clipped_surrogate(new.log_prob(query.action), query.log_prob, query.advantage, self.config.clip)
            loss = loss - task_sum(surrogate, query) / (batch.num_tasks * len(judged))
            kl = kl + task_sum(chunk.acted[k].kl_divergence(new), query) / (batch.num_tasks * len(judged))
        inner_kl = []
        for parameters, old, support in zip(adapted, chunk.acted, chunk.supports, strict=False):
            divergence = old.kl_divergence(self.distribution(meta, parameters, support))
            inner_kl.append(task_sum(divergence, support) / batch.num_tasks)
        return loss + (self.inner_kl_coef * torch.stack(inner_kl)).sum(), kl, torch.stack(inner_kl)

    def _adjust(self, inner_kl: Tensor) -> None:
        """Halve the weight of a step whose divergence is small, double that of one whose divergence is large."""
        target = self.config.inner_kl_target
        scale = torch.where(inner_kl < target / 1.5, 0.5, torch.where(inner_kl > 1.5 * target, 2.0, 1.0))
        self.inner_kl_coef.mul_(scale)


@dataclass(frozen=True)
class _Parts:
    """What one look at a batch, or at some of its tasks, gives.

    Attributes:
        loss: to descend on.
        kl: of the adapted policies from those that acted, in nats.
        inner_kl: (K,), of the policies before each inner step from those that acted.
        gradient: of the loss, a tensor per meta-parameter.
    """

    loss: float
    kl: float
    inner_kl: Tensor
    gradient: tuple[Tensor, ...]

    @staticmethod
    def sum(parts: Sequence[_Parts]) -> _Parts:
        """Put the shares of all tasks together, in their order."""
        return _Parts(
            sum(part.loss for part in parts),
            sum(part.kl for part in parts),
            torch.stack([part.inner_kl for part in parts]).sum(0),
            tuple(torch.stack(slopes).sum(0) for slopes in zip(*(part.gradient for part in parts), strict=True)),
        )

    def is_finite(self) -> bool:
        """Whether loss, divergence and gradient are numbers."""
        finite = torch.stack([torch.isfinite(slope).all() for slope in self.gradient]).all()
        return math.isfinite(self.loss) and math.isfinite(self.kl) and bool(finite)
