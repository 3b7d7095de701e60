"""The doctor reports on any machine, also on one where things are missing."""

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from metarl.doctor import OK, OPTIONAL, PROBLEM, Check, as_table, report


def find(checks: list[Check], item: str) -> Check:
    return next(check for check in checks if check.item.startswith(item))


def test_every_part_of_the_machine_is_reported() -> None:
    checks = report()
    items = " ".join(check.item for check in checks)
    for part in (
        "Python",
        "cores",
        "torch",
        "CUDA",
        "C++ compiler",
        "mujoco.batch",
        "mujoco_warp",
        "video encoder",
        "free disk",
    ):
        assert part in items
    for backend in ("egl", "osmesa", "glfw", "warp", "auto"):
        assert find(checks, f"renderer: {backend}").detail
    assert find(checks, "engine: mujoco.batch").status == OK
    assert find(checks, "renderer: auto").status == OK


def test_what_does_not_work_says_how_to_get_it() -> None:
    for check in report():
        assert check.status in (OK, OPTIONAL, PROBLEM)
        assert bool(check.fix) == (check.status != OK), check


def test_missing_packages_are_findings_not_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "torch", "mujoco_warp"):
        monkeypatch.setitem(sys.modules, name, None)
    checks = report()
    assert find(checks, "video encoder") == Check(
        "video encoder", OPTIONAL, "PyAV is not installed", "pip install av (without it videos are animated WebP)"
    )
    assert find(checks, "torch").status == PROBLEM and "pip install torch" in find(checks, "torch").fix
    assert find(checks, "engine: mujoco_warp").status == PROBLEM
    assert find(checks, "renderer: warp").fix == "pip install mujoco-warp"


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    check = find(report(tmp_path / "runs" / "not" / "yet"), "free disk")
    assert str(tmp_path) in check.detail and "not" not in Path(check.detail.split(" in ")[1]).name


def test_the_table_shows_every_line_and_brackets_as_they_are() -> None:
    checks = [Check("video encoder", OPTIONAL, "no [bold] codec", "pip install av"), Check("torch", OK, "2.13")]
    console = Console(file=StringIO(), width=120)
    console.print(as_table(checks))
    text = console.file.getvalue()
    assert "no [bold] codec" in text and "pip install av" in text and "2.13" in text
