"""Run folders: creation, locks and signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from metarl.errors import CheckpointError
from metarl.run_folder import StopSignals, open_run, resume_run, start_run, write_json
from metarl.run_lock import hold_lock

CONFIG = {"algorithm": "rl2", "env": "bandit", "config": {"seed": 3}}


def locks(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("run.lock.*"))


def start_python(source: str, *args: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- folders -----------------------------------------------------------------------------------------------


def test_a_new_run_keeps_its_config_and_its_lock_goes_with_it(tmp_path):
    with start_run(tmp_path / "runs" / "a", CONFIG) as run:
        assert len(locks(run.path)) == 1
    assert open_run(tmp_path / "runs" / "a").config == run.config == CONFIG
    assert [p.name for p in run.path.iterdir()] == ["config.json"]


def test_an_empty_folder_and_one_killed_before_its_config_can_be_started(tmp_path):
    (tmp_path / ".config.json.tmp").write_bytes(b'{"forma')
    (tmp_path / "run.lock.4").write_bytes(b"")
    with start_run(tmp_path, CONFIG) as run:
        assert open_run(run.path).config == CONFIG
        assert locks(run.path) == ["run.lock.5"]


def test_a_run_is_not_started_over_another(tmp_path):
    with start_run(tmp_path, CONFIG):
        pass
    with (
        pytest.raises(CheckpointError, match=r"holds a run already\. Continue it with --resume"),
        start_run(tmp_path, {}),
    ):
        pytest.fail("started")
    with resume_run(tmp_path) as run:
        assert run.config == CONFIG


def test_a_run_that_came_and_went_between_the_look_and_the_lock_is_not_overwritten(tmp_path, monkeypatch):
    import metarl.run_folder

    real_lock = metarl.run_folder.hold_lock

    def another_run_first(folder):
        (folder / "config.json").write_text("its config")
        return real_lock(folder)

    monkeypatch.setattr(metarl.run_folder, "hold_lock", another_run_first)
    with pytest.raises(CheckpointError, match="holds a run already"), start_run(tmp_path, {}):
        pytest.fail("started")
    assert (tmp_path / "config.json").read_text() == "its config"


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(CheckpointError, match=r"not empty and holds no run \(found thesis\.tex\)"),
        start_run(tmp_path, {}),
    ):
        pytest.fail("started")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_path_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("a\0b"), tmp_path / ("x" * 300), Path("/proc/run")):
        with pytest.raises(CheckpointError) as refusal, start_run(path, {}):
            pytest.fail("started")
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"), start_run(tmp_path / "run", {}):
        pytest.fail("started")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, r"no such run folder: .*Did you mean 'bandit-1'"),
        (lambda p: p.mkdir(), "is empty"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir() or (p / "model.zip").write_text("x"), r"no config\.json in it \(found model\.zip\)"),
        (lambda p: p.mkdir() or (p / "config.json").write_text('{"algor'), "not JSON"),
        (lambda p: p.mkdir() or (p / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda p: p.mkdir() or (p / "config.json").write_bytes(b"\x80\x04\x95"), "not JSON"),
        (lambda p: p.mkdir() or (p / "config.json").write_text("[]"), "another program's"),
        (lambda p: p.mkdir() or (p / "config.json").write_text('{"format": "x"}'), "another program's"),
        (
            lambda p: p.mkdir() or (p / "config.json").write_text('{"format": "metarl-run", "format_version": 9}'),
            "format 9; .*pip install --upgrade",
        ),
    ],
)
def test_what_is_no_run_is_one_clear_error(tmp_path, make, message):
    (tmp_path / "bandit-1").mkdir()
    make(tmp_path / "bandit-2")
    with pytest.raises(CheckpointError, match=message):
        open_run(tmp_path / "bandit-2")


def test_a_path_inside_a_run_is_answered_with_the_run(tmp_path):
    (tmp_path / "checkpoints" / "ckpt-00000001").mkdir(parents=True)
    for path in (tmp_path / "checkpoints", tmp_path / "checkpoints" / "ckpt-00000001"):
        (path / "x").touch()
        with pytest.raises(CheckpointError, match="name the folder that holds checkpoints/"):
            open_run(path)


def test_a_json_file_that_cannot_be_written_is_as_it_was(tmp_path):
    path = tmp_path / "evaluation.json"
    write_json(path, {"iqm_return": [1.5]})
    source = """
    import resource, sys
    from pathlib import Path
    from metarl.run_folder import write_json
    from metarl.errors import CheckpointError
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        write_json(Path(sys.argv[1]), list(range(1000)))
    except CheckpointError as error:
        sys.stdout.write(str(error))
    """
    assert "cannot write" in start_python(source, path).communicate()[0]
    assert json.loads(path.read_bytes()) == {"iqm_return": [1.5]}
    assert os.listdir(tmp_path) == ["evaluation.json"]


# --- locks -------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from metarl.errors import CheckpointError
from metarl.run_lock import hold_lock
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
sys.stdin.readline()
try:
    with hold_lock(folder):
        sys.stdout.write("held\\n")
        sys.stdout.flush()
        time.sleep(seconds)
except CheckpointError as error:
    sys.stdout.write(str(error))
"""

RACE = """
import os, sys, time
from pathlib import Path
from metarl.errors import CheckpointError
from metarl.run_lock import hold_lock
root, name = Path(sys.argv[1]), sys.argv[2]
results = []
for round in range(20):
    folder, go = root / str(round), root / f"go-{round}"
    (root / f"ready-{round}-{name}").touch()
    while not go.exists():
        pass
    mine, other = (root / f"done-{round}-{n}" for n in ("ab" if name == "a" else "ba"))
    try:
        with hold_lock(folder):
            mine.touch()
            while not other.exists():
                time.sleep(0.001)
            results.append("1")
    except CheckpointError:
        mine.touch()
        results.append("0")
sys.stdout.write(" ".join(results))
"""


def test_a_second_process_is_refused_with_the_first_ones_number(tmp_path):
    first = start_python(HOLD, tmp_path, 60, stdin=subprocess.PIPE)
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "held\n"
    try:
        message = f"in use by process {first.pid} on {socket.gethostname()} since 20"
        with pytest.raises(CheckpointError, match=message), hold_lock(tmp_path):
            pytest.fail("two at once")
    finally:
        first.kill()
    # A killed process that its parent has not waited for yet is a zombie: it holds nothing.
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with hold_lock(tmp_path):
        assert locks(tmp_path) == ["run.lock.2"]
    first.communicate()
    assert locks(tmp_path) == []


@pytest.mark.parametrize("stale", [False, True])
def test_of_two_processes_at_once_exactly_one_gets_the_folder(tmp_path, stale):
    for i in range(20):
        (tmp_path / str(i)).mkdir()
        if stale:
            gone = {"pid": 2**22 + 1, "host": socket.gethostname(), "process_start": "1", "since": "2020"}
            (tmp_path / str(i) / "run.lock.1").write_text(json.dumps(gone))
    racers = [start_python(RACE, tmp_path, name) for name in "ab"]
    try:
        for i in range(20):
            deadline = time.monotonic() + 20
            while not all((tmp_path / f"ready-{i}-{name}").exists() for name in "ab"):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            (tmp_path / f"go-{i}").touch()
        outputs = [racer.communicate(timeout=20)[0].split() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    assert len(outputs[0]) == 20
    assert [int(a) + int(b) for a, b in zip(*outputs, strict=True)] == [1] * 20


def holder(**changes: object) -> str:
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    me = {"pid": os.getpid(), "host": socket.gethostname(), "process_start": stat[19], "since": "2026"}
    return json.dumps(me | changes)


def test_a_living_process_holds_its_lock_and_a_reused_number_does_not(tmp_path):
    (tmp_path / "run.lock.1").write_text(holder())
    with pytest.raises(CheckpointError, match="in use"), hold_lock(tmp_path):
        pytest.fail("taken")
    (tmp_path / "run.lock.1").write_text(holder(process_start="1"))
    with hold_lock(tmp_path):
        assert locks(tmp_path) == ["run.lock.2"]


def test_a_process_that_looked_before_others_came_and_went_steps_back(tmp_path, monkeypatch):
    import metarl.run_lock

    real_write = metarl.run_lock.write_new

    def others_come_first(path, content):
        # Between this process's look at the empty folder and its own lock, one died and another took over.
        if not (tmp_path / "run.lock.2").exists():
            (tmp_path / "run.lock.2").write_text(holder())
        real_write(path, content)

    monkeypatch.setattr(metarl.run_lock, "write_new", others_come_first)
    with pytest.raises(CheckpointError, match="in use"), hold_lock(tmp_path):
        pytest.fail("two at once")
    assert locks(tmp_path) == ["run.lock.2"]


def test_a_lock_of_another_machine_is_believed_and_the_way_out_is_said(tmp_path):
    (tmp_path / "run.lock.1").write_text(holder(host="elsewhere", pid=2**22 + 1))
    message = r"on elsewhere.*If you know that it is gone, delete .*run\.lock\.1"
    with pytest.raises(CheckpointError, match=message), hold_lock(tmp_path):
        pytest.fail("taken")


@pytest.mark.parametrize("content", [b"", b'{"pid": 12', b"[]", b'{"pid": 3}', b"\x80\x04"])
def test_a_lock_left_half_written_is_taken_over_after_a_moment(tmp_path, content):
    (tmp_path / "run.lock.1").write_bytes(content)
    with hold_lock(tmp_path):
        assert locks(tmp_path) == ["run.lock.2"]


def test_the_lock_is_released_when_the_block_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_lock(tmp_path):
        raise ZeroDivisionError
    assert locks(tmp_path) == []


def test_locking_needs_no_flock(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with hold_lock(tmp_path), pytest.raises(CheckpointError, match="in use"), hold_lock(tmp_path):
        pytest.fail("two at once")


# --- signals -----------------------------------------------------------------------------------------------

LOOP = """
import sys, time
from pathlib import Path
from metarl.run_folder import StopSignals
from metarl.run_lock import hold_lock
with hold_lock(Path(sys.argv[1])), StopSignals() as stop:
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    while not stop.requested or sys.argv[2] == "stubborn":
        time.sleep(0.01)
    sys.stdout.write("saved\\n")
sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_the_loop_finish_and_save(tmp_path, number, code):
    process = start_python(LOOP, tmp_path, "polite")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (output, process.returncode) == ("saved\n", code)
    assert "once more to stop at once" in errors and "Traceback" not in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_stops_at_once_and_frees_the_folder(tmp_path, number, code):
    process = start_python(LOOP, tmp_path, "stubborn")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "once more" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (output, process.returncode) == ("", code)
    assert "Traceback" not in errors and locks(tmp_path) == []


def test_handlers_are_put_back_and_no_signal_means_exit_code_zero():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not stop.requested and stop.exit_code == 0
