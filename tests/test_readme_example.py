"""The example of the README, an environment of one's own: it runs, and it is the file in docs/."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

import envs
from metarl.check import check_task_distribution
from metarl.log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs" / "own_environment.py"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(envs, "_REGISTERED", {})
    description = importlib.util.spec_from_file_location("own_environment", EXAMPLE)
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


def test_the_example_is_shorter_than_sixty_lines():
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_the_example_registers_trains_and_evaluates(example, tmp_path, capsys):
    example.main(out=tmp_path / "run", total_steps=2 * 3 * 20 * 16, num_worlds=16)
    assert "pendulum" in envs.names()
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2] and metrics[-1]["failed_episodes"] == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\{'test': \[[\d., ]+\], 'extrapolation': \[[\d., ]+\]\}\n", printed)


def test_the_example_is_a_sound_task_distribution(example):
    check_task_distribution(example.make_spec())


def test_the_pendulum_of_the_example_swings_as_its_damping_says(example):
    envs.register("pendulum", example.make_spec)
    env = envs.make("pendulum", 2)
    env.set_tasks(torch.tensor([[1.0, 0.5], [1.0, 4.0]]))
    env.reset()
    speeds = [env.step(torch.ones(2, 1)).obs[:, 2].abs() for _ in range(3)]
    assert all(slight > strong for slight, strong in speeds)


def test_the_block_in_the_readme_is_the_file():
    text = EXAMPLE.read_text().rstrip("\n")
    blocks = re.findall(r"```python\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    shown = [block for block in blocks if block.splitlines()[0] == text.splitlines()[0]]
    if not shown:
        pytest.skip("README.md does not show the example yet")
    assert shown == [text]
