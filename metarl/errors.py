"""Errors that are the user's to mend: each says what was got, what is available and what to do.

The command line turns every `MetarlError` into one line on stderr and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, available: Iterable[str]) -> str:
    """The sentence " Did you mean 'x'?" with the nearest of the available names; empty where none is near."""
    close = difflib.get_close_matches(name, list(available), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


class MetarlError(Exception):
    """Base class of the errors that a user can mend."""


class UnknownNameError(MetarlError, KeyError):
    """A name that is not in a table (environment, algorithm, split, preset, parameter).

    `shown` takes the place of `available` in the list, where many names are shorter put together.
    """

    def __init__(self, kind: str, name: str, available: Iterable[str], shown: Iterable[str] | None = None):
        names = sorted(available)
        listed = ", ".join(names if shown is None else sorted(shown))
        super().__init__(f"unknown {kind} {name!r}.{closest(name, names)} Available: {listed or 'none'}.")

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr


class SpecError(MetarlError, ValueError):
    """An environment specification that does not keep its contract (shape, dtype, range, NaN)."""


class ConfigError(MetarlError, ValueError):
    """A configuration value out of its domain."""


class CheckpointError(MetarlError):
    """A run folder or checkpoint that is missing, damaged, foreign or in use."""


class DataError(MetarlError):
    """A data set that is missing, broken, of another kind than expected, or cannot be downloaded."""


class DeviceError(MetarlError):
    """A device that this machine does not have."""


class RenderError(MetarlError):
    """No way to draw or to encode a video on this machine."""


class EngineError(MetarlError):
    """A model that a physics engine cannot run, or a field that it does not have."""


class WorkerError(MetarlError):
    """A process of a vectorised environment that died, hangs, or whose environment raised."""
