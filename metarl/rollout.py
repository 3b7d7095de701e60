"""Collect K episodes of H steps in all worlds with a policy that may remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor

from metarl.types import Act, ActionSpace, PolicyInput, Rollout, Step, encode_action
from metarl.worlds import Worlds


class Policy(Protocol):
    """A policy over N worlds. Policies without memory ignore `memory` and hand it back."""

    def initial_memory(self, num_worlds: int) -> Any:
        """The memory at the start of a trial."""
        ...

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        """Choose actions; `generator` None asks for the deterministic action."""
        ...


class Adapts(Protocol):
    """What can be evaluated and recorded: a learner, or a policy that does not learn."""

    def trial(
        self,
        env: Worlds,
        num_episodes: int,
        generator: torch.Generator | None,
        on_step: Callable[[Worlds], None] | None = None,
    ) -> Rollout:
        """Adapt to the tasks that the environment holds, over the episodes of one trial.

        Args:
            env: worlds with their tasks set.
            num_episodes: K.
            generator: for sampling actions; None acts deterministically.
            on_step: called after every reset and every step.
        """
        ...


@torch.no_grad()
def collect(
    env: Worlds,
    policy: Policy,
    num_episodes: int,
    generator: torch.Generator | None,
    on_step: Callable[[Worlds], None] | None = None,
    *,
    reads_signals: bool = False,
) -> Rollout:
    """Run one trial of `num_episodes` episodes in every world, on the tasks that the environment holds.

    The policy's memory starts afresh with the trial and lives through all of its episodes; the previous
    action, reward and done that it sees survive the resets between them.

    Args:
        env: N worlds with their tasks set.
        policy: the policy.
        num_episodes: K.
        generator: for sampling actions; None acts deterministically.
        on_step: called after every reset and every step, to watch the worlds (recording).
        reads_signals: record what learned losses read (`EnvSpec.signals`).

    Returns:
        A `Rollout` with T = K * H.
    """
    space, num_worlds, device = env.spec.action_space, env.num_worlds, env.device
    memory = policy.initial_memory(num_worlds)
    prev_action = torch.zeros(num_worlds, space.input_dim, device=device)
    prev_reward = torch.zeros(num_worlds, device=device)
    prev_done = torch.zeros(num_worlds, device=device)
    prev_change = torch.zeros(num_worlds, device=device)
    observations, actions, log_probs, steps, final = [], [], [], [], []
    signals, feedback, metrics = [], [], []
    for _ in range(num_episodes):
        obs = env.reset()
        if reads_signals:
            signals.append(env.signals()[0])
        if on_step is not None:
            on_step(env)
        for _ in range(env.spec.horizon):
            inputs = PolicyInput(obs, prev_action, prev_reward, prev_done, prev_change, env.task)
            action, log_prob, memory = policy.act(inputs, memory, generator)
            step = env.step(action)
            observations.append(obs)
            actions.append(action)
            log_probs.append(log_prob)
            steps.append(step)
            if reads_signals:
                seen, got = env.signals()
                signals.append(seen)
                feedback.append(step.reward if got is None else torch.where(step.valid & ~step.failed, got, 0.0))
            if on_step is not None:
                on_step(env)
            if len(steps) > 1:  # nothing came before the first one
                prev_change = _change(prev_reward, step.reward, prev_done)
            obs, prev_reward = step.obs, step.reward
            prev_action = encode_action(action, space)
            prev_done = _over(step)
        final.append(obs)
        metrics.append(env.metrics())
    reward = torch.stack([s.reward for s in steps])
    if not reads_signals:
        signals = [torch.zeros(num_worlds, 0, device=device)] * (num_episodes * (env.spec.horizon + 1))
    return Rollout(
        task=env.task,
        obs=torch.stack(observations),
        final_obs=torch.stack(final),
        action=torch.stack(actions),
        log_prob=torch.stack(log_probs),
        reward=reward,
        terminated=torch.stack([s.terminated for s in steps]),
        truncated=torch.stack([s.truncated for s in steps]),
        success=torch.stack([s.success for s in steps]),
        failed=torch.stack([s.failed for s in steps]),
        valid=torch.stack([s.valid for s in steps]),
        signals=torch.stack(signals).unflatten(0, (num_episodes, -1)),
        feedback=torch.stack(feedback) if reads_signals else reward,
        metrics=torch.stack(metrics),
        num_episodes=num_episodes,
    )


def join(episodes: Sequence[Rollout]) -> Rollout:
    """Put rollouts of the same worlds and tasks, one after the other, together."""
    parts = {f.name: [getattr(e, f.name) for e in episodes] for f in fields(Rollout)}
    task, num_episodes = parts.pop("task")[0], sum(parts.pop("num_episodes"))
    return Rollout(task=task, num_episodes=num_episodes, **{name: torch.cat(values) for name, values in parts.items()})


def policy_inputs(rollout: Rollout, space: ActionSpace, with_end: bool = False) -> PolicyInput:
    """What the policy saw in a rollout, to evaluate it again: each field (T, N, ...).

    The values are those that `collect` handed to the policy, step for step. `with_end` adds what it would
    have seen after the last step, (T + 1, N, ...).
    """
    reward, over = rollout.reward, _over(rollout)
    change = torch.cat([torch.zeros_like(reward[:1]), _change(reward[:-1], reward[1:], over[:-1])])
    sequences = [torch.cat([rollout.obs, rollout.final_obs[-1:]])]
    before = [encode_action(rollout.action, space), reward, over, change]
    sequences += [torch.cat([torch.zeros_like(values[:1]), values]) for values in before]
    obs, action, reward, over, change = sequences if with_end else [s[:-1] for s in sequences]
    return PolicyInput(obs, action, reward, over, change, rollout.task)


def _change(before: Tensor, reward: Tensor, over_before: Tensor) -> Tensor:
    """How much more a step earned than the one before it; zero where that one ended an episode."""
    return (reward - before) * (1.0 - over_before)


def _over(steps: Step | Rollout) -> Tensor:
    """1 where the episode is over after a step, (..., N) float32."""
    return 1.0 - (steps.valid & ~steps.terminated & ~steps.truncated).to(torch.float32)
