"""Checkpoints: folders of tensors and JSON that are whole or not there, and never run code.

`ckpt-00000123/` holds one safetensors file per group of tensors (`model.safetensors`,
`optimizer.safetensors`, `rng.safetensors`, ...), `state.json` for everything that is not a tensor, and
`manifest.json` with the format version, the size and SHA-256 of each file and the versions of the packages.
It is written under a temporary name, every file and the folder are synced, and it is renamed once to a name
that did not exist. What is on disk under `ckpt-*` is therefore whole, unless the disk or somebody changed it
later, and that the digests tell.

One process writes into a folder of checkpoints (the run's lock sees to it); any number may read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from metarl import __version__
from metarl.errors import CheckpointError, closest
from metarl.files import reason, sync_folder, write_new

FORMAT = "metarl-checkpoint"
FORMAT_VERSION = 1

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
"""What `state.json` may hold. Tuples come back as lists; NaN and infinities are kept as Python writes them."""

_FOLDER = re.compile(r"ckpt-(\d{8,12})")
_LEFTOVER = re.compile(r"ckpt-\d{8,12}\.tmp-\d+")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,40}")
_MEMBER = re.compile(rf"({_GROUP.pattern})\.safetensors|state\.json")
_MAX_MANIFEST_BYTES = 1 << 20

logger = logging.getLogger(__name__)


class FutureFormatError(CheckpointError):
    """A checkpoint that a newer version of this package wrote."""


class _NoFolderError(CheckpointError):
    pass


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        step: the update after which it was written.
        tensors: {group: {name: tensor}}, on the CPU.
        state: everything that is not a tensor.
        versions: {package: version} it was written with.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    versions: dict[str, str]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, JSON]
) -> Path:
    """Write `folder/ckpt-<step>/`, whole or not at all.

    A damaged checkpoint of the same step is moved aside to `ckpt-<step>.damaged-1`.

    Args:
        folder: where the run keeps its checkpoints; made if missing.
        step: the update after which this is written.
        tensors: {group: {name: tensor}}; groups are words such as "model", "optimizer", "rng", "sim".
        state: everything that is not a tensor.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: it cannot be written (disk full, folder not writable), or a whole checkpoint of this
            step is there already. The older checkpoints are untouched.
        TypeError: `state` holds something that JSON does not keep.
        ValueError: a group or a step that cannot be a file name.
    """
    folder = Path(folder)
    final = folder / f"ckpt-{step:08d}"
    if not _FOLDER.fullmatch(final.name):
        raise ValueError(f"step must lie between 0 and 10^12, got {step}.")
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group) or "__metadata__" in named:
            raise ValueError(f"tensor group {group!r} must be a lower-case word and hold no tensor '__metadata__'.")
    _check_json(state, "state")
    temporary = folder / f"{final.name}.tmp-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        _make_room(final)
        temporary.mkdir()
        _write_members(temporary, step, tensors, state)
        os.rename(temporary, final)
        sync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoint {final}: {reason(error, folder.parent)}. The checkpoints before it are "
            "untouched; make room or choose another folder, then continue with --resume."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder and verify every byte of it.

    Raises:
        CheckpointError: it is missing, not a checkpoint, or damaged; the message names the file.
        FutureFormatError: a newer version of this package wrote it.
    """
    path = Path(path)
    names = _list(path)
    if "manifest.json" not in names:
        raise CheckpointError(_not_a_checkpoint(path, names))
    manifest = _read_manifest(path)
    step, files = manifest["step"], manifest["files"]
    for name in sorted({"state.json", *files} - names):
        raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing.")
    for name in sorted(names - {"manifest.json", *files}):
        raise CheckpointError(f"checkpoint {path} is damaged: {name!r} is not in its manifest.")
    named = _FOLDER.fullmatch(path.name)
    if named and int(named[1]) != step:
        raise CheckpointError(f"checkpoint {path} is damaged: its manifest is that of step {step}.")
    contents = {name: _read_member(path / name, entry) for name, entry in files.items()}
    state = _parse_json(path / "state.json", contents.pop("state.json"))
    tensors = {name.removesuffix(".safetensors"): _parse_tensors(path / name, c) for name, c in contents.items()}
    return Checkpoint(path, step, tensors, state, manifest["versions"])


def newest_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest whole checkpoint of a folder; damaged newer ones are named in one logged line.

    Raises:
        CheckpointError: the folder is missing or holds no whole checkpoint.
        FutureFormatError: a newer version of this package wrote the newest one.
    """
    folder = Path(folder)
    if not has_checkpoint(folder):
        raise CheckpointError(f"no checkpoint in {folder}: nothing was saved there yet.")
    found = _found(folder)
    damage: list[str] = []
    for step in sorted(found, reverse=True):
        try:
            checkpoint = load_checkpoint(found[step])
        except FutureFormatError:
            raise  # falling back to an older one would lose work that is not damaged
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage:
            logger.warning("%s Using %s instead.", " ".join(damage), checkpoint.path.name)
        return checkpoint
    raise CheckpointError(f"no whole checkpoint in {folder}. {damage[0]}")


def has_checkpoint(folder: Path) -> bool:
    """Whether anything was saved in a folder, whole or not; a run without can only start from the beginning.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    try:
        return bool(_found(Path(folder)))
    except _NoFolderError:
        return False


def rotate_checkpoints(newest: Path, keep_last: int = 3, keep_every: int | None = None) -> None:
    """Delete old checkpoints.

    Args:
        newest: the checkpoint that was just saved. Later steps are left alone: they were damaged or come
            from another run, and must not crowd out this one.
        keep_last: how many to keep, `newest` included.
        keep_every: also keep those whose step is a multiple of this.

    Raises:
        CheckpointError: one cannot be deleted.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last must be positive, got {keep_last}.")
    found = _found(newest.parent)
    last = int(newest.name.removeprefix("ckpt-"))
    steps = sorted(step for step in found if step <= last)
    for step in steps[:-keep_last]:
        if keep_every is not None and step % keep_every == 0:
            continue
        doomed = found[step].with_name(f"{found[step].name}.tmp-{os.getpid()}")
        try:
            os.rename(found[step], doomed)  # a half-deleted folder must not look like a checkpoint
            shutil.rmtree(doomed)
        except OSError as error:
            raise CheckpointError(f"cannot delete old checkpoint {found[step]}: {error.strerror}.") from error


def _write_members(
    temporary: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, JSON]
) -> None:
    files = {}

    def write(name: str, data: bytes) -> None:
        write_new(temporary / name, data)
        files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    write("state.json", json.dumps(state, indent=1).encode())
    for group, named in tensors.items():
        # A copy of each, because safetensors refuses tensors that share memory (tied weights, views).
        copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in named.items()}
        write(f"{group}.safetensors", save_safetensors(copies))
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "files": files,
        "versions": package_versions(),
    }
    write_new(temporary / "manifest.json", _seal(manifest))
    sync_folder(temporary)


def _seal(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest with its own digest; they keep this form in every format version."""
    body = json.dumps(manifest, sort_keys=True)
    sealed = {**manifest, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return json.dumps(sealed, indent=1, sort_keys=True).encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    where = path / "manifest.json"
    raw = _read_regular(where, _MAX_MANIFEST_BYTES)
    manifest = _parse_json(where, raw)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a metarl checkpoint: its manifest.json is another program's or damaged.")
    if raw != _seal({key: value for key, value in manifest.items() if key != "sha256"}):
        raise CheckpointError(f"checkpoint {path} is damaged: manifest.json does not match its own SHA-256.")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise FutureFormatError(
            f"checkpoint {path} has format {manifest.get('format_version')}; this version of metarl ({__version__}) "
            f"reads format {FORMAT_VERSION}. Read it with a newer one: pip install --upgrade metarl-robotics."
        )
    files, step, versions = manifest.get("files"), manifest.get("step"), manifest.get("versions")
    members = files if isinstance(files, dict) else {"": None}
    sound = type(step) is int and isinstance(versions, dict)
    if not sound or not all(_MEMBER.fullmatch(name) and _is_entry(entry) for name, entry in members.items()):
        raise CheckpointError(f"checkpoint {path} is refused: manifest.json names something that is not a member.")
    return manifest


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)


def _read_member(path: Path, entry: Mapping[str, Any]) -> bytes:
    raw = _read_regular(path, entry["size"])
    if len(raw) != entry["size"]:
        raise CheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} has {len(raw)} bytes, its manifest says {entry['size']}."
        )
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"checkpoint {path.parent} is damaged: {path.name} does not match its SHA-256.")
    return raw


def _read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a file that is no link, no pipe and no larger than it should be."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"checkpoint {path.parent} is refused: {path.name} is not a plain file.")
            if status.st_size > max_bytes:
                raise CheckpointError(
                    f"checkpoint {path.parent} is damaged: {path.name} has {status.st_size} bytes, "
                    f"expected at most {max_bytes}."
                )
            return file.read(max_bytes)
    except OSError as error:
        cause = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise CheckpointError(f"checkpoint {path.parent} is refused: {path.name} {cause}.") from error


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path.parent} is damaged: {path.name} is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint {path.parent} is damaged: {path.name} is not a JSON object.")
    return value


def _parse_tensors(path: Path, raw: bytes) -> dict[str, Tensor]:
    try:
        return load_safetensors(raw)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} is not a safetensors file ({error})."
        ) from error


def _make_room(final: Path) -> None:
    """Make sure that the name is free: move a damaged checkpoint aside, refuse to replace a whole one."""
    if not os.path.lexists(final):
        return
    try:
        load_checkpoint(final)
    except FutureFormatError:
        raise
    except CheckpointError as error:
        aside = next(
            p for i in range(1, 1000) if not os.path.lexists(p := final.with_name(f"{final.name}.damaged-{i}"))
        )
        logger.warning("%s Moved aside to %s.", error, aside.name)
        os.rename(final, aside)
    else:
        raise CheckpointError(f"checkpoint {final} is there already, and a whole checkpoint is never replaced.")


def _remove_leftovers(folder: Path) -> None:
    for name in os.listdir(folder):
        if _LEFTOVER.fullmatch(name):
            shutil.rmtree(folder / name, ignore_errors=True)


def _found(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by step, whole or not."""
    matches = [m for name in _list(folder) if (m := _FOLDER.fullmatch(name))]
    return {int(m[1]): folder / m[0] for m in matches}


def _list(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except NotADirectoryError as error:
        raise CheckpointError(
            f"{folder} is a file; a checkpoint is a folder of safetensors and JSON. Pickled files are never read."
        ) from error
    except FileNotFoundError as error:
        parent = folder.absolute().parent
        siblings = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        raise _NoFolderError(f"no such folder: {folder}.{closest(folder.name, siblings)}") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read folder {str(folder)[:200]!r}: {cause}.") from error


def _not_a_checkpoint(path: Path, names: set[str]) -> str:
    if not names:
        return f"{path} is empty, not a checkpoint."
    if "checkpoints" in names or any(_FOLDER.fullmatch(name) for name in names):
        return f"{path} holds checkpoints but is none itself: name one of its ckpt-* folders."
    listing = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"{path} is not a metarl checkpoint: no manifest.json in it (found {listing})."


def _check_json(value: object, where: str) -> None:
    """Refuse what JSON would change without a word (integer keys) or not take."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; JSON keeps strings only.")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"{where} is a {type(value).__name__}; JSON does not keep it.")


def package_versions() -> dict[str, str]:
    """The versions that a bit-exact resume depends on."""
    versions = {"python": ".".join(map(str, sys.version_info[:3])), "metarl": __version__}
    for package in ("torch", "numpy", "mujoco", "mujoco-warp"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
