"""scripts/bench_drift.py: a short comparison of two losses, and how its numbers come about."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def compare(folder, *arguments):
    sizes = ["--env", "point-navigation", "--num-worlds", "8", "--total-steps", "2400", "--num-tasks", "4"]
    command = [sys.executable, str(ROOT / "scripts" / "bench_drift.py"), *sizes, "--out", "d.json", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_a_short_comparison_writes_curves_of_every_loss_and_seed_and_can_be_added_to(tmp_path):
    for seeds in (["0"], ["0", "1"]):
        ended = compare(tmp_path, "--seeds", *seeds, "--smooth", "1")
        assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "d.json").read_text())
    assert list(result["losses"]) == ["clip", "dpo"] and result["env_steps"] == [800, 1600, 2400]
    clip, dpo = (np.array(result["losses"][loss]["training_return"]) for loss in ("clip", "dpo"))
    assert clip.shape == dpo.shape == (2, 3)
    assert np.array_equal(clip[:, :2], dpo[:, :2])  # the first update sets the scales only
    assert (clip[:, 2] != dpo[:, 2]).all()
    assert result["reference_final_return"] == clip[:, -1].mean()
    assert result["losses"]["clip"]["minus_reference"]["iqm"] == 0
    assert (tmp_path / "d.png").exists()


@pytest.mark.slow
def test_wrong_names_and_other_settings_are_told(tmp_path):
    ended = compare(tmp_path, "--losses", "clip", "dop")
    assert (ended.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "bench_drift: unknown loss 'dop'. Did you mean 'dpo'?" in ended.stderr
    one = ["--seeds", "0", "--losses", "clip"]
    assert compare(tmp_path, *one).returncode == 0
    ended = compare(tmp_path, *one, "--num-train-tasks", "1")
    assert ended.returncode == 2 and "was trained with other settings. Choose another --runs." in ended.stderr


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import bench_drift

    return bench_drift


def test_the_trailing_mean_and_the_steps_to_a_goal_by_hand(bench):
    curve = bench.trailing_mean([2.0, 4.0, 6.0, 11.0], 2)
    assert curve.tolist() == [2, 3, 5, 8.5]
    steps = np.array([10, 20, 30, 40])
    assert bench.steps_until(steps, curve, 4.5) == 30 and bench.steps_until(steps, curve, 9.0) is None
