"""The contract of a physics engine: many worlds of one MuJoCo model behind torch tensors."""

from __future__ import annotations

from typing import Protocol

import mujoco
import torch
from torch import Tensor


class Engine(Protocol):
    """N independent worlds of one model, float32 tensors by MuJoCo's own field names.

    Contract, held by both implementations and by one test file:

    1. After `step` and `forward` every tensor of `data` belongs to the same instant as `qpos`
       (acceleration-stage sensors are one substep old).
    2. A world that diverges (NaN, an engine error, an overflowing buffer) is flagged in `failed`,
       stays flagged until it is reset, and never changes another world.
    3. On the CPU the result is bit-identical at any number of threads.

    Attributes:
        num_worlds: N.
        device: where the tensors live.
        model: the compiled model that all worlds share.
        failed: (N,) bool.
    """

    num_worlds: int
    device: torch.device
    model: mujoco.MjModel
    failed: Tensor

    def data(self, name: str) -> Tensor:
        """A field of mjData, (N, ...) float32, refreshed in place by `step`, `forward` and `reset`.

        Matrices are flat: `xmat`, `geom_xmat` and `site_xmat` are (N, n, 9).

        Raises:
            EngineError: no such field in this engine.
        """
        ...

    def write(self, name: str, value: Tensor) -> None:
        """Write a state field (qpos qvel act ctrl mocap_pos mocap_quat qfrc_applied xfrc_applied) of all worlds.

        Derived fields follow at the next `forward` or `step`.
        """
        ...

    def default_model_field(self, name: str) -> Tensor:
        """The value of a model field that the model was compiled with, without world dimension, float32."""
        ...

    def set_model_field(self, name: str, value: Tensor) -> None:
        """Give every world its own value of a model field, (N, ...); `opt.<name>` for options.

        Raises:
            EngineError: the field was not named in `Physics.model_fields`.
        """
        ...

    def set_const(self) -> None:
        """Recompute the constants derived from model fields (after masses, inertias, sizes, positions)."""
        ...

    def reset(self, mask: Tensor | None = None) -> None:
        """Set worlds, all or those of `mask` (N,) bool, to the model's defaults and clear their `failed`.

        State fields are current afterwards, derived fields after the next `forward`.
        """
        ...

    def forward(self) -> None:
        """Compute positions, velocities and their sensors from the state, without advancing time."""
        ...

    def step(self) -> None:
        """Advance every world by one control step of `Physics.num_substeps` substeps."""
        ...
