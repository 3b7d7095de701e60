"""Worlds of any specification: batched functions on an engine (`EnvSpec`), or processes (`ProcessSpec`).

Training, evaluation, recording and the adapters make their worlds with `make_worlds` and use what `Worlds` names, so
that they need not know which of the two they have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import SpecError
from metarl.tasks import TaskDistribution
from metarl.types import ActionSpace, Continuous, Discrete, Step


@dataclass(frozen=True)
class ProcessBody:
    """How to draw environments of worker processes: they have MuJoCo's `model` and `data`, as gymnasium's own have.

    Attributes:
        control_dt_s: seconds per control step.
        camera: the camera of the models that videos use.
    """

    control_dt_s: float
    camera: str


@dataclass(frozen=True)
class ProcessSpec:
    """A task distribution whose worlds are gymnasium environments, run by worker processes on the CPU.

    Attributes:
        name: as users type it.
        tasks: parameters with their distributions and splits.
        obs_dim: O, numbers of a flattened observation.
        action_space: `Continuous` for a Box (scaled from [-1, 1] to its bounds), `Discrete`.
        horizon: H, control steps of an episode, at most the environment's own time limit.
        factory: task parameters by name -> an environment of that task; sent to every worker, so it should import
            what is heavy when it is called. A world whose task changes closes its environment and gets another one.
        expert: name of a method of the environment that returns what a scripted policy does now, as its native action;
            empty: there is none.
        body: how to draw the environments; None: they have nothing to show.
        describe: a task, (P,) -> what it is called in a video; None: its numbers.
        start_method, timeout_s: see `metarl.process_env.GymTaskDistribution`.
        samples_actions, description: as in `EnvSpec`.
    """

    name: str
    tasks: TaskDistribution
    obs_dim: int
    action_space: ActionSpace
    horizon: int
    factory: Callable[..., Any]
    expert: str = ""
    body: ProcessBody | None = None
    describe: Callable[[Tensor], str] | None = None
    start_method: str = "spawn"
    timeout_s: float = 60.0
    samples_actions: bool = False
    description: str = ""

    # What an `EnvSpec` may have and processes have not.
    physics: ClassVar[None] = None
    drawing: ClassVar[None] = None
    derive: ClassVar[None] = None
    signals: ClassVar[None] = None
    metrics: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.action_space, (Continuous, Discrete)) or self.action_space.input_dim < 1:
            raise SpecError(f"{self.name}: action_space must be Continuous or Discrete, got {self.action_space!r}.")
        if self.horizon < 1 or self.obs_dim < 1:
            raise SpecError(f"{self.name}: horizon and obs_dim must be positive, got {self.horizon}, {self.obs_dim}.")


Spec: TypeAlias = EnvSpec | ProcessSpec
"""All that `make_worlds` makes worlds of."""


class Worlds(Protocol):
    """N worlds, one task each, all episodes in step; see `BatchedEnv` for what each method does."""

    num_worlds: int
    num_tasks: int
    device: torch.device
    generator: torch.Generator
    has_success: bool

    @property
    def spec(self) -> Spec: ...

    @property
    def task(self) -> Tensor: ...

    def set_tasks(self, parameters: Tensor) -> None: ...

    def reset(self) -> Tensor: ...

    def reset_worlds(self, mask: Tensor, parameters: Tensor | None = None) -> Tensor: ...

    def step(self, action: Tensor) -> Step: ...

    def signals(self) -> tuple[Tensor, Tensor | None]: ...

    def metrics(self) -> Tensor: ...

    def expert_action(self) -> Tensor: ...

    def pose(self) -> dict[str, Tensor]: ...


def make_worlds(
    spec: Spec, num_worlds: int, *, device: str | torch.device = "cpu", num_threads: int = 0, seed: int = 0
) -> Worlds:
    """Make N worlds of a specification.

    Args:
        spec: the environment.
        num_worlds: N.
        device: where the tensors are, and the physics of an `EnvSpec`; processes stay on the CPU.
        num_threads: threads of the CPU engine, or worker processes; 0 for all cores.
        seed: seed of the noise of resets and steps.

    Raises:
        SpecError, WorkerError: an environment that does not keep its contract, or cannot be made.
        DeviceError, EngineError: the machine or the model cannot run it.
    """
    if isinstance(spec, EnvSpec):
        return BatchedEnv(spec, num_worlds, device=device, num_threads=num_threads, seed=seed)
    from metarl.process_env import GymTaskDistribution

    return GymTaskDistribution.of(spec, num_worlds, num_workers=num_threads, device=device, seed=seed)
