"""Run every function of an `EnvSpec` once, so that a wrong one fails at construction and is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metarl.errors import MetarlError, SpecError, UnknownNameError
from metarl.physics.engine import STATE_FIELDS, Engine
from metarl.types import Arrays, Discrete

if TYPE_CHECKING:
    from metarl.spec import EnvSpec, Noise


def probe_spec(
    spec: EnvSpec,
    parameters: Tensor,
    engine: Engine | None,
    data: Arrays,
    draw: Callable[[tuple[int, int]], Noise],
) -> bool:
    """Reset and step the worlds once, and check what each function of the specification returns.

    Leaves the engine in some state after one step: set tasks and reset afterwards.

    Args:
        spec: the specification.
        parameters: (N, P) float32 task parameters, on the device of the worlds.
        engine: the engine that runs `spec.physics`, None without physics.
        data: the fields of mjData that the functions read.
        draw: (number of uniform, number of normal numbers) -> Noise of all worlds.

    Returns:
        Whether the environment has a success criterion.

    Raises:
        SpecError: a function fails, or returns a wrong name, type, shape, dtype, device or NaN, or a view
            of `data`. The message says which, what was got and what was expected.
    """
    probe = _Probe(spec.name, data, parameters.shape[0], parameters.device)
    check_tensor(f"{spec.name}: tasks", parameters, (probe.num_worlds, spec.tasks.dim), torch.float32)
    task = spec.tasks.unpack(parameters)
    if spec.derive is not None:
        tables = probe.call("derive", spec.derive, task)
        probe.named_tensors("derive", tables)
        task = task | tables
    if engine is not None:
        _configure(probe, spec, engine, task)

    start = probe.call("reset", spec.reset, task, draw(spec.reset_noise))
    _check_record("reset", probe, start, "Start", ("state", "writes"))
    probe.named_tensors("reset, state", start.state)
    probe.no_views("reset, state", start.state)
    if engine is not None:
        engine.reset()
    _write("reset, writes", probe, engine, start.writes)
    if engine is not None:
        engine.forward()
    _observe(probe, spec, task, data, start.state)

    action = _zero_action(spec, probe)
    if spec.control is not None and engine is not None:
        writes = probe.call("control", spec.control, task, data, start.state, action)
        _write("control", probe, engine, writes, () if spec.physics is None else spec.physics.model_fields)
        engine.step()
        if bool(engine.failed.all()):
            raise SpecError(f"{spec.name}: the simulation of every world fails in the first step, with zero action.")
    outcome = probe.call("step", spec.step, task, data, start.state, action, draw(spec.step_noise))
    _check_outcome(probe, start.state, outcome)
    _observe(probe, spec, task, data, outcome.state)
    if spec.metrics is not None:
        values = probe.call("metrics.compute", spec.metrics.compute, task, data, outcome.state)
        shape = (probe.num_worlds, len(spec.metrics.names))
        check_tensor(f"{spec.name}: metrics", values, shape, torch.float32, may_be_nan=True)
    if spec.expert is not None:
        obs = spec.observe(task, data, outcome.state)
        expert = probe.call("expert", spec.expert, task, obs)
        check_tensor(f"{spec.name}: expert", expert, tuple(action.shape), action.dtype)
    return outcome.success is not None


def check_tensor(
    what: str, value: object, shape: tuple[int, ...], dtype: torch.dtype, *, may_be_nan: bool = False
) -> None:
    """Check a value that a specification made.

    Raises:
        SpecError: not a finite tensor of this shape and dtype.
    """
    if not isinstance(value, Tensor):
        raise SpecError(f"{what} must be a tensor, got {type(value).__name__}.")
    if tuple(value.shape) != shape:
        raise SpecError(f"{what} must have shape {shape}, got {tuple(value.shape)}.")
    if value.dtype != dtype:
        raise SpecError(f"{what} must have dtype {dtype}, got {value.dtype}.")
    if value.is_floating_point() and not may_be_nan and not bool(torch.isfinite(value).all()):
        raise SpecError(f"{what} contains NaN or infinity.")


class _Probe:
    """What every check needs to know."""

    def __init__(self, name: str, data: Arrays, num_worlds: int, device: torch.device):
        self.name = name
        self.data = data
        self.num_worlds = num_worlds
        self.device = device

    def call(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the specification; its errors name it and what it was given."""
        try:
            return function(*args)
        except MetarlError:
            raise
        except Exception as error:  # whatever a user's function raises
            given = "; ".join(f"[{', '.join(arg)}]" for arg in args if isinstance(arg, Mapping))
            reason = f"{type(error).__name__}: {error}"
            raise SpecError(f"{self.name}: {what} raised {reason}. The arrays it was given: {given}.") from error

    def named_tensors(self, what: str, named: object) -> None:
        """Check a mapping of names to finite (N, ...) tensors on the worlds' device."""
        if not isinstance(named, Mapping):
            raise SpecError(f"{self.name}: {what} must be a dict of tensors, got {type(named).__name__}.")
        for key, value in named.items():
            label = f"{self.name}: {what} {key!r}"
            if not isinstance(value, Tensor):
                raise SpecError(f"{label} must be a tensor, got {type(value).__name__}.")
            check_tensor(label, value, (self.num_worlds, *value.shape[1:]), value.dtype)
            if value.device.type != self.device.type:
                raise SpecError(f"{label} must be on {self.device}, got {value.device}. Make it from its inputs.")

    def no_views(self, what: str, named: Arrays) -> None:
        """Check that no tensor shares memory with `data`, which the engine overwrites in place."""
        sources = {value.untyped_storage().data_ptr(): name for name, value in self.data.items()}
        for key, value in named.items():
            source = sources.get(value.untyped_storage().data_ptr())
            if source is not None:
                raise SpecError(f"{self.name}: {what} {key!r} is a view of data[{source!r}]; return a `.clone()`.")


def _configure(probe: _Probe, spec: EnvSpec, engine: Engine, task: Arrays) -> None:
    physics = spec.physics
    if physics is None or physics.configure is None:
        return
    defaults = {name: engine.default_model_field(name) for name in physics.model_fields}
    fields = probe.call("configure", physics.configure, task, defaults)
    probe.named_tensors("configure", fields)
    if set(fields) != set(physics.model_fields):
        expected = sorted(physics.model_fields)
        raise SpecError(f"{spec.name}: configure must return {expected} (model_fields), got {sorted(fields)}.")
    for name, value in fields.items():
        shape = (probe.num_worlds, *defaults[name].shape)
        check_tensor(f"{spec.name}: configure {name!r}", value, shape, torch.float32)
        engine.set_model_field(name, value)
    if physics.uses_set_const:
        engine.set_const()


def _write(what: str, probe: _Probe, engine: Engine | None, writes: object, model_fields: tuple[str, ...] = ()) -> None:
    probe.named_tensors(what, writes)
    assert isinstance(writes, Mapping)
    if engine is None:
        if writes:
            raise SpecError(f"{probe.name}: {what} must be empty without physics, got {sorted(writes)}.")
        return
    for name, value in writes.items():
        if name in model_fields:
            shape = (probe.num_worlds, *engine.default_model_field(name).shape)
            check_tensor(f"{probe.name}: {what} {name!r}", value, shape, torch.float32)
            engine.set_model_field(name, value, every_step=True)
            continue
        if name not in STATE_FIELDS:
            raise SpecError(f"{probe.name}: {what}: {UnknownNameError('state field', name, STATE_FIELDS)}")
        check_tensor(f"{probe.name}: {what} {name!r}", value, tuple(engine.data(name).shape), torch.float32)
        engine.write(name, value)


def _observe(probe: _Probe, spec: EnvSpec, task: Arrays, data: Arrays, state: Arrays) -> None:
    obs = probe.call("observe", spec.observe, task, data, state)
    check_tensor(f"{spec.name}: observe", obs, (probe.num_worlds, spec.obs_dim), torch.float32)
    probe.no_views("observe, the observation", {"obs": obs})
    if spec.signals is None:
        return
    values = probe.call("signals.compute", spec.signals.compute, task, data, state)
    check_tensor(f"{spec.name}: signals", values, (probe.num_worlds, len(spec.signals.names)), torch.float32)
    probe.no_views("signals.compute, the signals", {"signals": values})
    if spec.signals.feedback is not None:
        feedback = probe.call("signals.feedback", spec.signals.feedback, task, data, state)
        check_tensor(f"{spec.name}: feedback", feedback, (probe.num_worlds,), torch.float32)


def _zero_action(spec: EnvSpec, probe: _Probe) -> Tensor:
    if isinstance(spec.action_space, Discrete):
        return torch.zeros(probe.num_worlds, dtype=torch.int64, device=probe.device)
    return torch.zeros(probe.num_worlds, spec.action_space.dim, device=probe.device)


def _check_outcome(probe: _Probe, state: Arrays, outcome: Any) -> None:
    _check_record("step", probe, outcome, "Outcome", ("state", "reward", "terminated", "success"))
    shape = (probe.num_worlds,)
    check_tensor(f"{probe.name}: step, reward", outcome.reward, shape, torch.float32)
    check_tensor(f"{probe.name}: step, terminated", outcome.terminated, shape, torch.bool)
    if outcome.success is not None:
        check_tensor(f"{probe.name}: step, success", outcome.success, shape, torch.bool)
    probe.named_tensors("step, state", outcome.state)
    probe.no_views("step, state", outcome.state)
    before, after = _layout(state), _layout(outcome.state)
    if before != after:
        raise SpecError(f"{probe.name}: step must keep names, shapes and dtypes of state; {before} became {after}.")


def _check_record(what: str, probe: _Probe, value: object, kind: str, names: tuple[str, ...]) -> None:
    if not all(hasattr(value, name) for name in names):
        raise SpecError(f"{probe.name}: {what} must return {kind}({', '.join(names)}), got {type(value).__name__}.")


def _layout(state: Arrays) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in state.items()}
