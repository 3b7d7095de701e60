"""Learned losses that are finished, for everybody's use: load one, and shape rewards or advantages with it.

    loss = LearnedLoss.load("runs/learned-loss-reach-robots-seed0")
    reward = loss.reward(before, after, effort, feedback, ended)

The settings of learners have names for them (`metarl.named_loss`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from metarl.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from metarl.config_json import config_from_json
from metarl.env import EnvSpec
from metarl.errors import CheckpointError, ConfigError, MetarlError, UnknownNameError
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.losses.adaptive import AdaptiveLoss, PolicyGradientLoss
from metarl.losses.drift import learned_drift, mirror_objective
from metarl.losses.formula import Formula, read_formula
from metarl.losses.hand_designed import HandDesigned
from metarl.losses.learned_advantage import LearnedAdvantage
from metarl.losses.learned_drift import LearnedDrift
from metarl.losses.learned_potential import LearnedPotential
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.policy_objective import policy_objective
from metarl.losses.support import Support, effort_of, with_episodes
from metarl.losses.table import formula_credit, signal_columns
from metarl.rl.ppo import PolicyObjective
from metarl.run_folder import open_run, start_run
from metarl.seeding import make_generator
from metarl.start_policy import RANDOM
from metarl.task_worlds import TaskLike, task_row
from metarl.types import Rollout
from metarl.worlds import Spec, make_worlds

_ALGORITHM = "learned-loss"
Array = TypeVar("Array", Tensor, np.ndarray)

Role = Literal["reward", "advantage", "drift"]


@dataclass(frozen=True)
class LossRun:
    """Where a meta-learned loss is from.

    Attributes:
        config: config.json of its run.
        checkpoint: of that run.
    """

    config: Mapping[str, Any]
    checkpoint: Checkpoint

    def save(self, path: Path) -> None:
        """Write a run folder that `LearnedLoss.load` reads, with nothing but this checkpoint."""
        with start_run(path, self.config) as run:
            save_checkpoint(run.checkpoints, self.checkpoint.step, self.checkpoint.tensors, self.checkpoint.state)


@dataclass(frozen=True)
class LearnedLoss:
    """A loss with everything that was meta-learned.

    Attributes:
        kind: the setting `loss` of its run, such as "reward", "potential", "advantage" or "drift".
        role: what it offers: `reward` (hand-designed ones too), `advantage` or `drift`.
        signals: names of the signals that it reads.
        loss: the loss as a function of the meta-parameters.
        meta_parameters: what was meta-learned.
        parameters: those of the inner loss for one task. After `load` that is the typical one: they are modulated by
            the mean encoding of training tasks of its own environment, as fresh policies experience them.
        source: where it came from.
    """

    kind: str
    role: Role
    signals: tuple[str, ...]
    loss: AdaptiveLoss
    meta_parameters: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    source: LossRun | Formula

    @staticmethod
    def load(path: Path | str, device: str | torch.device = "cpu") -> LearnedLoss:
        """Read a loss from a run folder of `learned-loss`, or from one of its checkpoints.

        Where the loss adapts to its task, one batch of fresh policies is played to find the typical one.

        Raises:
            CheckpointError: no such run, one of another algorithm, a damaged checkpoint, one of another version, or
                meta-parameters that are not finite.
            UnknownNameError: the environment that it was meta-trained on is not installed.
            ConfigError: a loss that other algorithms have no use for (lpg, ml3, an advantage with offsets).
        """
        path = Path(path)
        is_checkpoint = path.name.startswith("ckpt-")
        run = open_run(path.absolute().parent.parent if is_checkpoint else path)
        _refuse_others(run.path, run.config.get("algorithm"))
        checkpoint = load_checkpoint(path) if is_checkpoint else newest_checkpoint(run.checkpoints)
        _refuse_others(checkpoint.path, checkpoint.state.get("algorithm"))
        _, learner = _learner(run.config, run.path)
        role = _role(learner.loss, learner.config.loss, run.path)
        _read_tensors(learner, checkpoint)
        meta = {name: value.detach() for name, value in learner.meta_parameters.items()}
        parameters, _ = learner.loss.of_typical_task(meta)
        return LearnedLoss(
            kind=learner.config.loss,
            role=role,
            # A drift reads none: the reward that it was trained on stays behind.
            signals=() if role == "drift" else learner.loss.inner.signals,
            loss=learner.loss,
            meta_parameters={name: value.to(device) for name, value in meta.items()},
            parameters={name: value.to(device) for name, value in parameters.items()},
            source=LossRun(run.config, checkpoint),
        )

    @staticmethod
    def from_formula(source: Path | str, device: str | torch.device = "cpu") -> LearnedLoss:
        """Read a formula file, as `metarl explain` writes it, or its content (`read_formula`).

        Raises:
            ConfigError: the file is missing, or says anything that a formula file does not.
        """
        formula = read_formula(str(source))
        # Credit within the loss, which alone counts steps, is the learner's own here.
        inner = PolicyGradientLoss(formula_credit(formula, horizon=1, lambda_anneal_steps=0))
        loss = AdaptiveLoss(inner, len(formula.step_sizes), formula.step_sizes, formula=formula.encoding())
        meta = loss.initial_parameters(torch.Generator())
        return LearnedLoss(
            kind=formula.loss,
            role="advantage" if formula.loss == "advantage" else "reward",
            signals=formula.read_signals,
            loss=loss,
            meta_parameters={name: value.to(device) for name, value in meta.items()},
            parameters={name: value.to(device) for name, value in loss.of_typical_task(meta)[0].items()},
            source=formula,
        )

    def of_task(self, *supports: Support) -> LearnedLoss:
        """The same loss, modulated for the task that batches of experience were taken on (`LossOnEnv.support`)."""
        return dataclasses.replace(self, parameters=self.loss.of_task(dict(self.meta_parameters), supports)[0])

    def adapted(
        self,
        spec: EnvSpec,
        task: TaskLike,
        *,
        split: str = "train",
        num_policies: int = 4,
        num_episodes: int = 16,
        seed: int = 0,
    ) -> LearnedLoss:
        """The same loss, modulated for a task on which some policies with random weights play a batch each.

        Args:
            spec: the environment.
            task: its parameters by name, in the ranges of the split, or a row of `TaskDistribution`, (P,).
            split: see `task`.
            num_policies: B. One alone may never do what would tell what the feedback goes along with.
            num_episodes: of each of them.
            seed: of the policies and their actions.

        Raises:
            UnknownNameError, SpecError: no such task.
            ConfigError: the environment lacks a signal that the loss reads.
        """
        device = next(iter(self.meta_parameters.values())).device
        config = LearnedLossConfig(loss="feedback", meta_batch_size=num_policies, episodes_per_task=num_episodes)
        player = LearnedLossLearner(spec, config, seed, device)
        player.signal_columns = self.columns(spec)
        worlds = make_worlds(spec, num_policies * num_episodes, device=device, seed=seed)
        worlds.set_tasks(task_row(spec.tasks, task, split).repeat(num_policies, 1).to(device))
        rollout = player.trial(worlds, 1, make_generator(seed, "first batch", device))
        batches = player.support(rollout, 0, num_policies)  # (B, M, ...)
        return self.of_task(*(Support(*(value[index] for value in batches)) for index in range(num_policies)))

    def with_discount(self, discount: float) -> LearnedLoss:
        """The same loss for a learner with another discount.

        A potential keeps the best policy only where both discounts are equal (Ng et al. 1999); others do not change.
        """
        inner = self.loss.inner
        if not (isinstance(inner, PolicyGradientLoss) and isinstance(inner.credit, LearnedPotential | HandDesigned)):
            return self
        loss = copy.copy(self.loss)
        loss.inner = dataclasses.replace(inner, credit=dataclasses.replace(inner.credit, discount=discount))
        return dataclasses.replace(self, loss=loss)

    def discount(self, usual: float) -> float:
        """The discount of later rewards that a learner is to take instead of its usual one: the decay that a reward
        learned or that its formula says, of which it is a part; other losses go with any."""
        credit = self.loss.inner.credit if isinstance(self.loss.inner, PolicyGradientLoss) else None
        return float(credit.decay(self.parameters)) if isinstance(credit, LearnedReward) else usual

    def reward(self, before: Array, after: Array, effort: Array, feedback: Array, ended: Array) -> Array:
        """Shape rewards.

        Args:
            before: (..., S), signals of the state that the action was taken in, in the order of `signals`.
            after: (..., S), signals of the state after it; not of the state that a new episode starts in.
            effort: (...,), mean square of the action's numbers (`metarl.losses.support.effort_of`).
            feedback: (...,), the reward that the learning agent gets.
            ended: (...,), where the episode truly ended, not by its time limit.

        Returns:
            (...,) float32, a tensor or an array as the arguments are.

        Raises:
            ConfigError: it is an advantage or a drift, or a formula that has no value at one of the steps.
        """
        inner = self.loss.inner
        if not isinstance(inner, PolicyGradientLoss) or isinstance(inner.credit, LearnedAdvantage):
            raise ConfigError(f"a learned {self.kind} shapes no reward: use `{self.role}` of it.")
        assert isinstance(inner.credit, LearnedReward | LearnedPotential | HandDesigned)  # as `_role` says
        support = self._steps(before, after, effort, feedback, ended)
        shaped = inner.credit.reward(self.parameters, support).view(tuple(feedback.shape))
        self._require_value(shaped, support)
        return shaped if isinstance(feedback, Tensor) else shaped.cpu().numpy()

    def advantage(self, before: Array, after: Array, effort: Array, counts: Array) -> Array:
        """Judge steps without a reward.

        Args:
            before, after, effort: as in `reward`.
            counts: (...,) bool, the steps over which advantages have mean 0 and deviation 1; elsewhere they are 0.

        Raises:
            ConfigError: it is no advantage, or a formula that has no value at one of the steps.
        """
        inner = self.loss.inner
        if not (isinstance(inner, PolicyGradientLoss) and isinstance(inner.credit, LearnedAdvantage)):
            raise ConfigError(f"a learned {self.kind} gives no advantages: use `{self.role}` of it.")
        nothing = effort * 0
        support = self._steps(before, after, effort, nothing, nothing)
        weight = self._tensor(counts).flatten()
        support = support._replace(weight=weight / weight.sum().clamp(min=1.0))
        step = torch.zeros((), dtype=torch.int64, device=weight.device)
        judged = inner.credit.advantage(self.parameters, support, step).view(tuple(effort.shape))
        self._require_value(judged, support)
        return judged if isinstance(effort, Tensor) else judged.cpu().numpy()

    def drift(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """D of mirror learning (`metarl.losses.drift`), elementwise.

        Raises:
            ConfigError: it is no drift.
        """
        if self.role != "drift":
            raise ConfigError(f"a learned {self.kind} is no drift: use `{self.role}` of it.")
        return learned_drift(self.parameters, log_ratio, advantage)

    def columns(self, spec: Spec) -> list[int]:
        """Where the signals that it reads stand among those of an environment.

        Raises:
            ConfigError: the environment lacks one, which is named.
        """
        return signal_columns(spec, self.signals)

    def on(self, spec: Spec) -> LossOnEnv:
        """The loss for rollouts in an environment.

        Raises:
            ConfigError: the environment lacks a signal that it reads.
        """
        return LossOnEnv(self, tuple(self.columns(spec)))

    def _require_value(self, values: Tensor, support: Support) -> None:
        """Refuse a formula that is not defined everywhere: one such step would spoil all that is learned after it."""
        is_known = torch.cat([support.before, support.after], 1).isfinite().all(1)
        if isinstance(self.source, Formula) and bool((values.flatten().isnan() & is_known).any()):
            raise ConfigError(
                f"the formula {self.source.to_text(3)} has no value in a state that was met: it takes the root or the "
                "logarithm of a negative number, or divides zero by zero. Guard what is under it with max or abs."
            )

    def _tensor(self, values: Tensor | np.ndarray) -> Tensor:
        device = next(iter(self.meta_parameters.values())).device
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    def _steps(self, before: Array, after: Array, effort: Array, feedback: Array, ended: Array) -> Support:
        """Steps of any leading shape as a support, all with the same weight; losses of steps read no policy."""
        reward = self._tensor(feedback).flatten()  # (M,)
        unread = torch.zeros_like(reward)
        return Support(
            obs=unread,
            action=unread,
            log_prob=unread,
            before=self._tensor(before).reshape(len(reward), len(self.signals)),
            after=self._tensor(after).reshape(len(reward), len(self.signals)),
            effort=self._tensor(effort).flatten(),
            reward=reward,
            ended=self._tensor(ended).flatten(),
            weight=torch.full_like(unread, 1 / max(len(unread), 1)),
            episode_means=unread[:0],
            episode_feedback=unread[:0],
        )


@dataclass(frozen=True)
class LossOnEnv:
    """A learned loss for rollouts in one environment, collected with `reads_signals`.

    Attributes:
        loss: it.
        columns: of its signals among those of the environment.
    """

    loss: LearnedLoss
    columns: tuple[int, ...]

    def reward(self, rollout: Rollout) -> Tensor:
        """What a learner that takes this loss is to maximise, (T, N).

        Feedback, shaped; for an advantage the feedback as it is. A drift does not touch the environment's reward.
        """
        if self.loss.role == "drift":
            return rollout.reward
        if self.loss.role == "advantage":
            return rollout.feedback
        before, after, effort = self._steps(rollout)
        shaped = self.loss.reward(before, after, effort, rollout.feedback, rollout.terminated)
        return torch.where(rollout.valid, shaped, 0.0)

    def advantage(self, rollout: Rollout) -> Tensor:
        """Advantages, (T, N), of a loss that learned these."""
        return self.loss.advantage(*self._steps(rollout), rollout.valid)

    def objective(self, clip: float) -> PolicyObjective:
        """What a policy ascends on: PPO's clipped surrogate, in which a learned drift takes the place of the clip."""
        if self.loss.role != "drift":
            return policy_objective("clip", clip)

        def drifting(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
            return mirror_objective(log_prob, old_log_prob, advantage, self.loss.drift)

        return drifting

    def support(self, rollout: Rollout) -> Support:
        """A rollout as the experience of one task, for `LearnedLoss.of_task`."""
        before, after, effort = self._steps(rollout)
        steps = self.loss._steps(before, after, effort, rollout.feedback, rollout.terminated)
        weight = rollout.valid.flatten().to(torch.float32)
        steps = steps._replace(weight=weight / weight.sum().clamp(min=1.0))
        num_worlds = rollout.reward.shape[1]
        index = torch.arange(len(weight), device=weight.device).unflatten(0, (rollout.num_episodes, -1, num_worlds))
        order = index.transpose(0, 1).flatten()  # (K, H, N) -> H times K N episodes
        ordered = Support(*(value[order] if len(value) else value for value in steps))
        return with_episodes(ordered, index.shape[1])

    def _steps(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        signals = rollout.signals[..., list(self.columns)]  # (K, H + 1, N, S)
        return signals[:, :-1].flatten(0, 1), signals[:, 1:].flatten(0, 1), effort_of(rollout.action)


def _refuse_others(path: Path, algorithm: object) -> None:
    if algorithm != _ALGORITHM:
        raise CheckpointError(f"{path} is of {algorithm}, which learns no loss: name a run of {_ALGORITHM}.")


def _learner(config: Mapping[str, Any], path: Path) -> tuple[Spec, LearnedLossLearner]:
    """The environment that the loss was meta-trained on, and a learner without its weights."""
    import envs

    try:
        settings = config_from_json(LearnedLossConfig, config.get("settings"), "config.settings")
        spec = envs.make_spec(str(config.get("env")), **config.get("env_options", {}))
        # Where its policies start is in the checkpoint.
        return spec, LearnedLossLearner(spec, dataclasses.replace(settings, start=RANDOM), seed=0)
    except UnknownNameError:
        raise
    except MetarlError as error:
        raise CheckpointError(f"{path / 'config.json'} is damaged or of another version: {error}") from error


@torch.no_grad()
def _read_tensors(learner: LearnedLossLearner, checkpoint: Checkpoint) -> None:
    model = checkpoint.tensors.get("model", {})
    normalizer = learner.obs_normalizer.state_dict()
    wanted = {**learner.meta_parameters, **{f"obs_normalizer.{name}": value for name, value in normalizer.items()}}
    for name, value in wanted.items():
        if name not in model or model[name].shape != value.shape:
            found = f"is {tuple(model[name].shape)}" if name in model else "is missing"
            raise CheckpointError(
                f"checkpoint {checkpoint.path} is of another version of {_ALGORITHM}: {name} {found}, "
                f"expected {tuple(value.shape)}."
            )
        if not bool(torch.isfinite(model[name]).all()):
            raise CheckpointError(f"checkpoint {checkpoint.path} holds no usable loss: {name} is not finite.")
        value.copy_(model[name])


def _role(loss: AdaptiveLoss, kind: str, path: Path) -> Role:
    if isinstance(loss.inner, LearnedDrift):
        return "drift"
    if isinstance(loss.inner, PolicyGradientLoss) and not loss.fits_one_robot:
        if isinstance(loss.inner.credit, LearnedAdvantage):
            return "advantage"
        if isinstance(loss.inner.credit, LearnedReward | LearnedPotential | HandDesigned):
            return "reward"
    raise ConfigError(
        f"{path} learned {kind}{' with offsets' * bool(loss.offset_shapes)}, a whole update rule for policies of its "
        "own (`metarl evaluate`): other algorithms can take a reward, potential, advantage without offset or drift."
    )
