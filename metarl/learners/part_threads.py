"""The threads that share the parts of an update on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch


class PartThreads:
    """Applies a function to all parts of a batch, side by side on the CPU.

    Args:
        num_threads: how many.
        device: where the tensors are; on a GPU parts come one after the other.
    """

    def __init__(self, num_threads: int, device: torch.device):
        self._num_threads = num_threads if device.type == "cpu" else 1
        self._pool: Executor | None = None

    def map(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """Results in the order of the parts."""
        if self._num_threads == 1 or len(parts) == 1:
            return [function(part) for part in parts]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_threads)
        return list(self._pool.map(function, parts))
