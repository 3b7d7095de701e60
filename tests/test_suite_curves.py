"""scripts/suite_curves.py: what the picture of the suite is drawn from."""

from pathlib import Path

import pytest


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import suite_curves

    return suite_curves


def test_every_environment_and_split_has_memory_the_expert_and_random_actions(script):
    lines = script.measured()
    for env in script.ENVS:
        for split in script.SPLITS:
            found = lines[env][split]
            assert {"RL²", "scripted expert, told the task", "random actions"} <= found.keys(), (env, split)
            assert found["random actions"]["iqm_return"][0] < found["scripted expert, told the task"]["iqm_return"][0]


def test_an_inner_step_costs_its_episodes_and_a_trial_one_at_a_time(script):
    lines = script.measured()
    rl2, maml = (lines["track"]["test"][label]["episodes_before"] for label in ("RL²", "MAML-TRPO"))
    assert (rl2, maml) == ([0, 1, 2], [0, 20, 40, 60])


def test_it_is_drawn(script, tmp_path):
    script.draw(tmp_path / "suite.png")
    assert (tmp_path / "suite.png").read_bytes().startswith(b"\x89PNG")
