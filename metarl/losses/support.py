"""What a loss is computed from, and credit for later rewards; written for one task, vmapped by callers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.rl.linear_baseline import task_advantage
from metarl.types import Rollout

_MAX_EFFORT = 4.0
_MIN_STD = 1e-3
"""Below this deviation advantages are not blown up to one: there is nothing to learn from."""


class Support(NamedTuple):
    """What was experienced on one task between two inner updates: E episodes of H steps, M = H * E, step after step.

    Attributes:
        obs: (M, O), as the policy reads it.
        action: (M, A), or (M,) int64.
        log_prob: (M,), of the actions when they were taken.
        before: (M, S), signals of the state that the action was taken in.
        after: (M, S), signals of the state after it.
        effort: (M,), mean square of the action's numbers; 0 for discrete actions.
        reward: (M,), the feedback that the learning agent gets.
        ended: (M,), 1 where the episode truly ended in this step, not by its time limit.
        weight: (M,), sums to one over the steps that count and is zero elsewhere.
        episode_means: (E, 2 S + 1), of each episode: means over its steps of signals, their change, and effort.
        episode_feedback: (E,), of each episode: its sum of `reward`.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    before: Tensor
    after: Tensor
    effort: Tensor
    reward: Tensor
    ended: Tensor
    weight: Tensor
    episode_means: Tensor
    episode_feedback: Tensor


def support_of_phase(rollout: Rollout, steps: slice, obs: Tensor, signals: Tensor, num_tasks: int) -> Support:
    """The experience of one phase on B tasks; every tensor of the result has a leading dimension B.

    Args:
        rollout: N = B * E worlds.
        steps: those of the phase, H of them.
        obs: (H, N, O), as the policy reads it.
        signals: (H + 1, N, S), those that the loss reads.
        num_tasks: B.
    """

    def flat(values: Tensor) -> Tensor:  # (H, N, ...) -> (B, M, ...)
        return values.unflatten(1, (num_tasks, -1)).transpose(0, 1).flatten(1, 2).contiguous()

    action, valid = rollout.action[steps], rollout.valid[steps]
    weight = flat(valid.to(rollout.reward.dtype))
    nothing = weight[:, :0]
    steps_alone = Support(
        obs=flat(obs),
        action=flat(action),
        log_prob=flat(rollout.log_prob[steps]),
        before=flat(signals[:-1]),
        after=flat(signals[1:]),
        effort=flat(effort_of(action)),
        reward=flat(rollout.feedback[steps]),
        ended=flat(rollout.terminated[steps].to(rollout.reward.dtype)),
        weight=weight / weight.sum(1, keepdim=True).clamp(min=1.0),
        episode_means=nothing,
        episode_feedback=nothing,
    )
    return with_episodes(steps_alone, len(obs))


def with_episodes(support: Support, horizon: int) -> Support:
    """The same with what it says of whole episodes, made from its steps: H times E of them, (..., M, ...)."""
    counts = (support.weight > 0).to(support.reward.dtype).unflatten(-1, (horizon, -1))  # (..., H, E)
    inputs = step_inputs(support)[..., :-1].unflatten(-2, (horizon, -1))
    sums = (counts.unsqueeze(-1) * inputs).sum(-3)  # (..., E, 2 S + 1)
    feedback = (counts * support.reward.unflatten(-1, (horizon, -1))).sum(-2)
    means = sums / counts.sum(-2).clamp(min=1.0).unsqueeze(-1)
    return support._replace(episode_means=means, episode_feedback=feedback)


def effort_of(action: Tensor) -> Tensor:
    """Mean square of the numbers of actions, (..., A) -> (...), at most 4; 0 for discrete ones, (...) int64."""
    if not action.is_floating_point():
        return torch.zeros(action.shape, device=action.device)
    return action.square().mean(-1).clamp(max=_MAX_EFFORT)


def phase_advantage(rollout: Rollout, steps: slice, obs: Tensor, num_tasks: int, discount: float) -> Tensor:
    """Advantages of one phase by the environment's own reward, (B, M); arguments as of `support_of_phase`."""
    obs, reward, valid, ends = (
        values.unflatten(1, (num_tasks, -1))
        for values in (obs, rollout.reward[steps], rollout.valid[steps], rollout.terminated[steps])
    )
    advantage, _ = task_advantage(obs, reward, valid, ends, discount, 1.0)
    return advantage.transpose(0, 1).flatten(1, 2)


def step_inputs(support: Support) -> Tensor:
    """What a head that judges steps reads, (M, 2 S + 2): signals, their change, effort and reward."""
    scalars = torch.stack([support.effort, support.reward], -1)
    return torch.cat([support.before, support.after - support.before, scalars], -1)


def step_input_names(signals: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `step_inputs`."""
    return (*signals, *map(change_of, signals), "effort", "reward")


def worth_names(signals: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the entries of `feedback_model`: how much feedback goes along with more of each number of a step."""
    return tuple(f"worth_of_{name}" for name in step_input_names(signals)[:-1])


def change_of(signal: str) -> str:
    """The name of a signal's change within a step."""
    return f"change_of_{signal}"


def credit(reward: Tensor, weight: Tensor, horizon: int, decay: Tensor | float) -> Tensor:
    """How much better than usual each step turned out, (M,): mean 0 and deviation 1 over the steps that count.

    A_t = sum_j decay^j r_{t+j} - b_t, with b_t the mean over the task's episodes at the same step. With a decay of
    discount * lambda and a potential for a critic these are generalised advantages (Schulman et al. 2016, eq. 16).

    Args:
        reward: (M,), zero where it does not count.
        weight: (M,), as in `Support`.
        horizon: H.
        decay: discount * lambda.
    """
    reward = reward.unflatten(0, (horizon, -1))  # (H, E)
    step = torch.arange(horizon, device=reward.device)
    distance = step - step.unsqueeze(1)  # (H, H), j of row t
    decays = torch.where(distance >= 0, torch.as_tensor(decay, dtype=reward.dtype) ** distance.clamp(min=0), 0.0)
    later = decays.to(reward.dtype) @ reward  # (H, E)
    return relative_to_step(later.flatten(), weight, horizon)


def relative_to_step(value: Tensor, weight: Tensor, horizon: int) -> Tensor:
    """Values less their mean over the task's episodes at the same step, `standardised`, (M,); see `credit`."""
    value, weights = value.unflatten(0, (horizon, -1)), weight.unflatten(0, (horizon, -1))  # (H, E)
    present = weights.sum(1, keepdim=True)
    baseline = (weights * value).sum(1, keepdim=True) / present.clamp(min=1e-12)
    return standardised((value - baseline).flatten(), weight)


def standardised(advantage: Tensor, weight: Tensor) -> Tensor:
    """Shift to mean 0 and scale to deviation 1 over the steps that count; nearly constant ones stay small."""
    mean = (weight * advantage).sum()
    variance = (weight * (advantage - mean).square()).sum()
    return torch.where(weight > 0, (advantage - mean) * (variance + _MIN_STD**2).rsqrt(), 0.0)
