"""Training runs: exact resumption, stop signals, kills, numbers that are not finite."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import envs
from metarl.checkpoint import newest_checkpoint
from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import CheckpointError, ConfigError
from metarl.learners.context_rl import ContextConfig
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.learners.maml_trpo import MAMLTRPOConfig
from metarl.learners.promp import ProMPConfig
from metarl.learners.reptile import ReptileConfig
from metarl.learners.rl2 import RL2Config
from metarl.log import read_metrics
from metarl.run import build, load_run
from metarl.train import dump_update, replay_update, train
from tests.probes import hidden_target
from tests.slow import slow_but

SMALL = RL2Config(total_steps=64 * 10 * 8, num_worlds=64, episodes_per_trial=2, hidden_dim=16, num_minibatches=2)
BY_TASK = {
    "total_steps": SMALL.total_steps,
    "meta_batch_size": 8,
    "episodes_per_task": 8,
    "hidden_dims": (8,),
}
SETTINGS = {
    "rl2": SMALL,
    "context-rl": ContextConfig(
        total_steps=SMALL.total_steps,
        num_worlds=64,
        episodes_per_trial=2,
        hidden_dim=16,
        num_minibatches=2,
        pooling="gaussian",
        samples_posterior=True,
    ),
    "oracle": replace(SMALL, memory=False, sees_task=True),
    "maml-trpo": MAMLTRPOConfig(**BY_TASK, metric_share=0.5),
    "meta-sgd": MAMLTRPOConfig(**BY_TASK, learns_inner_lr=True),
    "cavia": MAMLTRPOConfig(**BY_TASK, adapts="context"),
    "promp": ProMPConfig(**BY_TASK, adapts_inner_kl=True),
    "reptile": ReptileConfig(**BY_TASK),
}
QUIET = {"console": False, "validate_every": 3}


@pytest.fixture(autouse=True)
def _probe_by_name(monkeypatch):
    monkeypatch.setattr(envs, "_REGISTERED", {"hidden-target": hidden_target})


def config(**changes):
    return RunConfig("rl2", "hidden-target", replace(SMALL, **changes))


def tensors(folder):
    groups = newest_checkpoint(folder / "checkpoints").tensors
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def metric_lines(folder):
    return [{k: v for k, v in m.items() if not k.startswith("time_")} for m in read_metrics(folder / "metrics.jsonl")]


def cut_back(folder, checkpoint_steps):
    """Leave the folder as a kill would have left it: without the checkpoints after a step."""
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("ckpt-")) > checkpoint_steps:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


@pytest.mark.parametrize("algorithm", slow_but(SETTINGS, "rl2", "context-rl", "maml-trpo", "promp", "reptile"))
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, algorithm):
    _cut_and_resume(tmp_path, RunConfig(algorithm, "hidden-target", SETTINGS[algorithm]))


@pytest.mark.slow
def test_so_is_one_in_compiled_worlds(tmp_path):
    _cut_and_resume(tmp_path, RunConfig("rl2", "hidden-target", SMALL, compile_env=True))


def _cut_and_resume(tmp_path, whole):
    train(whole, tmp_path / "whole", **QUIET)
    train(whole, tmp_path / "cut", checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
    for step in (5, 2):
        cut_back(tmp_path / "cut", step)
        train(whole, tmp_path / "cut", resume=True, checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
        one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
        assert one.keys() == other.keys() and len(one) >= 12
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert metric_lines(tmp_path / "whole") == metric_lines(tmp_path / "cut")


@pytest.mark.parametrize("change", [{"lifetime": 4}, {"outer": "evolution"}, {"loss": "drift", "inner_epochs": 2}])
def test_a_resumed_training_of_a_loss_is_the_uninterrupted_one_bit_for_bit(tmp_path, change):
    sizes = {"meta_batch_size": 4, "episodes_per_task": 3, "num_inner_steps": 2, "policy_dims": (6,)}
    settings = LearnedLossConfig(total_steps=6 * 3 * 12 * 4, normalizes_obs=True, **sizes, **change)
    whole = RunConfig("learned-loss", "reach-robots", settings, env_options={"horizon": 4})
    train(whole, tmp_path / "whole", **QUIET)
    train(whole, tmp_path / "cut", checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
    for step in (4, 1):  # in the middle of a life, and after the batch that sets the scale of observations
        cut_back(tmp_path / "cut", step)
        train(whole, tmp_path / "cut", resume=True, checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
        one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
        assert one.keys() == other.keys() and len(one) >= 12
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert metric_lines(tmp_path / "whole") == metric_lines(tmp_path / "cut")


def test_a_run_on_a_few_tasks_sees_no_others_and_goes_on_with_them(tmp_path, monkeypatch):
    seen = []
    set_tasks = BatchedEnv.set_tasks
    monkeypatch.setattr(BatchedEnv, "set_tasks", lambda env, tasks: (seen.append(tasks), set_tasks(env, tasks))[1])
    options = {"validate_every": 0, "console": False}
    run = RunConfig("ppo", "hidden-target", SMALL, num_train_tasks=2)
    train(run, tmp_path / "run", **options)
    trained_on = torch.cat(seen[1:])  # worlds are born with tasks, and get others before the first update
    assert len(trained_on) == 8 * 64
    assert torch.equal(trained_on.unique(dim=0), hidden_target().tasks.split("train", 2).unique(dim=0))
    with pytest.raises(ConfigError, match="num_train_tasks is 2 there, got 1"):
        train(replace(run, num_train_tasks=1), tmp_path / "run", resume=True, **options)
    with pytest.raises(ConfigError, match="num_train_tasks must be at least 0, got -1"):
        replace(run, num_train_tasks=-1)


def test_the_configuration_of_a_run_from_before_losses_had_names_still_loads(tmp_path):
    saved = RunConfig("rl2", "hidden-target", SMALL).to_json()
    del saved["settings"]["loss"], saved["num_train_tasks"]
    assert RunConfig.from_json(saved) == RunConfig("rl2", "hidden-target", SMALL)


def test_the_number_of_physics_threads_does_not_change_the_numbers(tmp_path):
    settings = replace(SMALL, total_steps=64 * 40 * 2)
    for threads in (1, 2):
        run = RunConfig("rl2", "reach-planar", settings, physics_threads=threads)
        train(run, tmp_path / str(threads), **QUIET)
    one, two = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_threads_of_an_update_belong_to_the_configuration_and_agree_to_rounding(tmp_path):
    for threads in (1, 2):
        train(config(total_steps=64 * 10 * 3, update_threads=threads), tmp_path / str(threads), **QUIET)
        assert load_run(tmp_path / str(threads), "cpu").config.settings.update_threads == threads
    one, two = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    weights = [name for name in one if name.startswith("model.")]
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=2e-3) for name in weights)
    assert any(not torch.equal(one[name], two[name]) for name in weights)


def test_a_trained_run_is_loaded_with_its_weights(tmp_path):
    train(config(), tmp_path / "run", **QUIET)
    run = load_run(tmp_path / "run", "cpu")
    saved = tensors(tmp_path / "run")
    weights = run.learner.network.state_dict()
    assert run.update == 8 and run.env_steps == SMALL.total_steps
    assert all(torch.equal(saved[f"model.{name}"], value) for name, value in weights.items())


def test_resuming_with_other_settings_is_refused_by_name(tmp_path):
    train(config(), tmp_path / "run", **QUIET)
    with pytest.raises(ConfigError, match=r"learning_rate is 0.001 there, got 0.1"):
        train(config(learning_rate=0.1), tmp_path / "run", resume=True, **QUIET)


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no such run folder"):
        train(config(), tmp_path / "run", resume=True, **QUIET)


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    train(config(), tmp_path / "run", **QUIET)
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    values |= {"algorithm": "oracle"}
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is of rl2 on hidden-target, the run folder is of oracle"):
        load_run(tmp_path / "run", "cpu")


def test_weights_of_another_size_are_refused(tmp_path):
    train(config(), tmp_path / "run", **QUIET)
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    values["settings"]["hidden_dim"] = 8
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="does not fit rl2"):
        load_run(tmp_path / "run", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["settings"].update(hiden_dim=3), "hiden_dim"),
        (lambda v: v["settings"].update(hidden_dim="wide"), "hidden_dim"),
        (lambda v: v.update(algorithm="rl3"), "unknown algorithm 'rl3'"),
        (lambda v: v["settings"].update(discount=2.0), "discount"),
    ],
)
def test_a_configuration_that_was_tampered_with_is_refused_by_name(tmp_path, change, message):
    train(config(), tmp_path / "run", **QUIET)
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        load_run(tmp_path / "run", "cpu")


def test_an_update_that_is_not_finite_is_dumped_and_replays(tmp_path):
    settings = replace(SMALL, total_steps=1)
    run = RunConfig("rl2", "hidden-target", settings)
    spec, learner = build(run)
    env = BatchedEnv(spec, settings.num_worlds)
    learner.update(learner.collect(env), 0.0)
    state = copy.deepcopy(learner.state_dict())
    rollout = learner.collect(env)
    broken = replace(rollout, reward=torch.where(rollout.reward < -0.5, float("nan"), rollout.reward))
    first = learner.update(broken, 0.0)
    dump = dump_update(tmp_path, 7, state, broken, 0.0)
    assert first["skipped_minibatches"] > 0
    _, fresh = build(run)
    assert replay_update(fresh, dump) == first


def test_training_keeps_a_dump_and_sound_weights_when_a_loss_overflows(tmp_path):
    # One such step and the next forward pass leaves the range of float32.
    train(config(learning_rate=1e20), tmp_path / "run", **QUIET)
    assert all(torch.isfinite(v).all() for v in tensors(tmp_path / "run").values() if v.is_floating_point())
    assert sum(m["skipped_minibatches"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")) > 0
    assert list((tmp_path / "run" / "dumps").iterdir())


def test_enormous_rewards_leave_the_statistics_sound(tmp_path, monkeypatch):
    def enormous():
        spec = hidden_target()

        def step(task, data, state, action, noise):
            outcome = spec.step(task, data, state, action, noise)
            return outcome._replace(reward=torch.where(task["target"] > 0.7, 3e38, outcome.reward))

        return replace(spec, step=step)

    monkeypatch.setattr(envs, "_REGISTERED", {"hidden-target": enormous})
    train(config(), tmp_path / "run", console=False, validate_every=0)
    assert all(torch.isfinite(v).all() for v in tensors(tmp_path / "run").values() if v.is_floating_point())


def test_a_reward_that_is_not_a_number_ends_the_episode_and_is_counted(tmp_path, monkeypatch):
    def poisoned():
        spec = hidden_target()

        def step(task, data, state, action, noise):
            outcome = spec.step(task, data, state, action, noise)
            bad = (task["target"] > 0.7) & (state["time"] == 3)
            return outcome._replace(reward=torch.where(bad, float("nan"), outcome.reward))

        return replace(spec, step=step)

    monkeypatch.setattr(envs, "_REGISTERED", {"hidden-target": poisoned})
    train(config(), tmp_path / "run", **QUIET)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert metrics[-1]["failed_episodes"] > 0
    assert sum(m["skipped_minibatches"] for m in metrics) == 0
    assert all(torch.isfinite(v).all() for v in tensors(tmp_path / "run").values() if v.is_floating_point())


def _start(folder, *more):
    command = [sys.executable, "-m", "metarl.cli", "train", "rl2", "--env", "bandit", "--out", str(folder)]
    sizes = ["--total-steps", "2000000", "--num-worlds", "64", "--hidden-dim", "16", "--checkpoint-interval-s", "0.05"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *sizes, *more], env=environment, stderr=subprocess.PIPE, text=True)


def _wait_for_checkpoint(folder, process):
    deadline = time.monotonic() + 120
    while not any((folder / "checkpoints").glob("ckpt-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_stop_signal_finishes_the_update_saves_and_exits(tmp_path, number, code):
    process = _start(tmp_path / "run")
    _wait_for_checkpoint(tmp_path / "run", process)
    process.send_signal(number)
    assert process.wait(60) == code
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").step == last["step"]


def test_a_killed_run_resumes_and_a_second_run_in_its_folder_is_refused(tmp_path):
    process = _start(tmp_path / "run")
    _wait_for_checkpoint(tmp_path / "run", process)
    second = _start(tmp_path / "run", "--resume")
    assert second.wait(60) == 2 and "in use" in second.stderr.read()
    process.kill()
    process.wait(60)
    saved = newest_checkpoint(tmp_path / "run" / "checkpoints").step
    resumed = _start(tmp_path / "run", "--resume")
    deadline = time.monotonic() + 120
    while newest_checkpoint(tmp_path / "run" / "checkpoints").step <= saved:
        assert resumed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    resumed.send_signal(signal.SIGTERM)
    assert resumed.wait(60) == 143
    steps = [m["step"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
