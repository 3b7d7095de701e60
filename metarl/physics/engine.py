"""The contract of a physics engine: many worlds of one MuJoCo model behind torch tensors."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from typing import Protocol

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.errors import EngineError

STATE_FIELDS = ("qpos", "qvel", "act", "ctrl", "mocap_pos", "mocap_quat", "qfrc_applied", "xfrc_applied")
"""The fields that `Engine.write` takes."""

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """N independent worlds of one model, float32 tensors by MuJoCo's own field names.

    Contract, held by both implementations and by one test file:

    1. After `step` and `forward` every tensor of `data` belongs to the same instant as `qpos`. What comes of
       forces, acceleration sensors and `cfrc_ext`, is one substep old; `cfrc_ext` is zero after a reset, and
       always where the model has no accelerometer, force or torque sensor.
    2. A world whose simulation fails (a NaN or a number beyond 1e10 in its state, an engine error, a
       full contact or constraint buffer) is flagged in `failed` and stays flagged until it is reset.
       At the end of every `step` and `forward` it is put back to the model's defaults, so that its
       arrays are finite. It never changes another world.
    3. On the CPU the result is bit-identical at any number of threads.

    Attributes:
        num_worlds: N.
        device: where the tensors live.
        model: the compiled model that all worlds share.
        failed: (N,) bool, always the same tensor.
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

    def write(self, name: str, value: Tensor, mask: Tensor | None = None) -> None:
        """Write a state field, one of `STATE_FIELDS`, of all worlds or of those of `mask` (N,) bool.

        `value` is (N, ...) either way; the other worlds keep theirs to the last bit.
        Derived fields follow at the next `forward` or `step`.

        Raises:
            EngineError: not a state field, or a value of another shape.
        """
        ...

    def default_model_field(self, name: str) -> Tensor:
        """The value of a model field that the model was compiled with, without world dimension, float32.

        Raises:
            EngineError: no such field.
        """
        ...

    def set_model_field(self, name: str, value: Tensor, *, every_step: bool = False) -> None:
        """Give every world its own value of a model field, (N, ...); `opt.<name>` for options.

        `every_step`: written before each step. Values are not checked then and nothing is computed anew, so this is
            for fields that only forces depend on, such as limits and gains of actuators.

        Raises:
            EngineError: the field was not named in `Physics.model_fields`, or the value has another
                shape or a NaN.
        """
        ...

    def set_const(self) -> None:
        """Recompute the constants derived from model fields (after masses, inertias, sizes, positions)."""
        ...

    def reset(self, mask: Tensor | None = None) -> None:
        """Set worlds, all or those of `mask` (N,) bool, to the model's defaults and clear their `failed`.

        State fields are current afterwards, derived fields after the next `forward` or `step`.
        """
        ...

    def forward(self) -> None:
        """Compute positions, velocities and their sensors from the state, without advancing time."""
        ...

    def step(self) -> None:
        """Advance every world by one control step of `Physics.num_substeps` substeps."""
        ...


def model_default(model: mujoco.MjModel, name: str, device: torch.device) -> Tensor:
    """The compiled value of a model field or of an option `opt.<name>`, float32.

    Raises:
        EngineError: no such field.
    """
    owner, attribute = (model.opt, name[4:]) if name.startswith("opt.") else (model, name)
    value = getattr(owner, attribute, None)
    if not isinstance(value, (np.ndarray, float, int)):
        raise unknown_field("model field", name, (n for n in dir(owner) if not n.startswith("_")))
    return torch.as_tensor(np.array(value), dtype=torch.float32).to(device)


def unknown_field(kind: str, name: str, available: Iterable[str]) -> EngineError:
    """The error for a field name that an engine does not take; lists what is close, or everything if short."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    listed = f" Available: {', '.join(names) or 'none'}." if len(names) <= 12 else ""
    return EngineError(f"unknown {kind} {name!r}.{hint}{listed}")


def check_value(what: str, value: Tensor, shape: Iterable[int]) -> None:
    """Raise an EngineError unless the value has the shape: a silent broadcast would hide a mistake."""
    if tuple(value.shape) != tuple(shape):
        raise EngineError(f"{what} must have shape {tuple(shape)}, got {tuple(value.shape)}.")


def check_model_value(name: str, value: Tensor, shape: Iterable[int]) -> None:
    """Raise an EngineError unless a per-world model field has the shape and no NaN."""
    check_value(f"model field {name!r}", value, shape)
    bad = torch.isnan(value).reshape(len(value), -1).any(1)
    if bool(bad.any()):
        raise EngineError(f"model field {name!r} is NaN in worlds {bad.nonzero().flatten().tolist()[:8]}.")


def route_mujoco_warnings() -> None:
    """Send MuJoCo's warnings to the logger of this module, unless somebody already handles them.

    MuJoCo's own handler appends them to MUJOCO_LOG.TXT in the current folder.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda message: _log.warning("MuJoCo: %s", message))
