"""Evaluate a network in parts, each in a thread of its own, as one step of autograd.

Torch's own threads split every operation, wait for each other after each of them, and crawl where another process
takes a core. A recurrent network makes thousands of small operations; one thread per part of the batch waits once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]


def side_by_side(
    function: Callable[[Tensor], Outputs], parts: Sequence[Tensor], parameters: Sequence[Tensor], pool: Executor
) -> Outputs:
    """Apply a function to parts of a batch at the same time and put its outputs together along dimension 1.

    Gradients flow to `parameters` and to nothing else. They are summed in the order of the parts, so the numbers
    depend on the parts and not on the threads.

    Args:
        function: part -> tensors whose dimension 1 is that of the batch. It keeps no state, and each of its
            outputs depends on `parameters`.
        parts: what to apply it to.
        parameters: what `function` is differentiated by.
        pool: its threads; best as many as parts.
    """
    if not torch.is_grad_enabled():
        return _joined(list(pool.map(torch.no_grad()(function), parts)))
    return _SideBySide.apply(function, parts, pool, *parameters)


def _joined(outputs: Sequence[Outputs]) -> Outputs:
    return tuple(torch.cat(pieces, 1) for pieces in zip(*outputs, strict=True))


class _SideBySide(torch.autograd.Function):
    """Keeps the graph of each part, and walks them all at once on the way back."""

    @staticmethod
    def forward(ctx: Any, function: Any, parts: Any, pool: Executor, *parameters: Tensor) -> Outputs:
        ctx.parameters, ctx.pool = parameters, pool
        ctx.outputs = list(pool.map(torch.enable_grad()(function), parts))
        return _joined([tuple(output.detach() for output in outputs) for outputs in ctx.outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sizes = [outputs[0].shape[1] for outputs in ctx.outputs]
        split = zip(*(gradient.split(sizes, 1) for gradient in gradients), strict=True)
        found = ctx.pool.map(lambda o, g: torch.autograd.grad(o, ctx.parameters, g), ctx.outputs, split)
        sums = tuple(torch.stack(each).sum(0) for each in zip(*found, strict=True))
        return (None, None, None, *sums)
