"""Lives of fresh policies under a learned loss, with all that an analysis of the loss wants to see of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.losses.adaptive import PolicyGradientLoss
from metarl.losses.learned_advantage import LearnedAdvantage
from metarl.losses.learned_potential import LearnedPotential
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.support import Support, step_inputs
from metarl.nets.mlp_policy import Parameters
from metarl.seeding import make_generator
from metarl.worlds import Spec, make_worlds

LearnedCredit = LearnedReward | LearnedPotential | LearnedAdvantage


@dataclass(frozen=True)
class Lives:
    """What B fresh policies went through in K inner updates, one task each.

    Attributes:
        tasks: (B, P), their parameters.
        supports: K + 1 batches of experience, (B, M, ...); all but the last were support of an update.
        true_advantages: K + 1 times those by the environment's own reward, (B, M).
        policies: K + 1 times the policies that gathered them, (B, ...) each.
        losses: K times the parameters of the loss for each task at that update, (B, ...) each; empty where it has none.
        log_step_size: of each task at its last update, (B, K, 3).
        returns: (B, K + 1), by the environment's own reward, means over episodes.
    """

    tasks: Tensor
    supports: list[Support]
    true_advantages: list[Tensor]
    policies: list[Parameters]
    losses: list[dict[str, Tensor]]
    log_step_size: Tensor
    returns: Tensor

    @property
    def loss(self) -> dict[str, Tensor]:
        """Parameters of the loss for each task at its last update, (B, ...) each."""
        return self.losses[-1]


@torch.no_grad()
def live(learner: LearnedLossLearner, spec: Spec, tasks: Tensor, seed: int) -> Lives:
    """Let fresh policies learn tasks, by as many inner updates as the loss was trained for.

    Args:
        learner: with the loss.
        spec: the environment.
        tasks: (B, P).
        seed: of the policies, of the worlds' noise and of actions.
    """
    num_tasks, config = len(tasks), learner.config
    env = make_worlds(spec, num_tasks * config.episodes_per_task, device=learner.device, seed=seed)
    env.set_tasks(tasks)
    policies: list[Parameters] = []
    generator = make_generator(seed, "lives", learner.device)
    rollout = learner.trial(env, config.episodes_per_trial, generator, on_policies=policies.append)
    supports = [learner.support(rollout, k, num_tasks) for k in range(rollout.num_episodes)]
    advantages = [learner.true_advantage(rollout, k, num_tasks) for k in range(rollout.num_episodes)]
    losses, log_step_size = parameters_of_tasks(learner, supports[:-1])
    returns = rollout.episode_returns().unflatten(1, (num_tasks, -1)).mean(2).T
    return Lives(tasks, supports, advantages, policies, losses, log_step_size, returns)


def parameters_of_tasks(
    learner: LearnedLossLearner, supports: Sequence[Support]
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """The loss's parameters for each task after each of the batches of all, (B, ...) each, and the logarithms of step
    sizes after the last, (B, K, 3)."""
    meta = {name: value.detach() for name, value in learner.meta_parameters.items()}
    lifetime = torch.func.vmap(learner.loss.of_lifetime, in_dims=(None, 0))(meta, list(supports))
    return [loss for loss, _ in lifetime], lifetime[-1][1]


def typical(loss: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a loss for the typical task: their mean over tasks, which is their mean modulation."""
    return {name: value.mean(0) for name, value in loss.items()}


def learned_credit(learner: object) -> LearnedCredit:
    """What the loss of a learner is learned in.

    Raises:
        ConfigError: the learner is of another algorithm, or its loss was designed by hand.
    """
    if not isinstance(learner, LearnedLossLearner):
        raise ConfigError(f"only runs of learned-loss have a loss to explain, this one is of {type(learner).__name__}.")
    inner = learner.loss.inner
    if not isinstance(inner, PolicyGradientLoss) or not _is_learned(inner.credit):
        raise ConfigError(
            f"{learner.config.loss!r} is no learned reward, potential or advantage: there is nothing to explain. "
            "Name a run with --loss reward, potential, advantage or formula:FILE."
        )
    return inner.credit


def head_inputs(credit: LearnedCredit, support: Support) -> Tensor:
    """What the head of a credit reads of each step, (..., M, I); of a potential the state before it."""
    if isinstance(credit, LearnedPotential):
        return support.before
    if isinstance(credit, LearnedAdvantage):
        return step_inputs(support._replace(reward=torch.zeros_like(support.reward)))
    return step_inputs(support)


def name_of(credit: LearnedCredit) -> Literal["reward", "potential", "advantage"]:
    """What kind of loss a credit is."""
    if isinstance(credit, LearnedPotential):
        return "potential"
    return "advantage" if isinstance(credit, LearnedAdvantage) else "reward"


def _is_learned(credit: object) -> TypeGuard[LearnedCredit]:
    return isinstance(credit, LearnedReward | LearnedPotential | LearnedAdvantage)
