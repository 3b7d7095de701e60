"""scripts/reproduce.py: a quick reproduction in a process of its own, checked against a recomputation."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from metarl.evaluate import evaluate
from metarl.learners import preset
from metarl.run import load_run

ROOT = Path(__file__).parents[1]
NAME = "bandit-k5-n10"


def reproduce(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a quick reproduction with two seeds, and what was in the committed results before."""
    folder = tmp_path_factory.mktemp("reproduce")
    before = committed_results()
    result = reproduce(folder, NAME, "--quick", "--seeds", "0", "1")
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "quick", before


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")


def committed_results() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks" / "results").glob(f"{NAME}*")}


def test_a_quick_reproduction_writes_what_the_runs_earn(quick):
    folder, _ = quick
    result = json.loads((folder / f"{NAME}.json").read_text())
    runs = [load_run(folder / NAME / f"rl2-seed{seed}", "cpu") for seed in (0, 1)]
    for policy, deterministic in (("rl2", True), ("rl2, sampled actions", False)):
        judged = [
            evaluate(run.learner, run.spec, algorithm="rl2", num_tasks=20, num_episodes=10, deterministic=deterministic)
            for run in runs
        ]
        returns = np.array([evaluation.returns for evaluation in judged])  # (S, B, K)
        sums = returns.sum(2)
        written, curve = result["trial_sums"][policy], result["splits"]["test"][policy]
        assert written["mean"] == pytest.approx(sums.mean())
        assert written["mean_per_seed"] == pytest.approx(sums.mean(1).tolist())
        assert written["stderr"] == pytest.approx(sums.mean(0).std(ddof=1) / np.sqrt(20))
        assert curve["mean_return"] == pytest.approx(returns.mean((0, 1)).tolist())
        for episode, (low, high) in enumerate(curve["ci95_return"]):
            assert low <= curve["iqm_return"][episode] <= high
    assert result["trial_sums"]["rl2"]["published"] == 6.7


def test_classical_strategies_play_the_same_tasks(quick):
    folder, _ = quick
    sums = json.loads((folder / f"{NAME}.json").read_text())["trial_sums"]
    tasks = envs.make_spec("bandit").tasks.split("test", 20)
    # A random arm pays the mean of its task's probabilities; the variance of a Bernoulli reward is at most 1/4.
    assert abs(sums["random"]["mean"] - 10 * float(tasks.mean())) < 4 * np.sqrt(10 * 0.25 / 20)
    assert sums["random"]["mean"] < min(sums["gittins"]["mean"], sums["ucb1"]["mean"], sums["greedy"]["mean"])


def test_a_reproduction_says_how_it_was_made(quick):
    folder, _ = quick
    result = json.loads((folder / f"{NAME}.json").read_text())
    assert result["command"] == f"python scripts/reproduce.py {NAME} --quick --seeds 0 1"
    assert result["seeds"] == [0, 1] and result["date"] and result["commit"] and result["cpu_cores"]
    for training in result["training"]["rl2"]:
        assert training["env_steps"] == training["config"]["settings"]["total_steps"] == 640
        assert training["updates"] == 2 and training["seconds"] > 0
        assert [session["from_env_steps"] for session in training["sessions"]] == [0]
    for picture in (f"{NAME}.png", f"{NAME}-learning.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_a_quick_reproduction_leaves_the_committed_results_alone(quick):
    _, before = quick
    assert committed_results() == before


def test_an_interrupted_reproduction_goes_on_and_a_finished_run_is_only_judged(scripts, tmp_path):
    """As if stopped after the first of two updates: the second is made, once; then nothing more is."""
    import reproduce as script
    from _targets import TARGETS

    config = script.configuration(TARGETS[NAME], "rl2", 0, "cpu", quick=True)
    whole = script.trained(tmp_path / "whole", config)
    script.train(config, tmp_path / "cut", checkpoint_interval_s=0, console=False)
    newest = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()

    gone_on = script.trained(tmp_path / "cut", config)
    assert (gone_on.update, gone_on.env_steps) == (whole.update, whole.env_steps) == (2, 640)
    weights = whole.learner.network.state_dict()
    assert all(bool((value == weights[key]).all()) for key, value in gone_on.learner.network.state_dict().items())

    metrics = (tmp_path / "cut" / "metrics.jsonl").read_bytes()
    script.trained(tmp_path / "cut", config)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == metrics
    sessions = (tmp_path / "cut.sessions.jsonl").read_text().splitlines()
    assert [json.loads(line)["from_env_steps"] for line in sessions] == [320]


def test_every_target_names_an_environment_and_presets_that_exist(scripts):
    from _targets import TARGETS, classical_strategies

    for name, target in TARGETS.items():
        assert "test" in envs.make_spec(target.env).tasks.splits()
        episodes = {algorithm: preset(algorithm, target.env, target.preset) for algorithm in target.algorithms}
        assert target.algorithms[0] in ("rl2", "maml-trpo"), name
        if target.algorithms[0] == "rl2":
            assert episodes["rl2"].memory, name
        assert bool(target.source) == bool(target.published), name
        if target.has_trial_sums:
            assert name.endswith(f"-n{episodes['rl2'].episodes_per_trial}")
            assert set(classical_strategies(target.env)) < set(target.published)


def test_pooled_numbers_are_hand_computed_ones(scripts):
    import reproduce as script

    returns = np.array([[[0.0], [2.0], [4.0], [6.0]], [[2.0], [4.0], [6.0], [8.0]]])  # (S, B, K)
    # Tasks average 1, 3, 5, 7 over seeds: standard deviation sqrt(20 / 3), over sqrt(4) tasks.
    assert script.standard_error(returns).tolist() == pytest.approx([np.sqrt(20 / 3) / 2])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bandit-k5-n11"], "bandit-k5-n100"),
        ([NAME, "--train-only", "oracle"], f"{NAME} has no oracle; available: rl2"),
    ],
)
def test_unknown_words_are_bad_input(scripts, monkeypatch, tmp_path, capsys, arguments, said):
    import reproduce as script

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 2 and said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
