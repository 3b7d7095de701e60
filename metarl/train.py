"""The training loop: tasks, rollout, update, metrics, checkpoint; stopped and resumed at any moment.

A checkpoint is taken between two updates, when every world is about to be given a new task and reset. So the
state of the simulators is not part of it, and still a resumed run is bit-exact on the CPU.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.checkpoint import has_checkpoint, load_checkpoint, newest_checkpoint, rotate_checkpoints, save_checkpoint
from metarl.compiled import compile_spec
from metarl.config import RunConfig
from metarl.evaluate import evaluate_in
from metarl.learners import Learner
from metarl.log import MetricsLogger
from metarl.nested_state import flatten_state, unflatten_state
from metarl.run import build, keep_learned_loss, learner_tensors, read_config, restore
from metarl.run_folder import RunFolder, resume_run, start_run
from metarl.seeding import make_generator
from metarl.training_loop import LoopOptions, Outcome, refuse_changes, run_loop
from metarl.types import Rollout
from metarl.worlds import Spec, Worlds, make_worlds

_VALIDATION_WORLDS = 64
_MIN_VALIDATION_TASKS = 8


def train(
    config: RunConfig,
    out: Path | str,
    *,
    resume: bool = False,
    checkpoint_interval_s: float = 60.0,
    keep_checkpoints: int = 3,
    validate_every: int = 20,
    console: bool = True,
) -> Outcome:
    """Train a learner in a run folder.

    Args:
        config: what to train.
        out: the run folder; new, or that of the run to resume.
        resume: go on from the newest whole checkpoint of `out`.
        checkpoint_interval_s: seconds between checkpoints; a kill loses at most this.
        keep_checkpoints: older ones are deleted.
        validate_every: updates between evaluations on the validation split, 0 for none.
        console: show progress.

    Raises:
        CheckpointError: the folder is in use, damaged, full, or holds another run.
        ConfigError: `config` is not that of the run to resume, or a number is out of its range.
    """
    options = LoopOptions(checkpoint_interval_s, keep_checkpoints, validate_every)
    out, config = Path(out), config.self_contained()
    torch.set_num_threads(config.torch_threads)
    if resume:
        with resume_run(out) as folder:
            refuse_changes(read_config(folder.config, folder.path).to_json(), config.to_json())
            training = _Training(config, *build(config, folder.path))
            training.restore(folder)
            return _loop(training, folder, options, console)
    training = _Training(config, *build(config))
    with start_run(out, config.to_json()) as folder:
        keep_learned_loss(training.learner, folder.path)
        return _loop(training, folder, options, console)


def _loop(training: _Training, folder: RunFolder, options: LoopOptions, console: bool) -> Outcome:
    logger = MetricsLogger(folder.path, training.update, training.config.settings.total_steps, console=console)
    return run_loop(training, lambda: training.advance(folder), folder, logger, options)


class _Training:
    """What changes while training: learner, worlds, generators, counters."""

    def __init__(self, config: RunConfig, spec: Spec, learner: Learner):
        self.config, self.spec, self.learner = config, spec, learner
        worlds, threads = config.settings.num_worlds, config.physics_threads
        trained_in = compile_spec(spec, config.device) if config.compile_env else spec
        self.env = make_worlds(trained_in, worlds, device=config.device, num_threads=threads, seed=config.seed)
        self.validation_env: Worlds | None = None
        self.tasks = spec.tasks.with_train_tasks(config.num_train_tasks) if config.num_train_tasks else spec.tasks
        self.task_generator = make_generator(config.seed, "tasks")
        self.update = self.env_steps = self.failed_episodes = self.saved_update = 0

    @property
    def count(self) -> int:
        """Environment steps so far."""
        return self.env_steps

    @property
    def is_finished(self) -> bool:
        """Whether all environment steps were made."""
        return self.env_steps >= self.config.settings.total_steps

    def advance(self, folder: RunFolder) -> dict[str, float]:
        """One update on fresh tasks; returns its metrics."""
        started = time.perf_counter()
        progress = self.env_steps / self.config.settings.total_steps
        num_tasks = self.env.num_worlds // self.config.settings.episodes_per_task
        tasks = self.tasks.sample_train(num_tasks, self.task_generator)
        self.env.set_tasks(tasks)
        before = copy.deepcopy(self.learner.state_dict())
        rollout = self.learner.collect(self.env)
        collected = time.perf_counter()
        metrics = self.learner.update(rollout, progress)
        self.update += 1
        self.env_steps += rollout.reward.numel()
        self.failed_episodes += int(rollout.failed.sum())
        if metrics.get("skipped_minibatches"):
            dump_update(folder.path / "dumps", self.update, before, rollout, progress)
        return {
            "env_steps": self.env_steps,
            **_returns(rollout, self.env.has_success),
            **metrics,
            "failed_episodes": self.failed_episodes,
            "time_collect_s": collected - started,
            "time_update_s": time.perf_counter() - collected,
        }

    def validate(self) -> dict[str, float]:
        """Return and success of each episode of a trial on the validation split."""
        settings = self.config.settings
        per_task = settings.episodes_per_task
        if self.validation_env is None:
            num_tasks = max(_VALIDATION_WORLDS // per_task, _MIN_VALIDATION_TASKS)
            self.validation_env = make_worlds(self.spec, num_tasks * per_task, device=self.config.device)
        evaluation = evaluate_in(
            self.validation_env,
            self.learner,
            algorithm=self.config.algorithm,
            split="validation",
            num_episodes=settings.episodes_per_trial,
            episodes_per_task=per_task,
        )
        metrics = {
            "validation_return_first": evaluation.iqm_return[0],
            "validation_return_last": evaluation.iqm_return[-1],
        }
        if evaluation.success_rate is not None:
            metrics["validation_success_last"] = evaluation.success_rate[-1]
        return metrics

    def save(self, folder: RunFolder, logger: MetricsLogger, keep: int) -> None:
        """Write a checkpoint of the last update, once."""
        if self.update == self.saved_update:
            return
        logger.sync()
        tensors, state = learner_tensors(self.learner)
        tensors["rng"] = {
            **tensors["rng"],
            "tasks": self.task_generator.get_state(),
            "env": self.env.generator.get_state(),
        }
        state |= {
            "algorithm": self.config.algorithm,
            "env": self.config.env,
            "env_steps": self.env_steps,
            "failed_episodes": self.failed_episodes,
        }
        rotate_checkpoints(save_checkpoint(folder.checkpoints, self.update, tensors, state), keep)
        self.saved_update = self.update

    def restore(self, folder: RunFolder) -> None:
        """Go on where the newest whole checkpoint left off, or start if the run ended before its first one."""
        if not has_checkpoint(folder.checkpoints):
            return
        checkpoint = newest_checkpoint(folder.checkpoints)
        restore(self.learner, checkpoint, self.config)
        self.task_generator.set_state(checkpoint.tensors["rng"]["tasks"])
        self.env.generator.set_state(checkpoint.tensors["rng"]["env"])
        self.update = self.saved_update = checkpoint.step
        self.env_steps = int(checkpoint.state["env_steps"])
        self.failed_episodes = int(checkpoint.state["failed_episodes"])


def _returns(rollout: Rollout, has_success: bool) -> dict[str, float]:
    """Means over worlds; keys of the first and the last episode of the trial."""
    episode_return = rollout.episode_returns().mean(1)
    metrics = {"return_first": float(episode_return[0]), "return_last": float(episode_return[-1])}
    if has_success:
        metrics["success_last"] = float(rollout.episode_success()[-1].float().mean())
    return metrics


def dump_update(folder: Path, update: int, learner_state: Mapping[str, Any], rollout: Rollout, progress: float) -> Path:
    """Keep an update whose loss or gradient was not finite, for `replay_update`.

    Args:
        folder: where dumps go.
        update: its number.
        learner_state: `Learner.state_dict()` from before the rollout.
        rollout: what it learned from.
        progress: share of the training that was done.
    """
    optimizer, structure = flatten_state(learner_state["optimizer"])
    tensors: dict[str, Any] = {f.name: getattr(rollout, f.name) for f in fields(rollout)}
    num_episodes = tensors.pop("num_episodes")
    groups = {"model": learner_state["model"], "optimizer": optimizer, "rng": learner_state["rng"], "rollout": tensors}
    state = {"optimizer": structure, "num_episodes": num_episodes, "progress": progress}
    return save_checkpoint(folder, update, groups, state)


def replay_update(learner: Learner, dump: Path) -> dict[str, float]:
    """Make the update of a dump again; `learner` is a new one of the run's configuration (`metarl.run.build`)."""
    checkpoint = load_checkpoint(dump)
    optimizer = unflatten_state(checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
    rng: dict[str, Tensor] = checkpoint.tensors["rng"]
    learner.load_state_dict({"model": checkpoint.tensors["model"], "optimizer": optimizer, "rng": rng})
    rollout = Rollout(num_episodes=checkpoint.state["num_episodes"], **checkpoint.tensors["rollout"])
    return learner.update(rollout, checkpoint.state["progress"])
