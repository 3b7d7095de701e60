"""RL²: a recurrent policy that adapts by remembering (Duan et al. 2016), trained with PPO.

The learner sees a trial of K episodes on one task as a single long episode: memory, returns and advantages
run through the resets inside it, so that exploring in the first episode is paid for by the later ones.

`domain-randomised` and `oracle` are the same network and the same PPO without memory, the latter given the
task parameters: the lines to compare with. `ppo` is `domain-randomised` under the name by which it is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.losses.policy_objective import policy_objective
from metarl.named_loss import named_loss
from metarl.nets.actor_critic import ActorCritic
from metarl.nets.side_by_side import side_by_side
from metarl.rl.ppo import normalize_advantage, ppo_loss
from metarl.rl.returns import discounted_returns, generalized_advantage
from metarl.rollout import collect, policy_inputs
from metarl.seeding import make_generator
from metarl.tasks import TaskDistribution
from metarl.types import Rollout
from metarl.worlds import Spec, Worlds


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO over whole trials, which RL², its baselines and context-rl share."""

    total_steps: int = 3_000_000
    """Environment steps of meta-training, over all worlds."""
    num_worlds: int = 512
    """Worlds side by side, each with a fresh task at every update."""
    episodes_per_trial: int = 3
    """Episodes that one memory lives through on one task."""
    hidden_dim: int = 64
    """Width of every layer and of the memory."""
    initial_std: float = 0.6
    """Standard deviation of continuous actions at the start; actions lie in [-1, 1]."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    anneal: bool = True
    """Decrease step size and entropy bonus linearly to a tenth over the training."""
    num_epochs: int = 6
    """Passes over each batch of trials."""
    num_minibatches: int = 4
    """Parts of a pass; each holds whole trials."""
    discount: float = 0.97
    """Discount factor over the steps of a trial; a learned reward brings its own."""
    gae_lambda: float = 0.9
    """Decay of the advantage estimator."""
    bootstrap_at_end: bool = False
    """The last step of a trial is a time limit, not an end: its value counts."""
    loss: str = "clip"
    """What the policy ascends on: clip, PPO's clipped surrogate, or dpo (Lu et al. 2022), which does not clip. Or
    learned:RUN, the loss of a run of learned-loss: its reward in place of the environment's, or its drift. Or
    formula:FILE, a formula that explain found, in the same way. What the memory is told of the step before stays the
    environment's reward."""
    clip: float = 0.2
    """Half-width of PPO's clipping interval."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient step."""
    target_kl: float = 0.03
    """Stop the passes over a batch once the policy has moved this far, in nats."""
    update_threads: int = 2
    """Threads of an update on the CPU, each with its share of the worlds; rounding depends on it."""

    @property
    def episodes_per_task(self) -> int:
        """E: each world has a task of its own."""
        return 1

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not isinstance(value, str | tuple) and not math.isfinite(value):
                raise ConfigError(f"{name} must be finite, got {getattr(self, name)}.")
        counts = ("total_steps", "num_worlds", "episodes_per_trial", "hidden_dim", "num_epochs", "num_minibatches")
        for name in (*counts, "update_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("initial_std", "learning_rate", "max_grad_norm", "clip", "target_kl"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.num_worlds < self.num_minibatches:
            raise ConfigError(
                f"num_worlds ({self.num_worlds}) must be at least num_minibatches ({self.num_minibatches}): "
                "a minibatch holds whole trials."
            )


@dataclass(frozen=True)
class RL2Config(PPOConfig):
    """Settings of RL² and of its two baselines."""

    memory: bool = True
    """Recurrent policy; without it the policy sees the observation alone."""
    sees_task: bool = False
    """The policy is also given the task parameters (an oracle)."""
    cell: Literal["gru", "lstm"] = "gru"
    """Kind of memory: the GRU of the paper, or an LSTM, which on the CPU takes up to a sixth of the time."""
    critic_sees_task: bool = False
    """The value function, which only training asks, is also given the task parameters; the policy is not."""
    shortcut: bool = False
    """The heads of policy and value also read the encoded step itself, beside the memory (Ni et al. 2022)."""
    task_coef: float = 0.0
    """Weight of telling the task parameters from the memory, by the squared errors of the normalised parameters
    (Humplik et al. 2019, "Meta reinforcement learning as task inference"): what tells tasks apart is then worth
    remembering before the policy can use it. The policy is told nothing."""
    asked: tuple[str, ...] = ()
    """Task parameters that the memory is asked for; none named: all. What is seen anyway, or what no one could find
    out, takes room in a memory."""
    reads_reward_change: bool = False
    """The memory also reads how much more the last step earned than the one before it."""

    def __post_init__(self) -> None:
        if self.cell not in ("gru", "lstm"):
            raise ConfigError(f"cell must be gru or lstm, got {self.cell!r}.")
        if self.task_coef < 0:
            raise ConfigError(f"task_coef must not be negative, got {self.task_coef}.")
        if self.asked and not self.task_coef:
            raise ConfigError(
                f"asked names {', '.join(self.asked)}, but task_coef is 0, so that nothing is asked: set both."
            )
        super().__post_init__()


def without_memory(config: RL2Config, sees_task: bool) -> RL2Config:
    """The baseline that belongs to an RL² configuration: same network width, steps and settings, no memory.

    It has nothing to carry from one episode to the next, so it learns from single episodes, and makes as many
    more updates of fewer steps. It cannot count the steps left either, so a time limit is no end to it. And it has no
    memory to pass by, so that its actor is a plain perceptron, which learners that adapt by gradients can start from.
    """
    return replace(
        config,
        memory=False,
        sees_task=sees_task,
        critic_sees_task=config.critic_sees_task and not sees_task,  # an oracle's critic reads it with the policy
        episodes_per_trial=1,
        bootstrap_at_end=True,
        shortcut=False,
        task_coef=0.0,
        asked=(),
        reads_reward_change=False,
    )


def policy_alone(config: RL2Config) -> RL2Config:
    """Settings of the same policy whose critic and memory know nothing of the parameters of its tasks."""
    return replace(config, critic_sees_task=False, task_coef=0.0, asked=())


class RL2:
    """Learner: adapts by carrying a hidden state through a trial.

    Args:
        spec: the environment.
        config: settings.
        seed: of the weights, of action sampling and of the order of minibatches.
        device: of the network.

    Attributes:
        asked: columns of a task tensor that the memory is asked for, empty where it is not asked.
        learned_loss: the loss of `learned:RUN` or `formula:FILE`, None where the setting `loss` is another.
        discount: of later rewards.

    Raises:
        UnknownNameError, CheckpointError, ConfigError: no such loss, or one that does not go with the environment.
    """

    def __init__(self, spec: Spec, config: PPOConfig, seed: int, device: str | torch.device = "cpu"):
        self.config = config
        self.learned_loss = named_loss(config.loss, spec, config.discount, device)
        if self.learned_loss is None:
            self.objective, self.discount = policy_objective(config.loss, config.clip), config.discount
        else:
            self.objective = self.learned_loss.objective(config.clip)
            self.discount = self.learned_loss.loss.discount(config.discount)
        self.space = spec.action_space
        self.device = torch.device(device)
        self.asked = self._asked(spec.tasks).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_generator(seed, "weights").initial_seed())
            self.network = self._make_network(spec).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5)
        self.generators = {
            "policy": make_generator(seed, "policy", self.device),
            "minibatches": make_generator(seed, "minibatches"),
        }
        self._pool = ThreadPoolExecutor(config.update_threads) if self.device.type == "cpu" else None

    def collect(self, env: Worlds) -> Rollout:
        """One trial in every world, with sampled actions."""
        reads_signals = self.learned_loss is not None
        generator = self.generators["policy"]
        return collect(env, self.network, self.config.episodes_per_trial, generator, reads_signals=reads_signals)

    def trial(self, env: Worlds, num_episodes: int, generator: torch.Generator | None, on_step: Any = None) -> Rollout:
        """Adapt to the tasks that the environment holds; `generator` None acts deterministically."""
        return collect(env, self.network, num_episodes, generator, on_step)

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Improve the policy on a batch of trials.

        Args:
            rollout: from `collect`.
            progress: share of the training that is done, in [0, 1].

        Returns:
            Metrics. The first batch ever sets the scales of observations and rewards and is not learned from.
            `skipped_minibatches` counts those whose loss or gradient was not finite: they leave
            weights and optimiser as they were, and the statistics of normalisation too.
        """
        config = self.config
        if not self.network.obs_normalizer.count:
            # The first batch only sets the scales: advantages of raw rewards would throw the weights far off.
            self._update_normalizers(rollout)
            return {"gradient_steps": 0.0, "skipped_minibatches": 0.0}
        decay = 1 - 0.9 * progress if config.anneal else 1.0
        entropy_coef = config.entropy_coef * decay
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * decay
        seen = self._seen(rollout)
        advantage, target = self._advantages(rollout, seen)
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "grad_norm", "task_loss")
        totals = dict.fromkeys(names, 0.0)
        num_updates = skipped = 0
        for worlds in self._minibatches(rollout.num_worlds):
            output, value, *told = self._heads(seen[:-1], worlds)
            distribution, valid = self.network.distribution(output), rollout.valid[:, worlds]
            loss = ppo_loss(
                distribution.log_prob(rollout.action[:, worlds]),
                distribution.entropy(),
                value,
                rollout.log_prob[:, worlds],
                normalize_advantage(advantage[:, worlds], valid),
                target[:, worlds],
                valid,
                config.clip,
                self.objective,
            )
            total = loss.policy + config.value_coef * loss.value - entropy_coef * loss.entropy
            total = total + self._penalty(seen[:-1], worlds)
            task_loss = self._task_loss(told[0], rollout.task[worlds], valid) if told else loss.policy.new_zeros(())
            total = total + task_loss
            kl = float(loss.kl)
            if kl > config.target_kl and num_updates:
                break
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
            if not bool(torch.isfinite(total) & torch.isfinite(grad_norm)):
                skipped += 1
                continue
            self.optimizer.step()
            num_updates += 1
            parts = (loss.policy, loss.value, loss.entropy, loss.kl, loss.clip_fraction, grad_norm, task_loss)
            for name, value in zip(totals, parts, strict=True):
                totals[name] += float(value.detach())
        if not skipped:
            self._update_normalizers(rollout)
        metrics = {name: value / max(num_updates, 1) for name, value in totals.items()}
        return metrics | {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_steps": float(num_updates),
            "skipped_minibatches": float(skipped),
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {name: generator.get_state() for name, generator in self.generators.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner.load_state_dict`."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, generator in self.generators.items():
            generator.set_state(state["rng"][name])

    def load_policy(self, state: Mapping[str, Any]) -> None:
        """Act as another learner does; `state` is its `state_dict`.

        What depends on the parameters of its tasks stays behind: the critic, and what its memory told of them.
        """
        theirs = {"critic", "teller", "task_normalizer"}
        policy = {name: value for name, value in state["model"].items() if name.split(".")[0] not in theirs}
        self.network.load_state_dict(self.network.state_dict() | policy)

    def _make_network(self, spec: Spec) -> ActorCritic:
        config = self.config
        assert isinstance(config, RL2Config)
        return ActorCritic(
            spec.obs_dim,
            spec.action_space,
            spec.tasks.dim,
            config.hidden_dim,
            memory=config.memory,
            cell=config.cell,
            sees_task=config.sees_task,
            critic_sees_task=config.critic_sees_task,
            shortcut=config.shortcut,
            num_told=len(self.asked),
            reads_reward_change=config.reads_reward_change,
            initial_std=config.initial_std,
        )

    def _asked(self, tasks: TaskDistribution) -> Tensor:
        if not isinstance(self.config, RL2Config) or not self.config.task_coef:
            return torch.empty(0, dtype=torch.int64)
        return tasks.columns(self.config.asked) if self.config.asked else torch.arange(tasks.dim)

    def _penalty(self, seen: Tensor, worlds: Tensor) -> Tensor | float:
        """What is added to PPO's loss on a minibatch; nothing here."""
        return 0.0

    def _task_loss(self, told: Tensor, task: Tensor, valid: Tensor) -> Tensor:
        """The weighted squared error of what the memory says of the task, (T, n, told), over the steps that count."""
        assert self.network.task_normalizer is not None and isinstance(self.config, RL2Config)
        error = (told - self.network.task_normalizer(task)[:, self.asked]).square().sum(-1)  # (T, n)
        return self.config.task_coef * (error * valid).sum() / valid.sum().clamp(min=1)

    def _head_weights(self) -> list[Tensor]:
        """The weights that `ActorCritic.heads` depends on."""
        return [weight for name, weight in self.network.named_parameters() if name != "log_std"]

    def _seen(self, rollout: Rollout) -> Tensor:
        """What the encoder reads at every step and after the last one, (T+1, N, I).

        A value after the last step counts where the trial ran into its time limit (`bootstrap_at_end`), and is
        that of one more step of the same episode. With "done" it would be the value of a robot in motion right
        after an end: no trial ever has that, since a reset follows every other "done", and so nothing trains it.
        """
        inputs = policy_inputs(rollout, self.space, with_end=True)
        inputs.prev_done[-1] = 0.0
        return self.network.read(inputs)

    @torch.no_grad()
    def _advantages(self, rollout: Rollout, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and value targets over whole trials, (T, N) each; `seen` is what the encoder reads, (T+1, N, I).

        The time limits inside a trial are not ends: the next value is that of the next episode's first
        step, seen with the memory of all before. A true end counts as an end in the last episode only.
        """
        value = self._heads(seen, torch.arange(rollout.num_worlds, device=self.device))[1]  # (T+1, N)
        reward = self.network.reward_scaler(self._reward(rollout))
        last_episode = rollout.num_steps - rollout.num_steps // rollout.num_episodes
        cut = rollout.terminated.clone()
        cut[:last_episode] = False
        last_value = value[-1] * self.config.bootstrap_at_end * rollout.truncated[-1]
        discount, gae_lambda = self.discount, self.config.gae_lambda
        advantage = generalized_advantage(reward, value[:-1], last_value, discount, gae_lambda, cut)
        target = advantage + value[:-1]
        if self.learned_loss is not None and self.learned_loss.loss.role == "advantage":
            advantage = self.learned_loss.advantage(rollout)
        return advantage, target

    def _reward(self, rollout: Rollout) -> Tensor:
        """What the policy is to maximise, (T, N); a memory reads the environment's own reward in any case."""
        return rollout.reward if self.learned_loss is None else self.learned_loss.reward(rollout)

    def _heads(self, seen: Tensor, worlds: Tensor) -> tuple[Tensor, ...]:
        """`ActorCritic.heads` for some of the worlds, over the threads of an update."""
        parts = worlds.tensor_split(min(self.config.update_threads, len(worlds)))
        if self._pool is None or len(parts) == 1:
            return self.network.heads(seen[:, worlds])
        function, weights = lambda part: self.network.heads(seen[:, part]), self._head_weights()
        return side_by_side(function, parts, weights, self._pool)

    def _minibatches(self, num_worlds: int) -> Iterator[Tensor]:
        for _ in range(self.config.num_epochs):
            order = torch.randperm(num_worlds, generator=self.generators["minibatches"]).to(self.device)
            yield from order.tensor_split(self.config.num_minibatches)

    def _update_normalizers(self, rollout: Rollout) -> None:
        self.network.obs_normalizer.update(rollout.obs[rollout.valid])
        self.network.reward_normalizer.update(rollout.reward[rollout.valid].unsqueeze(-1))
        self.network.reward_scaler.update(discounted_returns(self._reward(rollout).double(), self.discount))
        if self.network.reward_change_normalizer is not None:
            change = policy_inputs(rollout, self.space).prev_change
            self.network.reward_change_normalizer.update(change[rollout.valid].unsqueeze(-1))
        if self.network.task_normalizer is not None:
            self.network.task_normalizer.update(rollout.task)
