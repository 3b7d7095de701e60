"""`make_worlds`: a specification of processes does all that one of tensors does."""

import pytest
import torch

import envs
from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import MetarlError, SpecError
from metarl.evaluate import evaluate
from metarl.expert import Expert
from metarl.gym_adapter import GymVectorEnv
from metarl.learners import preset
from metarl.learners.pathwise import is_differentiable
from metarl.process_env import GymTaskDistribution
from metarl.record import require_body
from metarl.run import load_run
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.train import train
from metarl.types import Continuous
from metarl.worlds import ProcessSpec, make_worlds
from tests.ramp import Ramp

TASKS = TaskDistribution((Parameter("slope", "1", Uniform(1.0, 2.0)), Parameter("length", "1", Uniform(50.0, 60.0))))


class Expertly(Ramp):
    """A ramp with a scripted policy, which takes the largest of its actions."""

    def best(self):
        return self.action_space.high


def ramp(**changes):
    fields = {"obs_dim": 2, "action_space": Continuous(1), "horizon": 5, "factory": Expertly, "expert": "best"}
    return ProcessSpec("ramp", TASKS, **(fields | {"start_method": "fork"} | changes))


@pytest.fixture
def registered():
    envs.register("ramp", lambda horizon=5: ramp(horizon=horizon))
    yield
    envs._REGISTERED.pop("ramp")


def test_each_kind_of_specification_gets_its_worlds():
    assert isinstance(make_worlds(envs.make_spec("bandit"), 2), BatchedEnv)
    with make_worlds(ramp(), 2, num_threads=1) as worlds:
        assert isinstance(worlds, GymTaskDistribution)
        assert worlds.spec is not None
        assert worlds.spec.expert == "best"


@pytest.mark.parametrize("wrong", [{"obs_dim": 4}, {"action_space": Continuous(2)}])
def test_other_spaces_than_declared_are_refused(wrong):
    with pytest.raises(SpecError, match=r"must be \(2, Continuous\(dim=1\)\)"):
        make_worlds(ramp(**wrong), 2)
    with pytest.raises(SpecError, match="must be positive"):
        ramp(horizon=0)


def test_a_registered_specification_trains_resumes_and_is_evaluated(registered, tmp_path):
    from dataclasses import replace

    settings = replace(preset("rl2", "ramp"), num_worlds=4, total_steps=120, episodes_per_trial=2, hidden_dim=8)
    config = RunConfig("rl2", "ramp", settings)
    whole = train(config, tmp_path / "whole", validate_every=2, console=False)
    assert whole.finished
    assert whole.env_steps == 120
    train(RunConfig("rl2", "ramp", settings), tmp_path / "whole", resume=True, validate_every=2, console=False)
    run = load_run(tmp_path / "whole")
    evaluation = evaluate(run.learner, run.spec, algorithm="rl2", num_tasks=2, num_episodes=2)
    assert evaluation.num_tasks == 2
    expert = evaluate(Expert(), run.spec, algorithm="expert", num_tasks=2, num_episodes=1)
    slopes = torch.tensor(expert.tasks)[:, 0]
    assert torch.allclose(torch.tensor(expert.returns)[:, 0], 10 * 5 * slopes, rtol=1e-5)


def test_worlds_that_start_one_by_one_keep_the_others_going():
    with make_worlds(ramp(), 3, num_threads=2) as worlds:
        worlds.set_tasks(TASKS.split("test", 3))
        worlds.reset()
        for _ in range(3):
            step = worlds.step(torch.zeros(3, 1))
        mask = torch.tensor([False, True, False])
        obs = worlds.reset_worlds(mask)
        assert torch.equal(obs[~mask], step.obs[~mask])
        assert obs[1, 0] == 0
        assert worlds.step(torch.zeros(3, 1)).truncated.tolist() == [False, False, False]
        step = worlds.step(torch.zeros(3, 1))
        assert step.truncated.tolist() == [True, False, True]  # H steps each, counted per world
        assert worlds.signals()[0].shape == worlds.metrics().shape == (3, 0)


def test_gymnasium_sees_worlds_of_processes_too():
    env = GymVectorEnv(ramp(), 3)
    env.reset(seed=0)
    for _ in range(5):
        _, _, _, truncated, _ = env.step(env.action_space.sample())
    assert truncated.all()
    env.close()


def test_what_processes_lack_is_said():
    with make_worlds(ramp(expert=""), 1) as worlds, pytest.raises(SpecError, match="no scripted expert"):
        worlds.expert_action()
    with pytest.raises(MetarlError, match=r"ramp has no body.*metaworld-ml10"):
        require_body(ramp())
    assert not is_differentiable(ramp())
    assert is_differentiable(envs.make_spec("point-navigation"))
