"""context-rl: a policy that is told an embedding of its recent transitions (PEARL, FOCAL and relatives), PPO.

A set encoder turns the last `window` transitions of the trial into an embedding of the task; policy and value
function read it beside the observation and the last transition. `encoder_loss` says what the encoder learns from:

dynamics      it tells the change of the observation and the reward of other transitions of the task
focal         embeddings of a task are near each other, those of two tasks far (Li et al. 2021)
prototypical  the task of a window is found by its distance to the tasks' prototypes (Snell et al. 2017)
rl            the gradient of PPO's loss

But for the last, the policy's gradients stop at the embedding. With `--pooling gaussian` the embedding is a posterior
(Rakelly et al. 2019); `--samples-posterior` draws from it, once per episode, so that exploration follows the belief.
Deviation from PEARL: on-policy, and the context is the window of this trial, not a buffer of the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.learners.context_network import ContextActor, ContextNetwork, Transitions
from metarl.learners.rl2 import RL2, PPOConfig
from metarl.losses.task_metric import inverse_power_loss, prototypical_loss
from metarl.rollout import Adapts, collect, policy_inputs
from metarl.seeding import make_generator
from metarl.set_encoder import POOLINGS, Pooling, cumulative, segment_sums
from metarl.types import Rollout
from metarl.worlds import Spec, Worlds

EncoderLoss = Literal["dynamics", "focal", "prototypical", "rl"]
ENCODER_LOSSES: tuple[EncoderLoss, ...] = ("dynamics", "focal", "prototypical", "rl")

_NUM_WINDOWS = 8
"""Windows of each trial from which other transitions are predicted in a gradient step."""
_NUM_PREDICTED = 16
"""Transitions of each trial that are predicted in a gradient step."""
_PREDICTED_WORLDS = 8
"""Trials in a gradient step of `dynamics`: many small steps; a metric loss needs more tasks in each."""


@dataclass(frozen=True)
class ContextConfig(PPOConfig):
    """Settings of context-rl."""

    window: int = 50
    """Transitions that the embedding is made of, the last ones of the trial; 50 are 2 s of driving; 0: all."""
    embedding_dim: int = 8
    """Numbers of an embedding."""
    tells_last: bool = True
    """The policy is also told the last transition as it is, as RL² is told the last action and reward."""
    pooling: Pooling = "mean"
    """How transitions become one embedding: mean, attention, or gaussian, PEARL's product of normal factors."""
    encoder_loss: EncoderLoss = "dynamics"
    """What trains the encoder: dynamics, focal, prototypical, or rl, PPO's own loss."""
    encoder_lr: float = 1e-3
    """Step size of Adam for an encoder with a loss of its own."""
    encoder_epochs: int = 6
    """Passes of such an encoder over each batch of trials."""
    samples_posterior: bool = False
    """Tell the policy a draw of the posterior per episode while it samples actions, not the mean; gaussian only."""
    kl_coef: float = 0.01
    """Weight of the posterior's KL divergence from N(0, 1); gaussian only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}.")
        if self.encoder_loss not in ENCODER_LOSSES:
            raise ConfigError(f"encoder_loss must be one of {', '.join(ENCODER_LOSSES)}, got {self.encoder_loss!r}.")
        if self.window < 0 or self.kl_coef < 0:
            raise ConfigError(f"window and kl_coef must be at least 0, got {self.window} and {self.kl_coef}.")
        if self.embedding_dim < 1 or self.encoder_epochs < 1:
            got = f"{self.embedding_dim} and {self.encoder_epochs}"
            raise ConfigError(f"embedding_dim and encoder_epochs must be at least 1, got {got}.")
        if not self.encoder_lr > 0:
            raise ConfigError(f"encoder_lr must be positive, got {self.encoder_lr}.")
        if self.samples_posterior and self.pooling != "gaussian":
            raise ConfigError(f"samples_posterior needs --pooling gaussian, got {self.pooling!r}.")


class ContextRL(RL2):
    """Learner: adapts by what its recent transitions say of the task.

    Args:
        spec: the environment.
        config: settings.
        seed: of the weights, of action sampling, posterior draws, windows and the order of minibatches.
        device: of the network.
    """

    network: ContextNetwork

    def __init__(self, spec: Spec, config: ContextConfig, seed: int, device: str | torch.device = "cpu"):
        self._config = config
        super().__init__(spec, config, seed, device)
        groups: list[dict[str, Any]] = [{"params": self.network.policy_parameters()}]
        encoder_lr = config.learning_rate if config.encoder_loss == "rl" else config.encoder_lr
        groups.append({"params": self.network.encoder_parameters(), "lr": encoder_lr})
        self.optimizer = torch.optim.Adam(groups, lr=config.learning_rate, eps=1e-5)
        self.generators |= {name: make_generator(seed, name) for name in ("posterior", "windows")}

    def collect(self, env: Worlds) -> Rollout:
        """One trial in every world, with sampled actions and, where they are asked for, sampled embeddings.

        The draws are those that the next `update` makes again; so a dump of the update needs no further numbers.
        """
        generator = torch.Generator()
        generator.set_state(self.generators["posterior"].get_state())
        num_episodes = self.config.episodes_per_trial
        actor = ContextActor(self.network, self._draws(num_episodes, env.num_worlds, generator))
        reads_signals = self.learned_loss is not None
        return collect(env, actor, num_episodes, self.generators["policy"], reads_signals=reads_signals)

    def trial(self, env: Worlds, num_episodes: int, generator: torch.Generator | None, on_step: Any = None) -> Rollout:
        """Adapt to the tasks that the environment holds; `generator` None acts deterministically."""
        return self._trial(env, num_episodes, generator, on_step, uses_prototypes=False)

    def with_prototypes(self) -> Adapts:
        """The same policy, told the nearest embedding of a known task in place of the one it finds.

        Raises:
            ConfigError: nothing has been learned yet.
        """
        if not self.network.has_prototypes:
            raise ConfigError("this run has no prototypes yet: they are kept with the second update.")
        return _Prototypical(self)

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """See `RL2.update`; then train the encoder, where it has a loss of its own, and keep the tasks' prototypes."""
        has_scales = bool(self.network.obs_normalizer.count)
        self._noise = self._draws(rollout.num_episodes, rollout.num_worlds, self.generators["posterior"])
        self.optimizer.param_groups[1]["lr"] = self._encoder_lr(progress)
        metrics = super().update(rollout, progress)
        if not has_scales:
            return metrics
        inputs = policy_inputs(rollout, self.space, with_end=True)
        transitions = self.network.transitions(inputs)
        if self._config.encoder_loss != "rl":
            metrics["encoder_loss"], skipped = self._train_encoder(transitions, rollout.task)
            metrics["skipped_minibatches"] += skipped
        self._keep_prototypes(transitions, rollout.task)
        return metrics

    def _encoder_lr(self, progress: float) -> float:
        config = self._config
        start = config.learning_rate if config.encoder_loss == "rl" else config.encoder_lr
        return start * (1 - 0.9 * progress if config.anneal else 1.0)

    def _trial(
        self, env: Worlds, num_episodes: int, generator: torch.Generator | None, on_step: Any, uses_prototypes: bool
    ) -> Rollout:
        noise = None if generator is None else self._draws(num_episodes, env.num_worlds, generator)
        return collect(env, ContextActor(self.network, noise, uses_prototypes), num_episodes, generator, on_step)

    def _draws(self, num_episodes: int, num_worlds: int, generator: torch.Generator) -> Tensor | None:
        """Standard normal numbers for each episode, (K, N, E); None where embeddings are not sampled."""
        if not self._config.samples_posterior:
            return None
        size = (num_episodes, num_worlds, self._config.embedding_dim)
        return torch.randn(size, generator=generator, device=generator.device).to(self.device)

    def _make_network(self, spec: Spec) -> ContextNetwork:
        config = self._config
        return ContextNetwork(
            spec.obs_dim,
            spec.action_space,
            spec.tasks.dim,
            config.hidden_dim,
            config.initial_std,
            horizon=spec.horizon,
            embedding_dim=config.embedding_dim,
            pooling=config.pooling,
            window=config.window,
            tells_last=config.tells_last,
            encodes_in_heads=config.encoder_loss == "rl",
            num_prototypes=config.num_worlds,
        )

    def _head_weights(self) -> list[Tensor]:
        """With the loss "rl" the heads depend on the encoder too."""
        network = self.network
        weights: list[Tensor] = [weight for weight in network.policy_parameters() if not self._is_log_std(weight)]
        return weights + ([*network.set_encoder.parameters()] if network.encodes_in_heads else [])

    def _is_log_std(self, weight: Tensor) -> bool:
        return self.network.continuous and weight is self.network.log_std

    def _penalty(self, seen: Tensor, worlds: Tensor) -> Tensor | float:
        """The posterior's KL divergence from the prior, where PPO's loss trains the encoder."""
        config = self._config
        if config.encoder_loss != "rl" or config.pooling != "gaussian" or not config.kl_coef:
            return 0.0
        return config.kl_coef * self.network.posterior(seen[:, worlds]).kl_to_prior().mean()

    def _seen(self, rollout: Rollout) -> Tensor:
        """See `RL2._seen`; what comes after the last step has the draw of the last episode."""
        inputs = policy_inputs(rollout, self.space, with_end=True)
        inputs.prev_done[-1] = 0.0
        noise = self._noise
        if noise is not None:
            by_step = noise.repeat_interleave(rollout.num_steps // rollout.num_episodes, 0)
            noise = torch.cat([by_step, by_step[-1:]])  # (T+1, N, E)
        return self.network.seen(inputs, noise)

    def _update_normalizers(self, rollout: Rollout) -> None:
        super()._update_normalizers(rollout)
        following = torch.cat([rollout.obs[1:], rollout.final_obs[-1:]])
        runs_on = rollout.valid & ~rollout.terminated & ~rollout.truncated
        if runs_on.any():
            self.network.change_normalizer.update((following - rollout.obs)[runs_on])

    def _train_encoder(self, transitions: Transitions, task: Tensor) -> tuple[float, int]:
        """Some passes over the batch; returns the mean loss, and how many minibatches were skipped as not finite."""
        task_ids = task.unique(dim=0, return_inverse=True)[1]  # (N,)
        losses, skipped = [], 0
        parameters = self.network.encoder_parameters()
        num_minibatches = self.config.num_minibatches
        if self._config.encoder_loss == "dynamics":
            num_minibatches = max(len(task) // _PREDICTED_WORLDS, num_minibatches)
        for _ in range(self._config.encoder_epochs):
            order = torch.randperm(len(task), generator=self.generators["minibatches"]).to(self.device)
            for worlds in order.tensor_split(num_minibatches):
                part = Transitions(transitions.members[:, worlds], transitions.mask[:, worlds])
                loss = self._encoder_loss(part, task_ids[worlds])
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
                if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
                    skipped += 1
                    continue
                self.optimizer.step()
                losses.append(float(loss.detach()))
        return sum(losses) / max(len(losses), 1), skipped

    def _encoder_loss(self, transitions: Transitions, task_ids: Tensor) -> Tensor:
        network, config = self.network, self._config
        statistics = network.set_encoder.statistics(*transitions)  # (T, N, K)
        sums = cumulative(statistics)
        if config.encoder_loss == "dynamics":
            begin, end = self._windows(*transitions.mask.shape)
            encoded = segment_sums(sums, begin, end)  # (R, N, K)
            loss = self._prediction_loss(transitions, network.set_encoder.embed(encoded))
        else:
            begin, end = self._halves(*transitions.mask.shape)
            encoded = segment_sums(sums, begin, end)  # (2, N, K)
            support, query = network.set_encoder.embed(encoded)
            if config.encoder_loss == "focal":
                loss = inverse_power_loss(torch.cat([support, query]), task_ids.repeat(2))
            else:
                loss = prototypical_loss(support, query, task_ids)
        if config.pooling == "gaussian":
            loss = loss + config.kl_coef * network.set_encoder.posterior(encoded).kl_to_prior().mean()
        return loss

    def _prediction_loss(self, transitions: Transitions, embedding: Tensor) -> Tensor:
        """Squared error of change and reward of other transitions of the trial, from state, action and embedding.

        Args:
            transitions: (T, N, ...).
            embedding: (R, N, E), of windows anywhere in the trial.
        """
        num_steps, num_worlds = transitions.mask.shape
        obs_dim = len(self.network.obs_normalizer.mean)
        chosen = self._randint(num_steps, (_NUM_PREDICTED, num_worlds))
        world = torch.arange(num_worlds, device=self.device)
        members = transitions.members[chosen, world]  # (M, N, D)
        counts = transitions.mask[chosen, world].float()  # (M, N)
        given = members[..., : -obs_dim - 2]  # observation and action
        reward, change, done = members[..., -obs_dim - 2 :].split([1, obs_dim, 1], -1)
        size = (len(embedding), *given.shape[:-1], -1)  # (R, M, N, ...)
        read = torch.cat([given.unsqueeze(0).expand(size), embedding.unsqueeze(1).expand(size)], -1)
        predicted_change, predicted_reward = self.network.predictor(read).split([obs_dim, 1], -1)
        # After an end there is no change to be predicted.
        error = ((predicted_change - change) * (1 - done)).square().mean(-1)
        error = error + (predicted_reward - reward).square().squeeze(-1)
        return (error * counts).sum() / (counts.sum() * len(embedding)).clamp(min=1)

    def _windows(self, num_steps: int, num_worlds: int) -> tuple[Tensor, Tensor]:
        """Stretches of up to W steps of each trial, begin and end, (R, N) each."""
        longest = min(self._config.window or num_steps, num_steps)
        length = 1 + self._randint(longest, (_NUM_WINDOWS, num_worlds))
        end = torch.maximum(length, 1 + self._randint(num_steps, (_NUM_WINDOWS, num_worlds)))
        return end - length, end

    def _halves(self, num_steps: int, num_worlds: int) -> tuple[Tensor, Tensor]:
        """Two stretches of each trial without a common step, of up to W steps each, (2, N) each."""
        longest = self._config.window or num_steps
        # The first transition of a trial leads to step 1, so that stretches that begin at 0 hold one less.
        cut = 2 + self._randint(max(num_steps - 2, 1), (num_worlds,))
        cut = cut.clamp(max=num_steps - 1)
        begin = torch.stack([(cut - longest).clamp(min=0), cut])
        return begin, torch.stack([cut, (cut + longest).clamp(max=num_steps)])

    def _randint(self, high: int, size: tuple[int, ...]) -> Tensor:
        return torch.randint(high, size, generator=self.generators["windows"]).to(self.device)

    @torch.no_grad()
    def _keep_prototypes(self, transitions: Transitions, task: Tensor) -> None:
        """The mean embedding of each trial's second half, and its task."""
        network = self.network
        embedding = network.set_encoder.embed(network.sums(transitions))  # (T, N, E)
        network.prototypes.copy_(embedding[len(embedding) // 2 :].mean(0))
        network.prototype_tasks.copy_(task)
        network.has_prototypes.fill_(True)


@dataclass(frozen=True)
class _Prototypical:
    """See `ContextRL.with_prototypes`."""

    learner: ContextRL

    def trial(self, env: Worlds, num_episodes: int, generator: torch.Generator | None, on_step: Any = None) -> Rollout:
        return self.learner._trial(env, num_episodes, generator, on_step, uses_prototypes=True)
