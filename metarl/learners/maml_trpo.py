"""MAML with TRPO as outer step (Finn et al. 2017), and its relatives by their settings.

maml-trpo   all parameters adapt, second-order                     Finn et al. 2017
fomaml      inner gradients are constants                          Finn et al. 2017, section 5.2
anil        the last layer adapts                                  Raghu et al. 2020
meta-sgd    a learned step size per parameter                      Li et al. 2017
cavia       context parameters adapt, reset to zero for each task  Zintgraf et al. 2019
e-maml      credit to the sampling before adaptation               Stadie et al. 2018
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.learners.gradient import GradientLearner, Improvement, MetaBatch, task_sum
from metarl.learners.gradient_config import GradientConfig
from metarl.nets.mlp_policy import Parameters
from metarl.rl.inner_loop import Samples
from metarl.rl.trpo import Objective, trust_region_step


@dataclass(frozen=True)
class MAMLTRPOConfig(GradientConfig):
    """Settings of MAML-TRPO and its relatives."""

    max_kl: float = 0.01
    """Largest mean KL divergence of the adapted policies in an outer step, in nats."""
    num_cg_iterations: int = 10
    """Conjugate gradients for the natural gradient."""
    cg_damping: float = 1e-2
    """Added to the diagonal of the metric."""
    metric_share: float = 0.1
    """Share of the samples that the metric of the natural gradient is estimated from."""
    num_backtracks: int = 15
    """Tries of the line search."""
    backtrack_ratio: float = 0.8
    """Factor from one try to the next."""
    exploration_coef: float = 0.0
    """Weight of the credit that sampling before adaptation gets for the return after it (E-MAML)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_kl", "metric_share", "backtrack_ratio"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.metric_share > 1 or self.backtrack_ratio >= 1:
            raise ConfigError(
                f"metric_share must be at most 1 and backtrack_ratio below 1, "
                f"got {self.metric_share} and {self.backtrack_ratio}."
            )
        if self.num_cg_iterations < 1 or self.num_backtracks < 1 or self.cg_damping < 0:
            raise ConfigError("num_cg_iterations and num_backtracks must be at least 1 and cg_damping at least 0.")


def as_fomaml(config: MAMLTRPOConfig) -> MAMLTRPOConfig:
    """First-order MAML: the same settings, inner gradients taken as constants."""
    return replace(config, first_order=True)


def as_anil(config: MAMLTRPOConfig) -> MAMLTRPOConfig:
    """ANIL: only the last layer adapts."""
    return replace(config, adapts="head")


def as_meta_sgd(config: MAMLTRPOConfig) -> MAMLTRPOConfig:
    """Meta-SGD: a step size per parameter, learned by the same outer step.

    Deviation: step sizes start at `inner_lr`; the paper draws them from [0.005, 0.1].
    """
    return replace(config, learns_inner_lr=True)


def as_cavia(config: MAMLTRPOConfig) -> MAMLTRPOConfig:
    """CAVIA: context parameters adapt; their gradients are small, so steps are ten times as large (the paper's 1.0)."""
    return replace(config, adapts="context", inner_lr=10 * config.inner_lr)


def as_e_maml(config: MAMLTRPOConfig) -> MAMLTRPOConfig:
    """E-MAML: sampling before adaptation is paid for the return after it."""
    return replace(config, exploration_coef=1.0)


class MAMLTRPO(GradientLearner):
    """Learner: adapts by policy gradients, meta-trained by trust region steps on the adapted policies.

    Source: Finn et al. 2017, algorithm 3. The Fisher metric comes from a share of the samples, which changes the
    direction of a step slightly and not its test: the line search measures loss and KL on all of them.
    """

    config: MAMLTRPOConfig

    def improve(self, batch: MetaBatch, progress: float) -> Improvement:
        """One trust region step on all tasks."""
        config = self.config
        step = trust_region_step(
            self.meta_parameters,
            [partial(self._objective, chunk, batch) for chunk in self.chunks(batch)],
            [partial(self._divergence, chunk, batch) for chunk in self.chunks(self._share(batch))],
            config.max_kl,
            num_cg_iterations=config.num_cg_iterations,
            damping=config.cg_damping,
            num_backtracks=config.num_backtracks,
            backtrack_ratio=config.backtrack_ratio,
            each=self.each,
        )
        self._set_meta_parameters(step.parameters)
        metrics = {
            "loss_before": step.loss_before,
            "loss_after": step.loss_after,
            "kl": step.kl,
            "line_search_failed": float(not step.accepted),
            "num_backtracks": float(step.num_backtracks),
        }
        return Improvement(metrics, step.is_finite)

    def _objective(self, chunk: MetaBatch, batch: MetaBatch, meta: Parameters) -> Objective:
        """The share of some tasks in the surrogate loss and the KL divergence of the adapted policies."""
        adapted = self.unroll(meta, self.supports(meta, chunk), chunk.num_tasks)
        loss = kl = torch.zeros((), device=self.device)
        for k in self.judged(batch):
            query = chunk.phases[k]
            new = self.distribution(meta, adapted[k], query)
            ratio = (new.log_prob(query.action) - query.log_prob).exp()
            loss = loss - task_sum(ratio * query.advantage, query)
            kl = kl + task_sum(chunk.acted[k].kl_divergence(new), query)
        if self.config.exploration_coef:
            loss = loss - self.config.exploration_coef * self._exploration(meta, adapted, chunk, batch.returns[-1])
        count = batch.num_tasks * len(self.judged(batch))
        return Objective(loss / count, kl / count)

    def _divergence(self, chunk: MetaBatch, batch: MetaBatch, meta: Parameters) -> Tensor:
        """KL from the adapted policies at `meta` to themselves: zero, with the metric as its Hessian."""
        adapted = self.unroll(meta, self.supports(meta, chunk), chunk.num_tasks)
        total = torch.zeros((), device=self.device)
        for k in self.judged(batch):
            new = self.distribution(meta, adapted[k], chunk.phases[k])
            old = type(new)(*(value.detach() for value in new))
            total = total + task_sum(old.kl_divergence(new), chunk.phases[k])
        return total / (batch.num_tasks * len(self.judged(batch)))

    def _exploration(self, meta: Parameters, adapted: Sequence[Parameters], chunk: MetaBatch, last: Tensor) -> Tensor:
        """E[pi / pi_old] of the actions before adaptation, weighted with the return after it (E-MAML).

        Source: Stadie et al. 2018, eq. 9. Returns are shifted and scaled over the tasks, so that the term has the size
        of the other one.

        Args:
            last: (B,), the return after adaptation of each task of the whole batch.
        """
        gain = (chunk.returns[-1] - last.mean()) / (last.std(correction=0) + 1e-8)
        total = torch.zeros((), device=last.device)
        for parameters, support in zip(adapted, chunk.supports, strict=False):
            log_prob = self.distribution(meta, parameters, support).log_prob(support.action)
            total = total + task_sum((log_prob - support.log_prob).exp() * gain.unsqueeze(1), support)
        return total

    def _share(self, batch: MetaBatch) -> MetaBatch:
        """Part of the samples of each task and phase, the same steps for all tasks."""
        num_samples = batch.phases[0].weight.shape[1]
        num_kept = max(1, round(self.config.metric_share * num_samples))
        if num_kept == num_samples:
            return batch
        chosen = torch.randperm(num_samples, generator=self.generators["minibatches"], device=self.device)[:num_kept]

        def share(samples: Samples) -> Samples:
            part = Samples(*(value[:, chosen] for value in samples))
            total = part.weight.sum(1, keepdim=True)
            return part._replace(weight=part.weight / total.clamp(min=1e-12))

        phases, supports = ([share(samples) for samples in part] for part in (batch.phases, batch.supports))
        return batch._replace(phases=phases, supports=supports, chosen=chosen)
