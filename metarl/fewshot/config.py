"""What a few-shot run is made of; as `metarl.config`, to the command line, to config.json and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from metarl.config_json import config_from_json, config_to_json
from metarl.errors import ConfigError
from metarl.fewshot.data import options_type
from metarl.fewshot.learners import settings_type
from metarl.fewshot.sampler import EpisodeShape


@dataclass(frozen=True)
class FewShotTraining(EpisodeShape):
    """How a learner is meta-trained: on which tasks, how long, with which optimiser."""

    train_split: str = "train"
    """Part of the data set to train on."""
    meta_batch_size: int = 1
    """Tasks of an update."""
    num_updates: int = 10_000
    """Updates in all."""
    max_minutes: float = 0.0
    """End after so many minutes of training, if they come before the last update; 0: no such limit. On a CPU these are
    minutes of a busy core, not of the clock, so that waiting for a core does not count."""
    lr: float = 1e-3
    """Step size of Adam."""
    lr_schedule: Literal["constant", "cosine", "halving"] = "cosine"
    """How the step size goes on: as it is, to zero along half a cosine, or halved every `lr_halving_updates`."""
    lr_halving_updates: int = 2_000
    """Updates between two halvings."""
    weight_decay: float = 0.0
    """Decay of weights, apart from Adam's moments (AdamW)."""
    max_grad_norm: float = 10.0
    """Longest gradient; longer ones are shortened to it. 0: no such limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("meta_batch_size", "num_updates", "lr_halving_updates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("max_minutes", "lr", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be finite and not negative, got {getattr(self, name)}.")

    @property
    def shape(self) -> EpisodeShape:
        """What the tasks look like, alone."""
        return EpisodeShape(**{f.name: getattr(self, f.name) for f in fields(EpisodeShape)})


@dataclass(frozen=True)
class FewShotConfig:
    """A few-shot training run; with the package's version and the data it determines every number on the CPU.

    Attributes:
        learner: one of `metarl.fewshot.learners.LEARNERS`.
        data: one of `metarl.fewshot.data.DATA_SETS`.
        settings: the learner's own settings.
        training: tasks and optimiser.
        data_options: the data set's own options.
        seed: of everything random.
        device: "cpu" or "cuda".
        torch_threads: threads of one torch operation on the CPU; rounding may depend on it.
    """

    learner: str
    data: str
    settings: Any
    training: FewShotTraining
    data_options: Any
    seed: int = 0
    device: str = "cpu"
    torch_threads: int = field(default=1)

    def __post_init__(self) -> None:
        for kind, value in ((settings_type(self.learner), self.settings), (options_type(self.data), self.data_options)):
            if not isinstance(value, kind):
                raise ConfigError(f"expected {kind.__name__}, got {type(value).__name__}.")
        if self.torch_threads < 1:
            raise ConfigError(f"torch_threads must be positive, got {self.torch_threads}.")

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` turns back into an equal configuration."""
        return config_to_json(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> FewShotConfig:
        """Read a configuration back, strictly.

        Raises:
            ConfigError, UnknownNameError: an unknown, missing or ill-typed value; the message names it.
        """
        learner, data = values.get("learner"), values.get("data")
        if not isinstance(learner, str) or not isinstance(data, str):
            raise ConfigError(f"config.learner and config.data are {learner!r} and {data!r}, expected names.")
        decoded: dict[str, Any] = {
            "settings": config_from_json(settings_type(learner), values.get("settings"), "config.settings"),
            "data_options": config_from_json(options_type(data), values.get("data_options"), "config.data_options"),
        }
        return config_from_json(FewShotConfig, {**values, **decoded})
