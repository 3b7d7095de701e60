"""What commands print with, where runs go, and whether what they will write can be written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from metarl.errors import ConfigError

if TYPE_CHECKING:
    from metarl.training_loop import Outcome

_MAX_UNBROKEN = 12
"""Letters of a row's name that are not broken in a narrow terminal."""

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_table(rows: Sequence[Sequence[str]], title: str) -> None:
    """Print rows, of which the first is the header; columns of nothing but "-" are left out."""
    table = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    shown = [i for i in range(len(rows[0])) if any(row[i] != "-" for row in rows[1:])]
    first = min(max(len(row[shown[0]]) for row in rows), _MAX_UNBROKEN)
    for position, name in enumerate(rows[0][i] for i in shown):
        is_first = position == 0
        width = first if is_first else None
        justify: Literal["left", "right"] = "left" if is_first else "right"
        table.add_column(name, justify=justify, no_wrap=not is_first, overflow="fold", min_width=width)
    for row in rows[1:]:
        table.add_row(*(row[i] for i in shown))
    console.print(table)


def check_writable(path: Path, option: str) -> None:
    """Make the folder of a file that is to be written, and fail now rather than after the work.

    Raises:
        ConfigError: it cannot be written; the message names the option.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}. Choose another {option}.") from error
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder. Name a file in it with {option}.")


def default_folder(what: str, on: str, seed: int | str) -> Path:
    """Where a run goes that is not told: runs/WHAT-ON-seedSEED."""
    return Path("runs") / f"{what}-{on}-seed{seed}"


def ended(outcome: Outcome, unit: str) -> int:
    """Say how a training ended, and after how many of what; returns the exit code."""
    state = "finished" if outcome.finished else "stopped, go on with --resume"
    console.print(f"{state}: {outcome.env_steps:,} {unit} in {outcome.folder}")
    return outcome.exit_code
