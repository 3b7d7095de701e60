"""Where a loss leads a policy: cosines with the true gradient, and landscapes around the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.task_policies import TaskPolicies
from metarl.lives import Lives
from metarl.losses.adaptive import InnerLoss
from metarl.losses.hand_designed import HandDesign
from metarl.losses.support import Support
from metarl.losses.table import make_inner_loss
from metarl.nets.mlp_policy import Parameters
from metarl.rollout import collect
from metarl.seeding import make_generator
from metarl.worlds import Spec, make_worlds

REFERENCES: tuple[HandDesign, ...] = ("dense", "feedback")
TRUE = "true return"
_TRUE_EPISODES = 64
RETURN_EPISODES = 16


@dataclass(frozen=True)
class Landscape:
    """Values over theta + x d1 + y d2 at one moment of a policy's life.

    Attributes:
        update: inner updates that the policy has had.
        offsets: (G,), the values of x and of y.
        losses: name -> (G, G), rows y, columns x; what an inner update descends on.
        returns: (G, G), true returns of the policies there.
        correlations: name -> rank correlation of minus the loss with the true return.
        descents: name -> (x, y), the direction of the loss's negative gradient in the plane, of length 1.
    """

    update: int
    offsets: Tensor
    losses: dict[str, Tensor]
    returns: Tensor
    correlations: dict[str, float]
    descents: dict[str, tuple[float, float]]


def alignment(learner: LearnedLossLearner, spec: Spec, lives: Lives, seed: int) -> dict[str, Tensor]:
    """Cosine of each loss's gradient with that of the true return, by inner update, {name: (K, B)}.

    The losses see what the update saw. The true gradient is the policy gradient by the environment's reward on 64
    episodes of their own; `TRUE` says how well the update's own experience shows it when judged by that reward.
    """
    config, num_tasks = learner.config, len(lives.tasks)
    per_task = max(_TRUE_EPISODES, config.episodes_per_task)
    env = make_worlds(spec, num_tasks * per_task, device=learner.device, seed=seed)
    env.set_tasks(lives.tasks)
    generator = make_generator(seed, "alignment", learner.device)
    others = reference_losses(learner, spec)
    found: dict[str, list[Tensor]] = {}
    for k, policy in enumerate(lives.policies[:-1]):
        rollout = collect(env, TaskPolicies(learner.acting, policy, num_tasks), 1, generator, reads_signals=True)
        fresh, goal = learner.support(rollout, 0, num_tasks), learner.true_advantage(rollout, 0, num_tasks)
        truth = _true_gradient(learner, policy, fresh, goal)
        support, step = lives.supports[k], torch.tensor(k, device=learner.device)
        gradients = {"learned": _gradient(learner, learner.loss.inner, lives.loss, policy, support, step)}
        for name, loss in others.items():
            gradients[name] = _gradient(learner, loss, {}, policy, for_loss(loss, learner, support), step)
        gradients[TRUE] = _true_gradient(learner, policy, support, lives.true_advantages[k])
        for name, gradient in gradients.items():
            cosine = (gradient * truth).sum(1) / (gradient.norm(dim=1) * truth.norm(dim=1)).clamp(min=1e-12)
            found.setdefault(name, []).append(cosine)
    return {name: torch.stack(values) for name, values in found.items()}


def landscape(
    learner: LearnedLossLearner,
    spec: Spec,
    lives: Lives,
    task: int,
    update: int,
    *,
    seed: int,
    num_points: int = 13,
    reach: float = 0.3,
) -> Landscape:
    """Losses and true returns around one policy, along two random directions that are as long as its filters.

    Source: Li et al. 2018, filter normalisation; biases and log_std stay.

    Args:
        learner, spec: the loss and its environment.
        lives: lives under it.
        task: which policy.
        update: after how many inner updates.
        seed: of the directions and of the worlds.
        num_points: G, odd, so that the policy itself is in the middle.
        reach: largest step along a direction, as a share of the filters' norms.
    """
    policy = {name: value[task] for name, value in lives.policies[update].items()}
    support = Support(*(value[task] for value in lives.supports[update]))
    step = torch.tensor(update, device=learner.device)
    generator = make_generator(seed, "landscape")
    directions = [filter_normalised(policy, generator) for _ in range(2)]
    offsets = torch.linspace(-reach, reach, num_points, device=learner.device)
    x, y = offsets.repeat(num_points), offsets.repeat_interleave(num_points)  # (G * G,), rows y
    around = {
        name: value + _each(x, value) * directions[0][name] + _each(y, value) * directions[1][name]
        for name, value in policy.items()
    }
    own = {name: value[task] for name, value in lives.loss.items()}
    losses: dict[str, tuple[InnerLoss, Mapping[str, Tensor]]] = {"learned": (learner.loss.inner, own)}
    losses |= {name: (loss, {}) for name, loss in reference_losses(learner, spec).items() if name == "dense"}
    returns = _returns(learner, spec, lives.tasks[task], around, seed)
    values, correlations, descents = {}, {}, {}
    for name, (loss, parameters) in losses.items():
        seen = for_loss(loss, learner, support)
        values[name] = inner_values(learner, loss, parameters, around, seen, step)
        correlations[name] = rank_correlation(-values[name], returns)
        slope = torch.func.grad(
            lambda theta, loss=loss, p=parameters, s=seen: _value(learner, loss, p, theta, s, step)
        )(policy)
        descents[name] = _in_plane(slope, directions)
    square = {name: value.unflatten(0, (num_points, num_points)) for name, value in values.items()}
    return Landscape(update, offsets, square, returns.unflatten(0, (num_points, num_points)), correlations, descents)


def inner_values(
    learner: LearnedLossLearner,
    loss: InnerLoss,
    parameters: Mapping[str, Tensor],
    policies: Parameters,
    support: Support,
    step: Tensor,
) -> Tensor:
    """The inner loss of many policies on the same experience of one task, (G,)."""
    of_each = torch.func.vmap(lambda theta: _value(learner, loss, parameters, theta, support, step))
    return of_each(dict(policies))


def filter_normalised(policy: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction whose rows are as long as the rows of the weights; zero for vectors."""
    direction = {}
    for name, value in policy.items():
        drawn = torch.randn(value.shape, generator=generator).to(value)
        is_matrix = value.dim() == 2
        scale = value.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True) if is_matrix else 0.0
        direction[name] = drawn * scale
    return direction


def reference_losses(learner: LearnedLossLearner, spec: Spec) -> dict[str, InnerLoss]:
    """Hand-designed losses that can be computed from what the learner records."""
    config = learner.config
    losses = {
        name: make_inner_loss(name, spec, discount=config.discount, gae_lambda=config.inner_lambda)
        for name in REFERENCES
    }
    return {name: loss for name, loss in losses.items() if set(loss.signals) <= set(learner.loss.inner.signals)}


def for_loss(loss: InnerLoss, learner: LearnedLossLearner, support: Support) -> Support:
    """The experience with the signals that a loss reads, in its order."""
    columns = [learner.loss.inner.signals.index(name) for name in loss.signals]
    return support._replace(before=support.before[..., columns], after=support.after[..., columns])


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, equal values at their mean rank; 0 where one of them is constant."""
    ranks = np.stack([rankdata(values.flatten().double().cpu().numpy()) for values in (one, other)])
    return 0.0 if ranks.std(1).min() == 0 else float(np.corrcoef(ranks)[0, 1])


def _value(
    learner: LearnedLossLearner,
    loss: InnerLoss,
    parameters: Mapping[str, Tensor],
    theta: Parameters,
    support: Support,
    step: Tensor,
) -> Tensor:
    return loss(parameters, learner.policy.distribution(theta, support.obs), support, step)


def _gradient(
    learner: LearnedLossLearner,
    loss: InnerLoss,
    parameters: Mapping[str, Tensor],
    policies: Parameters,
    support: Support,
    step: Tensor,
) -> Tensor:
    """The gradient of a loss by each task's policy, (B, |theta|)."""

    def of_task(theta: dict[str, Tensor], own: dict[str, Tensor], *fields: Tensor) -> dict[str, Tensor]:
        return torch.func.grad(lambda t: _value(learner, loss, own, t, Support(*fields), step))(theta)

    return _flat(torch.func.vmap(of_task)(dict(policies), dict(parameters), *support))


def _true_gradient(learner: LearnedLossLearner, policies: Parameters, support: Support, goal: Tensor) -> Tensor:
    """Minus the policy gradient by true advantages, (B, |theta|)."""

    def of_task(theta: dict[str, Tensor], goal: Tensor, *fields: Tensor) -> dict[str, Tensor]:
        seen = Support(*fields)

        def loss(theta: dict[str, Tensor]) -> Tensor:
            return -(seen.weight * learner.policy.distribution(theta, seen.obs).log_prob(seen.action) * goal).sum()

        return torch.func.grad(loss)(theta)

    return _flat(torch.func.vmap(of_task)(dict(policies), goal, *support))


def _returns(learner: LearnedLossLearner, spec: Spec, task: Tensor, policies: Parameters, seed: int) -> Tensor:
    """The true return of many policies on one task, (G,)."""
    num_policies = len(next(iter(policies.values())))
    env = make_worlds(spec, num_policies * RETURN_EPISODES, device=learner.device, seed=seed)
    env.set_tasks(task.expand(num_policies, -1))
    generator = make_generator(seed, "landscape", learner.device)
    rollout = collect(env, TaskPolicies(learner.acting, policies, num_policies), 1, generator)
    return rollout.episode_returns()[0].unflatten(0, (num_policies, -1)).mean(1)


def _in_plane(slope: Mapping[str, Tensor], directions: list[dict[str, Tensor]]) -> tuple[float, float]:
    """The direction of steepest descent within the plane of two directions."""
    basis = torch.stack([torch.cat([d[name].flatten() for name in slope]) for d in directions])  # (2, |theta|)
    down = -(basis @ torch.cat([value.flatten() for value in slope.values()]))
    length: Any = down.norm().clamp(min=1e-12)
    return float(down[0] / length), float(down[1] / length)


def _flat(gradient: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in gradient.values()], 1)


def _each(numbers: Tensor, value: Tensor) -> Tensor:
    return numbers.view(-1, *[1] * value.dim())
