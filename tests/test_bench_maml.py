"""scripts/bench_maml.py: the loop over tasks that it times is the same algorithm."""

from dataclasses import replace
from pathlib import Path

import torch

from metarl.env import BatchedEnv
from metarl.learners.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from tests.probes import hidden_target

SCRIPTS = Path(__file__).parents[1] / "scripts"
CONFIG = MAMLTRPOConfig(1, meta_batch_size=5, episodes_per_task=8, hidden_dims=(6,), metric_share=1.0, task_chunk=2)


def test_the_loop_over_tasks_makes_the_step_that_all_tasks_at_once_make(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_maml import loop_over_tasks

    learner = MAMLTRPO(hidden_target(), replace(CONFIG, normalizes_obs=False), 0)
    batch = learner.batch(learner.collect(BatchedEnv(hidden_target(), CONFIG.num_worlds)))
    looped = loop_over_tasks(learner, batch, batch)
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    learner.improve(batch, 0.0)
    assert looped.accepted
    for name, value in learner.meta_parameters.items():
        assert (value != before[name]).any()
        torch.testing.assert_close(value.detach(), looped.parameters[name], atol=1e-5, rtol=1e-3)
