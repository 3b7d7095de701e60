"""The inner loop of the gradient learners: steps of SGD on one task, and the mean of a meta-loss over many tasks.

`descend` is written for one task. `mean_over_tasks` and `map_tasks` give it all tasks of a batch, a chunk of them at a
time under `torch.func.vmap`. On a CPU all tasks at once is the quickest way for small networks, and slower than a
Python loop for convolutions, whose activations then leave the cache; `chunk_size` decides by their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from metarl.rl.inner_loop import adapt

Parameters = Mapping[str, Tensor]
Support = TypeVar("Support")
StepSize = Mapping[str, Tensor] | Tensor | float

TaskObjective = Callable[[dict[str, Tensor], Any], tuple[Tensor, dict[str, Tensor]]]
"""(meta-parameters, one task) -> (loss (), metrics () by name)."""

CPU_ACTIVATION_BYTES = 24 * 2**20
"""What the activations of a chunk's forward pass may take on a CPU. With Conv4 and second order chunks of 15 to 30
MiB were the quickest, and chunks of four times as much took up to twice as long (scripts/bench_fewshot.py)."""
SMALLEST_CHUNK = 6
"""Fewer tasks are differentiated one by one: what `vmap` costs is not won back by batching two to five."""
GPU_ACTIVATION_BYTES = 2**30
"""The same on a GPU. Backward passes through inner steps keep several times as much."""


_IS_ALONE: ContextVar[bool] = ContextVar("_IS_ALONE", default=False)


def is_alone() -> bool:
    """Whether the function of a task that is being computed has it by itself, outside `vmap`."""
    return _IS_ALONE.get()


def descend(
    parameters: Parameters,
    support: Support,
    loss: Callable[[Parameters, Support], Tensor],
    step_sizes: Callable[[int], StepSize] | StepSize,
    num_steps: int,
    first_order: bool = False,
    is_transformed: bool = True,
) -> list[dict[str, Tensor]]:
    """theta_{k+1} = theta_k - alpha_k * gradient of the loss at theta_k; written for one task, differentiable.

    Args:
        parameters: theta_0, by name.
        support: what the loss reads.
        loss: (parameters, support) -> scalar.
        step_sizes: alpha for all steps, or a function of the step's number k. Each is one for all parameters, or by
            name (a scalar or of the parameter's shape).
        num_steps: K.
        first_order: take inner gradients as constants.
        is_transformed: see `metarl.rl.inner_loop.adapt`.

    Returns:
        theta_0 ... theta_K.

    Source: Finn et al. 2017, algorithm 1; per-parameter alpha: Li et al. 2017 (Meta-SGD); alpha per step: Antoniou et
    al. 2019 (MAML++).
    """
    path = [dict(parameters)]
    for step in range(num_steps):
        size = step_sizes(step) if callable(step_sizes) else step_sizes
        path.append(adapt(path[-1], support, loss, size, first_order, is_transformed))
    return path


def map_tasks(function: Callable[[Any], Any], tasks: Any, chunk: int) -> Any:
    """Apply a function of one task to B tasks, `chunk` at a time.

    Args:
        function: one task -> a tree of tensors.
        tasks: a tree of tensors (B, ...).
        chunk: tasks in one vmapped call.

    Returns:
        What the function returns, with a leading B.
    """
    parts = [_vmapped(function)(part) for part in _chunks(tasks, chunk)]
    return tree_map(lambda *leaves: torch.cat(leaves), *parts)


def mean_over_tasks(
    objective: TaskObjective, parameters: Parameters, tasks: Any, chunk: int, *, is_normalised: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of an objective over B tasks, whose gradient is computed chunk by chunk.

    Only one chunk's graph exists at a time: its gradient is taken right after its forward pass, while the activations
    are in the cache, and `backward` hands out the sum. So the result can be differentiated once.

    Args:
        objective: of one task.
        parameters: meta-parameters; those that require gradients get one.
        tasks: a tree of tensors (B, ...).
        chunk: tasks in one vmapped call.
        is_normalised: whether the objective normalises activations. One that does not may be differentiated in a
            quicker way.

    Returns:
        Loss (), and metrics () without a graph.
    """
    names = tuple(parameters)
    metrics: dict[str, Tensor] = {}
    gradients = _gradients_inside if is_normalised else _gradients_outside
    loss = _MeanOverTasks.apply(objective, gradients, tasks, chunk, names, metrics, *parameters.values())
    return loss, metrics


class _MeanOverTasks(torch.autograd.Function):
    """Computes values and gradients together; see `mean_over_tasks`."""

    @staticmethod
    def forward(
        ctx: Any,
        objective: TaskObjective,
        gradients_of: Callable[..., Any],
        tasks: Any,
        chunk: int,
        names: tuple[str, ...],
        metrics: dict[str, Tensor],
        *values: Tensor,
    ) -> Tensor:
        count = num_tasks(tasks)
        needed = [i for i, needs in enumerate(ctx.needs_input_grad[-len(values) :]) if needs]
        constants = {name: value.detach() for name, value in zip(names, values, strict=True)}
        chosen = {names[i]: constants.pop(names[i]) for i in needed}

        total = torch.zeros((), dtype=values[0].dtype, device=values[0].device)
        gradients = {name: torch.zeros_like(value) for name, value in chosen.items()}
        for part in _chunks(tasks, chunk):
            slopes, losses, found = gradients_of(objective, constants, chosen, part)
            total = total + losses.sum() / count
            for name, value in found.items():
                metrics[name] = metrics.get(name, 0.0) + value.sum() / count
            for name, slope in slopes.items():
                gradients[name] += slope / count
        ctx.needed, ctx.num_values = needed, len(values)
        ctx.save_for_backward(*gradients.values())
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        slopes: list[Tensor | None] = [None] * ctx.num_values
        for i, gradient in zip(ctx.needed, ctx.saved_tensors, strict=True):
            slopes[i] = upstream[0] * gradient
        return (None, None, None, None, None, None, *slopes)


_Gradients = tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]
"""The gradient by what was chosen, summed over a chunk of b tasks; losses (b,) and metrics (b,), without a graph."""


def _gradients_inside(
    objective: TaskObjective, constants: dict[str, Tensor], chosen: dict[str, Tensor], tasks: Any
) -> _Gradients:
    """Gradients of each task, inside `vmap`.

    Taken outside of it they are wrong where an inner gradient goes through `torch.nn.functional.batch_norm`: torch 2.13
    differentiates its batched form wrongly a second time. One task alone needs no `vmap`, and autograd is then the
    quickest.
    """
    if num_tasks(tasks) == 1 or not chosen:
        return _gradients_outside(objective, constants, chosen, tasks)

    def of_task(task: Any) -> tuple[dict[str, Tensor], tuple[Tensor, dict[str, Tensor]]]:
        def of_chosen(chosen: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            return objective(constants | chosen, task)

        return torch.func.grad_and_value(of_chosen, has_aux=True)(chosen)

    gradients, (losses, metrics) = torch.func.vmap(of_task)(tasks)  # (b, ...), (b,)
    return {name: value.sum(0) for name, value in gradients.items()}, losses, metrics


def _gradients_outside(
    objective: TaskObjective, constants: dict[str, Tensor], chosen: dict[str, Tensor], tasks: Any
) -> _Gradients:
    """The gradient of the sum over tasks, outside `vmap`: without a gradient for each task it is quicker."""
    leaves = {name: value.detach().requires_grad_() for name, value in chosen.items()}
    with torch.set_grad_enabled(bool(leaves)):
        losses, metrics = _vmapped(lambda task: objective(constants | leaves, task))(tasks)  # (b,)
        total = losses.sum()
    slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True) if leaves else ()
    metrics = {name: value.detach() for name, value in metrics.items()}
    return dict(zip(leaves, slopes, strict=True)), losses.detach(), metrics


def num_tasks(tasks: Any) -> int:
    """B of a tree of tensors (B, ...)."""
    return len(tree_leaves(tasks)[0])


def chunk_size(activation_bytes: int, num_examples: int, device: torch.device) -> int:
    """How many tasks to differentiate at a time: as many as keep the activations within the cache, at least one.

    A rule and not a measurement, so that a run rounds alike wherever it is repeated. With Conv4 on 28 x 28 images it
    and strides gives 12 tasks of 10 images, one of 30 or more; with the network of the sinusoids all tasks of any
    batch.

    Args:
        activation_bytes: of one example, as `activation_bytes` counts them.
        num_examples: support and query of one task.
        device: where.
    """
    budget = CPU_ACTIVATION_BYTES if device.type == "cpu" else GPU_ACTIVATION_BYTES
    fitting = budget // max(1, activation_bytes * num_examples)
    return fitting if fitting >= SMALLEST_CHUNK else 1


@torch.no_grad()
def activation_bytes(network: nn.Module, example: Tensor) -> int:
    """Bytes that the outputs of all layers take for one example.

    Args:
        network: maps (M, *X) to (M, ...).
        example: (1, *X).
    """
    sizes: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        sizes.extend(leaf.numel() * leaf.element_size() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    handles = [m.register_forward_hook(count) for m in network.modules() if not list(m.children())]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes)


def _vmapped(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function of a chunk of tasks; one task alone needs no batching rules, which for convolutions are slower."""

    def of_chunk(tasks: Any) -> Any:
        if num_tasks(tasks) > 1:
            return torch.func.vmap(function)(tasks)
        token = _IS_ALONE.set(True)
        try:
            found = function(tree_map(lambda leaf: leaf[0], tasks))
        finally:
            _IS_ALONE.reset(token)
        return tree_map(lambda leaf: leaf[None], found)

    return of_chunk


def _chunks(tasks: Any, chunk: int) -> Iterator[Any]:
    """The tasks in parts of `chunk`, the last one maybe of fewer."""
    count = num_tasks(tasks)
    if count <= chunk:
        yield tasks
        return
    for start in range(0, count, chunk):
        yield tree_map(lambda leaf, start=start: leaf[start : start + chunk], tasks)
