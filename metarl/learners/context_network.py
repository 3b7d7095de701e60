"""The network of context-rl: an actor-critic without memory that is told an embedding of the recent transitions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.nets.actor_critic import ActorCritic
from metarl.nets.normalizer import RunningNormalizer
from metarl.set_encoder import Pooling, Posterior, SetEncoder, window_sums
from metarl.types import Act, ActionSpace, PolicyInput

_COUNT_SCALE = 5.0


class Transitions(NamedTuple):
    """The transitions that led to the states of a trial, as the encoder reads them.

    Attributes:
        members: (T, N, D) normalised observation before, action, reward, change of the observation, done. Where an
            episode was over, the change is zero: what follows is a reset, not dynamics.
        mask: (T, N) bool; False at the first step of a trial, which nothing leads to, and while a world waits for the
            others after its episode has ended.
    """

    members: Tensor
    mask: Tensor


class ContextNetwork(ActorCritic):
    """Actor-critic without memory whose encoder also reads the context of `SetEncoder`.

    The context is the embedding of the last `window` transitions of the trial, how many they are, log(1 + count) / 5,
    and, where it is asked for, the last one as it is: an average over a window cannot say what happened just now.

    Args:
        obs_dim, action_space, hidden_dim, initial_std: as of `ActorCritic`.
        task_dim: P.
        horizon: H of the environment.
        embedding_dim: E.
        pooling: of `SetEncoder`.
        window: W, transitions that count; 0: all of the trial.
        tells_last: the context ends with the last transition.
        encodes_in_heads: `heads` reads transitions and encodes them, so that gradients of the policy reach the
            encoder; else it reads contexts.
        num_prototypes: M, tasks whose embeddings are kept.
    """

    prototypes: Tensor
    prototype_tasks: Tensor
    has_prototypes: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_space: ActionSpace,
        task_dim: int,
        hidden_dim: int,
        initial_std: float,
        *,
        horizon: int,
        embedding_dim: int,
        pooling: Pooling,
        window: int,
        tells_last: bool,
        encodes_in_heads: bool,
        num_prototypes: int,
    ):
        members_dim = 2 * obs_dim + action_space.input_dim + 2
        super().__init__(
            obs_dim,
            action_space,
            task_dim,
            hidden_dim,
            memory=False,
            initial_std=initial_std,
            context_dim=embedding_dim + 1 + (members_dim if tells_last else 0),
        )
        self.horizon, self.window, self.encodes_in_heads = horizon, window, encodes_in_heads
        self.members_dim, self.tells_last = members_dim, tells_last
        self.change_normalizer = RunningNormalizer(obs_dim)
        self.set_encoder = SetEncoder(self.members_dim, embedding_dim, hidden_dim, pooling)
        # Reads observation, action and embedding; predicts change and reward, both normalised.
        self.predictor = nn.Sequential(
            nn.Linear(obs_dim + action_space.input_dim + embedding_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, obs_dim + 1),
        )
        self.register_buffer("prototypes", torch.zeros(num_prototypes, embedding_dim))
        self.register_buffer("prototype_tasks", torch.zeros(num_prototypes, task_dim))
        self.register_buffer("has_prototypes", torch.zeros((), dtype=torch.bool))

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those of the set encoder and of the predictor."""
        return [*self.set_encoder.parameters(), *self.predictor.parameters()]

    def policy_parameters(self) -> list[nn.Parameter]:
        """All others."""
        own = {id(parameter) for parameter in self.encoder_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def transitions(self, inputs: PolicyInput) -> Transitions:
        """The transitions that led to each step of a trial, from its first step; `inputs` are (T, N, ...)."""
        obs, done = self.obs_normalizer(inputs.obs), inputs.prev_done.unsqueeze(-1)
        before = torch.cat([obs[:1], obs[:-1]])
        change = self.change_normalizer(torch.diff(inputs.obs, dim=0, prepend=inputs.obs[:1])) * (1 - done)
        reward = self.reward_normalizer(inputs.prev_reward.unsqueeze(-1))
        members = torch.cat([before, inputs.prev_action, reward, change, done], -1)
        mask = torch.ones_like(inputs.prev_done, dtype=torch.bool)
        mask[0] = False
        if self.horizon > 1:  # an episode of one step never waits
            over = inputs.prev_done > 0
            mask[1:] = ~(over[1:] & over[:-1])
        return Transitions(members, mask)

    def embedding(self, sums: Tensor, noise: Tensor | None = None) -> Tensor:
        """The embedding, (..., E), from the sums of statistics of its window, (..., K).

        Args:
            sums: see `SetEncoder.statistics`.
            noise: (..., E) standard normal: a draw of the posterior in place of its mean.
        """
        if noise is None:
            return self.set_encoder.embed(sums)
        posterior = self.set_encoder.posterior(sums)
        return posterior.mean + posterior.variance.sqrt() * noise

    def context(self, embedding: Tensor, sums: Tensor, last: Transitions) -> Tensor:
        """What the policy is told, (..., C).

        Args:
            embedding: (..., E).
            sums: (..., K), of the window.
            last: (..., D), the last transition.
        """
        parts = [embedding, (1 + sums[..., -1:]).log() / _COUNT_SCALE]
        if self.tells_last:
            parts.append(last.members * last.mask.unsqueeze(-1))
        return torch.cat(parts, -1)

    def contexts(self, transitions: Transitions, noise: Tensor | None = None) -> Tensor:
        """The context at every step of whole trials, (T, N, C); `noise` is (T, N, E)."""
        sums = self.sums(transitions)
        return self.context(self.embedding(sums, noise), sums, transitions)

    def sums(self, transitions: Transitions) -> Tensor:
        """Sums of the statistics in the window of each step, (T, N, K)."""
        return window_sums(self.set_encoder.statistics(*transitions), self.window)

    def seen(self, inputs: PolicyInput, noise: Tensor | None) -> Tensor:
        """What `heads` reads at every step of whole trials, (T, N, I).

        Args:
            inputs: (T, N, ...).
            noise: (T, N, E), where the policy is told draws of the posterior.
        """
        transitions = self.transitions(inputs)
        if not self.encodes_in_heads:
            with torch.no_grad():
                return torch.cat([self.read(inputs), self.contexts(transitions, noise)], -1)
        drawn = inputs.obs[..., :0] if noise is None else noise
        return torch.cat([self.read(inputs), transitions.members, transitions.mask.unsqueeze(-1), drawn], -1)

    def heads(self, seen: Tensor) -> tuple[Tensor, ...]:
        """See `ActorCritic.heads`; `seen` is from the method of that name."""
        if not self.encodes_in_heads:
            return super().heads(seen)
        obs, transitions, noise = self._split(seen)
        return super().heads(torch.cat([obs, self.contexts(transitions, noise)], -1))

    def posterior(self, seen: Tensor) -> Posterior:
        """The posterior at every step, of what `heads` reads; where it encodes and the pooling is "gaussian"."""
        return self.set_encoder.posterior(self.sums(self._split(seen)[1]))

    def _split(self, seen: Tensor) -> tuple[Tensor, Transitions, Tensor | None]:
        obs_dim = len(self.obs_normalizer.mean)
        drawn = seen.shape[-1] - obs_dim - self.members_dim - 1
        obs, members, mask, noise = seen.split([obs_dim, self.members_dim, 1, drawn], -1)
        return obs, Transitions(members, mask.squeeze(-1)), noise if drawn else None

    def nearest_prototype(self, embedding: Tensor) -> Tensor:
        """The prototype that is nearest to each embedding, (N, E) -> (N, E)."""
        return self.prototypes[torch.cdist(embedding, self.prototypes).argmin(-1)]


class Window(NamedTuple):
    """The memory of `ContextActor`.

    Attributes:
        ring: (N, W, K) statistics of the last W transitions, the oldest overwritten next; (N, 1, K) their sum over
            the trial where the window is that long.
        step: control steps of the trial so far.
        previous: what the policy saw one step before; None at the start.
    """

    ring: Tensor
    step: int
    previous: PolicyInput | None


class ContextActor:
    """The policy of a `ContextNetwork`, with the window as its memory; see `metarl.rollout.Policy`.

    Args:
        network: the network.
        noise: (K, N, E) standard normal, a draw of the posterior for each episode; None: its mean.
        uses_prototypes: the policy is told the prototype that is nearest to the embedding, in its place.
    """

    def __init__(self, network: ContextNetwork, noise: Tensor | None = None, uses_prototypes: bool = False):
        self._network, self._noise, self._uses_prototypes = network, noise, uses_prototypes

    def initial_memory(self, num_worlds: int) -> Window:
        """An empty window."""
        network = self._network
        size = (num_worlds, max(network.window, 1), network.set_encoder.statistics_dim)
        return Window(torch.zeros(size, device=network.prototypes.device), 0, None)

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        """See `metarl.rollout.Policy`."""
        network = self._network
        ring, step = memory.ring, memory.step
        previous = inputs if memory.previous is None else memory.previous
        both = PolicyInput(*(torch.stack(pair) for pair in zip(previous, inputs, strict=True)))
        last = Transitions(*(values[-1] for values in network.transitions(both)))
        if memory.previous is None:  # nothing has led to the first step
            last = last._replace(mask=torch.zeros_like(last.mask))
        statistics = network.set_encoder.statistics(*last)
        if network.window:
            ring = ring.clone()
            ring[:, step % network.window] = statistics
        else:
            ring = ring + statistics.unsqueeze(1)
        sums = ring.sum(1)
        embedding = network.embedding(sums, None if self._noise is None else self._noise[step // network.horizon])
        if self._uses_prototypes:
            embedding = network.nearest_prototype(embedding)
        context = network.context(embedding, sums, last)
        seen = torch.cat([network.read(inputs), context], -1)
        output, *_ = ActorCritic.heads(network, seen)
        distribution = network.distribution(output)
        action = distribution.sample(generator)
        return Act(action, distribution.log_prob(action), Window(ring, step + 1, inputs))
