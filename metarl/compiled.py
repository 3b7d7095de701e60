"""An environment whose functions run as compiled code: fewer, fused operations around the physics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from metarl.errors import ConfigError, DeviceError
from metarl.spec import EnvSpec
from metarl.worlds import Spec


def compile_spec(spec: Spec, device: str | torch.device = "cpu") -> EnvSpec:
    """The same environment with `control`, `step` and `observe` compiled by `torch.compile`.

    They are compiled when worlds are made, anew for each number of worlds, which takes 20 to 60 seconds. Numbers differ
    from those of the functions as written by rounding. A process has one compiled environment: what was compiled before
    is forgotten, because environments share functions, and torch cannot tell the arrays of one from those of another.

    Args:
        spec: the environment.
        device: of its worlds.

    Raises:
        ConfigError: an environment of worker processes, which has no such functions.
        DeviceError: this machine cannot compile.
    """
    if not isinstance(spec, EnvSpec):
        raise ConfigError(f"{spec.name} runs in worker processes; there is nothing to compile.")
    torch.compiler.reset()
    _refuse_without_compiler(device)
    control = None if spec.control is None else _compiled(spec.control)
    return replace(spec, control=control, step=_compiled(spec.step), observe=_compiled(spec.observe))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled


def _refuse_without_compiler(device: str | torch.device) -> None:
    """Compile one addition: what is missing is found before anything else has begun."""
    try:
        _compiled(lambda x: x + 1.0)(torch.zeros(8, device=device))
    except Exception as error:  # what inductor raises depends on what is missing
        reason = " ".join(str(error).split("\n")[:2]).strip()  # the second line names it
        raise DeviceError(
            f"torch.compile does not work here ({reason}). It needs a C++ compiler such as g++, "
            f"or train without --compile-env."
        ) from error
