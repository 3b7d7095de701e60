"""GymTaskDistribution: gymnasium environments in worker processes behind the interface of BatchedEnv."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import ConfigError, SpecError, UnknownNameError, WorkerError
from metarl.evaluate import evaluate_in
from metarl.learners.rl2 import RL2, RL2Config
from metarl.process_env import GymTaskDistribution
from metarl.rollout import collect
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Act
from tests.ramp import Ramp

TASKS = TaskDistribution((Parameter("slope", "1", Uniform(1.0, 2.0)), Parameter("length", "1", Uniform(50.0, 60.0))))


class Half:
    """A deterministic policy: always the middle of the action range."""

    def initial_memory(self, num_worlds):
        return torch.zeros(num_worlds)

    def act(self, inputs, memory, generator):
        noise = (
            torch.zeros(len(inputs.obs), 1)
            if generator is None
            else torch.rand(len(inputs.obs), 1, generator=generator)
        )
        return Act(noise, torch.zeros(len(inputs.obs)), memory + 1)


def make(factory=Ramp, tasks=TASKS, **options):
    options = {"horizon": 5, "num_worlds": 3, "num_workers": 2, "start_method": "fork"} | options
    return GymTaskDistribution(factory, tasks, **options)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def shared_memory():
    return set(os.listdir("/dev/shm"))


@pytest.mark.parametrize("start_method", ["spawn", "forkserver", "fork"])
def test_rollout_has_hand_computed_rewards_and_ends(start_method):
    with make(start_method=start_method) as env:
        env.set_tasks(torch.tensor([[1.0, 50.0], [2.0, 50.0], [3.0, 2.0]]))
        rollout = collect(env, Half(), num_episodes=2, generator=None)
    # Action 0 is the middle of [0, 10].
    assert rollout.reward[:, 0].tolist() == [5.0] * 10
    assert rollout.reward[:, 1].tolist() == [10.0] * 10
    assert rollout.reward[:, 2].tolist() == [15.0, 15.0, 0.0, 0.0, 0.0] * 2
    assert rollout.terminated[:, 2].tolist() == [False, True, False, False, False] * 2
    assert rollout.truncated[:, 0].tolist() == [False, False, False, False, True] * 2
    assert not rollout.truncated[:, 2].any()
    assert rollout.valid[:, 2].tolist() == [True, True, False, False, False] * 2
    assert rollout.success[:, 0].tolist() == [False, False, True, False, False] * 2
    assert rollout.final_obs[:, :, 0].tolist() == [[5.0, 5.0, 2.0]] * 2
    assert rollout.obs.dtype == torch.float32
    assert rollout.obs[:5, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_rollout_depends_on_the_seed_and_not_on_the_number_of_workers():
    def run(num_workers, seed):
        with make(num_workers=num_workers, seed=seed) as env:
            env.set_tasks(TASKS.split("test", 3))
            return collect(env, Half(), 2, torch.Generator().manual_seed(0))

    one, two, other = run(1, 7), run(3, 7), run(1, 8)
    assert torch.equal(one.obs, two.obs)
    assert torch.equal(one.reward, two.reward)
    assert not torch.equal(one.obs, other.obs)
    # Two episodes on one task start differently.
    assert not torch.equal(one.obs[0], one.obs[5])


def test_rl2_trains_and_is_evaluated_on_gymnasium_environments_unchanged():
    tasks = TaskDistribution((Parameter("g", "m/s^2", Uniform(6.0, 14.0)),))
    with make(lambda g: gymnasium.make("Pendulum-v1", g=g), tasks, horizon=10, num_worlds=4) as env:
        learner = RL2(env.spec, RL2Config(num_worlds=4, episodes_per_trial=2, num_epochs=1, num_minibatches=2), seed=0)
        before = [parameter.clone() for parameter in learner.network.parameters()]
        for progress in (0.0, 0.5):
            env.set_tasks(tasks.sample_train(4, env.generator))
            assert all(np.isfinite(value) for value in learner.update(learner.collect(env), progress).values())
        assert any(not torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
        first, again = (
            evaluate_in(env, learner, algorithm="rl2", split="test", num_episodes=2, seed=3) for _ in range(2)
        )
    assert first.returns == again.returns
    assert np.shape(first.returns) == (4, 2)
    # Pendulum has no success criterion; its cost is at most pi^2 + 0.1 * 8^2 + 0.001 * 2^2 per step.
    assert first.success is None
    assert (np.array(first.returns) <= 0).all() and (np.array(first.returns) >= -10 * 16.3).all()


def test_success_is_told_where_the_environment_tells_it():
    with make() as env:
        assert env.has_success


def test_generator_state_restores_the_episodes():
    with make() as env:
        state = env.generator.get_state()
        first = env.reset()
        env.generator.set_state(state)
        assert torch.equal(first, env.reset())


def test_unchanged_tasks_keep_their_environment():
    class Numbered(Ramp):
        made = 0

        def __init__(self, slope, length):
            super().__init__(slope, length)
            Numbered.made += 1
            self.number = Numbered.made

        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed)
            return np.array([self.number, obs[1]]), info

    tasks = TASKS.split("test", 3)
    with make(Numbered, num_workers=1) as env:
        env.set_tasks(tasks)
        before = env.reset()[:, 0]
        tasks[1, 0] = 1.5
        env.set_tasks(tasks)
        after = env.reset()[:, 0]
    assert (before == after).tolist() == [True, False, True]


def test_gymnasium_registered_environment_with_task_parameter():
    tasks = TaskDistribution((Parameter("g", "m/s^2", Uniform(6.0, 14.0)),))
    with make(lambda g: gymnasium.make("Pendulum-v1", g=g), tasks, horizon=20, num_worlds=2) as env:
        assert (env.spec.obs_dim, env.spec.action_space.dim, env.spec.horizon) == (3, 1, 20)
        env.set_tasks(torch.tensor([[6.0], [14.0]]))
        rollout = collect(env, Half(), 1, None)
    # cos^2 + sin^2 = 1 in every observation.
    torch.testing.assert_close(rollout.obs[..., :2].square().sum(-1), torch.ones(20, 2))


def test_discrete_actions_and_observations_are_one_hot_and_start_at_zero():
    class Echo(gymnasium.Env):
        observation_space = spaces.Discrete(3)
        action_space = spaces.Discrete(3, start=5)

        def __init__(self, slope, length):
            pass

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return action - 5, float(action), False, False, {}

    with make(Echo) as env:
        env.reset()
        step = env.step(torch.tensor([0, 1, 2]))
        with pytest.raises(SpecError, match="shape"):
            env.step(torch.zeros(3, 1))
    assert step.obs.tolist() == torch.eye(3).tolist()
    assert step.reward.tolist() == [5.0, 6.0, 7.0]


def test_values_that_are_not_finite_end_the_episode_of_their_world_alone():
    class Nan(Ramp):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return (obs * np.nan if self.slope == 3.0 else obs), reward, *rest

    with make(Nan) as env:
        env.set_tasks(torch.tensor([[1.0, 50.0], [3.0, 50.0], [1.0, 50.0]]))
        first = env.reset()
        step = env.step(torch.zeros(3, 1))
    assert step.failed.tolist() == step.terminated.tolist() == [False, True, False]
    assert step.reward.tolist() == [5.0, 0.0, 5.0]
    assert torch.equal(step.obs[1], first[1])


def test_killed_worker_is_an_error_within_seconds_and_leaves_nothing_behind():
    before = shared_memory()
    env = make(lambda slope, length: Ramp(slope, length, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    pids = [worker.process.pid for worker in env._workers]
    env.reset()
    env.step(torch.zeros(3, 1))
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker [01] died \(exit code -9"):
        env.step(torch.zeros(3, 1))
    assert time.monotonic() - start < 5.0
    assert not any(alive(pid) for pid in pids)
    assert not multiprocessing.active_children()
    assert shared_memory() == before
    with pytest.raises(WorkerError, match="closed"):
        env.reset()
    env.close()


def test_idle_worker_that_is_killed_is_an_error_at_the_next_call():
    env = make()
    os.kill(env._workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="worker 0 died"):
        env.reset()
    assert not multiprocessing.active_children()


def test_hanging_worker_is_an_error_after_the_timeout():
    env = make(lambda slope, length: Ramp(slope, length, lambda: time.sleep(600)), timeout_s=1.0)
    env.reset()
    env.step(torch.zeros(3, 1))
    start = time.monotonic()
    with pytest.raises(WorkerError, match="did not answer 'step' in time"):
        env.step(torch.zeros(3, 1))
    assert time.monotonic() - start < 8.0
    assert not multiprocessing.active_children()


def test_exception_of_an_environment_is_told_with_its_type():
    def fall():
        raise ZeroDivisionError("the ramp broke")

    env = make(lambda slope, length: Ramp(slope, length, fall))
    env.reset()
    env.step(torch.zeros(3, 1))
    with pytest.raises(WorkerError, match=r"raised in 'step': ZeroDivisionError: the ramp broke"):
        env.step(torch.zeros(3, 1))
    assert not multiprocessing.active_children()


def test_factory_that_does_not_take_the_parameters_is_an_error_at_construction():
    with pytest.raises(WorkerError, match="unexpected keyword argument 'slope'"):
        make(lambda steepness, length: Ramp(steepness, length))
    assert not multiprocessing.active_children()


def test_forgotten_environment_ends_its_workers():
    env = make()
    pids = [worker.process.pid for worker in env._workers]
    del env
    gc.collect()
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_end_when_their_parent_is_killed(start_method, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {os.getcwd()!r})

        if __name__ == "__main__":
            from metarl.process_env import GymTaskDistribution
            from metarl.tasks import Choice, Parameter, TaskDistribution
            from tests.ramp import Ramp

            tasks = TaskDistribution(tuple(Parameter(name, "1", Choice((9.0,))) for name in ("slope", "length")))
            env = GymTaskDistribution(Ramp, tasks, 5, 3, num_workers=2, start_method={start_method!r})
            print(*(worker.process.pid for worker in env._workers), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 5.0
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_horizon_beyond_the_time_limit_of_the_environment_is_refused():
    tasks = TaskDistribution((Parameter("g", "m/s^2", Uniform(6.0, 14.0)),))
    with pytest.raises(SpecError, match="horizon 300 is longer than the environment's own time limit of 200"):
        make(lambda g: gymnasium.make("Pendulum-v1", g=g), tasks, horizon=300)


def test_spaces_that_policies_cannot_use_are_refused():
    class Unbounded(Ramp):
        action_space = spaces.Box(-np.inf, np.inf, (1,))

    with pytest.raises(SpecError, match="bounded Box"):
        make(Unbounded)


def test_tasks_that_change_the_spaces_are_refused():
    class Growing(Ramp):
        def __init__(self, slope, length):
            super().__init__(slope, length)
            self.observation_space = spaces.Box(-1, 1, (2 if slope < 3 else 3,))

    env = make(Growing, num_worlds=2)
    with pytest.raises(SpecError, match="must not change the spaces"):
        env.set_tasks(torch.tensor([[1.0, 50.0], [4.0, 50.0]]))
    assert not multiprocessing.active_children()


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="num_worlds=0"):
        make(num_worlds=0)
    with pytest.raises(UnknownNameError, match="spawn"):
        make(start_method="spawm")
    with make() as env:
        with pytest.raises(SpecError, match=r"shape \(3, 2\), or fewer rows .*, got \(2, 2\)"):
            env.set_tasks(torch.zeros(2, 2))
        with pytest.raises(SpecError, match="NaN"):
            env.set_tasks(torch.full((3, 2), torch.nan))
        with pytest.raises(SpecError, match="call reset"):
            env.step(torch.zeros(3, 1))
