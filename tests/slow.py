"""Which values of a parametrized test belong to the quick suite."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """The values, all but the quick ones marked slow: `make test` runs these few, `make slow` the others."""
    values = list(values)
    missing = [value for value in quick if value not in values]
    if missing:
        raise ValueError(f"{missing} is none of {values}.")
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
