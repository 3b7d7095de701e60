"""The actor-critic that remembers (a GRU or an LSTM), and the same network without memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.nets.distributions import ActionDistribution, Categorical, Gaussian
from metarl.nets.normalizer import RewardScaler, RunningNormalizer
from metarl.types import Act, ActionSpace, Continuous, PolicyInput


class Evaluation(NamedTuple):
    """Distribution and value at every step of a rollout, (T, N, ...)."""

    distribution: ActionDistribution
    value: Tensor


class ActorCritic(nn.Module):
    """encoder -> core -> actor head, critic head.

    With memory the core is recurrent and the encoder reads observation, previous action, previous reward and
    previous done: the policy of RL² (Duan et al. 2016, §2.2, with a GRU). Without memory the core is a linear
    layer of the same width and the encoder reads the observation alone, so that the difference between the two
    is the memory.

    Args:
        obs_dim: O.
        action_space: what the actor head chooses from.
        task_dim: P.
        hidden_dim: D, width of all layers.
        memory: recurrent core, else feed-forward.
        cell: "gru" or "lstm", kind of the recurrent core.
        sees_task: the encoder also reads the (normalised) task parameters: an oracle.
        critic_sees_task: the critic, which only training asks, also reads the (normalised) task parameters (asymmetric
            actor-critic, Pinto et al. 2018); the actor does not.
        shortcut: both heads read what the encoder made of the step beside what the core made of it (Ni et al. 2022,
            "Recurrent model-free RL can be a strong baseline for many POMDPs"): reacting need not pass the memory.
        num_told: how many numbers of the (normalised) task parameters a third head says from the memory; 0: there is
            no such head. Only training asks it.
        reads_reward_change: the memory also reads how much more the last step earned than the one before it, on a scale
            of its own: what one action does to a dense reward is small beside the reward.
        initial_std: standard deviation of continuous actions at the start.
        context_dim: numbers that the encoder reads after those that `read` gives; the caller appends them.
    """

    def __init__(
        self,
        obs_dim: int,
        action_space: ActionSpace,
        task_dim: int,
        hidden_dim: int,
        memory: bool,
        cell: str = "gru",
        sees_task: bool = False,
        critic_sees_task: bool = False,
        shortcut: bool = False,
        num_told: int = 0,
        reads_reward_change: bool = False,
        initial_std: float = 0.6,
        context_dim: int = 0,
    ):
        super().__init__()
        self.memory = memory
        self.sees_task = sees_task
        self.critic_sees_task = critic_sees_task
        self.shortcut = shortcut
        self.hidden_dim = hidden_dim
        self.continuous = isinstance(action_space, Continuous)
        self.obs_normalizer = RunningNormalizer(obs_dim)
        self.task_normalizer = RunningNormalizer(task_dim) if sees_task or critic_sees_task or num_told else None
        self.reward_normalizer = RunningNormalizer(1)  # what the memory reads
        self.reward_scaler = RewardScaler()  # what the critic predicts
        self.reward_change_normalizer = RunningNormalizer(1) if reads_reward_change and memory else None
        input_dim = obs_dim + (action_space.input_dim + 2 if memory else 0) + (task_dim if sees_task else 0)
        input_dim += context_dim + (self.reward_change_normalizer is not None)
        self.encoder_dim = input_dim
        self.encoder = nn.Sequential(_linear(input_dim, hidden_dim), nn.Tanh())
        if memory:
            self.core: nn.Module = _recurrent(cell, hidden_dim)
        else:
            self.core = nn.Sequential(_linear(hidden_dim, hidden_dim), nn.Tanh())
        head_dim = hidden_dim * (2 if shortcut else 1)
        self.actor = nn.Sequential(
            _linear(head_dim, hidden_dim), nn.Tanh(), _linear(hidden_dim, action_space.input_dim, gain=0.01)
        )
        critic_dim = head_dim + (task_dim if critic_sees_task else 0)
        self.critic = nn.Sequential(_linear(critic_dim, hidden_dim), nn.Tanh(), _linear(hidden_dim, 1, gain=1.0))
        self.teller = _linear(hidden_dim, num_told, gain=1.0) if num_told else None
        if self.continuous:
            self.log_std = nn.Parameter(torch.full((action_space.input_dim,), math.log(initial_std)))

    def initial_memory(self, num_worlds: int) -> Tensor:
        """The memory at the start of a trial, zeros: (N, D) hidden units, and with an LSTM its D cells after them."""
        memory_dim = self.hidden_dim * (2 if isinstance(self.core, nn.LSTM) else 1)
        return torch.zeros(num_worlds, memory_dim, device=self.reward_scaler.count.device)

    def act(self, inputs: PolicyInput, memory: Tensor, generator: torch.Generator | None) -> Act:
        """See `Policy.act`."""
        code = self.encoder(self.read(inputs)[..., : self.encoder_dim])
        if self.memory:
            features, memory = self._remember(code, memory)
        else:
            features = self.core(code)
        distribution = self.distribution(self.actor(self._head_inputs(code, features)))
        action = distribution.sample(generator)
        return Act(action, distribution.log_prob(action), memory)

    def evaluate(self, inputs: PolicyInput) -> Evaluation:
        """Distributions and values of whole trials from their first step, (T, N, ...)."""
        output, value, *_ = self.heads(self.read(inputs))
        return Evaluation(self.distribution(output), value)

    def read(self, inputs: PolicyInput) -> Tensor:
        """What the encoder reads and after it what only the critic reads, (..., N, I).

        It follows from the running statistics, not from the weights.
        """
        parts = [self.obs_normalizer(inputs.obs)]
        if self.memory:
            reward = self.reward_normalizer(inputs.prev_reward.unsqueeze(-1))
            parts += [inputs.prev_action, reward, inputs.prev_done.unsqueeze(-1)]
        if self.reward_change_normalizer is not None:
            parts.append(self.reward_change_normalizer(inputs.prev_change.unsqueeze(-1)))
        if self.task_normalizer is not None and (self.sees_task or self.critic_sees_task):
            task = self.task_normalizer(inputs.task).expand(*inputs.obs.shape[:-1], -1)
            parts += [task] * (self.sees_task + self.critic_sees_task)
        return torch.cat(parts, -1)

    def heads(self, seen: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the heads over whole trials from their first step.

        Args:
            seen: from `read`, (T, N, I).

        Returns:
            What `distribution` takes, (T, N, A), values, (T, N), and where the memory tells the task, what it says of
            the normalised parameters that it is asked for, (T, N, num_told).
        """
        code = self.encoder(seen[..., : self.encoder_dim])
        features = self.core(code)
        if self.memory:
            features = features[0]  # (T, N, D)
        told = () if self.teller is None else (self.teller(features),)
        features = self._head_inputs(code, features)
        judged = torch.cat([features, seen[..., self.encoder_dim :]], -1)
        return self.actor(features), self.critic(judged).squeeze(-1), *told

    def _head_inputs(self, code: Tensor, features: Tensor) -> Tensor:
        """What both heads read, (..., D) or with a shortcut (..., 2 D)."""
        return torch.cat([features, code], -1) if self.shortcut else features

    def _remember(self, code: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the recurrent core: features (N, D) and the new memory."""
        before = memory.unsqueeze(0)  # (1, N, D or 2 D)
        if not isinstance(self.core, nn.LSTM):
            features, after = self.core(code.unsqueeze(0), before)
        else:
            hidden, cells = before.chunk(2, -1)
            features, pair = self.core(code.unsqueeze(0), (hidden.contiguous(), cells.contiguous()))
            after = torch.cat(pair, -1)
        return features.squeeze(0), after.squeeze(0)

    def distribution(self, output: Tensor) -> ActionDistribution:
        """The distribution over actions that the actor head's output, (..., A), stands for."""
        return Gaussian(output, self.log_std) if self.continuous else Categorical(output)


def _linear(input_dim: int, output_dim: int, gain: float = math.sqrt(2)) -> nn.Linear:
    layer = nn.Linear(input_dim, output_dim)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _recurrent(cell: str, dim: int) -> nn.GRU | nn.LSTM:
    core = nn.LSTM(dim, dim) if cell == "lstm" else nn.GRU(dim, dim)
    for name, parameter in core.named_parameters():
        if "weight" in name:
            for gate in parameter.data.split(dim):
                nn.init.orthogonal_(gate)
        else:
            nn.init.zeros_(parameter)
            if cell == "lstm" and name == "bias_ih_l0":
                parameter.data[dim : 2 * dim] = 1.0  # the forget gate: remember at first (Jozefowicz et al. 2015)
    return core
