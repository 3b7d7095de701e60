"""The meta-training loop of few-shot learners; stopped and resumed at any moment, bit-exact on the CPU."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from metarl.checkpoint import has_checkpoint, newest_checkpoint, rotate_checkpoints, save_checkpoint
from metarl.errors import CheckpointError, ConfigError
from metarl.fewshot.config import FewShotConfig
from metarl.fewshot.learners import require_targets
from metarl.fewshot.run import new_learner, open_source, read_few_shot_config, restore_weights
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.sources import EpisodeSource
from metarl.fewshot.types import Episode, FewShotLearner, FollowsProgress, UpdatesItself, accuracy
from metarl.log import MetricsLogger
from metarl.nested_state import flatten_state, unflatten_state
from metarl.run_folder import RunFolder, resume_run, start_run
from metarl.seeding import make_generator
from metarl.training_loop import LoopOptions, Outcome, refuse_changes, run_loop

_VALIDATION_TASKS = 100
_VALIDATION_BATCH = 10
_MAX_SKIPPED_IN_A_ROW = 50
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def train_few_shot(
    config: FewShotConfig,
    out: Path | str,
    *,
    data_dir: Path | None = None,
    skips_broken: bool = False,
    resume: bool = False,
    checkpoint_interval_s: float = 60.0,
    keep_checkpoints: int = 3,
    validate_every: int = 500,
    console: bool = True,
) -> Outcome:
    """Meta-train a few-shot learner in a run folder.

    Args:
        config: what to train.
        out: the run folder; new, or that of the run to resume.
        data_dir: folder of the raw data; None: see `metarl.fewshot.data.open_data`.
        skips_broken: leave out files that cannot be read.
        resume: go on from the newest whole checkpoint of `out`.
        checkpoint_interval_s: seconds between checkpoints; a kill loses at most this.
        keep_checkpoints: older ones are deleted.
        validate_every: updates between evaluations on the validation split, 0 for none.
        console: show progress.

    Returns:
        How it ended; `env_steps` counts tasks.

    Raises:
        CheckpointError: the folder is in use, damaged, full, or holds another run.
        ConfigError: `config` is not that of the run to resume, asks for tasks that the data cannot give, or training
            diverged.
        DataError: the data is missing or broken.
    """
    options = LoopOptions(checkpoint_interval_s, keep_checkpoints, validate_every)
    out = Path(out)
    _keep_freed_memory()
    torch.set_num_threads(config.torch_threads)
    if resume:
        with resume_run(out) as folder:
            refuse_changes(read_few_shot_config(folder.config, folder.path).to_json(), config.to_json())
            training = FewShotLoop(config, open_source(config, data_dir, skips_broken))
            training.restore(folder)
            return _loop(training, folder, options, console)
    training = FewShotLoop(config, open_source(config, data_dir, skips_broken))
    with start_run(out, config.to_json()) as folder:
        return _loop(training, folder, options, console)


def _loop(training: FewShotLoop, folder: RunFolder, options: LoopOptions, console: bool) -> Outcome:
    total = training.config.training.num_updates * training.config.training.meta_batch_size
    shown = "mse" if training.source.is_regression else "accuracy"
    logger = MetricsLogger(
        folder.path, training.update, total, console=console, shown=shown, counted="tasks", unit="tasks"
    )
    return run_loop(training, training.advance, folder, logger, options)


class FewShotLoop:
    """What changes while training: learner, optimiser, generators, counters."""

    def __init__(self, config: FewShotConfig, source: EpisodeSource) -> None:
        self.config, self.source = config, source
        training = config.training
        require_targets(config.learner, config.settings, source.is_regression)
        source.require(training.train_split, training.shape)
        self.num_ways = 1 if source.is_regression else training.ways
        self.learner: FewShotLearner = new_learner(config, source.x_shape, self.num_ways)
        self.parameters = [p for p in self.learner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=training.lr, weight_decay=training.weight_decay)
        self.task_generator = make_generator(config.seed, "tasks")
        self.generator = make_generator(config.seed, "learner", config.device)
        self.update = self.saved_update = self.skipped_updates = self.skipped_in_a_row = 0
        self.train_s = 0.0
        self.clock = time.process_time if torch.device(config.device).type == "cpu" else time.perf_counter

    @property
    def progress(self) -> float:
        """Share of the training that is done: of its updates, or of its minutes where they are fewer."""
        training = self.config.training
        elapsed = self.train_s / (60 * training.max_minutes) if training.max_minutes else 0.0
        return min(1.0, max(self.update / training.num_updates, elapsed))

    @property
    def count(self) -> int:
        """Tasks so far."""
        return self.update * self.config.training.meta_batch_size

    @property
    def is_finished(self) -> bool:
        """Whether all updates were made, or all minutes are over."""
        return self.progress >= 1

    def advance(self) -> dict[str, float]:
        """One update on fresh tasks; returns its metrics."""
        started = self.clock()
        training = self.config.training
        episode = self.source.sample(
            training.train_split, training.shape, training.meta_batch_size, self.task_generator, is_training=True
        )
        sampled_s = self.clock() - started
        progress = self.progress
        if isinstance(self.learner, FollowsProgress):
            self.learner.set_progress(progress)
        if isinstance(self.learner, UpdatesItself):
            metrics = self.learner.update(episode, self.generator)
        else:
            metrics = self._descend(episode, learning_rate(self.config, self.update, progress))
        self.update += 1
        self.train_s += self.clock() - started
        return {
            "tasks": self.count,
            **metrics,
            "progress": self.progress,
            "time_sample_s": sampled_s,
            "train_s": self.train_s,
        }

    def validate(self) -> dict[str, float]:
        """Accuracy (or squared error) on tasks of the split `validation`, the same ones every time."""
        shape = self._validation_shape()
        if shape is None:
            return {}
        tasks, noise = make_generator(0, "validation"), make_generator(0, "validation", self.config.device)
        values = []
        for _ in range(_VALIDATION_TASKS // _VALIDATION_BATCH):
            episode = self.source.sample("validation", shape, _VALIDATION_BATCH, tasks)
            if self.source.is_regression:
                predicted = self.learner.predict(episode, noise)  # type: ignore[attr-defined]
                values.append((predicted - episode.query_y).square().mean((1, 2)))
            else:
                values.append(accuracy(self.learner.log_probs(episode, noise), episode))
        name = "validation_mse" if self.source.is_regression else "validation_accuracy"
        return {name: float(torch.cat(values).mean())}

    def save(self, folder: RunFolder, logger: MetricsLogger, keep: int) -> None:
        """Write a checkpoint of the last update, once."""
        if self.update == self.saved_update:
            return
        logger.sync()
        optimizer, structure = flatten_state(self.optimizer.state_dict())
        rng = {"tasks": self.task_generator.get_state(), "learner": self.generator.get_state()}
        state: dict[str, Any] = {
            "learner": self.config.learner,
            "data": self.config.data,
            "x_shape": list(self.source.x_shape),
            "num_ways": self.num_ways,
            "optimizer": structure,
            "train_s": self.train_s,
            "skipped_updates": self.skipped_updates,
        }
        tensors = {"model": dict(self.learner.state_dict()), "optimizer": optimizer, "rng": rng}
        rotate_checkpoints(save_checkpoint(folder.checkpoints, self.update, tensors, state), keep)
        self.saved_update = self.update

    def restore(self, folder: RunFolder) -> None:
        """Go on where the newest whole checkpoint left off, or start if the run ended before its first one."""
        if not has_checkpoint(folder.checkpoints):
            return
        checkpoint = newest_checkpoint(folder.checkpoints)
        restore_weights(self.learner, checkpoint, self.config)
        try:
            self.optimizer.load_state_dict(
                unflatten_state(checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
            )
            self.task_generator.set_state(checkpoint.tensors["rng"]["tasks"])
            self.generator.set_state(checkpoint.tensors["rng"]["learner"])
            self.train_s = float(checkpoint.state["train_s"])
            self.skipped_updates = int(checkpoint.state["skipped_updates"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint {checkpoint.path} does not fit this run: {error}") from error
        self.update = self.saved_update = checkpoint.step

    def _descend(self, episode: Episode, lr: float) -> dict[str, float]:
        """One step of Adam; left out, and counted, where loss or gradient are not finite."""
        training = self.config.training
        loss, metrics = self.learner.loss(episode, self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        limit = training.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.skipped_updates += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
                raise ConfigError(
                    f"training diverged: loss or gradient were not finite in {self.skipped_in_a_row} updates in a row, "
                    f"up to update {self.update}. Take a smaller --lr or --inner-lr."
                )
        return {
            "loss": float(loss.detach()),
            **metrics,
            "grad_norm": float(norm),
            "lr": lr,
            "skipped_updates": self.skipped_updates,
        }

    def _validation_shape(self) -> EpisodeShape | None:
        """Tasks like those of the training, with no more classes than there are; None without a validation split."""
        if "validation" not in self.source.splits:
            return None
        shape = self.config.training.shape
        if self.source.is_regression:
            return shape
        available = self.source.num_classes("validation")
        can_vary = getattr(self.learner, "any_ways", False)
        if shape.ways > available and not can_vary:
            return None
        ways = min(shape.ways, 20, available) if can_vary else shape.ways
        return EpisodeShape(ways=ways, shots=shape.shots, queries=min(shape.queries, 5), pairing=shape.pairing)


def learning_rate(config: FewShotConfig, update: int, progress: float) -> float:
    """Adam's step size at an update."""
    training = config.training
    if training.lr_schedule == "cosine":
        return training.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if training.lr_schedule == "halving":
        return training.lr * 0.5 ** (update // training.lr_halving_updates)
    return training.lr


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next update, instead of giving it back page by page.

    Activations of an update are blocks of megabytes, which glibc maps anew for every tensor; the kernel then clears
    their pages, which took a quarter of the time of a convolutional network on the CPU. Without glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)
