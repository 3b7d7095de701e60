"""The GPU engine: `mujoco_warp` behind torch tensors that share its memory.

Each operation of the engine is captured once as a graph and replayed. On CUDA the replay is ordered on
torch's current stream, and where torch is itself capturing, the kernels are recorded into torch's graph
instead. The CPU device of warp runs the same graphs, slowly; it is there for tests.

Determinism: on the CPU device results repeat bit for bit. On CUDA they do so with `deterministic=True`
only, as far as `mujoco_warp` keeps it (`Option.deterministic`: contact order, constraint order, atomics).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from torch import Tensor

from metarl.errors import EngineError
from metarl.physics.engine import STATE_FIELDS, check_model_value, check_value, model_default, unknown_field
from metarl.physics.fields import DERIVED_FIELDS, check_fixtures, check_model_fields
from metarl.physics.warp_kernels import (
    clear_contact_forces,
    correct_body_invweight0,
    flag_failed,
    flag_overflow,
    restore_sensors,
)

if TYPE_CHECKING:
    from metarl.spec import Physics

_FORCE_FIELDS = ("ctrl", "act", "qfrc_applied", "xfrc_applied")
_SWITCHES = {
    # put_model decides from the compiled values whether these forces are computed at all.
    "has_fluid": ("opt.wind", "opt.density", "opt.viscosity"),
    "has_tendon_stiffness": ("tendon_stiffness", "tendon_stiffnesspoly"),
    "has_tendon_damping": ("tendon_damping", "tendon_dampingpoly", "actuator_damping", "actuator_dampingpoly"),
}

_log = logging.getLogger(__name__)


class WarpEngine:
    """`Engine` on CUDA, or on warp's CPU device; see the contract there.

    Args:
        physics: what the environment needs; `max_contacts` are pooled over all worlds, and worlds that
            lose a contact because the pool is full are flagged in `failed`.
        num_worlds: N.
        device: "cuda[:i]" or "cpu".
        deterministic: ask mujoco_warp for results that repeat bit for bit on CUDA too (slower).

    Raises:
        EngineError: mujoco_warp cannot run the model, or a field of `Physics.model_fields` cannot differ
            between worlds.
    """

    def __init__(self, physics: Physics, num_worlds: int, device: torch.device, deterministic: bool = False):
        check_model_fields(physics.model_fields)
        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        wp.init()
        self.num_worlds = num_worlds
        self.device = device
        if device.type == "cuda" and device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.model = physics.model
        self._template = mujoco.MjData(physics.model)
        self._num_substeps = physics.num_substeps
        self._wp_device = wp.device_from_torch(self.device)
        self._stale = False
        with wp.ScopedDevice(self._wp_device):
            self._model = _put_model(physics, num_worlds)
            self._model.opt.warn_overflow = False  # `failed` tells
            self._model.opt.deterministic = deterministic
            self._sim = mjw.make_data(
                physics.model, nworld=num_worlds, nconmax=physics.max_contacts, njmax=physics.max_constraints
            )
            self._body_simple: wp.array = wp.array(physics.model.body_simple, dtype=int)
            self._compiled_body_invweight0: wp.array = wp.array(physics.model.body_invweight0, dtype=wp.vec2)
            self._failed = wp.zeros(num_worlds, dtype=bool)
            self._reset_mask = wp.zeros(num_worlds, dtype=bool)
            is_acceleration_sensor = _acceleration_sensors(physics.model)
            self._has_acceleration_sensors = bool(is_acceleration_sensor.any())
            self._is_acceleration_sensor: wp.array = wp.array(is_acceleration_sensor, dtype=bool)
            self._sensordata = wp.zeros_like(self._sim.sensordata)
        self.failed = wp.to_torch(self._failed)
        self._model_fields = {name: self._model_view(name) for name in physics.model_fields}
        self._state = {name: self._view(name) for name in STATE_FIELDS}
        self._mask = wp.to_torch(self._reset_mask)
        self._graphs: dict[str, Any] = {}
        self._bodies = {
            "step": self._record_step,
            "forward": self._record_forward,
            "reset": lambda: self._record_reset(self._reset_mask),
            "set_const": self._record_set_const,
        }
        _log.info("mujoco_warp: building kernels for %s; the first time this takes minutes", self._wp_device)
        for name in ("step", "forward", "reset"):
            self._capture(name)
        self.reset()
        self.forward()

    def data(self, name: str) -> Tensor:
        return self._view(name)

    def write(self, name: str, value: Tensor, mask: Tensor | None = None) -> None:
        if name not in self._state:
            raise unknown_field("state field", name, self._state)
        check_value(f"state field {name!r}", value, self._state[name].shape)
        target = self._state[name]
        target.copy_(value if mask is None else torch.where(mask.view(-1, *[1] * (value.dim() - 1)), value, target))
        self._stale |= name not in _FORCE_FIELDS

    def default_model_field(self, name: str) -> Tensor:
        return model_default(self.model, name, self.device)

    def set_model_field(self, name: str, value: Tensor, *, every_step: bool = False) -> None:
        if name not in self._model_fields:
            raise unknown_field("name in Physics.model_fields", name, self._model_fields)
        if every_step:
            check_value(f"model field {name!r}", value, self._model_fields[name].shape)
        else:
            check_model_value(name, value, self._model_fields[name].shape)
            check_fixtures(self.model, name, value, self.default_model_field(name))
            self._stale = True
        self._model_fields[name].copy_(value)

    def set_const(self) -> None:
        if "set_const" not in self._graphs:
            self._capture("set_const")
        self._launch("set_const")
        self._stale = True

    def reset(self, mask: Tensor | None = None) -> None:
        if mask is None:
            self._mask.fill_(True)
            self.failed.zero_()
        else:
            check_value("reset mask", mask, (self.num_worlds,))
            self._mask.copy_(mask)
            self.failed &= ~mask
        self._launch("reset")
        self._stale = True

    def forward(self) -> None:
        self._launch("forward")
        self._stale = False

    def step(self) -> None:
        if self._stale:  # the step begins with the forces, from positions that are computed already
            self.forward()
        self._launch("step")

    def _record_step(self) -> None:
        """Launch the kernels of one control step: substeps of forces and motion, each with what follows from it.

        `step2; step1` is `step` begun in the middle: all arrays are of the same instant at the end.
        """
        for substep in range(self._num_substeps):
            mjw.step2(self._model, self._sim)
            self._flag()
            if substep == self._num_substeps - 1:
                self._park_and_refresh()
            else:
                mjw.step1(self._model, self._sim)

    def _record_forward(self) -> None:
        self._flag()
        self._park_and_refresh()

    def _record_reset(self, mask: wp.array) -> None:
        mjw.reset_data(self._model, self._sim, mask)
        if self._model.sensor_rne_postconstraint:
            wp.launch(clear_contact_forces, dim=self._sim.cfrc_ext.shape, inputs=[mask], outputs=[self._sim.cfrc_ext])

    def _record_set_const(self) -> None:
        mjw.set_const(self._model, self._sim)
        if self._model.body_invweight0.shape[0] == self.num_worlds:
            wp.launch(
                correct_body_invweight0,
                dim=(self.num_worlds, self.model.nbody),
                inputs=[self._body_simple, self._compiled_body_invweight0, self._model.body_mass],
                outputs=[self._model.body_invweight0],
            )

    def _park_and_refresh(self) -> None:
        """Put failed worlds to the defaults and compute what follows from the state."""
        self._record_reset(self._failed)
        if self._has_acceleration_sensors:
            wp.copy(self._sensordata, self._sim.sensordata)
        mjw.step1(self._model, self._sim)  # zeroes all sensors, computes those of position and velocity
        if self._has_acceleration_sensors:
            wp.launch(
                restore_sensors,
                dim=self._sim.sensordata.shape,
                inputs=[self._is_acceleration_sensor, self._sensordata],
                outputs=[self._sim.sensordata],
            )
        wp.launch(flag_overflow, dim=self.num_worlds, inputs=[self._sim.overflow], outputs=[self._failed])

    def _flag(self) -> None:
        sim = self._sim
        inputs = [sim.qpos, sim.qvel, sim.qacc, sim.act, sim.ctrl, sim.mocap_pos, sim.mocap_quat, sim.overflow]
        wp.launch(flag_failed, dim=self.num_worlds, inputs=inputs, outputs=[self._failed])

    def _capture(self, name: str) -> None:
        body = self._bodies[name]
        with wp.ScopedDevice(self._wp_device):
            wp.synchronize_device()
            body()  # compiles the kernels, which a capture cannot
            wp.synchronize_device()
            with wp.ScopedCapture() as capture:
                body()
            wp.synchronize_device()
        self._graphs[name] = capture.graph

    def _launch(self, name: str) -> None:
        if self.device.type == "cpu":
            wp.capture_launch(self._graphs[name])
            return
        # On torch's own stream, so that torch's writes before and its reads after need no synchronisation.
        stream = wp.stream_from_torch(torch.cuda.current_stream(self.device))
        if torch.cuda.is_current_stream_capturing():
            _record_into(stream, self._bodies[name])
        else:
            wp.capture_launch(self._graphs[name], stream=stream)

    def _view(self, name: str) -> Tensor:
        """A field of the simulation as a tensor on the same memory, in MuJoCo's own shape."""
        array = getattr(self._sim, name, None)
        expected = getattr(self._template, name, None)
        if not isinstance(array, wp.array) or not isinstance(expected, np.ndarray | float):
            fields = (n for n in dir(self._template) if isinstance(getattr(self._sim, n, None), wp.array))
            raise unknown_field("data field", name, fields)
        shape = (self.num_worlds, *np.shape(expected))
        view = wp.to_torch(array)
        if view.dtype != torch.float32 or view.numel() != int(np.prod(shape)):
            raise EngineError(f"data field {name!r} has another layout in mujoco_warp and cannot be used.")
        return view.view(shape)

    def _model_view(self, name: str) -> Tensor:
        array = getattr(self._model.opt, name[4:]) if name.startswith("opt.") else getattr(self._model, name)
        return wp.to_torch(array).view(self.num_worlds, *self.default_model_field(name).shape)


def _put_model(physics: Physics, num_worlds: int) -> mjw.Model:
    """The model on the device, with a value per world for each of `model_fields` and what derives from them."""
    model = physics.model
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        raise EngineError("mujoco_warp cannot run this model: integrator RK4; use implicitfast or Euler.")
    fields = {name for name in physics.model_fields if not name.startswith("opt.")}
    derived = {name for name in DERIVED_FIELDS if getattr(model, name).size} if fields else set()
    try:
        put = mjw.put_model(model, batch_sizes=dict.fromkeys(fields | derived, num_worlds))
    except (NotImplementedError, ValueError) as error:
        raise EngineError(f"mujoco_warp cannot run this model: {error}") from error
    for name in physics.model_fields:
        if name.startswith("opt."):
            shared = getattr(put.opt, name[4:])
            value = np.broadcast_to(shared.numpy(), (num_worlds, *shared.numpy().shape[1:]))
            setattr(put.opt, name[4:], wp.array(value, dtype=shared.dtype))
    for switch, names in _SWITCHES.items():
        if not set(names).isdisjoint(physics.model_fields):
            setattr(put, switch, switch == "has_fluid" or model.ntendon > 0)
    return put


def _acceleration_sensors(model: mujoco.MjModel) -> np.ndarray:
    """Which numbers of sensordata belong to sensors of the acceleration stage, (nsensordata,) bool."""
    is_acceleration = model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC
    return np.repeat(is_acceleration, model.sensor_dim)


def _record_into(stream: wp.Stream, body: Callable[[], None]) -> None:
    """Record kernels into the graph that torch is capturing on this stream."""
    with wp.ScopedStream(stream, sync_enter=False, sync_exit=False):
        wp.capture_begin(stream=stream, external=True, capture_mode=wp.CaptureMode.GLOBAL)  # torch's default mode
        try:
            body()
        finally:
            wp.capture_end(stream=stream)
