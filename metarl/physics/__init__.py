"""Physics engines: many MuJoCo worlds behind torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from metarl.errors import DeviceError, UnknownNameError
from metarl.physics.engine import Engine

if TYPE_CHECKING:
    from metarl.spec import Physics

__all__ = ["Engine", "make_engine"]


def make_engine(
    physics: Physics, num_worlds: int, device: torch.device, engine: str = "auto", num_threads: int = 0
) -> Engine:
    """Make the engine for a device: `mujoco.batch` on the CPU, `mujoco_warp` on CUDA, unless named.

    Args:
        physics: what the environment needs.
        num_worlds: N.
        device: "cpu" or "cuda".
        engine: "auto", "batch" or "warp".
        num_threads: threads of the CPU engine, 0 for all cores.

    Raises:
        DeviceError: the machine has no such device, or the engine does not run there.
        UnknownNameError: no such engine.
    """
    if engine not in ("auto", "batch", "warp"):
        raise UnknownNameError("engine", engine, ("auto", "batch", "warp"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' was asked for, but torch sees no CUDA device. Use --device cpu.")
    if engine == "batch" and device.type != "cpu":
        raise DeviceError(f"engine 'batch' runs on the CPU, not on {device}. Use engine 'warp'.")
    if engine == "warp" or (engine == "auto" and device.type == "cuda"):
        from metarl.physics.warp_engine import WarpEngine

        return WarpEngine(physics, num_worlds, device)
    from metarl.physics.batch_engine import BatchEngine

    return BatchEngine(physics, num_worlds, num_threads)
