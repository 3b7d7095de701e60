"""scripts/fewshot_sinusoid.py: what its trainings share, and what they do not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metarl.fewshot.learners import default_settings, make_learner
from metarl.seeding import make_generator

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("name", ["maml", "maml++", "abml"])
def test_seeds_that_are_trained_side_by_side_end_where_each_of_them_ends_alone(monkeypatch, name):
    monkeypatch.syspath_prepend(SCRIPTS)
    import fewshot_sinusoid as script

    training = script.Training(shots=5, iterations=4, lr=2e-3, lr_schedule="cosine")
    settings = replace(default_settings(name), hidden_dim=8, norm="none", inner_lr=0.01)

    def learners():
        return [make_learner(name, settings, (1,), 1, make_generator(seed, "weights")) for seed in (0, 1)]

    alone, beside, untrained = learners(), learners(), learners()
    for seed, learner in enumerate(alone):
        script.train(learner, training, seed)
    script.train_side_by_side(beside, training, (0, 1))
    for one, other, start in zip(alone, beside, untrained, strict=True):
        before = dict(start.named_parameters())
        for (key, ours), theirs in zip(other.named_parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
            assert not torch.equal(ours, before[key])


def test_the_step_size_is_published_or_falls_to_zero(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import fewshot_sinusoid as script

    cosine = script.Training(5, 100, 1e-3, "cosine")
    assert [script.Training(5, 100).lr_at(p) for p in (0.0, 0.9)] == [1e-3, 1e-3]
    assert [cosine.lr_at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1e-3, 5e-4, 0.0])
