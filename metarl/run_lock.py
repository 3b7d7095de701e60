"""One process per run folder, on local disks and on network file systems without `flock`.

A lock is a file `run.lock.<n>`, made with O_EXCL, that says which process holds it. A lock whose process is gone
is not deleted by one who wants the folder: it makes `run.lock.<n + 1>`, which only one process can, and removes the
older one afterwards. So two that find the same stale lock cannot both take it over.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError
from metarl.files import reason, write_new

_LOCK = re.compile(r"run\.lock\.(\d{1,9})")
_HALF_WRITTEN_S = 1.0
"""A lock that says nothing for so long was left by a process that died while it wrote it."""

logger = logging.getLogger(__name__)


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder, which must exist, while the block runs.

    Raises:
        CheckpointError: another process holds it, or the folder is not writable.
    """
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_start": _process_start(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        lock = _take(folder, json.dumps(me).encode())
    except OSError as error:
        raise CheckpointError(f"cannot lock run folder {folder}: {reason(error, folder)}.") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def is_lock(name: str) -> bool:
    """Whether a file of a run folder is a lock."""
    return _LOCK.fullmatch(name) is not None


def _take(folder: Path, content: bytes) -> Path:
    while True:
        found = _locks(folder)
        for number in found:
            holder = _holder(folder, number, _HALF_WRITTEN_S)
            if holder is not None:
                raise CheckpointError(_in_use(folder, number, holder))
        path = _path(folder, max(found, default=0) + 1)
        try:
            write_new(path, content)
        except FileExistsError:
            continue  # another process was faster: see whether it lives
        except OSError:
            path.unlink(missing_ok=True)
            raise
        # What this process saw may be old: others may have taken, used and left the folder since. Of two locks the
        # one made later sees the other here, so at most one process gets past this line.
        others = [number for number in _locks(folder) if _path(folder, number) != path]
        if any(_holder(folder, number, 0.0 if number in found else _HALF_WRITTEN_S) for number in others):
            path.unlink(missing_ok=True)
            continue
        for number in others:
            logger.warning("Taking over run folder %s from a process that is gone.", folder)
            _path(folder, number).unlink(missing_ok=True)
        return path


def _holder(folder: Path, number: int, patience_s: float) -> dict[str, Any] | None:
    """Who holds a lock; None where its process is gone."""
    path = _path(folder, number)
    deadline = time.monotonic() + patience_s
    while path.exists():
        holder = _read(path)
        if holder is not None:
            return holder if _may_live(holder) else None
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.01)
    return None


def _in_use(folder: Path, number: int, holder: Mapping[str, Any]) -> str:
    text = f"run folder {folder} is in use by process {holder['pid']} on {holder['host']} since {holder['since']}."
    if holder["host"] != socket.gethostname():
        text += f" If you know that it is gone, delete {_path(folder, number)}."
    return f"{text} Wait for it to end or choose another --out."


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        holder = json.loads(path.read_bytes())
        if isinstance(holder, dict) and {"pid", "host", "process_start", "since"} <= holder.keys():
            return holder
    return None


def _may_live(holder: Mapping[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True  # no way to ask
    pid = holder["pid"]
    if type(pid) is not int or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as somebody else
    now, then = _process_start(pid), holder["process_start"]
    return now is None or then is None or now == then  # a different start: the number was given to a new process


def _process_start(pid: int) -> str | None:
    """When a process began, in the kernel's clock ticks; "gone" for a zombie, None where there is no /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "gone" if state == "Z" else fields[18]


def _locks(folder: Path) -> list[int]:
    return sorted(int(match[1]) for name in os.listdir(folder) if (match := _LOCK.fullmatch(name)))


def _path(folder: Path, number: int) -> Path:
    return folder / f"run.lock.{number}"
