"""From a training to a video with every environment: RL² for an update, judged on every split, recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import envs
from metarl.config import RunConfig
from metarl.errors import MetarlError
from metarl.evaluate import evaluate
from metarl.learners import preset
from metarl.record import record, require_body
from metarl.run import load_run
from metarl.train import train


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in envs.names() if not name.startswith("metaworld-")])
def test_rl2_trains_is_judged_on_every_split_and_recorded(tmp_path, name):
    settings = preset("rl2", name)
    one_update = 4 * settings.episodes_per_trial * envs.make_spec(name).horizon
    settings = replace(settings, num_worlds=4, num_minibatches=2, num_epochs=1, total_steps=one_update)
    assert train(RunConfig("rl2", name, settings, device="cpu"), tmp_path / "run").finished
    run = load_run(tmp_path / "run", "cpu")
    for split in run.spec.tasks.splits():
        judged = evaluate(run.learner, run.spec, algorithm="rl2", split=split, num_tasks=2, num_episodes=2)
        assert np.isfinite(np.array(judged.returns)).all() and np.shape(judged.returns) == (2, 2)
    try:
        require_body(run.spec)
    except MetarlError:
        return  # nothing to look at, as with a bandit
    video = tmp_path / "video.mp4"
    record(run.learner, run.spec, run.spec.tasks.split("test", 1), 1, video, speed=8.0, frame_width=96, frame_height=72)
    assert video.stat().st_size > 1000
