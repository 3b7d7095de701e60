"""The loop of every training: update, validate, log and save, until it is finished or told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from metarl.errors import ConfigError
from metarl.log import MetricsLogger
from metarl.run_folder import RunFolder, StopSignals


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        folder: the run folder.
        finished: all steps were made; False after a stop signal.
        exit_code: 0, 130 or 143.
        env_steps: environment steps of the whole run; tasks where a few-shot learner is trained.
    """

    folder: Path
    finished: bool
    exit_code: int
    env_steps: int


@dataclass(frozen=True)
class LoopOptions:
    """When a training is validated and saved.

    Attributes:
        checkpoint_interval_s: seconds between checkpoints; a kill loses at most this.
        keep_checkpoints: older ones are deleted.
        validate_every: updates between evaluations on the validation split, 0 for none.

    Raises:
        ConfigError: a number is out of its range.
    """

    checkpoint_interval_s: float
    keep_checkpoints: int
    validate_every: int

    def __post_init__(self) -> None:
        if not (self.checkpoint_interval_s >= 0 and self.keep_checkpoints >= 1 and self.validate_every >= 0):
            raise ConfigError(
                "checkpoint_interval_s must be at least 0, keep_checkpoints at least 1 and validate_every at least 0, "
                f"got {self.checkpoint_interval_s}, {self.keep_checkpoints} and {self.validate_every}."
            )


class Training(Protocol):
    """What changes while training.

    Attributes:
        update: updates so far.
    """

    update: int

    @property
    def count(self) -> int:
        """Environment steps or tasks so far."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether all of the training is done."""
        ...

    def validate(self) -> dict[str, float]:
        """Metrics on the validation split."""
        ...

    def save(self, folder: RunFolder, logger: MetricsLogger, keep: int) -> None:
        """Write a checkpoint of the last update, once."""
        ...


def run_loop(
    training: Training,
    advance: Callable[[], dict[str, float]],
    folder: RunFolder,
    logger: MetricsLogger,
    options: LoopOptions,
) -> Outcome:
    """Train until the end, or until a signal asks to stop; the last update is saved either way.

    Args:
        training: its state.
        advance: makes one update; returns its metrics.
        folder: of the run.
        logger: is closed at the end.
        options: see `LoopOptions`.
    """
    last_save = time.monotonic()
    with StopSignals() as stop, logger:
        while not training.is_finished and not stop.requested:
            metrics = advance()
            if options.validate_every and training.update % options.validate_every == 0:
                metrics |= training.validate()
            logger.log(training.update, metrics)
            if time.monotonic() - last_save >= options.checkpoint_interval_s:
                training.save(folder, logger, options.keep_checkpoints)
                last_save = time.monotonic()
        training.save(folder, logger, options.keep_checkpoints)
        return Outcome(folder.path, training.is_finished, stop.exit_code, training.count)


def refuse_changes(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """A run goes on as it began.

    Args:
        saved: the configuration of the run as JSON.
        asked: the one that it is to go on with.

    Raises:
        ConfigError: they differ; the message names the first setting that does.
    """
    old, new = _flat(saved), _flat(asked)
    for name in old:
        if old[name] != new.get(name):
            raise ConfigError(
                f"--resume goes on with the run's own settings: {name} is {old[name]!r} there, got {new.get(name)!r}. "
                "Leave the option out, or start a new run with another --out."
            )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all groups by their own name, before what belongs to no group."""
    groups = ("settings", "training", "data_options")
    nested = {name: value for group in groups for name, value in values.get(group, {}).items()}
    return {**nested, **{name: value for name, value in values.items() if name not in groups}}
