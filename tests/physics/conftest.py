from __future__ import annotations

from collections.abc import Iterator

import pytest
import warp as wp

from metarl.physics import Engine
from tests.physics.bench import make_engine, start_afresh

# Unoptimised kernels compile four times faster, and these tests step few worlds.
wp.config.optimization_level = 0
wp.config.log_level = wp.LOG_WARNING

_ENGINES: dict[str, Engine] = {}


def shared_engine(kind: str) -> Engine:
    if kind not in _ENGINES:
        _ENGINES[kind] = make_engine(kind)
    return start_afresh(_ENGINES[kind])


@pytest.fixture(params=["batch", "warp"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine of six worlds of the bench model, as new."""
    return shared_engine(request.param)


@pytest.fixture
def both_engines() -> Iterator[tuple[Engine, Engine]]:
    yield shared_engine("batch"), shared_engine("warp")
