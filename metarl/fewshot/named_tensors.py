"""Parameters by dotted name: modules made of them, groups of them taken out again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def module_of(parameters: Mapping[str, Tensor]) -> nn.Module:
    """A module tree whose `named_parameters` are these tensors; it computes nothing.

    So what is meta-learned beside a network (step sizes, variances, particles, a loss) has names in `state_dict` and is
    found by `parameters`.
    """
    root = nn.Module()
    for name, value in parameters.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.register_parameter(leaf, nn.Parameter(value.detach().clone()))
    return root


def group(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in parameters.items() if name.startswith(start)}


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """Tensors (P, ...) as one, (P, D), in the order of the mapping."""
    return torch.cat([value.flatten(1) for value in parameters.values()], -1)


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `flatten` joined, (P, D) -> tensors of the shapes of `like`, (P, ...) each."""
    sizes = [value[0].numel() for value in like.values()]
    parts = flat.split(sizes, -1)
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}
