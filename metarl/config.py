"""What a run is made of: frozen dataclasses that travel to the command line, to config.json and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metarl.config_json import config_from_json, config_to_json
from metarl.errors import ConfigError
from metarl.learners import settings_type
from metarl.losses.formula import self_contained


@dataclass(frozen=True)
class RunConfig:
    """A training run; with the package's version it determines every number on the CPU.

    Attributes:
        algorithm: one of `metarl.learners.ALGORITHMS`.
        env: name of the environment.
        settings: the algorithm's own settings.
        env_options: keyword arguments of the environment's factory.
        seed: of everything random.
        device: "cpu" or "cuda".
        num_train_tasks: train on the first so many tasks of the split `train` alone; 0: on all, or fresh ones.
        torch_threads: threads of one torch operation on the CPU; beside the physics pool one is usually the fastest.
            Rounding may depend on it.
        physics_threads: threads of the CPU physics engine, 0 for all cores.
        compile_env: train in worlds whose functions are compiled (`metarl.compiled`); rounding depends on it.
    """

    algorithm: str
    env: str
    settings: Any
    env_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    num_train_tasks: int = 0
    torch_threads: int = 1
    physics_threads: int = 0
    compile_env: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.settings, settings_type(self.algorithm)):
            expected = settings_type(self.algorithm).__name__
            raise ConfigError(f"{self.algorithm} takes {expected}, got {type(self.settings).__name__}.")
        if self.num_train_tasks < 0:
            raise ConfigError(f"num_train_tasks must be at least 0, got {self.num_train_tasks}.")
        if self.torch_threads < 1 or self.physics_threads < 0:
            raise ConfigError(
                f"torch_threads must be at least 1 and physics_threads at least 0, "
                f"got {self.torch_threads} and {self.physics_threads}."
            )

    def self_contained(self) -> RunConfig:
        """The same configuration with the content of the formula files that its settings name, so that it needs none.

        Raises:
            ConfigError: a file that is missing, or no formula.
        """
        named = {name: value for name, value in vars(self.settings).items() if isinstance(value, str)}
        contained = {name: self_contained(value) for name, value in named.items()}
        return replace(self, settings=replace(self.settings, **contained))

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` turns back into an equal configuration."""
        return config_to_json(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> RunConfig:
        """Read a configuration back, strictly.

        Raises:
            ConfigError, UnknownNameError: an unknown, missing or ill-typed value; the message names it.
        """
        algorithm = values.get("algorithm")
        if not isinstance(algorithm, str):
            raise ConfigError(f"config.algorithm is {algorithm!r}, expected str.")
        settings: Any = config_from_json(settings_type(algorithm), values.get("settings"), "config.settings")
        return config_from_json(RunConfig, {**values, "settings": settings})
