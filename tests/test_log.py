"""Metrics: lines without gaps or doubles across kills and full disks, and what is shown of them."""

import errno
import io
import json
import logging
import math
import os
import re
import subprocess
import sys
import textwrap

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog

from metarl.errors import CheckpointError
from metarl.log import MetricsLogger, clock, read_metrics, short


def write_steps(folder, steps, resume_step=0, **metrics):
    with MetricsLogger(folder, resume_step, 10_000, console=False) as log:
        for step in steps:
            log.log(step, {"env_steps": 100 * step, **metrics})


def steps_in(folder) -> list[int]:
    return [values["step"] for values in read_metrics(folder / "metrics.jsonl")]


def events_in(folder) -> list:
    return [event for path in sorted(folder.glob("events.*")) for event in LegacyEventFileLoader(str(path)).Load()]


def test_every_update_is_one_line_that_is_there_at_once(tmp_path):
    with MetricsLogger(tmp_path, 0, 10_000, console=False) as log:
        log.log(1, {"env_steps": 100, "return_last": 0.1 + 0.2})
        line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 1, "env_steps": 100, "return_last": 0.30000000000000004}\n'


def test_nan_and_infinity_are_null_in_the_file_and_nan_when_read(tmp_path):
    write_steps(tmp_path, [1], loss=math.nan, gradient=math.inf)
    raw = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(raw, parse_constant=pytest.fail)["loss"] is None
    values = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert math.isnan(values["loss"]) and math.isnan(values["gradient"])


def test_numbers_of_numpy_and_torch_are_taken(tmp_path):
    import numpy as np
    import torch

    write_steps(tmp_path, [1], a=np.float32(0.5), b=torch.tensor(2.5), c=np.int64(3), d=True)
    assert read_metrics(tmp_path / "metrics.jsonl")[0] == {
        "step": 1,
        "env_steps": 100,
        "a": 0.5,
        "b": 2.5,
        "c": 3.0,
        "d": 1.0,
    }


def test_a_step_that_does_not_follow_is_refused(tmp_path):
    write_steps(tmp_path, [1, 2])
    with MetricsLogger(tmp_path, 2, 10_000, console=False) as log, pytest.raises(ValueError, match="step 2 is not"):
        log.log(2, {"env_steps": 1})
    assert steps_in(tmp_path) == [1, 2]


# --- resuming ----------------------------------------------------------------------------------------------


def test_resumed_lines_are_those_of_an_unbroken_run(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    write_steps(tmp_path / "a", range(1, 11), x=1.5)
    write_steps(tmp_path / "b", range(1, 8), x=1.5)  # killed after 7, checkpoint at 4
    write_steps(tmp_path / "b", range(5, 11), resume_step=4, x=1.5)
    assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == (tmp_path / "a" / "metrics.jsonl").read_bytes()


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    raw = (tmp_path / "metrics.jsonl").read_bytes()
    for length in range(len(raw)):
        (tmp_path / "metrics.jsonl").write_bytes(raw[:length])
        assert steps_in(tmp_path) == list(range(1, raw[:length].count(b"\n") + 1))
        write_steps(tmp_path, [2], resume_step=1)
        if length > raw.index(b"\n"):
            assert steps_in(tmp_path) == [1, 2]


def test_a_run_that_starts_afresh_drops_all_lines(tmp_path):
    write_steps(tmp_path, [1, 2])
    write_steps(tmp_path, [1], resume_step=0)
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("damage", [b'{"step": 2, "env\n', b"[2]\n", b"{}\n", b'{"step": "2"}\n', b"\x80\x04\n", b"\n"])
def test_a_damaged_line_is_named_by_its_number(tmp_path, damage):
    write_steps(tmp_path, [1])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage + b'{"step": 3}\n')
    with pytest.raises(CheckpointError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        MetricsLogger(tmp_path, 3, 10_000, console=False)


def test_lost_lines_are_said_in_one_line(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_steps(tmp_path, [6], resume_step=5)
        write_steps(tmp_path, [9], resume_step=8)
    assert [record.getMessage().rpartition(":")[2] for record in caplog.records] == [
        " the metrics up to update 5 are lost.",
        " the metrics up to update 8 are lost.",
    ]


def test_a_kill_in_the_middle_of_cutting_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        MetricsLogger(tmp_path, 1, 10_000, console=False)
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    write_steps(tmp_path, [2], resume_step=1)
    assert steps_in(tmp_path) == [1, 2]
    assert not list(tmp_path.glob(".*"))


# --- full disks --------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_clear_error_and_leaves_whole_lines(tmp_path, monkeypatch):
    log = MetricsLogger(tmp_path, 0, 10_000, console=False)
    log.log(1, {"env_steps": 100})
    real_write = os.write

    def half_then_full(descriptor, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data[:15])

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--resume"):
        log.log(2, {"env_steps": 200})
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1, "env_steps": 100}\n'
    log.log(2, {"env_steps": 200})  # room was made
    log.close()
    assert steps_in(tmp_path) == [1, 2]


def test_a_limit_of_the_system_on_file_sizes_is_one_clear_error_and_leaves_whole_lines(tmp_path):
    source = """
    import resource, sys
    from pathlib import Path
    from metarl.errors import CheckpointError
    from metarl.log import MetricsLogger
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        with MetricsLogger(Path(sys.argv[1]), 0, 10, console=False) as log:
            for step in range(1, 1000):
                log.log(step, {"env_steps": step, "return_last": 1.5})
    except CheckpointError as error:
        sys.stdout.write(str(error))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(source), tmp_path], capture_output=True, text=True)
    assert "File too large" in result.stdout and "--resume" in result.stdout, result.stderr
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    assert steps_in(tmp_path) == list(range(1, len(steps_in(tmp_path)) + 1))
    assert len(steps_in(tmp_path)) > 5


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write metrics"):
        MetricsLogger(tmp_path / "gone", 0, 10, console=False)


# --- TensorBoard -------------------------------------------------------------------------------------------


def test_tensorboard_reads_every_metric(tmp_path):
    write_steps(tmp_path, [1, 2], return_last=1.5)
    scalars = [(e.step, v.tag, v.simple_value) for e in events_in(tmp_path) for v in e.summary.value]
    assert scalars == [
        (step, tag, value) for step in (1, 2) for tag, value in (("env_steps", 100.0 * step), ("return_last", 1.5))
    ]


def test_tensorboard_is_told_where_a_resumed_run_goes_on(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    write_steps(tmp_path, [2], resume_step=1)
    starts = [e.step for e in events_in(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [2]


def test_logging_imports_neither_torch_nor_tensorflow():
    code = "import sys, metarl.log; sys.exit(any(m in sys.modules for m in ('torch', 'tensorflow', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the console -------------------------------------------------------------------------------------------


def shown(tmp_path, is_terminal: bool, interval_s: float, width: int = 80) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=width, color_system=None)
    with MetricsLogger(tmp_path, 0, 500, console=console, interval_s=interval_s) as log:
        for step in range(1, 6):
            log.log(step, {"env_steps": 100 * step, "return_last": 9.123456})
    return screen.getvalue()


def test_without_a_terminal_the_first_and_the_last_update_are_lines(tmp_path):
    lines = shown(tmp_path, is_terminal=False, interval_s=3600).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("100/500 steps  update 1  ") and lines[1].startswith("500/500 steps  update 5  ")
    assert "steps/s  return_last 9.123  0:00 left" in lines[1]


def test_without_a_terminal_every_interval_is_a_line(tmp_path):
    assert len(shown(tmp_path, is_terminal=False, interval_s=0).splitlines()) == 5


def test_on_a_terminal_there_is_one_bar_with_speed_return_and_time_left(tmp_path):
    screen = shown(tmp_path, is_terminal=True, interval_s=0)
    last = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).rstrip())[-1]
    assert "100 % update 5" in last and "steps/s  return_last 9.123  0:00 left" in last and len(last) <= 80


def test_the_time_left_follows_the_progress_where_minutes_end_a_run_before_its_steps(tmp_path, monkeypatch):
    screen, now = io.StringIO(), iter(range(0, 10_000, 60))
    monkeypatch.setattr("metarl.log.time.monotonic", lambda: next(now))
    console = Console(file=screen, force_terminal=False, width=80, color_system=None)
    with MetricsLogger(tmp_path, 0, 10_000, console=console, interval_s=0) as log:
        for step, progress in enumerate((0.25, 0.5, 1.0), 1):
            log.log(step, {"env_steps": 10 * step, "progress": progress})
    assert [line.split()[-2] for line in screen.getvalue().splitlines()] == ["?", "2:00", "0:00"]


def test_console_false_shows_nothing(tmp_path, capfd):
    write_steps(tmp_path, [1, 2])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.42, "0.4"),
        (7, "7"),
        (9.97, "10"),
        (950, "950"),
        (14_230, "14.2k"),
        (3_214_000, "3.21M"),
        (2.5e9, "2.5G"),
    ],
)
def test_counts_are_short(number, text):
    assert short(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (245, "4:05"), (7445, "2:04:05"), (math.inf, "?")])
def test_durations_are_clocks(seconds, text):
    assert clock(seconds) == text
