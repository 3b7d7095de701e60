"""Learn in another environment by a loss that was meta-trained in this one."""

from __future__ import annotations

import dataclasses

import torch

from metarl.env import EnvSpec, Signals
from metarl.errors import ConfigError
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.losses.table import signal_columns
from metarl.seeding import make_generator
from metarl.start_policy import RANDOM
from metarl.types import Rollout
from metarl.worlds import Spec, make_worlds

_STATISTICS_TASKS = 16
"""Tasks that observations of another environment are scaled by."""


def transfer(
    learner: LearnedLossLearner, spec: Spec, seed: int, device: str | torch.device = "cpu"
) -> LearnedLossLearner:
    """A learner of another environment that learns by the loss of this one: fresh policies of the other's shapes.

    Args:
        learner: whose loss is taken over, with its step sizes.
        spec: the other environment.
        seed: of the fresh policies, and of the batch that sets the scale of observations where the learner has one.
        device: of all parameters.

    Raises:
        ConfigError: the environment lacks a signal that the loss reads, or the loss fits its own robot alone.
    """
    if learner.loss.fits_one_robot and spec.name != learner.spec.name:
        offsets = " with learned offsets" if learner.config.learns_offset else ""
        raise ConfigError(
            f"the loss {learner.config.loss}{offsets} fits the robot that it was trained on alone, that of "
            f"{learner.spec.name}: it cannot train one of {spec.name}. Train it there, or take another loss."
        )
    wanted = learner.loss.inner.signals
    chosen = _with_signals(spec, wanted)
    # What the other environment is not may be needed to train the loss, but not to use it.
    config = dataclasses.replace(learner.config, true_gradient="auto", start=RANDOM)
    other = LearnedLossLearner(chosen, config, seed, device)
    if chosen.signals is not None and spec.signals is not None:
        other.signal_columns = [spec.signals.names.index(name) for name in wanted]
    other.loss.require_robot(learner.meta_parameters)
    with torch.no_grad():
        for name, value in learner.meta_parameters.items():
            other.meta_parameters[name].copy_(value)
    if learner.config.normalizes_obs:
        rollout = _first_batch(other, spec, seed)
        other.obs_normalizer.update(rollout.obs[rollout.valid])
    return other


def _with_signals(spec: Spec, wanted: tuple[str, ...]) -> Spec:
    """An environment whose signals are the wanted ones, in their order."""
    given = () if spec.signals is None else spec.signals.names
    signal_columns(spec, wanted)  # refuses an environment that lacks one
    if not isinstance(spec, EnvSpec) or spec.signals is None or given == wanted:
        return spec
    return dataclasses.replace(spec, signals=Signals(wanted, spec.signals.compute, spec.signals.feedback))


def _first_batch(learner: LearnedLossLearner, spec: Spec, seed: int) -> Rollout:
    """One episode of fresh policies on training tasks."""
    env = make_worlds(spec, _STATISTICS_TASKS * learner.config.episodes_per_task, device=learner.device, seed=seed)
    env.set_tasks(spec.tasks.sample_train(_STATISTICS_TASKS, make_generator(seed, "tasks")))
    return learner.trial(env, 1, make_generator(seed, "first batch", learner.device))
