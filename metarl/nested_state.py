"""Nested state, such as an optimiser's, as tensors and JSON: bit-exact, and never pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metarl.errors import CheckpointError


def flatten_state(nested: Mapping[Any, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split nested state into its tensors and a JSON description of the rest.

    Takes dicts (keys: strings and integers), lists, tuples, tensors, numbers, strings, booleans and None,
    which is all that `torch.optim.Optimizer.state_dict()` and learning-rate schedules hold.

    Args:
        nested: for example `optimizer.state_dict()`.

    Returns:
        ({name: tensor}, structure). Names are paths such as "state.0.exp_avg". In the structure a JSON
        object has one key that says what it stands for: {"dict": [[key, value], ...]}, {"tuple": [...]} or
        {"tensor": name}.

    Raises:
        TypeError: a value or a key of another type; the message has its path.
    """
    tensors: dict[str, Tensor] = {}

    def encode(value: Any, path: tuple[str, ...]) -> Any:
        where = ".".join(path)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            while where in tensors:  # {"a.b": x, "a": {"b": y}} give the same path
                where += "'"
            tensors[where] = value
            return {"tensor": where}
        if isinstance(value, list):
            return [encode(item, (*path, str(i))) for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [encode(item, (*path, str(i))) for i, item in enumerate(value)]}
        if isinstance(value, Mapping):
            for key in value:
                if type(key) not in (str, int):
                    raise TypeError(f"key {key!r} of {where or 'the state'} is neither a string nor an integer.")
            return {"dict": [[key, encode(item, (*path, str(key)))] for key, item in value.items()]}
        raise TypeError(f"{where} is a {type(value).__name__}: not a tensor, number, string, list, tuple or dict.")

    return tensors, encode(nested, ())


def unflatten_state(tensors: Mapping[str, Tensor], structure: Mapping[str, Any]) -> Any:
    """Put together again what `flatten_state` took apart.

    Raises:
        CheckpointError: the structure is malformed, or a tensor that it names is missing.
    """
    if isinstance(structure, list):
        return [unflatten_state(tensors, item) for item in structure]
    if not isinstance(structure, Mapping):
        return structure
    try:
        ((kind, content),) = structure.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "tuple":
            return tuple(unflatten_state(tensors, item) for item in content)
        if kind == "dict":
            return {key: unflatten_state(tensors, item) for key, item in content}
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the saved state is malformed at {str(structure)[:80]}: {error!r}.") from error
    raise CheckpointError(f"the saved state is malformed: unknown kind {kind!r}.")
