"""The CPU engine: `mujoco.batch`, a thread pool over float64 worlds, behind float32 tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import mujoco
import numpy as np
import torch
from mujoco import batch
from torch import Tensor

from metarl.errors import EngineError
from metarl.physics.engine import (
    STATE_FIELDS,
    check_model_value,
    check_value,
    model_default,
    route_mujoco_warnings,
    unknown_field,
)
from metarl.physics.fields import check_fixtures, check_model_fields

if TYPE_CHECKING:
    from metarl.spec import Physics

# What follows from the state alone. Any other field is either old or, where threads share their mjData between
# worlds, that of another world.
_POSITION_FIELDS = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat", "site_xpos"),
    *("site_xmat", "cam_xpos", "cam_xmat", "subtree_com", "cdof", "cinert", "ten_length", "actuator_length"),
)
_VELOCITY_FIELDS = ("cvel", "cdof_dot", "ten_velocity", "actuator_velocity")
_OTHER_STATE_FIELDS = ("time", "history", "qacc_warmstart", "eq_active", "userdata")

_STAGE_NONE = int(mujoco.mjtStage.mjSTAGE_NONE)
_STAGE_POS = int(mujoco.mjtStage.mjSTAGE_POS)
_STAGE_VEL = int(mujoco.mjtStage.mjSTAGE_VEL)
_STAGE_ACC = int(mujoco.mjtStage.mjSTAGE_ACC)

_log = logging.getLogger(__name__)


class BatchEngine:
    """`Engine` on the CPU; see the contract there.

    MuJoCo resets a world whose state goes bad without a word and counts a warning; those counters, its
    errors and the finiteness of the state rows together make `failed`.

    Args:
        physics: what the environment needs.
        num_worlds: N.
        num_threads: threads of the pool, 0 for all cores; results do not depend on it.

    Raises:
        EngineError: one of `Physics.model_fields` does not exist or cannot differ between worlds.
    """

    def __init__(self, physics: Physics, num_worlds: int, num_threads: int = 0):
        check_model_fields(physics.model_fields)
        route_mujoco_warnings()
        self.num_worlds = num_worlds
        self.device = torch.device("cpu")
        self.model = physics.model
        self.failed = torch.zeros(num_worlds, dtype=torch.bool)
        self._num_substeps = physics.num_substeps
        # One mjData per thread instead of one per world is quicker and smaller, where nothing read needs more.
        self._is_persistent = any(self._stage_of(name) == _STAGE_ACC for name in physics.data_fields)
        self._stage = _STAGE_NONE  # what is computed after a step, as much as the fields asked for need
        self._batch = batch.Batch(physics.model, num_worlds, num_threads, persistent=self._is_persistent)
        self._model_fields = {name: self._batch.expand(name) for name in physics.model_fields}
        self._state = {name: self._batch.bind(name) for name in STATE_FIELDS}
        self._data: dict[str, tuple[np.ndarray, Tensor]] = {}
        self._rows = self._batch.state  # live, (N, numbers of a state)
        self._warnings = self._batch.warning[:, :, 1]  # live, (N, kinds of warning)
        self._warnings_before = self._warnings.copy()
        self._has_failures = False
        self.reset()
        self.forward()

    def data(self, name: str) -> Tensor:
        if name not in self._data:
            stage = self._stage_of(name)
            if stage == _STAGE_ACC and not self._is_persistent and name in batch.DATA_FIELDS:
                raise EngineError(f"data field {name!r} must be named in Physics.data_fields to be available.")
            try:
                source = self._batch.bind(name)
            except ValueError as error:
                raise _no_data_field(name, error) from error
            self._data[name] = (source, torch.zeros(source.shape, dtype=torch.float32))
            if source.flags.writeable:  # a state field
                self._refresh()
            else:
                self._stage = max(self._stage, min(stage, _STAGE_VEL))
                self.forward()  # an output is zero until the next call after it was bound
        return self._data[name][1]

    def write(self, name: str, value: Tensor, mask: Tensor | None = None) -> None:
        if name not in self._state:
            raise unknown_field("state field", name, self._state)
        source = self._state[name]
        check_value(f"state field {name!r}", value, source.shape)
        where = True if mask is None else mask.view(-1, *[1] * (value.dim() - 1)).numpy()
        np.copyto(source, value.detach().numpy(), casting="same_kind", where=where)
        if name in self._data:
            np.copyto(self._data[name][1].numpy(), value.detach().numpy(), where=where)

    def default_model_field(self, name: str) -> Tensor:
        return model_default(self.model, name, self.device)

    def set_model_field(self, name: str, value: Tensor, *, every_step: bool = False) -> None:
        if name not in self._model_fields:
            raise unknown_field("name in Physics.model_fields", name, self._model_fields)
        target = self._model_fields[name]
        if every_step:
            check_value(f"model field {name!r}", value, target.shape)
        else:
            check_model_value(name, value, target.shape)
            check_fixtures(self.model, name, value, self.default_model_field(name))
        np.copyto(target, value.detach().numpy(), casting="same_kind")

    def set_const(self) -> None:
        try:
            self._batch.set_const()
        except batch.SimulationError as error:
            raise EngineError(f"the model fields of worlds {error.ids[:8].tolist()} are impossible: {error}") from error

    def reset(self, mask: Tensor | None = None) -> None:
        if mask is None:
            self._batch.reset(stage=_STAGE_NONE)
            self.failed.zero_()
        else:
            check_value("reset mask", mask, (self.num_worlds,))
            self._batch.reset(mask.numpy(), stage=_STAGE_NONE)
            self.failed &= ~mask
        self._has_failures = bool(self.failed.any())
        np.copyto(self._warnings_before, self._warnings)
        self._refresh()

    def forward(self) -> None:
        self._guarded(lambda: self._batch.forward(stage=_STAGE_VEL))

    def step(self) -> None:
        self._guarded(lambda: self._batch.step(nstep=self._num_substeps, stage=self._stage))

    def _stage_of(self, name: str) -> int:
        """The stage of the computation that gives a field; those of the last, ACC, need the forces of a step."""
        if name == "sensordata":
            return int(self.model.sensor_needstage.max(initial=_STAGE_NONE))
        if name in STATE_FIELDS or name in _OTHER_STATE_FIELDS:
            return _STAGE_NONE
        if name in _POSITION_FIELDS:
            return _STAGE_POS
        return _STAGE_VEL if name in _VELOCITY_FIELDS else _STAGE_ACC

    def _guarded(self, call: Callable[[], None]) -> None:
        """Run a call of the batch, flag the worlds that it broke, park all failed worlds at the defaults."""
        try:
            call()
        except batch.SimulationError as error:
            _log.warning("MuJoCo: %s", error)
            self.failed[torch.as_tensor(error.ids, dtype=torch.int64)] = True
            self._has_failures = True
        if self._has_failures or not self._is_quiet():
            self._flag()
            self._park()
            np.copyto(self._warnings_before, self._warnings)
        self._refresh()

    def _is_quiet(self) -> bool:
        """Whether the last call broke no world: a few reductions, no work per world. False for NaN too."""
        in_range = self._rows.max() <= mujoco.mjMAXVAL and self._rows.min() >= -mujoco.mjMAXVAL
        return bool(in_range) and not (self._warnings != self._warnings_before).any()

    def _flag(self) -> None:
        is_sound = (np.abs(self._rows) <= mujoco.mjMAXVAL).all(1)  # False for NaN too
        broken = (self._warnings != self._warnings_before).any(1) | ~is_sound
        self.failed |= torch.from_numpy(broken)
        self._has_failures = bool(self.failed.any())

    def _park(self) -> None:
        try:
            self._batch.reset(self.failed.numpy(), stage=_STAGE_VEL)
        except batch.SimulationError as error:
            _log.warning("MuJoCo: %s", error)
            self._batch.reset(error.ids, stage=_STAGE_NONE)  # a model that cannot even stand still

    def _refresh(self) -> None:
        for source, staging in self._data.values():
            np.copyto(staging.numpy(), source, casting="same_kind")


def _no_data_field(name: str, error: ValueError) -> EngineError:
    """Say why MuJoCo refused a field: it belongs to the model, its size changes, or there is none such."""
    if hasattr(mujoco.MjModel, name):
        return EngineError(f"{name!r} is a field of the model, not of the data.")
    if hasattr(mujoco.MjData, name):
        return EngineError(f"data field {name!r} cannot be used: {error}.")
    return unknown_field("data field", name, batch.DATA_FIELDS)
