"""Meta-train a loss, so that a policy that starts from nothing learns a new task in a few updates with it.

For each task of a meta-batch a fresh random policy makes K updates with the loss, each on E episodes of its own. The
outer step asks how the true return after each update would change with the loss: the gradient runs through all K
updates (of all tasks at once, by `torch.func`), and through the actions' likelihood into the return. How the loss
changes what is experienced is left out of that gradient, as in LPG and NoRML.

Nothing of a trained loss depends on the robot: its inputs are signals (`EnvSpec.signals`), so it can train policies of
other shapes on robots that it never saw (`transfer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import ConfigError, UnknownNameError
from metarl.learners.task_policies import TaskPolicies, finite_tasks, like
from metarl.losses.adaptive import AdaptiveLoss
from metarl.losses.formula import formula_of, is_formula, self_contained
from metarl.losses.hand_designed import HandDesign
from metarl.losses.support import Support
from metarl.losses.table import check_loss_name, make_inner_loss
from metarl.nets.distributions import ActionDistribution
from metarl.nets.mlp_policy import MLPPolicy, Parameters
from metarl.nets.normalizer import RunningNormalizer
from metarl.rl.evolution import estimate_gradient, perturb, signed_rank_utility
from metarl.rl.linear_baseline import linear_baseline
from metarl.rl.returns import discounted_returns, generalized_advantage
from metarl.rollout import collect, join
from metarl.seeding import make_generator
from metarl.types import Continuous, Rollout

_CPU_CHUNK = 4
"""Tasks that are differentiated at a time on the CPU, so that their activations stay in its cache."""


@dataclass(frozen=True)
class LearnedLossConfig:
    """Settings of learned losses, and of hand-designed ones that are used in the same way."""

    total_steps: int = 12_000_000
    """Environment steps of meta-training."""
    loss: str = "reward"
    """What is learned: reward, potential, advantage or drift. Or a loss of which only step sizes are: feedback, dense,
    dense-bonus, hand-potential, or formula:FILE, which brings its own discount, lambda, bound and first step sizes."""
    drift_reward: HandDesign = "feedback"
    """The reward, designed by hand, that a drift is learned on."""
    adapts_to_task: bool = True
    """The batch before adaptation modulates the loss."""
    learns_step_size: bool = True
    """Learn the size of each inner update."""
    meta_batch_size: int = 16
    """Tasks of an update, each with a policy of its own."""
    episodes_per_task: int = 16
    """Episodes before, and after, each inner update."""
    num_inner_steps: int = 10
    """Inner updates that the meta-gradient runs through."""
    lifetime: int = 0
    """Inner updates that a policy lives for in meta-training, in windows of `num_inner_steps`; 0: one window."""
    inner_lr: float = 0.5
    """Size of an inner update, or its start where it is learned."""
    inner_epochs: int = 1
    """Gradient steps of an inner update; with more than one the objective is PPO's."""
    discount: float = 0.97
    """Discount of rewards."""
    inner_lambda: float = 0.9
    """Decay of credit within the loss; together with the discount."""
    lambda_anneal_steps: int = 0
    """Inner updates over which a potential's lambda rises to 1, so that its bias vanishes; 0: it does not."""
    head_dim: int = 16
    """Hidden units of the loss."""
    bound: float = 10.0
    """Largest magnitude of what the loss adds."""
    outer_lr: float = 1e-2
    """Step size of Adam."""
    anneal: bool = True
    """Decrease it linearly to a tenth over the training."""
    max_grad_norm: float = 1.0
    """Largest norm of the meta-gradient, of each task and of their mean."""
    outer: Literal["gradient", "evolution"] = "gradient"
    """How the loss learns: by the gradient through the inner updates, or by evolution strategies, which need no memory
    of them and see how the loss changes what is experienced."""
    sigma: float = 0.05
    """Standard deviation of evolution's perturbations."""
    early_weight: float = 0.3
    """Weight of the return after the first inner update; that after the last one is 1, those between lie on a line."""
    policy_dims: tuple[int, ...] = (32, 32)
    """Widths of the policies' hidden layers."""
    initial_std: float = 0.5
    """Standard deviation of continuous actions of a fresh policy."""
    normalizes_obs: bool = False
    """Shift and scale observations by the statistics of the first batch ever."""
    task_chunk: int = 0
    """Tasks that are differentiated at a time; 0: few on the CPU, all on a GPU."""
    update_threads: int = 2
    """Threads that share the parts of an update on the CPU; the numbers do not depend on them."""

    def __post_init__(self) -> None:
        check_loss_name(self.loss)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{field.name} must be finite, got {value}.")
        counts = ("total_steps", "meta_batch_size", "episodes_per_task", "num_inner_steps", "inner_epochs", "head_dim")
        for name in (*counts, "update_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("lifetime", "lambda_anneal_steps", "task_chunk", "early_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.lifetime % self.num_inner_steps:
            raise ConfigError(f"lifetime ({self.lifetime}) must be a multiple of num_inner_steps.")
        if self.outer == "evolution" and (self.meta_batch_size % 2 or self.lifetime):
            raise ConfigError(
                "evolution takes an even meta_batch_size (pairs), and lifetime 0: num_inner_steps is free."
            )
        for name in ("inner_lr", "bound", "outer_lr", "max_grad_norm", "initial_std", "sigma"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("discount", "inner_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not all(width >= 1 for width in self.policy_dims):
            raise ConfigError(f"policy_dims must be positive, got {self.policy_dims}.")

    @property
    def num_worlds(self) -> int:
        """N = B * E."""
        return self.meta_batch_size * self.episodes_per_task

    @property
    def episodes_per_trial(self) -> int:
        """Phases of a trial."""
        return self.num_inner_steps + 1

    def self_contained(self) -> LearnedLossConfig:
        """The same settings without reference to a file."""
        return replace(self, loss=self_contained(self.loss))


class LearnedLossLearner:
    """Learner: its policies start from nothing on each task and learn with a loss that is meta-learned.

    Attributes:
        config: settings.
        loss: the loss as a function of the meta-parameters.
        meta_parameters: what is meta-learned, by name.

    Args:
        spec: the environment.
        config: settings.
        seed: of the loss, of fresh policies and of action sampling.
        device: of all parameters.

    Raises:
        ConfigError: the loss reads signals that the environment does not give.
    """

    samples_support = True
    """Adaptation needs sampled actions: there is no deterministic trial."""

    def __init__(self, spec: EnvSpec, config: LearnedLossConfig, seed: int, device: str | torch.device = "cpu"):
        self.config = config
        self.device = torch.device(device)
        self.horizon = spec.horizon
        self.loss = AdaptiveLoss(
            make_inner_loss(
                config.loss,
                spec,
                discount=config.discount,
                gae_lambda=config.inner_lambda,
                lambda_anneal_steps=config.lambda_anneal_steps,
                hidden_dim=config.head_dim,
                bound=config.bound,
                num_epochs=config.inner_epochs,
                drift_reward=config.drift_reward,
            ),
            config.num_inner_steps,
            formula_of(config.loss).step_sizes if is_formula(config.loss) else config.inner_lr,
            config.inner_epochs,
            config.adapts_to_task,
        )
        self._columns = _columns(spec, self.loss.inner.signals)
        self._is_continuous = isinstance(spec.action_space, Continuous)
        self.policy = MLPPolicy(
            spec.obs_dim, spec.action_space, config.policy_dims, "tanh", initial_std=config.initial_std
        )
        parameters = self.loss.initial_parameters(make_generator(seed, "weights"))
        self.meta_parameters = {name: v.to(self.device).requires_grad_() for name, v in parameters.items()}
        self.obs_normalizer = RunningNormalizer(spec.obs_dim).to(self.device)
        learned = [v for name, v in self.meta_parameters.items() if config.learns_step_size or name != "log_step_size"]
        # A fixed hand-designed loss learns nothing; Adam wants at least one parameter.
        self._learned = learned or [self.meta_parameters["log_step_size"]]
        self._learns = bool(learned)
        self.optimizer = torch.optim.Adam(self._learned, lr=config.outer_lr, eps=1e-5)
        self.generators = {
            "policy": make_generator(seed, "policy", self.device),
            "starts": make_generator(seed, "starts"),
            "evolution": make_generator(seed, "evolution", self.device),
        }
        self._threads: Executor | None = None
        # The policies of the meta-batch; older ones keep their tasks until their lifetime is over.
        self.agents = self.fresh(config.meta_batch_size, self.generators["starts"])
        self.ages = torch.zeros(config.meta_batch_size, dtype=torch.int64, device=self.device)
        self.agent_tasks = torch.zeros(config.meta_batch_size, spec.tasks.dim, device=self.device)

    def fresh(self, num_tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random policies, (B, ...) each; `generator` is of the CPU."""
        drawn = [self.policy.initial_parameters(generator) for _ in range(num_tasks)]
        return {name: torch.stack([one[name] for one in drawn]).to(self.device) for name in drawn[0]}

    def collect(self, env: BatchedEnv) -> Rollout:
        """K inner updates of each policy of the meta-batch, on its task."""
        tasks = env.task[:: self.config.episodes_per_task]
        num_episodes, generator = self.config.episodes_per_trial, self.generators["policy"]
        if self.config.outer == "evolution":  # the two of a pair have the same task and the same start
            env.set_tasks(tasks[::2].repeat_interleave(2, 0))
            starts = {name: value[::2].repeat_interleave(2, 0) for name, value in self.agents.items()}
            population, _ = self._population(_copy(self.generators["evolution"]))
            return self._live(env, population, 0, starts, self.ages, num_episodes, generator)
        env.set_tasks(torch.where((self.ages > 0).unsqueeze(1), self.agent_tasks, tasks))
        return self._live(env, self._constant(), None, self.agents, self.ages, num_episodes, generator)

    def trial(
        self,
        env: BatchedEnv,
        num_episodes: int,
        generator: torch.Generator | None,
        on_step: Callable[[BatchedEnv], None] | None = None,
        on_policies: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> Rollout:
        """Train a fresh policy on each task that the environment holds, by `num_episodes` - 1 updates.

        Args:
            env, num_episodes, generator, on_step: see `Adapts.trial`.
            on_policies: called with the policies, (B, ...) each, before each phase.

        Raises:
            ConfigError: no generator; without exploration there is no policy gradient.
        """
        if generator is None:
            raise ConfigError("a policy that is trained has to sample its actions.")
        drawn = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        starts = self.fresh(env.num_tasks, torch.Generator().manual_seed(drawn))
        ages = torch.zeros(env.num_tasks, dtype=torch.int64, device=self.device)
        return self._live(env, self._constant(), None, starts, ages, num_episodes, generator, on_step, on_policies)

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Improve the loss on the lives of a meta-batch of policies.

        Args:
            rollout: from `collect`.
            progress: share of the training that is done, in [0, 1].

        Returns:
            Metrics. `dropped_tasks` counts those whose experience, loss or meta-gradient was not finite: they are left
            out. `skipped_minibatches` is 1 where none was left: nothing changed.
        """
        if self.config.normalizes_obs and not self.obs_normalizer.count:
            self.obs_normalizer.update(rollout.obs[rollout.valid])
            return {"dropped_tasks": 0.0, "skipped_minibatches": 0.0}
        if self._learns:
            decay = 1 - 0.9 * progress if self.config.anneal else 1.0
            self.optimizer.param_groups[0]["lr"] = self.config.outer_lr * decay
        metrics = self._evolve(rollout) if self.config.outer == "evolution" else self._differentiate(rollout)
        sizes = self.meta_parameters["log_step_size"].detach().exp()
        metrics |= {"step_size_first": float(sizes[0].mean()), "step_size_last": float(sizes[-1].mean())}
        if "encoding.strength" in self.meta_parameters:
            metrics["adaptation"] = float(self.meta_parameters["encoding.strength"].detach().norm())
        return metrics

    def _differentiate(self, rollout: Rollout) -> dict[str, float]:
        """One step along the gradient through the inner updates."""
        num_tasks = len(self.ages)
        phases = [self.support(rollout, k, num_tasks) for k in range(rollout.num_episodes)]
        goals = [self.true_advantage(rollout, k, num_tasks) for k in range(1, rollout.num_episodes)]
        gradient, grown, objective = self.meta_gradient(self.agents, self.ages, phases, goals)
        sound = finite_tasks(*gradient.values(), *grown.values(), objective.unsqueeze(1))
        metrics = {"dropped_tasks": float((~sound).sum()), "skipped_minibatches": float(not bool(sound.any()))}
        self._turn_over(rollout, grown, sound)
        if bool(sound.any()) and self._learns:
            metrics |= self._descend(gradient, sound)
        return metrics

    def _evolve(self, rollout: Rollout) -> dict[str, float]:
        """One step towards the members of the population whose policies learned best."""
        _, noise = self._population(self.generators["evolution"])
        returns = rollout.episode_returns().unflatten(1, (len(self.ages), -1)).mean(2)[1:]  # (K, B)
        weights = torch.tensor([self._weight(k) for k in range(len(returns))], device=self.device)
        fitness = (weights.unsqueeze(1) * returns).sum(0)  # (B,)
        step = estimate_gradient(noise, fitness, self.config.sigma, signed_rank_utility)
        self.agents = self.fresh(len(self.ages), self.generators["starts"])
        num_left = len(fitness) // 2 - step.dropped_pairs
        if num_left and self._learns:
            for name, slope in step.gradient.items():
                self.meta_parameters[name].grad = -slope
            torch.nn.utils.clip_grad_norm_(self._learned, self.config.max_grad_norm)
            self.optimizer.step()
        return {"dropped_tasks": 2.0 * step.dropped_pairs, "skipped_minibatches": float(not num_left)}

    def meta_gradient(
        self, starts: Parameters, ages: Tensor, phases: Sequence[Support], goals: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The gradient of each task's objective by the meta-parameters.

        Args:
            starts: policies before the first update, (B, ...).
            ages: (B,), updates they have had.
            phases: K + 1 batches of experience, (B, M, ...); all but the last are support of an update.
            goals: K times (B, M), true advantages of the phases after each update.

        Returns:
            Gradients by name, (B, ...); policies after the last update, (B, ...); objectives, (B,).
        """
        meta = self._constant()
        slopes = torch.func.vmap(torch.func.grad_and_value(self._lifetime, has_aux=True), in_dims=(None, 0, 0, 0, 0))
        chunk = self.config.task_chunk or (_CPU_CHUNK if self.device.type == "cpu" else len(ages))

        def part(first: int) -> Any:
            of = slice(first, first + chunk)
            chosen = [Support(*(value[of] for value in phase)) for phase in phases]
            gradient, (value, grown) = slopes(
                meta, {n: v[of] for n, v in starts.items()}, ages[of], chosen, [goal[of] for goal in goals]
            )
            return gradient, grown, value

        gradients, grown, values = zip(*self._each(part, range(0, len(ages), chunk)), strict=True)
        return _joined(gradients), _joined(grown), torch.cat(values)

    def support(self, rollout: Rollout, episode: int, num_tasks: int) -> Support:
        """The experience of one phase, (B, M, ...)."""
        steps = slice(episode * self.horizon, (episode + 1) * self.horizon)

        def flat(values: Tensor) -> Tensor:  # (H, N, ...) -> (B, M, ...)
            return values.unflatten(1, (num_tasks, -1)).transpose(0, 1).flatten(1, 2).contiguous()

        signals = rollout.signals[episode][..., self._columns]  # (H + 1, N, S)
        action, valid = rollout.action[steps], rollout.valid[steps]
        effort = action.square().mean(-1) if self._is_continuous else torch.zeros_like(rollout.reward[steps])
        weight = flat(valid.to(rollout.reward.dtype))
        return Support(
            obs=flat(self._normalized(rollout.obs[steps])),
            action=flat(action),
            log_prob=flat(rollout.log_prob[steps]),
            before=flat(signals[:-1]),
            after=flat(signals[1:]),
            effort=flat(effort.clamp(max=4.0)),
            reward=flat(rollout.feedback[steps]),
            ended=flat(rollout.terminated[steps].to(rollout.reward.dtype)),
            weight=weight / weight.sum(1, keepdim=True).clamp(min=1.0),
        )

    def true_advantage(self, rollout: Rollout, episode: int, num_tasks: int) -> Tensor:
        """Advantages by the environment's own reward, (B, M), with mean 0 and deviation 1 for each task."""
        steps = slice(episode * self.horizon, (episode + 1) * self.horizon)
        obs, reward, valid, ends = (
            values[steps].unflatten(1, (num_tasks, -1))
            for values in (self._normalized(rollout.obs), rollout.reward, rollout.valid, rollout.terminated)
        )
        value = linear_baseline(obs, discounted_returns(reward, self.config.discount), valid)
        advantage = generalized_advantage(reward, value, torch.zeros_like(value[-1]), self.config.discount, 1.0, ends)
        weight = valid.to(reward.dtype) / valid.sum((0, 2), keepdim=True)
        mean = (weight * advantage).sum((0, 2), keepdim=True)
        variance = (weight * (advantage - mean).square()).sum((0, 2), keepdim=True)
        advantage = torch.where(valid, (advantage - mean) * (variance + 1e-8).rsqrt(), 0.0)
        return advantage.transpose(0, 1).flatten(1, 2)

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`."""
        model = {name: value.detach() for name, value in self.meta_parameters.items()}
        model |= {f"obs_normalizer.{name}": value for name, value in self.obs_normalizer.state_dict().items()}
        model |= {f"agents.{name}": value for name, value in self.agents.items()}
        return {
            "model": model | {"ages": self.ages, "agent_tasks": self.agent_tasks},
            "optimizer": self.optimizer.state_dict(),
            "rng": {name: generator.get_state() for name, generator in self.generators.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner.load_state_dict`."""
        model = state["model"]
        self.obs_normalizer.load_state_dict(
            {name: model[f"obs_normalizer.{name}"] for name in self.obs_normalizer.state_dict()}
        )
        mine = self.meta_parameters | {f"agents.{name}": value for name, value in self.agents.items()}
        for name, value in (mine | {"ages": self.ages, "agent_tasks": self.agent_tasks}).items():
            if value.shape != model[name].shape:
                raise ValueError(f"{name} is {tuple(model[name].shape)}, expected {tuple(value.shape)}")
            value.copy_(model[name])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, generator in self.generators.items():
            generator.set_state(state["rng"][name])

    def acting(self, policies: Parameters, num_tasks: int) -> TaskPolicies:
        """Policies, (B, ...) each, as one over the worlds of their tasks; it reads observations as they come."""
        return TaskPolicies(self._acting, policies, num_tasks)

    def distribution(self, parameters: Parameters, obs: Tensor) -> ActionDistribution:
        """The action distributions of policies on observations that are scaled already."""
        return self.policy.distribution(parameters, obs)

    def _constant(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.meta_parameters.items()}

    def _population(self, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Perturbed meta-parameters, (B, ...), and the noise of each pair."""
        return perturb(self._constant(), self.config.meta_batch_size // 2, self.config.sigma, generator)

    @torch.no_grad()
    def _live(
        self,
        env: BatchedEnv,
        meta: Parameters,
        meta_dim: int | None,
        starts: Parameters,
        ages: Tensor,
        num_episodes: int,
        generator: torch.Generator,
        on_step: Callable[[BatchedEnv], None] | None = None,
        on_policies: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> Rollout:
        """Let policies learn. One whose update is not finite goes on with the parameters that it had.

        `meta_dim` is 0 where each policy learns by meta-parameters of its own, None where all share them.
        """
        policies, episodes = dict(starts), []
        update = torch.func.vmap(self.loss.update, in_dims=(0, 0, 0, 0, 0, None))
        for k in range(num_episodes):
            if on_policies is not None:
                on_policies(policies)
            acting = self.acting(policies, env.num_tasks)
            episodes.append(collect(env, acting, 1, generator, on_step, reads_signals=True))
            if k + 1 == num_episodes:
                break
            support = self.support(episodes[-1], 0, env.num_tasks)
            if k % self.config.num_inner_steps == 0:  # once per window, as in meta-training
                loss, log_step_size = torch.func.vmap(self.loss.of_task, in_dims=(meta_dim, 0))(meta, support)
            grown = update(loss, log_step_size, policies, support, ages + k, self.distribution)
            sound = finite_tasks(*grown.values())
            policies = {name: torch.where(like(sound, v), v, policies[name]) for name, v in grown.items()}
        return join(episodes)

    def _lifetime(
        self, meta: Parameters, start: Parameters, age: Tensor, phases: Sequence[Support], goals: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of one task, to descend on: -sum_k w_k E[pi_k / pi_k_old A_true] over the K updates."""
        loss, log_step_size = self.loss.of_task(meta, phases[0])
        policy, objective = dict(start), torch.zeros((), device=self.device)
        for k, (support, query, goal) in enumerate(zip(phases, phases[1:], goals, strict=False)):
            policy = self.loss.update(loss, log_step_size, policy, support, age + k, self.distribution)
            log_ratio = self.distribution(policy, query.obs).log_prob(query.action) - query.log_prob
            objective = objective - self._weight(k) * (query.weight * log_ratio.exp() * goal).sum()
        return objective, policy

    def _weight(self, k: int) -> float:
        last = self.config.num_inner_steps - 1
        early = self.config.early_weight
        return (early + (1 - early) * k / last if last else 1.0) / self.config.num_inner_steps

    def _descend(self, gradient: Mapping[str, Tensor], sound: Tensor) -> dict[str, float]:
        """One step of Adam on the mean of the tasks' gradients, each clipped before."""
        flat = torch.cat([value[sound].flatten(1) for value in gradient.values()], 1)  # (B, |phi|)
        norm = flat.norm(dim=1, keepdim=True)
        flat = flat * (self.config.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        mean = flat.mean(0)
        sizes = [value[0].numel() for value in gradient.values()]
        for name, part in zip(gradient, mean.split(sizes), strict=True):
            self.meta_parameters[name].grad = part.view_as(self.meta_parameters[name]).clone()
        torch.nn.utils.clip_grad_norm_(self._learned, self.config.max_grad_norm)
        self.optimizer.step()
        return {
            "meta_gradient_norm": float(norm.median()),
            "meta_gradient_agreement": float(mean.norm() / flat.norm(dim=1).mean().clamp(min=1e-12)),
        }

    @torch.no_grad()
    def _turn_over(self, rollout: Rollout, grown: Mapping[str, Tensor], sound: Tensor) -> None:
        """Policies that live on keep what they learned and their tasks; the others make room for fresh ones."""
        ages = self.ages + self.config.num_inner_steps
        lives_on = sound & (ages < max(self.config.lifetime, self.config.num_inner_steps))
        fresh = self.fresh(len(ages), self.generators["starts"])
        self.agents = {n: torch.where(like(lives_on, v), grown[n].detach(), v) for n, v in fresh.items()}
        self.ages = torch.where(lives_on, ages, 0)
        self.agent_tasks = rollout.task[:: self.config.episodes_per_task].clone()

    def _each(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        if self.config.update_threads == 1 or self.device.type != "cpu" or len(parts) == 1:
            return [function(part) for part in parts]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.config.update_threads)
        return list(self._threads.map(function, parts))

    def _acting(self, parameters: Parameters, obs: Tensor) -> ActionDistribution:
        return self.policy.distribution(parameters, self._normalized(obs))

    def _normalized(self, obs: Tensor) -> Tensor:
        return self.obs_normalizer(obs) if self.config.normalizes_obs and self.obs_normalizer.count else obs


def _copy(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def _columns(spec: EnvSpec, wanted: Sequence[str]) -> list[int]:
    """Where the signals that a loss reads stand among those of an environment."""
    given = () if spec.signals is None else spec.signals.names
    for name in wanted:
        if name not in given:
            raise ConfigError(f"the loss reads the signal {UnknownNameError(f'signal of {spec.name}', name, given)}")
    return [given.index(name) for name in wanted]


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
