"""Metrics of a run: one JSON line per update, TensorBoard events, and a line or a bar to watch."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from metarl.errors import CheckpointError
from metarl.files import append, reason, replace_file

logger = logging.getLogger(__name__)

_PROGRESS = "progress"


class MetricsLogger:
    """Writes the metrics of every update; a context manager.

    A run that resumes from the checkpoint of step s keeps the lines up to s and writes on from there, so that no
    step is missing or doubled. Call `sync` before each checkpoint: then a line is on the disk whenever a checkpoint
    that follows it is.

    Args:
        folder: the run's folder; gets `metrics.jsonl` and `events.out.tfevents.*`.
        resume_step: the update after which the run goes on, 0 for a new run.
        total: how many environment steps there will be in all, for the bar and the time left; of what `counted` counts.
        shown: the metric to show beside the speed.
        counted: the metric that grows to `total`.
        unit: what it counts, as one word.
        console: where to show it; True for standard error, False for nowhere.
        interval_s: seconds between lines where there is no terminal.

    Raises:
        CheckpointError: the files cannot be written, or `metrics.jsonl` is damaged.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int,
        total: int,
        *,
        shown: str = "return_last",
        counted: str = "env_steps",
        unit: str = "steps",
        console: bool | Console = True,
        interval_s: float = 10.0,
    ) -> None:
        self._folder, self._last_step = folder, resume_step
        self._metrics_path = folder / "metrics.jsonl"
        if isinstance(console, bool):
            console = Console(stderr=True, quiet=not console)
        try:
            count = _cut_after(self._metrics_path, resume_step, counted)
            self._metrics = os.open(self._metrics_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            self._events = _EventFile(folder, resume_step)
        except OSError as error:
            raise self._unwritable(error) from error
        self._watch = _Watch(console, shown, counted, unit, total, count, interval_s)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one update.

        Args:
            step: the update's number, larger than all before it.
            metrics: {name: number}, with what is `counted`: "env_steps", the environment steps so far in all worlds
                together. "progress", where it is there, is the share of the training that is done, for runs that may
                end before the total. NaN and infinities become null in the JSON line.

        Raises:
            CheckpointError: the disk is full; the last checkpoint is untouched.
            ValueError: the step is not after the last one.
        """
        if step <= self._last_step:
            raise ValueError(f"step {step} is not after {self._last_step}, which is in {self._metrics_path} already.")
        values = {"step": step, **{name: _number(value) for name, value in metrics.items()}}
        sound = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            append(self._metrics, json.dumps(sound, allow_nan=False).encode() + b"\n")
            self._events.add(step, values)
        except OSError as error:
            raise self._unwritable(error) from error
        self._last_step = step
        self._watch.update(step, values)

    def sync(self) -> None:
        """Push what was logged to the disk."""
        try:
            os.fsync(self._metrics)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the files and leave the terminal as it was."""
        self._watch.stop()
        try:
            os.close(self._metrics)
            self._events.close()
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"cannot write metrics in {self._folder}: {reason(error, self._folder)}. Checkpoints are untouched; "
            "make room, then continue with --resume."
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`: one dict per update, null as NaN; a last line that was cut off is left out.

    Raises:
        CheckpointError: no such file, or a line in it is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    return [{k: math.nan if v is None else v for k, v in values.items()} for values, _ in _lines(path, raw)]


def _lines(path: Path, raw: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """The whole lines of a metrics file, parsed and as they are."""
    *whole, _cut_off = raw.split(b"\n")
    lines = []
    for number, line in enumerate(whole, start=1):
        try:
            values = json.loads(line)
            if type(values["step"]) is not int:
                raise ValueError("step is not an integer")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"line {number} of {path} is damaged ({error}). Delete the line to continue without it."
            ) from error
        lines.append((values, line + b"\n"))
    return lines


def _cut_after(path: Path, step: int, counted: str) -> int:
    """Drop the lines after a step, and a last line that was cut off, in one instant; what was counted so far."""
    if not path.exists():
        if step > 0:
            logger.warning("%s is gone: the metrics up to update %d are lost.", path, step)
        return 0
    raw = path.read_bytes()
    lines = _lines(path, raw)
    before = [(values, line) for values, line in lines if values["step"] <= step]
    last = before[-1][0] if before else {"step": 0}
    if last["step"] < step:
        logger.warning("%s ends at update %d: the metrics up to update %d are lost.", path, last["step"], step)
    kept = b"".join(line for _, line in before)
    if kept != raw:
        replace_file(path, kept)
    return int(last.get(counted) or 0)


def _number(value: Any) -> float:
    return value if type(value) in (int, float) else float(value)


class _EventFile:
    """A TensorBoard event file, written in this thread: TensorBoard's own writer fails in another one."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self._file = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_step > 0:
            # TensorBoard then drops what the interrupted run wrote after its last checkpoint.
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))
        self._file.flush()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=n, simple_value=v) for n, v in values.items() if n != "step"])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


class _Watch:
    """A progress bar on a terminal, a line per interval elsewhere."""

    def __init__(
        self, console: Console, shown: str, counted: str, unit: str, total: int, count: int, interval_s: float
    ) -> None:
        self._console, self._shown, self._total, self._interval_s = console, shown, total, interval_s
        self._counted, self._unit = counted, unit
        self._started_at, self._started_with = time.monotonic(), count
        self._share_from: tuple[float, float] | None = None  # time and share, where `progress` is told
        self._next_line_at = self._started_at  # the first update is shown at once
        self._progress: Progress | None = None
        if console.is_terminal and not console.quiet:
            one_line = Column(no_wrap=True, overflow="ellipsis")
            columns = (BarColumn(16), TextColumn("{task.percentage:3.0f} %"), _Status(one_line))
            self._progress = Progress(*columns, console=console)
            self._bar = self._progress.add_task("training", total=total, completed=count, status="")
            self._progress.start()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        now, count = time.monotonic(), values[self._counted]
        finished = count >= self._total or values.get(_PROGRESS, 0.0) >= 1
        if self._progress is None and now < self._next_line_at and not finished:
            return
        seconds = max(now - self._started_at, 1e-9)
        speed = (count - self._started_with) / seconds
        left_s = (self._total - count) / speed if speed > 0 else math.inf
        completed = count
        if _PROGRESS in values:
            share, completed = values[_PROGRESS], values[_PROGRESS] * self._total
            from_s, from_share = self._share_from = self._share_from or (now, share)
            left_s = (now - from_s) * (1 - share) / (share - from_share) if share > from_share else math.inf
        shown = [f"{self._shown} {values[self._shown]:.4g}"] if self._shown in values else []
        status = [f"update {step}", f"{short(speed)} {self._unit}/s", *shown, f"{clock(left_s)} left"]
        if self._progress is not None:
            self._progress.update(self._bar, completed=completed, status="  ".join(status))
            return
        line = "  ".join([f"{short(count)}/{short(self._total)} {self._unit}", *status])
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._next_line_at = now + self._interval_s

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class _Status(ProgressColumn):
    """The status text, never cut into markup."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["status"])


def short(number: float) -> str:
    """A count or a rate in four characters or so: 0.4, 950, 14.2k, 3.21M."""
    for divisor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= divisor:
            return f"{number / divisor:.3g}{suffix}"
    return f"{number:.1f}" if abs(number) < 9.95 and number != round(number) else f"{number:.0f}"


def clock(seconds: float) -> str:
    """A duration as 4:05 or 2:04:05; "?" where it is not known."""
    if not math.isfinite(seconds) or seconds > 1e7:
        return "?"
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
