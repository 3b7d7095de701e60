"""What the measuring scripts share: paired timing, where and when it was run, tables and JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def paired_seconds(
    calls: Mapping[str, Callable[[], None]], num_rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time every call once per round, in an order that rotates, so that a busy machine is unfair to nobody.

    Args:
        calls: name -> what to time; a call waits for the device itself.
        num_rounds: timed rounds; two more come before to warm up.
        clock: seconds; `time.process_time` counts those that the process has had, on a machine that others use too.

    Returns:
        name -> seconds of each round, same index same round.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_id in range(-2, num_rounds):
        shift = round_id % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            calls[name]()
            if round_id >= 0:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(seconds: Sequence[float], reference: Sequence[float], scale: float = 1.0) -> float:
    """Median over rounds of `scale * reference / seconds`: how many times quicker than the reference."""
    return median(scale * b / a for a, b in zip(seconds, reference, strict=True))


def circumstances() -> dict[str, Any]:
    """The command, commit, date, machine and versions that a number belongs to."""
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "mujoco", "mujoco-warp", "warp-lang", "gymnasium", "envpool", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0], root), *sys.argv[1:]]),
        "commit": (commit or "unknown") + (" with changes" if changed else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # Nothing is cut: what is wider than a terminal goes on in its next line, and a file need not be narrow.
    widest = Measurement.get(console, console.options.update_width(1000), table).maximum
    console.width = max(console.width, widest)
    console.print(table, soft_wrap=True)


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result with its circumstances as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**circumstances(), **result}, indent=1) + "\n")
    print(f"written: {path}")


def keep(path: Path, name: str, result: Mapping[str, Any]) -> None:
    """Put the result of one environment, with its circumstances, into a file beside those of the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {**circumstances(), **result}
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
