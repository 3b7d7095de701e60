"""What the gradient learners share: a policy that adapts to each task by policy-gradient steps, for all tasks at once.

A trial of a gradient learner has K + 1 phases. In each, the E worlds of a task run one episode with the policy that
has been adapted by as many inner steps, on parameters of its own; phase 0 is the policy before adaptation. So the
rollout of a trial is that of any other learner, with the inner steps between its episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.learners.gradient_config import LEARNED_CREDITS, GradientConfig
from metarl.learners.part_threads import PartThreads
from metarl.learners.task_policies import TaskPolicies, finite_tasks, like
from metarl.losses.adaptive import LOSS, Credit, PolicyGradientLoss
from metarl.losses.support import Support, support_of_phase
from metarl.losses.table import make_inner_loss, signal_columns
from metarl.named_loss import LossOnEnv, named_reward
from metarl.nets.distributions import ActionDistribution
from metarl.nets.mlp_policy import CONTEXT, MLPPolicy, Parameters
from metarl.nets.normalizer import RunningNormalizer
from metarl.rl.inner_loop import SURROGATES, Samples, adapt
from metarl.rl.linear_baseline import task_advantage
from metarl.rollout import collect, join
from metarl.seeding import make_generator
from metarl.start_policy import start_from
from metarl.types import Rollout
from metarl.worlds import Spec, Worlds

_STEP_SIZE = "inner_lr."
_CPU_CHUNK = 4
"""Tasks; activations of 4 x 4,000 samples x 64 units fit a cache of megabytes."""


class MetaBatch(NamedTuple):
    """What an outer step learns from.

    Attributes:
        phases: K + 1 phases of experience, (B, M, ...) each.
        supports: all phases but the last, with the advantages that the inner step on each follows; where these are
            meta-learned, see `GradientLearner.supports`.
        acted: the distributions that the actions of each phase were drawn from, (B, M, ...).
        returns: (K + 1, B), mean undiscounted return of each phase.
        experience: what a meta-learned inner reward reads of the supports, whole phases; else none.
        chosen: which steps of the whole phases the others hold.
    """

    phases: Sequence[Samples]
    supports: Sequence[Samples]
    acted: Sequence[ActionDistribution]
    returns: Tensor
    experience: Sequence[Support] = ()
    chosen: Tensor | slice = slice(None)

    @property
    def num_tasks(self) -> int:
        """B."""
        return self.returns.shape[1]

    def sound_tasks(self) -> Tensor:
        """(B,) bool: experience and adapted policies are finite."""
        values = [v for phase in (*self.phases, *self.supports) for v in (phase.obs, phase.advantage)]
        read = [v for phase in self.experience for v in (phase.before, phase.after, phase.reward)]
        return finite_tasks(*values, *read, *(v for old in self.acted for v in old))

    def of_tasks(self, chosen: Tensor | slice) -> MetaBatch:
        """The same for some of the tasks: a (B,) bool mask, or a slice."""

        def part(records: Sequence[Any]) -> list[Any]:
            return [type(record)(*(value[chosen] for value in record)) for record in records]

        phases, supports, acted = part(self.phases), part(self.supports), part(self.acted)
        return MetaBatch(phases, supports, acted, self.returns[:, chosen], part(self.experience), self.chosen)

    def split(self, num_tasks: int) -> list[MetaBatch]:
        """Parts of `num_tasks` tasks, the last one maybe of fewer."""
        return [self.of_tasks(slice(i, i + num_tasks)) for i in range(0, self.num_tasks, num_tasks)]


class Improvement(NamedTuple):
    """What the outer step of a learner returns.

    Attributes:
        metrics: for the log.
        is_finite: loss and gradient were finite; otherwise the meta-parameters are as they were.
    """

    metrics: dict[str, float]
    is_finite: bool = True


class GradientLearner:
    """Adapts by inner policy-gradient steps; a subclass says in `improve` how the meta-parameters learn.

    Attributes:
        config: settings.
        meta_parameters: what is meta-learned, by name: the policy's parameters but for the context,
            `inner_lr.NAME` where step sizes are learned, `loss.NAME` where what inner steps maximise is. Leaves that
            require gradients.
        later_step_scale: factor on inner steps beyond those that were meta-trained.
        learned_loss: a finished loss that shapes the reward of inner steps; None where none was named.
        credit: judges the steps of inner steps by `loss.NAME`; None where that is not meta-learned.

    Args:
        spec: the environment.
        config: settings.
        seed: of the parameters and of action sampling.
        device: of the parameters.

    Raises:
        UnknownNameError, CheckpointError, ConfigError: no such inner reward, or none for this environment.
    """

    samples_support = True
    """Adaptation needs sampled actions: there is no deterministic trial."""

    def __init__(self, spec: Spec, config: GradientConfig, seed: int, device: str | torch.device = "cpu"):
        self.horizon = spec.horizon
        self.device = torch.device(device)
        self.later_step_scale = config.later_step_scale
        self.config = config
        self._threads = PartThreads(config.update_threads, self.device)
        self._surrogate = SURROGATES[config.inner_surrogate]
        self.learned_loss: LossOnEnv | None = None
        self.credit: Credit | None = None
        if config.inner_reward in LEARNED_CREDITS:
            self.credit = _credit(config, spec)
            self._signal_columns = signal_columns(spec, self.credit.signals)
        else:
            self.learned_loss = named_reward(config.inner_reward, spec, config.discount, device, LEARNED_CREDITS)
        self.policy = MLPPolicy(
            spec.obs_dim,
            spec.action_space,
            config.hidden_dims,
            config.activation,
            context_dim=config.context_dim if config.adapts == "context" else 0,
            initial_std=config.initial_std,
        )
        generator = make_generator(seed, "weights")
        self.obs_normalizer = RunningNormalizer(spec.obs_dim).to(self.device)
        parameters = self.policy.initial_parameters(generator)
        parameters = start_from(config.start, parameters, self.obs_normalizer)
        # The context starts every task at zero and is not learned.
        self._constants = {CONTEXT: parameters.pop(CONTEXT).to(self.device)} if self.policy.context_dim else {}
        self._adapted_names = {
            "all": tuple(parameters),
            "head": self.policy.head(),
            "context": (CONTEXT,),
        }[config.adapts]
        if config.learns_inner_lr:
            adapted = {name: (parameters | self._constants)[name] for name in self._adapted_names}
            parameters |= {_STEP_SIZE + name: torch.full_like(v, config.inner_lr) for name, v in adapted.items()}
        if self.credit is not None:
            parameters |= {LOSS + name: v for name, v in self.credit.initial_parameters(generator).items()}
        self.meta_parameters = {name: v.to(self.device).requires_grad_() for name, v in parameters.items()}
        self.generators = {
            "policy": make_generator(seed, "policy", self.device),
            "minibatches": make_generator(seed, "minibatches", self.device),
        }

    def improve(self, batch: MetaBatch, progress: float) -> Improvement:
        """Make one outer step."""
        raise NotImplementedError

    def collect(self, env: Worlds) -> Rollout:
        """One trial of as many inner steps as are meta-trained."""
        return self.trial(env, self.config.episodes_per_trial, self.generators["policy"])

    @torch.no_grad()
    def trial(
        self,
        env: Worlds,
        num_episodes: int,
        generator: torch.Generator | None,
        on_step: Callable[[Worlds], None] | None = None,
    ) -> Rollout:
        """Adapt to the tasks that the environment holds, by `num_episodes` - 1 inner steps.

        A task whose inner step is not finite goes on with the parameters that it had.

        Raises:
            ConfigError: no generator; without exploration there is no policy gradient.
        """
        if generator is None:
            raise ConfigError("a policy that adapts by policy gradients has to sample its actions.")
        shared, adapted = self.shared(self.meta_parameters), self.unroll(self.meta_parameters, [], env.num_tasks)[0]
        episodes = []
        for step in range(num_episodes):
            policy = TaskPolicies(self._acting, shared | adapted, env.num_tasks)
            episodes.append(collect(env, policy, 1, generator, on_step, reads_signals=self._reads_signals))
            if step + 1 < num_episodes:
                scale = 1.0 if step < self.config.num_inner_steps else self.later_step_scale
                support = self.samples(episodes[-1], 0, env.num_tasks, is_support=True)
                if self.credit is not None:
                    experience = self._experience(episodes[-1], 0, env.num_tasks)
                    support = support._replace(advantage=self._judged(self.meta_parameters, experience, step))
                stepped = self._inner_step(self.meta_parameters, adapted, support, scale)
                sound = finite_tasks(*stepped.values())
                adapted = {name: torch.where(like(sound, v), v, adapted[name]) for name, v in stepped.items()}
        return join(episodes)

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Improve the meta-parameters on a batch of trials.

        Args:
            rollout: from `collect`.
            progress: share of the training that is done, in [0, 1].

        Returns:
            Metrics. The first batch ever sets the scale of observations and is not learned from.
            `dropped_tasks` counts those whose experience or inner step was not finite: they are left out.
            `skipped_minibatches` is 1 where loss or gradient was not finite: nothing changed.
        """
        if self.config.normalizes_obs and not self.obs_normalizer.count:
            self._update_normalizer(rollout)
            return {"dropped_tasks": 0.0, "skipped_minibatches": 0.0}
        batch = self.batch(rollout)
        num_tasks, sound = batch.num_tasks, batch.sound_tasks()
        dropped = num_tasks - int(sound.sum())
        if dropped == num_tasks:
            return {"dropped_tasks": float(dropped), "skipped_minibatches": 1.0}
        improvement = self.improve(batch.of_tasks(sound) if dropped else batch, progress)
        if improvement.is_finite and not dropped:
            self._update_normalizer(rollout)
        metrics = {"dropped_tasks": float(dropped), "skipped_minibatches": float(not improvement.is_finite)}
        if "log_std" in self.meta_parameters:
            metrics["action_std"] = float(self.meta_parameters["log_std"].detach().exp().mean())
        return improvement.metrics | metrics

    def batch(self, rollout: Rollout) -> MetaBatch:
        """What `collect` gathered, by phases and tasks."""
        num_tasks = rollout.num_worlds // self.config.episodes_per_task
        phases = self.each(lambda k: self.samples(rollout, k, num_tasks), range(rollout.num_episodes))
        supports = phases[:-1]
        if self.learned_loss is not None:
            supports = self.each(lambda k: self.samples(rollout, k, num_tasks, is_support=True), range(len(supports)))
        batch = MetaBatch(phases, supports, [], rollout.episode_returns().unflatten(1, (num_tasks, -1)).mean(2))
        if self.credit is not None:
            batch = batch._replace(experience=[self._experience(rollout, k, num_tasks) for k in range(len(supports))])
        parts = zip(*self.each(self._acted, self.chunks(batch)), strict=True)  # by phases, then by tasks
        return batch._replace(acted=[type(old[0])(*map(torch.cat, zip(*old, strict=True))) for old in parts])

    @torch.no_grad()
    def _acted(self, chunk: MetaBatch) -> list[ActionDistribution]:
        """What the actions of each phase were drawn from, all tensors (B, M, ...)."""
        adapted = self.unroll(self.meta_parameters, self.supports(self.meta_parameters, chunk), chunk.num_tasks)
        old = [self.distribution(self.meta_parameters, *policy) for policy in zip(adapted, chunk.phases, strict=True)]
        return [type(policy)(*(value.expand(policy[0].shape) for value in policy)) for policy in old]

    def supports(self, meta_parameters: Parameters, batch: MetaBatch) -> Sequence[Samples]:
        """The supports of a batch; where the reward of inner steps is meta-learned, with advantages that are functions
        of the meta-parameters."""
        if self.credit is None:
            return batch.supports
        judged = [self._judged(meta_parameters, phase, k) for k, phase in enumerate(batch.experience)]
        pairs = zip(batch.supports, judged, strict=True)
        return [samples._replace(advantage=advantage[:, batch.chosen]) for samples, advantage in pairs]

    def unroll(
        self, meta_parameters: Parameters, supports: Sequence[Samples], num_tasks: int
    ) -> list[dict[str, Tensor]]:
        """What adapts, (B, ...), after 0 .. len(supports) inner steps, as functions of the meta-parameters."""
        known = {**meta_parameters, **self._constants}
        start = {name: known[name] for name in self._adapted_names}
        phases = [{name: value.expand(num_tasks, *value.shape) for name, value in start.items()}]
        for support in supports:
            phases.append(self._inner_step(meta_parameters, phases[-1], support, 1.0))
        return phases

    def shared(self, meta_parameters: Parameters) -> dict[str, Tensor]:
        """The parameters of the policy that no inner step changes."""
        others = (name for name in meta_parameters if not name.startswith((_STEP_SIZE, LOSS)))
        return {name: meta_parameters[name] for name in others if name not in self._adapted_names}

    def judged(self, batch: MetaBatch) -> list[int]:
        """The phases whose returns the outer step improves: the last one, or all after an inner step."""
        last = len(batch.phases) - 1
        return list(range(1, last + 1)) if self.config.judges_every_step else [last]

    def chunks(self, batch: MetaBatch) -> list[MetaBatch]:
        """The batch in parts of as many tasks as are differentiated at a time."""
        chosen = self.config.task_chunk or (_CPU_CHUNK if self.device.type == "cpu" else batch.num_tasks)
        return batch.split(chosen)

    def each(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """Apply a function to all parts of a batch, on the threads of an update."""
        return self._threads.map(function, parts)

    def distribution(self, meta_parameters: Parameters, adapted: Parameters, samples: Samples) -> ActionDistribution:
        """The policies of B tasks in the states of `samples`, (B, M, ...)."""
        return self.policy.distribution({**self.shared(meta_parameters), **adapted}, samples.obs)

    def samples(self, rollout: Rollout, episode: int, num_tasks: int, is_support: bool = False) -> Samples:
        """The experience of one phase with advantages, (B, M, ...); those of a support are by the inner reward.

        Advantages are returns, discounted, less the linear feature baseline of the task fitted to them, over the
        generalised advantage estimator; normalised over the valid steps of each task. Time limits are ends.
        """
        first = episode * self.horizon
        steps = slice(first, first + self.horizon)

        def of_tasks(values: Tensor) -> Tensor:
            return values[steps].unflatten(1, (num_tasks, -1))  # (H, B, E, ...)

        def flat(values: Tensor) -> Tensor:
            return values.transpose(0, 1).flatten(1, 2).contiguous()  # (H, B, E, ...) -> (B, M, ...)

        obs, valid, ends = (of_tasks(v) for v in (self._normalized(rollout.obs), rollout.valid, rollout.terminated))
        reward, discount = self._inner_reward(rollout) if is_support else (rollout.reward, self.config.discount)
        advantage, weight = task_advantage(obs, of_tasks(reward), valid, ends, discount, self.config.gae_lambda)
        return Samples(
            flat(obs),
            flat(of_tasks(rollout.action)),
            flat(of_tasks(rollout.log_prob)),
            flat(advantage),
            flat(weight),
        )

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`."""
        normalizer = {f"obs_normalizer.{name}": value for name, value in self.obs_normalizer.state_dict().items()}
        return {
            "model": {name: value.detach() for name, value in self.meta_parameters.items()} | normalizer,
            "optimizer": {},
            "rng": {name: generator.get_state() for name, generator in self.generators.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner.load_state_dict`."""
        self.obs_normalizer.load_state_dict(
            {name: state["model"][f"obs_normalizer.{name}"] for name in self.obs_normalizer.state_dict()}
        )
        self._set_meta_parameters({name: state["model"][name] for name in self.meta_parameters})
        for name, generator in self.generators.items():
            generator.set_state(state["rng"][name])

    @torch.no_grad()
    def _set_meta_parameters(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.meta_parameters.items():
            if parameter.shape != values[name].shape:
                raise ValueError(f"{name} is {tuple(values[name].shape)}, expected {tuple(parameter.shape)}")
            parameter.copy_(values[name])

    @property
    def _reads_signals(self) -> bool:
        return self.learned_loss is not None or self.credit is not None

    def _experience(self, rollout: Rollout, episode: int, num_tasks: int) -> Support:
        """One phase as a meta-learned reward reads it, (B, M, ...)."""
        steps = slice(episode * self.horizon, (episode + 1) * self.horizon)
        signals = rollout.signals[episode][..., self._signal_columns]  # (H + 1, N, S)
        return support_of_phase(rollout, steps, self._normalized(rollout.obs[steps]), signals, num_tasks)

    def _judged(self, meta: Parameters, experience: Support, step: int) -> Tensor:
        """Advantages of a phase by the meta-learned reward, (B, M), with mean 0 and deviation 1 for each task."""
        assert self.credit is not None
        loss = {name.removeprefix(LOSS): value for name, value in meta.items() if name.startswith(LOSS)}
        count = torch.tensor(step, device=self.device)
        return torch.func.vmap(self.credit.advantage, in_dims=(None, 0, None))(loss, experience, count)

    def _inner_reward(self, rollout: Rollout) -> tuple[Tensor, float]:
        """What inner steps are to maximise, (T, N), and the discount of later rewards."""
        if self.learned_loss is None:
            return rollout.reward, self.config.discount
        return self.learned_loss.reward(rollout), self.learned_loss.loss.discount(self.config.discount)

    def _inner_step(self, meta: Parameters, adapted: Parameters, support: Samples, scale: float) -> dict[str, Tensor]:
        """One inner step of each task, all at once."""
        config, shared = self.config, self.shared(meta)
        step_size: dict[str, Tensor] | float = config.inner_lr * scale
        if config.learns_inner_lr:
            step_size = {name: scale * meta[_STEP_SIZE + name] for name in adapted}

        def loss(of_task: Parameters, samples: Samples) -> Tensor:
            log_prob = self.policy.distribution({**shared, **of_task}, samples.obs).log_prob(samples.action)
            return self._surrogate(log_prob, samples, self.horizon)

        def step(of_task: Parameters, samples: Samples) -> dict[str, Tensor]:
            return adapt(of_task, samples, loss, step_size, config.first_order)

        return torch.func.vmap(step)(dict(adapted), support)

    def _acting(self, parameters: Parameters, obs: Tensor) -> ActionDistribution:
        return self.policy.distribution(parameters, self._normalized(obs))

    def _normalized(self, obs: Tensor) -> Tensor:
        return self.obs_normalizer(obs) if self.config.normalizes_obs else obs

    def _update_normalizer(self, rollout: Rollout) -> None:
        if self.config.normalizes_obs:
            self.obs_normalizer.update(rollout.obs[rollout.valid])


def _credit(config: GradientConfig, spec: Spec) -> Credit:
    """What judges the steps that inner steps learn from, to be meta-trained; a reward starts near the feedback."""
    loss = make_inner_loss(
        config.inner_reward,
        spec,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        change_scale=config.change_scale,
    )
    assert isinstance(loss, PolicyGradientLoss)
    return loss.credit


def task_sum(values: Tensor, samples: Samples) -> Tensor:
    """The mean over the steps of each task that count, summed over tasks: (B, M) -> scalar."""
    return (samples.weight * values).sum()
