"""What this machine can do, and how to get the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl import render
from metarl.errors import RenderError

if TYPE_CHECKING:
    from rich.table import Table

OK, OPTIONAL, PROBLEM = "ok", "absent", "problem"
"""Statuses: it works; it is not there and nothing needs it; something will not work."""

_MIN_PYTHON = (3, 11)
_MIN_FREE_GB = 2.0
_RENDER_FIXES = {
    "egl": "a GPU driver, or: apt-get install -y libegl1 libopengl0 libgl1-mesa-dri",
    "osmesa": "apt-get install -y libosmesa6",
    "glfw": "run it in a desktop session",
    "warp": "pip install mujoco-warp",
}


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        item: what was looked at.
        status: "ok", "absent" (optional and not there) or "problem".
        detail: what was found.
        fix: how to get it; empty where there is nothing to do.
    """

    item: str
    status: str
    detail: str
    fix: str = ""


def report(runs_folder: str | Path = "runs") -> list[Check]:
    """Look at this machine; nothing that is missing makes it fail.

    Args:
        runs_folder: where run folders go, for the free space.
    """
    checks = [
        _guarded("Python", _python, "install Python 3.11 or newer"),
        _guarded("processor cores", _cores, ""),
        _guarded("torch", _torch, "pip install torch"),
        _guarded("CUDA", _cuda, "an NVIDIA GPU and a CUDA build of torch"),
        _guarded("C++ compiler (--compile-env)", _compiler, "apt-get install -y g++"),
        _guarded("mujoco", _mujoco, "pip install 'mujoco>=4.0'"),
        _guarded("engine: mujoco.batch (CPU)", _batch_engine, "pip install 'mujoco>=4.0'"),
        _guarded("engine: mujoco_warp (CUDA)", _warp_engine, "pip install 'mujoco-warp>=4.0', and an NVIDIA GPU"),
    ]
    checks += [_guarded(f"renderer: {b}", partial(_renderer, b), _RENDER_FIXES[b]) for b in _RENDER_FIXES]
    checks += [
        _guarded("renderer: auto", _chosen_renderer, _RENDER_FIXES["osmesa"]),
        _guarded("video encoder", _encoder, "pip install av (without it videos are animated WebP)"),
        _guarded("free disk", partial(_disk, Path(runs_folder)), "make room, or choose another --out"),
    ]
    return checks


def as_table(checks: list[Check]) -> Table:
    """Lay the report out as a table for `rich.print`."""
    from rich.table import Table
    from rich.text import Text

    colors = {OK: "green", OPTIONAL: "yellow", PROBLEM: "bold red"}
    table = Table("", "status", "found", "how to get it", title="metarl doctor", title_justify="left")
    for check in checks:
        # Text, not markup: details hold brackets.
        table.add_row(check.item, Text(check.status, colors[check.status]), Text(check.detail), Text(check.fix))
    return table


def _guarded(item: str, look: Callable[[], tuple[str, str]], fix: str) -> Check:
    try:
        status, detail = look()
    except Exception as error:  # whatever a broken installation raises is the finding
        status, detail = PROBLEM, f"{type(error).__name__}: {error}"
    return Check(item, status, detail, "" if status == OK else fix)


def _python() -> tuple[str, str]:
    status = OK if sys.version_info >= _MIN_PYTHON else PROBLEM
    return status, f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _cores() -> tuple[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return OK, f"{usable} usable of {os.cpu_count()}"


def _torch() -> tuple[str, str]:
    torch = import_module("torch")
    return OK, f"{torch.__version__}, {torch.get_num_threads()} threads"


def _cuda() -> tuple[str, str]:
    torch = import_module("torch")
    if not torch.cuda.is_available():
        built = "no device found" if torch.version.cuda else "torch was built without CUDA"
        return OPTIONAL, f"{built}; training runs on the CPU"
    devices: list[Any] = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return OK, ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)


def _compiler() -> tuple[str, str]:
    found = shutil.which(os.environ.get("CXX", "g++"))
    return (OK, found) if found else (OPTIONAL, "none; environments run as written")


def _mujoco() -> tuple[str, str]:
    render.import_mujoco()
    asked = os.environ.get("MUJOCO_GL")
    return OK, version("mujoco") + (f", MUJOCO_GL={asked}" if asked else "")


def _batch_engine() -> tuple[str, str]:
    mujoco, batch = import_module("mujoco"), import_module("mujoco.batch")
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    batch.Batch(model, 2, 1).step(nstep=1)
    return OK, "stepped two worlds"


def _warp_engine() -> tuple[str, str]:
    import_module("mujoco_warp")
    found = f"mujoco_warp {version('mujoco-warp')}, warp {version('warp-lang')}"
    if _cuda()[0] != OK:
        return OPTIONAL, f"{found}; without CUDA only for tests"
    return OK, found


def _renderer(backend: str) -> tuple[str, str]:
    result = render.probe(backend)
    return (OK if result.works else OPTIONAL), result.detail


def _chosen_renderer() -> tuple[str, str]:
    try:
        return OK, f"videos are drawn with {render.choose_backend('auto')}"
    except RenderError as error:
        return PROBLEM, str(error)


def _encoder() -> tuple[str, str]:
    try:
        av = import_module("av")
    except ImportError:
        return OPTIONAL, "PyAV is not installed"
    if "libx264" not in av.codecs_available:
        return PROBLEM, f"PyAV {av.__version__} without libx264"
    return OK, f"PyAV {av.__version__} with libx264"


def _disk(folder: Path) -> tuple[str, str]:
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return PROBLEM, f"{existing} is not writable"
    return (OK if free_gb >= _MIN_FREE_GB else PROBLEM), f"{free_gb:.1f} GB in {existing}"
