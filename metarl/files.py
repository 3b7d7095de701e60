"""Write files so that a crash, a full disk or a power cut leaves the old content or the new one, never half."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, and push it to the disk.

    Raises:
        OSError: the file exists, or it cannot be written in full.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(descriptor: int, data: bytes) -> None:
    """Append to a file that is open for appending, all of it or nothing.

    Raises:
        OSError: the data does not fit; the file is as it was.
    """
    end = os.lseek(descriptor, 0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def sync_folder(folder: Path) -> None:
    """Push the names in a folder to the disk: without it a rename may not survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content in one instant: a temporary file beside it, then one rename.

    Raises:
        OSError: the content cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # left by a run that was killed here
    try:
        write_new(temporary, data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def reason(error: OSError, folder: Path) -> str:
    """Say why a write failed, with the free space where that is the reason, as half a sentence."""
    text = error.strerror or str(error)
    try:
        free_mb = shutil.disk_usage(folder).free / 1e6
    except OSError:
        return text
    return f"{text} ({free_mb:,.1f} MB free in {folder})"
