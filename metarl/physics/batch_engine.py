"""The CPU engine: `mujoco.batch`, a thread pool over float64 worlds, behind float32 tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np
import torch
from mujoco import batch
from torch import Tensor

from metarl.errors import EngineError

if TYPE_CHECKING:
    from metarl.env import Physics

_STAGE_NONE = int(mujoco.mjtStage.mjSTAGE_NONE)
_STAGE_VEL = int(mujoco.mjtStage.mjSTAGE_VEL)
_BAD_STATE = [int(w) for w in (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL)]
_BAD_STATE += [int(mujoco.mjtWarning.mjWARN_BADQACC), int(mujoco.mjtWarning.mjWARN_BADCTRL)]


class BatchEngine:
    """`Engine` on the CPU; see the contract there."""

    def __init__(self, physics: Physics, num_worlds: int, num_threads: int = 0):
        self.num_worlds = num_worlds
        self.device = torch.device("cpu")
        self.model = physics.model
        self.failed = torch.zeros(num_worlds, dtype=torch.bool)
        self._num_substeps = physics.num_substeps
        # Persistent worlds make the kinematics after the last substep nearly free (stage=VEL in step).
        self._batch = batch.Batch(physics.model, num_worlds, num_threads, persistent=True)
        self._model_fields = {name: self._batch.expand(name) for name in physics.model_fields}
        self._data: dict[str, tuple[np.ndarray, Tensor]] = {}

    def data(self, name: str) -> Tensor:
        if name not in self._data:
            try:
                source = self._batch.bind(name)
            except (AttributeError, ValueError, KeyError) as error:
                raise EngineError(f"mujoco.batch has no data field {name!r}: {error}") from error
            self._data[name] = (source, torch.zeros(source.shape, dtype=torch.float32))
        return self._data[name][1]

    def write(self, name: str, value: Tensor) -> None:
        np.copyto(self._batch.bind(name), value.numpy(), casting="same_kind")

    def default_model_field(self, name: str) -> Tensor:
        owner, attribute = (self.model.opt, name[4:]) if name.startswith("opt.") else (self.model, name)
        return torch.as_tensor(np.array(getattr(owner, attribute)), dtype=torch.float32)

    def set_model_field(self, name: str, value: Tensor) -> None:
        if name not in self._model_fields:
            raise EngineError(f"model field {name!r} is not in Physics.model_fields {tuple(self._model_fields)}.")
        np.copyto(self._model_fields[name], value.numpy(), casting="same_kind")

    def set_const(self) -> None:
        self._batch.set_const()

    def reset(self, mask: Tensor | None = None) -> None:
        self._batch.reset(None if mask is None else mask.numpy(), stage=_STAGE_NONE)
        self.failed &= False if mask is None else ~mask
        self._refresh()

    def forward(self) -> None:
        self._batch.forward(stage=_STAGE_VEL)
        self._refresh()

    def step(self) -> None:
        warnings = self._batch.warning[:, _BAD_STATE, 1].sum(1)
        try:
            self._batch.step(nstep=self._num_substeps, stage=_STAGE_VEL)
        except batch.SimulationError as error:
            self.failed[torch.as_tensor(error.ids, dtype=torch.int64)] = True
        self.failed |= torch.from_numpy(self._batch.warning[:, _BAD_STATE, 1].sum(1) != warnings)
        self._refresh()

    def _refresh(self) -> None:
        for source, staging in self._data.values():
            np.copyto(staging.numpy(), source, casting="same_kind")
