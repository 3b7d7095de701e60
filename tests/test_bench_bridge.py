"""scripts/bench_bridge.py: a short comparison of all contenders, and how its numbers come about."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metarl.statistics import iqm

ROOT = Path(__file__).parents[1]


def compare(folder, *arguments):
    sizes = ["--env", "point-navigation", "--env-options", "horizon=6", "--num-worlds", "8", "--total-steps", "96"]
    more = ["--num-tasks", "4", "--window", "3", "--after-s", "4", "--bin-s", "2", "--device", "cpu", "--out", "b.json"]
    command = [sys.executable, str(ROOT / "scripts" / "bench_bridge.py"), *sizes, *more, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_a_short_comparison_judges_every_contender_on_the_same_tasks(tmp_path):
    ended = compare(tmp_path, "--splits", "test", "extrapolation")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "b.json").read_text())
    assert list(result["splits"]) == ["test", "extrapolation"]
    test = result["splits"]["test"]
    stages = [f"maml-trpo, {step} steps" for step in range(4)]
    assert list(test) == ["context-rl", "context-rl, prototypes", "domain-randomised", "oracle", "rl2", *stages]
    assert [test[stage]["seconds_before"] for stage in stages] == [0, 6, 12, 18]
    own = test["context-rl"]
    assert len(own["curve"]["iqm"]) == 3 and own["after"]["iqm"] != own["whole"]["iqm"]
    low, high = own["minus_domain-randomised"]["ci95"]
    assert low <= own["minus_domain-randomised"]["iqm"] <= high
    assert (tmp_path / "b-test.png").exists() and (tmp_path / "b-extrapolation.svg").exists()


@pytest.mark.slow
def test_settings_of_other_runs_and_trials_that_are_too_short_are_told(tmp_path):
    one = ["--contenders", "context-rl-focal"]
    assert compare(tmp_path, *one).returncode == 0
    ended = compare(tmp_path, *one, "--window", "2")
    assert ended.returncode == 2 and "context-rl-focal-seed0 has other settings" in ended.stderr
    ended = compare(tmp_path, *one, "--after-s", "6")
    assert ended.returncode == 1 and "the trial is over after 6.0 s" in ended.stderr


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import bench_bridge

    return bench_bridge


def test_rewards_are_summed_over_bins_and_an_incomplete_last_one_is_left_out(bench):
    reward = np.arange(2 * 5 * 7, dtype=float).reshape(2, 5, 7)  # seeds, tasks, steps
    found = bench.per_bin(reward, 3)
    expected = [iqm(reward[:, :, :3].sum(2).ravel()), iqm(reward[:, :, 3:6].sum(2).ravel())]
    np.testing.assert_allclose(found.value, expected)
    assert (found.low < found.value).all() and (found.value < found.high).all()
