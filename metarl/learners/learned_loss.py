"""Meta-train a loss, so that a policy that starts from nothing learns a new task in a few updates with it.

For each task of a meta-batch a fresh random policy makes K updates with the loss, each on E episodes of its own. The
outer step asks how the true return after each update would change with the loss: the gradient runs through all K
updates (of all tasks at once, by `torch.func`), and into the return through the actions' likelihood or through the
dynamics. How the loss changes what is experienced is left out of that gradient, as in LPG and NoRML.

Nothing of most trained losses depends on the robot: their inputs are signals (`EnvSpec.signals`), so they can train
policies of other shapes on robots that they never saw (`transfer`). `ml3` and learned offsets fit one robot alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.learners.part_threads import PartThreads
from metarl.learners.pathwise import pathwise_gradient, takes_pathwise
from metarl.learners.task_policies import Goal, TaskPolicies, finite_tasks, joined, like, of_tasks
from metarl.learners.unroll_memory import refuse_beyond_memory, unroll_bytes
from metarl.losses.adaptive import ENCODING, LOSS, STEP_SIZE, AdaptiveLoss, UpdateRule, encoding_parameters
from metarl.losses.formula import formula_of, is_formula
from metarl.losses.support import Support, phase_advantage, support_of_phase
from metarl.losses.table import make_inner_loss, signal_columns
from metarl.losses.task_encoding import STATISTICS, TaskEncoding, update_statistics
from metarl.nets.distributions import ActionDistribution
from metarl.nets.mlp_policy import MLPPolicy, Parameters
from metarl.nets.normalizer import RunningNormalizer
from metarl.rl.evolution import estimate_gradient, perturb, signed_rank_utility
from metarl.rollout import collect, join
from metarl.seeding import copy_generator, make_generator
from metarl.start_policy import Starts
from metarl.types import Rollout
from metarl.worlds import Spec, Worlds

_NEW_SHARE = 0.1
"""Of the last batch in the running statistics of task encodings."""
_CPU_CHUNK = 4
"""Tasks that are differentiated at a time on the CPU, so that their activations stay in its cache."""


class LearnedLossLearner:
    """Learner: its policies start from nothing on each task and learn with a loss that is meta-learned.

    Attributes:
        config: settings.
        loss: the loss as a function of the meta-parameters.
        meta_parameters: what is meta-learned, by name, and the statistics of task encodings.
        signal_columns: where the signals that the loss reads stand among those of the environment.
        distribution: outputs of policies, (parameters, obs) -> `PolicyOutput`, on observations that are scaled already.
        starts: what policies start from.

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

    def __init__(self, spec: Spec, config: LearnedLossConfig, seed: int, device: str | torch.device = "cpu"):
        self.config = config
        self.device = torch.device(device)
        self.horizon = spec.horizon
        inner = make_inner_loss(
            config.loss,
            spec,
            discount=config.discount,
            gae_lambda=config.inner_lambda,
            lambda_anneal_steps=config.lambda_anneal_steps,
            hidden_dim=config.head_dim,
            bound=config.bound,
            num_epochs=config.inner_epochs,
            given_reward=config.given_reward,
            reads=config.signals,
            change_scale=config.change_scale,
        )
        self.signal_columns = signal_columns(spec, inner.signals)
        self.policy = MLPPolicy(
            spec.obs_dim,
            spec.action_space,
            config.policy_dims,
            "tanh",
            initial_std=config.initial_std,
            num_extra_outputs=inner.num_extra_outputs if isinstance(inner, UpdateRule) else 0,
        )
        self.distribution = self.policy.output
        shapes = {name: value.shape for name, value in self.policy.initial_parameters(torch.Generator()).items()}
        formula = formula_of(config.loss) if is_formula(config.loss) else None
        self.loss = AdaptiveLoss(
            inner,
            config.num_inner_steps,
            config.inner_lr if formula is None else formula.step_sizes,
            config.inner_epochs,
            config.adapts_to_task,
            config.first_order,
            shapes if config.learns_offset else None,
            None if formula is None else formula.encoding(),
        )
        self.spec = spec
        self._is_pathwise = takes_pathwise(config.true_gradient, spec)
        at_once = self._chunk(config.meta_batch_size) * (config.update_threads if self.device.type == "cpu" else 1)
        refuse_beyond_memory(unroll_bytes(config, at_once, self.horizon, self.policy.dims), self.device)
        parameters = self.loss.initial_parameters(make_generator(seed, "weights"))
        self.meta_parameters = {name: v.to(self.device).requires_grad_() for name, v in parameters.items()}
        self.obs_normalizer = RunningNormalizer(spec.obs_dim).to(self.device)
        self.starts = Starts(config.start, self.policy, self.obs_normalizer)
        fixed = {ENCODING + name for name in STATISTICS} | (set() if config.learns_step_size else {STEP_SIZE})
        fixed |= set() if formula is None else {name for name in parameters if name.startswith(LOSS)}
        self._learned = {name: value for name, value in self.meta_parameters.items() if name not in fixed}
        # A hand-designed loss with fixed step sizes learns nothing; Adam wants at least one parameter.
        leaves = self._learned or {STEP_SIZE: self.meta_parameters[STEP_SIZE]}
        lrs = {name: config.step_size_lr * (name == STEP_SIZE) or config.outer_lr for name in leaves}
        self._outer_lrs = list(dict.fromkeys(lrs.values()))
        groups = [{"params": [leaves[name] for name in leaves if lrs[name] == lr]} for lr in self._outer_lrs]
        self.optimizer = torch.optim.Adam(groups, lr=config.outer_lr, eps=1e-5)
        self.generators = {
            "policy": make_generator(seed, "policy", self.device),
            "starts": make_generator(seed, "starts"),
            "evolution": make_generator(seed, "evolution", self.device),
            "truth": make_generator(seed, "truth", self.device),
        }
        self._threads = PartThreads(config.update_threads, self.device)
        # The policies of the meta-batch; older ones keep their tasks until their lifetime is over.
        self.agents = self.fresh(config.meta_batch_size, self.generators["starts"])
        self.ages = torch.zeros(config.meta_batch_size, dtype=torch.int64, device=self.device)
        self.agent_tasks = torch.zeros(config.meta_batch_size, spec.tasks.dim, device=self.device)

    def _chunk(self, num_tasks: int) -> int:
        """Tasks that are differentiated at a time."""
        return self.config.task_chunk or (_CPU_CHUNK if self.device.type == "cpu" else num_tasks)

    def fresh(self, num_tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Policies that have learned nothing on a task, (B, ...) each; `generator` is of the CPU."""
        return {name: value.to(self.device) for name, value in self.starts.draw(num_tasks, generator).items()}

    def collect(self, env: Worlds) -> Rollout:
        """K inner updates of each policy of the meta-batch, on its task."""
        tasks = env.task[:: self.config.episodes_per_task]
        num_episodes, generator = self.config.episodes_per_trial, self.generators["policy"]
        if self.config.outer == "evolution":  # the two of a pair have the same task and the same start
            env.set_tasks(tasks[::2].repeat_interleave(2, 0))
            starts = {name: value[::2].repeat_interleave(2, 0) for name, value in self.agents.items()}
            population, _ = self._population(copy_generator(self.generators["evolution"]))
            return self._live(env, population, 0, starts, self.ages, num_episodes, generator)
        env.set_tasks(torch.where((self.ages > 0).unsqueeze(1), self.agent_tasks, tasks))
        return self._live(env, self._constant(), None, self.agents, self.ages, num_episodes, generator)

    def trial(
        self,
        env: Worlds,
        num_episodes: int,
        generator: torch.Generator | None,
        on_step: Callable[[Worlds], None] | None = None,
        on_policies: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> Rollout:
        """Train a fresh policy on each task that the environment holds, by `num_episodes` - 1 updates.

        `on_policies` is called with the policies, (B, ...) each, before each phase; see `Adapts.trial` for the others.

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
        decay = 1 - 0.9 * progress if self.config.anneal else 1.0
        for group, lr in zip(self.optimizer.param_groups, self._outer_lrs, strict=True):
            group["lr"] = lr * decay
        encodings = self._encodings(rollout)
        if not self.optimizer.state:  # nothing is modulated yet, so statistics may change before they are used
            self._keep_statistics(encodings, encodings, 1.0)
        metrics = self._evolve(rollout) if self.config.outer == "evolution" else self._differentiate(rollout)
        # Now, and not before: the policies that are differentiated are those that acted, with the statistics of then.
        self._keep_statistics(encodings, self._encodings(rollout), _NEW_SHARE)
        sizes = self.meta_parameters["log_step_size"].detach().exp()
        metrics |= {"step_size_first": float(sizes[0].mean()), "step_size_last": float(sizes[-1].mean())}
        if "encoding.strength" in self.meta_parameters:
            metrics["adaptation"] = float(self.meta_parameters["encoding.strength"].detach().norm())
        return metrics

    def _differentiate(self, rollout: Rollout) -> dict[str, float]:
        """One step along the gradient through the inner updates."""
        num_tasks = len(self.ages)
        phases = [self.support(rollout, k, num_tasks) for k in range(rollout.num_episodes)]
        goals = self.goals(rollout, phases)
        gradient, grown, objective = self.meta_gradient(self.agents, self.ages, phases, goals)
        sound = finite_tasks(*gradient.values(), *grown.values(), objective.unsqueeze(1))
        metrics = {"dropped_tasks": float((~sound).sum()), "skipped_minibatches": float(not bool(sound.any()))}
        self._turn_over(rollout, grown, sound)
        if bool(sound.any()) and self._learned:
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
        if num_left and self._learned:
            for name, slope in step.gradient.items():
                self.meta_parameters[name].grad = -slope
            torch.nn.utils.clip_grad_norm_(self._learned.values(), self.config.max_grad_norm)
            self.optimizer.step()
        return {"dropped_tasks": 2.0 * step.dropped_pairs, "skipped_minibatches": float(not num_left)}

    def meta_gradient(
        self, starts: Parameters, ages: Tensor, phases: Sequence[Support], goals: Sequence[Goal]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The gradient of each task's objective by the meta-parameters.

        Args:
            starts: policies before the first update, (B, ...).
            ages: (B,), updates they have had.
            phases: K + 1 batches of experience, (B, M, ...); all but the last are support of an update.
            goals: K times what says how the true return changes with the policy after an update, see `goals`.

        Returns:
            Gradients by name, (B, ...); policies after the last update, (B, ...); objectives, (B,).
        """
        meta = self._constant()
        slopes = torch.func.vmap(torch.func.grad_and_value(self._lifetime, has_aux=True), in_dims=(None, 0, 0, 0, 0))
        chunk = self._chunk(len(ages))

        def part(first: int) -> Any:
            of = slice(first, first + chunk)
            chosen = [Support(*(value[of] for value in phase)) for phase in phases]
            gradient, (value, grown) = slopes(
                meta, {n: v[of] for n, v in starts.items()}, ages[of], chosen, [of_tasks(goal, of) for goal in goals]
            )
            return gradient, grown, value

        gradients, grown, values = zip(*self._threads.map(part, range(0, len(ages), chunk)), strict=True)
        return joined(gradients), joined(grown), torch.cat(values)

    def goals(self, rollout: Rollout, phases: Sequence[Support]) -> list[Goal]:
        """How the true return changes with the policy after each of the K updates.

        Either true advantages of the phase after it, (B, M), or the gradient through the dynamics, (B, ...) by name.
        """
        num_tasks = len(self.ages)
        if not self._is_pathwise:
            return [self.true_advantage(rollout, k, num_tasks) for k in range(1, rollout.num_episodes)]
        policies = self.unroll(phases)
        together = {name: torch.cat([policy[name] for policy in policies]) for name in policies[0]}  # (K B, ...)
        task = rollout.task[:: self.config.episodes_per_task].repeat(len(policies), 1)
        count, generator = self.config.true_episodes, self.generators["truth"]
        slopes = pathwise_gradient(self.spec, task, together, self.acting, count, generator)
        parts = {name: slope.split(num_tasks) for name, slope in slopes.items()}
        return [{name: part[k] for name, part in parts.items()} for k in range(len(policies))]

    @torch.no_grad()
    def unroll(self, phases: Sequence[Support]) -> list[dict[str, Tensor]]:
        """The policies of the meta-batch after each of its K updates, (B, ...)."""
        update = torch.func.vmap(self.loss.update, in_dims=(0, 0, 0, 0, 0, None))
        losses = torch.func.vmap(self.loss.of_lifetime, in_dims=(None, 0))(self._constant(), phases[:-1])
        policy, policies = self.agents, []
        for k, (loss, support) in enumerate(zip(losses, phases, strict=False)):
            policy = update(*loss, policy, support, self.ages + k, self.distribution)
            policies.append(policy)
        return policies

    def support(self, rollout: Rollout, episode: int, num_tasks: int) -> Support:
        """The experience of one phase, (B, M, ...)."""
        steps = slice(episode * self.horizon, (episode + 1) * self.horizon)
        signals = rollout.signals[episode][..., self.signal_columns]  # (H + 1, N, S)
        return support_of_phase(rollout, steps, self._normalized(rollout.obs[steps]), signals, num_tasks)

    def true_advantage(self, rollout: Rollout, episode: int, num_tasks: int) -> Tensor:
        """Advantages by the environment's own reward, (B, M), with mean 0 and deviation 1 for each task."""
        steps = slice(episode * self.horizon, (episode + 1) * self.horizon)
        return phase_advantage(rollout, steps, self._normalized(rollout.obs[steps]), num_tasks, self.config.discount)

    def state_dict(self) -> dict[str, Any]:
        """See `Learner.state_dict`."""
        model = {name: value.detach() for name, value in self.meta_parameters.items()}
        model |= {f"obs_normalizer.{name}": value for name, value in self.obs_normalizer.state_dict().items()}
        model |= {f"agents.{name}": value for name, value in self.agents.items()} | self.starts.state()
        return {
            "model": model | {"ages": self.ages, "agent_tasks": self.agent_tasks},
            "optimizer": self.optimizer.state_dict(),
            "rng": {name: generator.get_state() for name, generator in self.generators.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner.load_state_dict`."""
        model = state["model"]
        self.loss.require_robot(model)
        statistics = {name: model[f"obs_normalizer.{name}"] for name in self.obs_normalizer.state_dict()}
        self.obs_normalizer.load_state_dict(statistics)
        self.starts.load(model)
        mine = self.meta_parameters | {f"agents.{name}": value for name, value in self.agents.items()}
        for name, value in (mine | {"ages": self.ages, "agent_tasks": self.agent_tasks}).items():
            if value.shape != model[name].shape:
                raise ValueError(f"{name} is {tuple(model[name].shape)}, expected {tuple(value.shape)}")
            value.copy_(model[name])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, generator in self.generators.items():
            generator.set_state(state["rng"][name])

    def acting(self, parameters: Parameters, obs: Tensor) -> ActionDistribution:
        """The action distributions of policies on observations as they come."""
        return self.policy.distribution(parameters, self._normalized(obs))

    @torch.no_grad()
    def _encodings(self, rollout: Rollout) -> Tensor | None:
        """Of the tasks of a rollout, (B, Z), with the encoder as it is; None where none is learned."""
        if not isinstance(self.loss.encoding, TaskEncoding):
            return None
        supports = [self.support(rollout, 0, len(self.ages))]
        return torch.func.vmap(self.loss.encode, in_dims=(None, 0))(self._constant(), supports)

    @torch.no_grad()
    def _keep_statistics(self, before: Tensor | None, after: Tensor | None, share: float) -> None:
        """Keep running statistics of encodings over tasks; see `update_statistics`."""
        if before is not None and after is not None:
            sound = finite_tasks(before, after)
            update_statistics(encoding_parameters(self._constant()), before[sound], after[sound], share)

    def _constant(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.meta_parameters.items()}

    def _population(self, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Perturbed meta-parameters, (B, ...), and the noise of each pair."""
        num_tasks = self.config.meta_batch_size
        learned = {name: value.detach() for name, value in self._learned.items()}
        population, noise = perturb(learned, num_tasks // 2, self.config.sigma, generator)
        fixed = {n: v.expand(num_tasks, *v.shape) for n, v in self._constant().items() if n not in learned}
        return population | fixed, noise

    @torch.no_grad()
    def _live(
        self,
        env: Worlds,
        meta: Parameters,
        meta_dim: int | None,
        starts: Parameters,
        ages: Tensor,
        num_episodes: int,
        generator: torch.Generator,
        on_step: Callable[[Worlds], None] | None = None,
        on_policies: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> Rollout:
        """Let policies learn. One whose update is not finite goes on with the parameters that it had.

        `meta_dim` is 0 where each policy learns by meta-parameters of its own, None where all share them.
        """
        policies, episodes, seen = dict(starts), [], list[Support]()
        of_task = torch.func.vmap(self.loss.of_task, in_dims=(meta_dim, 0))
        update = torch.func.vmap(self.loss.update, in_dims=(0, 0, 0, 0, 0, None))
        for k in range(num_episodes):
            if on_policies is not None:
                on_policies(policies)
            acting = TaskPolicies(self.acting, policies, env.num_tasks)
            episodes.append(collect(env, acting, 1, generator, on_step, reads_signals=True))
            if k + 1 == num_episodes:
                break
            support = self.support(episodes[-1], 0, env.num_tasks)
            seen = [support] if k % self.config.num_inner_steps == 0 else [*seen, support]  # in this window
            grown = update(*of_task(meta, seen), policies, support, ages + k, self.distribution)
            sound = finite_tasks(*grown.values())
            policies = {name: torch.where(like(sound, v), v, policies[name]) for name, v in grown.items()}
        return join(episodes)

    def _lifetime(
        self, meta: Parameters, start: Parameters, age: Tensor, phases: Sequence[Support], goals: Sequence[Goal]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of one task, to descend on: -sum_k w_k J(theta_k) over the K updates, near these theta_k.

        J is E[pi_k / pi_k_old A_true], or the inner product of theta_k with a gradient that was taken at its value.
        """
        policy, objective = dict(start), torch.zeros((), device=self.device)
        losses = self.loss.of_lifetime(meta, phases[:-1])
        for k, (loss, support, query, goal) in enumerate(zip(losses, phases, phases[1:], goals, strict=False)):
            policy = self.loss.update(*loss, policy, support, age + k, self.distribution)
            if isinstance(goal, dict):
                gain = torch.stack([(slope * policy[name]).sum() for name, slope in goal.items()]).sum()
            else:
                log_ratio = self.distribution(policy, query.obs).log_prob(query.action) - query.log_prob
                gain = (query.weight * log_ratio.exp() * goal).sum()
            objective = objective - self._weight(k) * gain
        return objective, policy

    def _weight(self, k: int) -> float:
        last = self.config.num_inner_steps - 1
        early = self.config.early_weight
        return (early + (1 - early) * k / last if last else 1.0) / self.config.num_inner_steps

    def _descend(self, gradient: Mapping[str, Tensor], sound: Tensor) -> dict[str, float]:
        """One step of Adam on the mean of the tasks' gradients, each clipped before."""
        flat = torch.cat([gradient[name][sound].flatten(1) for name in self._learned], 1)  # (B, |phi|)
        norm = flat.norm(dim=1, keepdim=True)
        flat = flat * (self.config.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        mean = flat.mean(0)
        sizes = [value.numel() for value in self._learned.values()]
        for value, part in zip(self._learned.values(), mean.split(sizes), strict=True):
            value.grad = part.view_as(value).clone()
        torch.nn.utils.clip_grad_norm_(self._learned.values(), self.config.max_grad_norm)
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

    def _normalized(self, obs: Tensor) -> Tensor:
        return self.obs_normalizer(obs) if self.config.normalizes_obs and self.obs_normalizer.count else obs
