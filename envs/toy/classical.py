"""What classical strategies earn on bandits and random MDPs: the other columns of RL²'s tables.

Batched over B tasks, no learning between tasks. Each strategy knows the prior that tasks are drawn from,
except where it is said not to.

Source: Duan et al. 2016, "RL^2", tables 1 and 2, and the authors' code of the bandit strategies
(sandbox/rocky/neural_learner in florensacc/rllab-curriculum), which starts every arm at Beta(1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BanditStrategy = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""(wins (B, k), losses (B, k), pulls so far, generator) -> arm (B,) int64."""

MdpStrategy = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""(transition counts (B, S, A, S), reward sums (B, S, A), horizon H, generator) -> action (B, H, S) int64,
the plan of the next episode."""


def play_bandit(strategy: BanditStrategy, probability: Tensor, num_pulls: int, generator: torch.Generator) -> Tensor:
    """Pull arms of Bernoulli bandits.

    Args:
        strategy: chooses the arms.
        probability: (B, k), the probability that an arm pays.
        num_pulls: n.
        generator: of rewards and strategy.

    Returns:
        The total reward, (B,).
    """
    wins, losses = torch.zeros_like(probability), torch.zeros_like(probability)
    for pull in range(num_pulls):
        arm = strategy(wins, losses, pull, generator).unsqueeze(1)  # (B, 1)
        won = (torch.rand(arm.shape, generator=generator) < probability.gather(1, arm)).to(probability.dtype)
        wins = wins.scatter_add(1, arm, won)
        losses = losses.scatter_add(1, arm, 1.0 - won)
    return wins.sum(1)


def random_arm(wins: Tensor, losses: Tensor, pull: int, generator: torch.Generator) -> Tensor:
    """Pull any arm."""
    return torch.randint(wins.shape[1], wins.shape[:1], generator=generator)


def greedy_arm(wins: Tensor, losses: Tensor, pull: int, generator: torch.Generator) -> Tensor:
    """Pull the arm with the highest posterior mean."""
    return _beta_mean(wins, losses).argmax(1)


def thompson_sampling(wins: Tensor, losses: Tensor, pull: int, generator: torch.Generator) -> Tensor:
    """Draw each arm's probability from its posterior and pull the best (Thompson 1933)."""
    return _beta_sample(wins, losses, generator).argmax(1)


def epsilon_greedy(epsilon: float) -> BanditStrategy:
    """Pull any arm with probability epsilon, else the one with the highest posterior mean."""

    def strategy(wins: Tensor, losses: Tensor, pull: int, generator: torch.Generator) -> Tensor:
        explore = torch.rand(wins.shape[0], generator=generator) < epsilon
        return torch.where(
            explore, random_arm(wins, losses, pull, generator), greedy_arm(wins, losses, pull, generator)
        )

    return strategy


def ucb1(c: float = 0.2) -> BanditStrategy:
    """Pull the arm with the highest mean + c sqrt(2 log t / m) (Auer et al. 2002).

    As in RL²'s code the mean and the count m are those of the posterior, so that no arm has to be
    pulled first; c = 0.2 is the authors' tuned value and c = 1 the textbook's.
    """

    def strategy(wins: Tensor, losses: Tensor, pull: int, generator: torch.Generator) -> Tensor:
        bonus = (2.0 * math.log(pull + 1) / (wins + losses + 2.0)).sqrt()
        return (_beta_mean(wins, losses) + c * bonus).argmax(1)

    return strategy


def gittins(discount: float = 0.99, num_observations: int = 600, num_levels: int = 1000) -> BanditStrategy:
    """Pull the arm with the highest Gittins index, computed by backward induction.

    Args:
        discount: of the index; RL²'s table takes the best of 0.9, 0.99, 0.999, 0.9999.
        num_observations: wins + losses + 2 where the induction starts; more than the pulls of a trial.
        num_levels: resolution of the index.

    Source: Gittins et al. 2011, "Multi-armed Bandit Allocation Indices", p. 265 (tables).
    """
    index = _gittins_indices(discount, num_observations, num_levels)  # [alpha, beta]

    def strategy(wins: Tensor, losses: Tensor, pull: int, generator: torch.Generator) -> Tensor:
        return index[wins.long() + 1, losses.long() + 1].argmax(1)

    return strategy


def play_mdp(
    strategy: MdpStrategy,
    transition: Tensor,
    reward_mean: Tensor,
    num_episodes: int,
    horizon: int,
    generator: torch.Generator,
) -> Tensor:
    """Run episodes of random MDPs; the strategy plans at the start of each from what was seen.

    Args:
        strategy: makes the plans.
        transition: (B, S, A, S), P(s' | s, a).
        reward_mean: (B, S, A); rewards are N(reward_mean, 1).
        num_episodes: n.
        horizon: H.
        generator: of transitions, rewards and strategy.

    Returns:
        The total reward over all episodes, (B,).
    """
    num_tasks = transition.shape[0]
    tasks = torch.arange(num_tasks)
    counts = torch.zeros_like(transition)
    reward_sums = torch.zeros_like(reward_mean)
    total = torch.zeros(num_tasks)
    for _ in range(num_episodes):
        plan = strategy(counts, reward_sums, horizon, generator)  # (B, H, S)
        state = torch.zeros(num_tasks, dtype=torch.int64)
        for t in range(horizon):
            action = plan[tasks, t, state]
            reward = reward_mean[tasks, state, action] + torch.randn(num_tasks, generator=generator)
            next_state = torch.multinomial(transition[tasks, state, action], 1, generator=generator).squeeze(1)
            counts[tasks, state, action, next_state] += 1.0
            reward_sums[tasks, state, action] += reward
            total += reward
            state = next_state
    return total


def plan_optimally(transition: Tensor, reward_mean: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Plan by backward induction.

    Args:
        transition: (B, S, A, S).
        reward_mean: (B, S, A).
        horizon: H.

    Returns:
        The best action of each step and state, (B, H, S) int64, and the value of each state at the
        first step, (B, S).
    """
    value = torch.zeros_like(reward_mean[:, :, 0])
    plan = []
    for _ in range(horizon):
        value, action = (reward_mean + (transition * value[:, None, None]).sum(3)).max(2)
        plan.append(action)
    return torch.stack(plan[::-1], 1), value


def random_plan(counts: Tensor, reward_sums: Tensor, horizon: int, generator: torch.Generator) -> Tensor:
    """Any action everywhere."""
    num_tasks, num_states, num_actions = reward_sums.shape
    return torch.randint(num_actions, (num_tasks, horizon, num_states), generator=generator)


def greedy_plan(counts: Tensor, reward_sums: Tensor, horizon: int, generator: torch.Generator) -> Tensor:
    """The best plan for the posterior mean of the MDP."""
    alpha = 1.0 + counts
    num_visits = counts.sum(3)
    return plan_optimally(alpha / alpha.sum(3, keepdim=True), (1.0 + reward_sums) / (1.0 + num_visits), horizon)[0]


def psrl(counts: Tensor, reward_sums: Tensor, horizon: int, generator: torch.Generator) -> Tensor:
    """The best plan for an MDP drawn from the posterior (Strens 2000; Osband et al. 2013)."""
    gamma = torch._standard_gamma(1.0 + counts, generator=generator)
    num_visits = counts.sum(3)
    mean, std = (1.0 + reward_sums) / (1.0 + num_visits), (1.0 + num_visits).rsqrt()
    drawn = mean + std * torch.randn(mean.shape, generator=generator)
    return plan_optimally(gamma / gamma.sum(3, keepdim=True), drawn, horizon)[0]


def epsilon_greedy_plan(epsilon: float) -> MdpStrategy:
    """The greedy plan with any action in a fraction epsilon of steps and states."""

    def strategy(counts: Tensor, reward_sums: Tensor, horizon: int, generator: torch.Generator) -> Tensor:
        plan = greedy_plan(counts, reward_sums, horizon, generator)
        explore = torch.rand(plan.shape, generator=generator) < epsilon
        return torch.where(explore, random_plan(counts, reward_sums, horizon, generator), plan)

    return strategy


def known_model(transition: Tensor, reward_mean: Tensor) -> MdpStrategy:
    """The best plan of somebody who knows the MDP: an upper bound, not a competitor."""

    def strategy(counts: Tensor, reward_sums: Tensor, horizon: int, generator: torch.Generator) -> Tensor:
        return plan_optimally(transition, reward_mean, horizon)[0]

    return strategy


def _beta_mean(wins: Tensor, losses: Tensor) -> Tensor:
    return (wins + 1.0) / (wins + losses + 2.0)


def _beta_sample(wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
    # Beta(a, b) = X / (X + Y) with X ~ Gamma(a), Y ~ Gamma(b).
    x = torch._standard_gamma(wins + 1.0, generator=generator)
    y = torch._standard_gamma(losses + 1.0, generator=generator)
    return x / (x + y)


def _gittins_indices(discount: float, num_observations: int, num_levels: int) -> Tensor:
    """Indices of Beta(alpha, beta) arms, (n, n) float64 for alpha + beta < n; elsewhere the mean."""
    n = num_observations
    level = torch.linspace(0.0, 1.0, num_levels, dtype=torch.float64)  # payoff of a known arm
    retire = level / (1.0 - discount)
    alpha = torch.arange(n, dtype=torch.float64)
    index = alpha[:, None] / (alpha[:, None] + alpha[None]).clamp(min=1.0)
    first = torch.arange(1, n, dtype=torch.float64) / n  # posterior means with alpha = 1 .. n - 1
    value = torch.maximum(level, first[:, None]) / (1.0 - discount)  # (alpha, level)
    for total in range(n - 1, 1, -1):
        a = torch.arange(1, total)
        mean = (a.to(torch.float64) / total)[:, None]
        go_on = mean * (1.0 + discount * value[1:total]) + (1.0 - mean) * discount * value[: total - 1]
        # The index is the payoff of a known arm that is as good as going on with this one.
        index[a, total - a] = level[(go_on > retire).sum(1).clamp(max=num_levels - 1)]
        value = torch.maximum(retire, go_on)
    return index
