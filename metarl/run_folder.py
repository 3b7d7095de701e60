"""A run's folder: its config, metrics, checkpoints and evaluation, and who may write in it.

config.json         what was asked for, written once
metrics.jsonl       one line per update (`metarl.log`)
events.out.*        the same for TensorBoard
checkpoints/        `metarl.checkpoint`
evaluation.json     written by `evaluate`
run.lock.*          there while a process trains in the folder
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from metarl.errors import CheckpointError, closest
from metarl.files import reason, replace_file
from metarl.run_lock import hold_lock, is_lock

FORMAT = "metarl-run"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: the folder.
        config: what `start_run` was given, as JSON gives it back.
    """

    path: Path
    config: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints; missing until the first one is saved."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON line per update."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """What `evaluate` found."""
        return self.path / "evaluation.json"


@contextmanager
def start_run(path: Path, config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Make a run folder and keep other processes out of it while the block runs.

    Args:
        path: a new or an empty folder.
        config: JSON that says how to repeat the run.

    Raises:
        CheckpointError: the folder holds a run or anything else, is in use, or cannot be written.
    """
    path = Path(path)
    _refuse_if_occupied(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot make run folder {str(path)[:200]!r}: {cause}. Choose another --out.") from error
    with hold_lock(path):
        _refuse_if_occupied(path)  # a run may have started and ended since the first look
        write_json(path / "config.json", {"format": FORMAT, "format_version": FORMAT_VERSION, **config})
        yield open_run(path)


@contextmanager
def resume_run(path: Path) -> Iterator[RunFolder]:
    """Open a run folder and keep other processes out of it while the block runs.

    Raises:
        CheckpointError: it is no run folder, or it is in use.
    """
    run = open_run(path)
    with hold_lock(run.path):
        yield run


def open_run(path: Path) -> RunFolder:
    """Open a run folder to read from it.

    Raises:
        CheckpointError: it is missing, empty, damaged, something else, or of a newer version.
    """
    path = Path(path)
    names = _names(path)
    if names is None:
        siblings = [p.name for p in path.absolute().parent.iterdir()] if path.absolute().parent.is_dir() else []
        raise CheckpointError(f"no such run folder: {path}.{closest(path.name, siblings)}")
    if "config.json" not in names:
        if not names:
            raise CheckpointError(f"{path} is empty, not a run folder.")
        if path.name == "checkpoints" or path.name.startswith("ckpt-"):
            raise CheckpointError(f"{path} is part of a run folder: name the folder that holds checkpoints/.")
        raise CheckpointError(f"{path} is not a run folder: no config.json in it (found {_listing(names)}).")
    config = _read_config(path / "config.json")
    return RunFolder(path, {key: value for key, value in config.items() if key not in ("format", "format_version")})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one instant: the old content or the new, never half.

    Raises:
        CheckpointError: it cannot be written; the old file is as it was.
    """
    content = json.dumps(value, indent=2).encode() + b"\n"
    try:
        replace_file(path, content)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {reason(error, path.parent)}.") from error


class StopSignals:
    """Turn the first SIGINT or SIGTERM into a flag, and the second into an end at once.

        with StopSignals() as stop:
            while not (finished or stop.requested):
                update()
            save()
        sys.exit(stop.exit_code)

    At once means `SystemExit` where the program stands; what is being saved then is dropped, what was saved before
    stays. Outside the main thread, where Python takes no signals, nothing is installed.

    Attributes:
        signal_number: the first signal, None before it.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal asked to stop."""
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 without a signal."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number = number
            # Straight to the descriptor: the interrupted code may be inside the logger or the console.
            with suppress(OSError):
                os.write(2, b"\nStopping after this update and saving; once more to stop at once.\n")
            return
        for again in self.SIGNALS:
            signal.signal(again, signal.SIG_DFL)
        raise SystemExit(128 + number)


def _refuse_if_occupied(path: Path) -> None:
    names = _names(path)
    if not names:
        return
    if "config.json" in names:
        raise CheckpointError(f"{path} holds a run already. Continue it with --resume or choose another --out.")
    raise CheckpointError(f"{path} is not empty and holds no run (found {_listing(names)}). Choose another --out.")


def _names(path: Path) -> set[str] | None:
    """What lies in a folder, without what a run leaves that was killed before it began; None: no such folder."""
    try:
        return {name for name in os.listdir(path) if not is_lock(name) and name != ".config.json.tmp"}
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise CheckpointError(f"{path} is a file, not a run folder.") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read folder {str(path)[:200]!r}: {cause}.") from error


def _listing(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not JSON ({error}).") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path.parent} is not a run folder: its config.json is another program's.")
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path.parent} is a run folder of format {config.get('format_version')!r}; this version of metarl reads "
            f"format {FORMAT_VERSION}. Open it with a newer one: pip install --upgrade metarl-robotics."
        )
    return config
