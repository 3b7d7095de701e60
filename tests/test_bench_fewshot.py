"""scripts/bench_fewshot.py: the loop over tasks that it times is the same algorithm."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("name", ["sinusoid-5", "conv4-1"])
def test_the_loop_over_tasks_has_the_meta_gradient_of_all_tasks_at_once(monkeypatch, name):
    monkeypatch.syspath_prepend(SCRIPTS)
    import bench_fewshot as bench

    case = replace(bench.CASES[name], num_tasks=3)
    case = replace(case, settings=replace(case.settings, hidden_dim=8))
    learner, episode = bench.learner_of(case), bench.episode_of(case)
    twin = bench.learner_of(case).network
    learner.loss(episode, torch.Generator())[0].backward()
    bench.loop_backward(twin, episode, case.settings)
    for ours, theirs in zip(learner.network.parameters(), twin.parameters(), strict=True):
        assert ours.grad.any()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-3)
