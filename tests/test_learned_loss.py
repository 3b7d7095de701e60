"""A finished learned loss: loaded, taken to another robot, and plugged into PPO."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import envs
from metarl.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from metarl.cli import main
from metarl.config import RunConfig
from metarl.env import BatchedEnv, Signals
from metarl.errors import CheckpointError, ConfigError, SpecError, UnknownNameError
from metarl.evaluate import evaluate
from metarl.learned_loss import LearnedLoss
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.learners.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.learners.promp import ProMP, ProMPConfig
from metarl.learners.reptile import Reptile, ReptileConfig
from metarl.learners.rl2 import RL2, RL2Config, without_memory
from metarl.losses.drift import mirror_objective
from metarl.losses.support import Support
from metarl.run import load_run, on_env
from metarl.seeding import make_generator
from metarl.train import train
from metarl.transfer import transfer
from tests.probes import hidden_target

KINDS = ("reward", "potential", "advantage", "drift", "dense")
SHAPING = ("reward", "potential", "dense")
UPDATE_RULES = ("lpg", "ml3", "offset")
HORIZON = 5
SPEC = envs.make_spec("reach-robots", horizon=HORIZON)
TINY = LearnedLossConfig(total_steps=4 * 4 * 2 * HORIZON * 3, meta_batch_size=4, episodes_per_task=4, num_inner_steps=1)
OFFSET = replace(TINY, loss="advantage", learns_offset=True)
PPO = without_memory(RL2Config(total_steps=16 * 5 * 5, num_worlds=16, hidden_dim=8, num_minibatches=2), sees_task=False)
QUIET = {"validate_every": 0, "console": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of learned-loss for each kind."""
    folder = tmp_path_factory.mktemp("losses")
    for kind in (*KINDS, *UPDATE_RULES):
        settings = replace(TINY, loss=kind, inner_epochs=2 if kind == "drift" else 1) if kind != "offset" else OFFSET
        config = RunConfig("learned-loss", "reach-robots", settings, env_options={"horizon": HORIZON})
        train(config, folder / kind, **QUIET)
    return folder


def rollout_of(learner, spec=SPEC, num_tasks=3, num_episodes=1):
    env = BatchedEnv(spec, num_tasks * 4)
    env.set_tasks(spec.tasks.split("test", num_tasks))
    return learner.trial(env, num_episodes, make_generator(0, "policy"))


def steps(*shape):
    """Random arguments of `LearnedLoss.reward`."""
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, *shape, 3, generator=generator)
    effort, feedback, ended = torch.rand(3, *shape, generator=generator)
    return before, after, effort, feedback.round(), ended.round()


def changed(run, changes):
    """Add a checkpoint to a run, in which some of the tensors are others."""
    checkpoint = newest_checkpoint(run / "checkpoints")
    model = checkpoint.tensors["model"]
    model |= {name: change(model[name]) for name, change in changes.items()}
    return save_checkpoint(run / "checkpoints", checkpoint.step + 1, checkpoint.tensors, checkpoint.state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_has_the_parameters_of_its_run_and_its_checkpoint(runs, kind):
    learner = load_run(runs / kind, "cpu").learner
    checkpoint = next((runs / kind / "checkpoints").iterdir())
    for path in (runs / kind, checkpoint):
        loss = LearnedLoss.load(path)
        assert (loss.kind, loss.signals) == (kind, learner.loss.inner.signals)
        assert loss.meta_parameters.keys() == learner.meta_parameters.keys()
        assert all(torch.equal(loss.meta_parameters[n], v) for n, v in learner.meta_parameters.items())


@pytest.mark.parametrize("kind", SHAPING)
def test_rewards_are_those_that_its_own_policies_learn_from(runs, kind):
    learner, loss = load_run(runs / kind, "cpu").learner, LearnedLoss.load(runs / kind)
    rollout = rollout_of(learner)
    shaped = loss.on(SPEC).reward(rollout)  # (T, N)
    support = learner.support(rollout, 0, 1)
    one_task = Support(*(values[0] for values in support))
    expected = learner.loss.inner.credit.reward(loss.parameters, one_task)
    torch.testing.assert_close(shaped.flatten(), expected)
    assert shaped.abs().sum() > 0 and not torch.equal(shaped, rollout.reward)


def test_advantages_are_those_that_its_own_policies_learn_from(runs):
    learner, loss = load_run(runs / "advantage", "cpu").learner, LearnedLoss.load(runs / "advantage")
    rollout = rollout_of(learner, num_tasks=1)
    task = Support(*(values[0] for values in learner.support(rollout, 0, 1)))
    expected = learner.loss.inner.credit.advantage(loss.parameters, task, torch.zeros((), dtype=torch.int64))
    advantage = loss.on(SPEC).advantage(rollout)
    torch.testing.assert_close(advantage.flatten(), expected)
    torch.testing.assert_close(advantage.std(correction=0), torch.tensor(1.0), atol=1e-2, rtol=0)


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (0,)], ids=str)
def test_rewards_have_any_shape_and_come_as_arrays_from_arrays(runs, shape):
    loss = LearnedLoss.load(runs / "reward")
    shaped = loss.reward(*steps(*shape))
    assert shaped.shape == shape
    of_arrays = loss.reward(*(value.numpy() for value in steps(*shape)))
    assert isinstance(of_arrays, np.ndarray) and of_arrays.dtype == np.float32
    np.testing.assert_array_equal(of_arrays, shaped.numpy())
    if len(shape) == 2:
        alone = loss.reward(*(value[1, 2] for value in steps(*shape)))
        torch.testing.assert_close(alone, shaped[1, 2])


def test_a_potential_telescopes_with_the_discount_of_the_learner(runs):
    loss = LearnedLoss.load(runs / "potential").with_discount(0.5)
    signals = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(4)
    potential = loss.loss.inner.credit.head(loss.parameters, signals)
    shaping = loss.reward(signals[:-1], signals[1:], zero, zero, zero)
    discounts = 0.5 ** torch.arange(4)
    torch.testing.assert_close((discounts * shaping).sum(), 0.5**4 * potential[-1] - potential[0])
    end = torch.tensor([0.0, 0.0, 0.0, 1.0])
    ended = loss.reward(signals[:-1], signals[1:], zero, zero, end)
    torch.testing.assert_close((discounts * ended).sum(), -potential[0])


def test_the_experience_of_a_task_knows_the_episodes_of_all_its_phases(runs):
    learner, loss = load_run(runs / "reward", "cpu").learner, LearnedLoss.load(runs / "reward")
    rollout = rollout_of(learner, num_tasks=1, num_episodes=2)
    whole = loss.on(SPEC).support(rollout)
    phases = [learner.support(rollout, k, 1) for k in range(2)]
    for name in ("episode_means", "episode_feedback"):
        expected = torch.cat([getattr(phase, name)[0] for phase in phases])
        torch.testing.assert_close(getattr(whole, name), expected)


def test_a_loss_is_that_of_the_mean_encoding_and_a_batch_makes_it_another(runs, tmp_path):
    shutil.copytree(runs / "reward", tmp_path / "run")
    changed(tmp_path / "run", {"encoding.strength": lambda value: value + 1})
    loss = LearnedLoss.load(tmp_path / "run")
    again = LearnedLoss.load(tmp_path / "run")
    learner = load_run(tmp_path / "run", "cpu").learner
    rollout = rollout_of(learner)
    here = loss.of_task(loss.on(SPEC).support(rollout))
    expected, _ = learner.loss.of_task(loss.meta_parameters, [Support(*(v[0] for v in learner.support(rollout, 0, 1)))])
    for name, value in here.parameters.items():
        torch.testing.assert_close(value, expected[name].detach())
        assert torch.equal(loss.parameters[name], again.parameters[name])
    assert not torch.equal(here.parameters["hidden.bias"], loss.parameters["hidden.bias"])
    assert torch.equal(loss.parameters["hidden.bias"], loss.meta_parameters["loss.hidden.bias"])


def test_a_first_batch_on_a_task_adapts_a_loss_to_it(runs, tmp_path):
    shutil.copytree(runs / "reward", tmp_path / "run")
    changed(tmp_path / "run", {"encoding.strength": lambda value: value + 1})
    loss, (one, other) = LearnedLoss.load(tmp_path / "run"), SPEC.tasks.split("test", 2)
    here, again, there = (loss.adapted(SPEC, task, num_episodes=4) for task in (one, one, other))
    for name, value in here.parameters.items():
        assert torch.equal(value, again.parameters[name])
    assert not torch.equal(here.parameters["hidden.bias"], there.parameters["hidden.bias"])
    assert not torch.equal(here.parameters["hidden.bias"], loss.parameters["hidden.bias"])
    assert torch.equal(here.meta_parameters["loss.hidden.bias"], loss.parameters["hidden.bias"])
    with pytest.raises(SpecError, match="must have shape"):
        loss.adapted(SPEC, one[:-1])


def test_a_drift_has_no_slope_where_the_policy_has_not_moved(runs):
    loss = LearnedLoss.load(runs / "drift")
    log_ratio = torch.zeros(4, requires_grad=True)
    drift = loss.drift(log_ratio, torch.tensor([-2.0, -0.1, 0.1, 2.0]))
    assert drift.tolist() == [0.0] * 4
    assert torch.autograd.grad(drift.sum(), log_ratio)[0].tolist() == [0.0] * 4


def test_what_a_loss_does_not_offer_is_refused(runs):
    with pytest.raises(ConfigError, match="a learned advantage shapes no reward: use `advantage` of it"):
        LearnedLoss.load(runs / "advantage").reward(*steps(2))
    with pytest.raises(ConfigError, match="a learned drift shapes no reward: use `drift` of it"):
        LearnedLoss.load(runs / "drift").reward(*steps(2))
    with pytest.raises(ConfigError, match="a learned reward gives no advantages: use `reward` of it"):
        LearnedLoss.load(runs / "reward").advantage(*steps(2)[:4])
    with pytest.raises(ConfigError, match="a learned reward is no drift: use `reward` of it"):
        LearnedLoss.load(runs / "reward").drift(torch.zeros(1), torch.zeros(1))


def test_signals_that_an_environment_lacks_are_named(runs):
    loss = LearnedLoss.load(runs / "reward")
    with pytest.raises(ConfigError, match=r"hidden-target does not give: log_distance, closing.*Available: none\."):
        loss.columns(hidden_target())
    few = Signals(("log_distanse", "lateral_speed"), SPEC.signals.compute)
    with pytest.raises(
        ConfigError, match=r"not give: log_distance, closing_speed\. Did you mean 'log_distanse'\? Available: log_dis"
    ):
        loss.on(replace(SPEC, signals=few))


def test_a_run_without_a_loss_and_a_missing_one_are_refused(runs, tmp_path):
    train(RunConfig("ppo", "reach-robots", PPO), tmp_path / "ppo", **QUIET)
    with pytest.raises(CheckpointError, match="is of ppo, which learns no loss: name a run of learned-loss"):
        LearnedLoss.load(tmp_path / "ppo")
    with pytest.raises(CheckpointError, match=r"no such run folder: .*Did you mean 'reward'"):
        LearnedLoss.load(runs / "rewrad")
    run = shutil.copytree(runs / "reward", tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(tmp_path / "ppo" / "checkpoints", run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"ckpt-\d+ is of ppo, which learns no loss"):
        LearnedLoss.load(run)


def test_a_loss_with_a_number_that_is_not_finite_is_refused(runs, tmp_path):
    run = shutil.copytree(runs / "reward", tmp_path / "run")
    changed(run, {"loss.out.weight": lambda value: value * math.nan})
    with pytest.raises(CheckpointError, match=r"holds no usable loss: loss\.out\.weight is not finite"):
        LearnedLoss.load(run)


def test_a_loss_of_another_version_and_a_damaged_one_are_refused(runs, tmp_path):
    run = shutil.copytree(runs / "reward", tmp_path / "run")
    checkpoint = changed(run, {"log_step_size": lambda value: value[:, 0]})
    with pytest.raises(CheckpointError, match=r"another version of learned-loss: log_step_size is \(1,\), expected"):
        LearnedLoss.load(run)
    with (checkpoint / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"is damaged: model\.safetensors has"):
        LearnedLoss.load(checkpoint)
    values = json.loads((run / "config.json").read_text())
    values["settings"]["head_dims"] = 3
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"damaged or of another version: .*unknown key 'head_dims'"):
        LearnedLoss.load(run)
    (run / "config.json").write_text(json.dumps(values | {"settings": {}, "env": "reach-robos", "env_options": {}}))
    with pytest.raises(UnknownNameError, match="unknown environment 'reach-robos'"):
        LearnedLoss.load(run)


def test_whole_update_rules_are_refused(runs):
    for kind, name in (("lpg", "lpg"), ("ml3", "ml3"), ("offset", "advantage with offsets")):
        with pytest.raises(ConfigError, match=f"learned {name}, a whole update rule for policies of its own"):
            LearnedLoss.load(runs / kind)
    for kind, name in (("ml3", "ml3"), ("offset", "advantage with learned offsets")):
        with pytest.raises(
            ConfigError, match=rf"the loss {name} fits the robot .* it cannot train one of reach-planar"
        ):
            on_env(load_run(runs / kind, "cpu"), "reach-planar")


@pytest.mark.parametrize("kind", ["reward", "advantage", "drift", "lpg"])
def test_a_loss_trains_the_policies_of_a_robot_with_other_shapes(runs, kind):
    run = load_run(runs / kind, "cpu")
    other = on_env(run, "reach-planar")
    assert other.learner.policy is not run.learner.policy
    assert all(torch.equal(other.learner.meta_parameters[n], v) for n, v in run.learner.meta_parameters.items())
    evaluation = evaluate(
        other.learner, other.spec, algorithm="learned-loss", num_tasks=2, num_episodes=3, episodes_per_task=4
    )
    assert evaluation.env == "reach-planar" and np.isfinite(evaluation.returns).all()
    first, second = np.array(evaluation.returns)[:, 0], np.array(evaluation.returns)[:, 1]
    assert (first != second).all()


def test_the_other_robots_observations_have_a_scale_of_their_own():
    learner = LearnedLossLearner(SPEC, replace(TINY, normalizes_obs=True), 0)
    other = transfer(learner, envs.make_spec("reach-planar"), 0)
    assert int(other.obs_normalizer.count) == 16 * 4 * 20 and other.obs_normalizer.mean.shape == (8,)


def test_the_order_of_an_environments_signals_does_not_matter(runs):
    learner = load_run(runs / "reward", "cpu").learner
    names = ("closing_speed", "extra", "lateral_speed", "log_distance")

    def compute(task, data, state):
        one, two, three = SPEC.signals.compute(task, data, state).unbind(1)
        return torch.stack([two, two * 0, three, one], 1)

    shuffled = replace(SPEC, signals=Signals(names, compute, SPEC.signals.feedback))
    other = transfer(learner, shuffled, 0)
    returns = []
    for subject, spec in ((learner, SPEC), (other, shuffled)):
        env = BatchedEnv(spec, 8)
        env.set_tasks(spec.tasks.split("test", 2))
        returns.append(subject.trial(env, 3, make_generator(0, "policy")).episode_returns())
    assert torch.equal(*returns)


def test_only_a_learned_loss_goes_to_another_environment(runs, tmp_path):
    train(RunConfig("ppo", "reach-robots", PPO), tmp_path / "ppo", **QUIET)
    with pytest.raises(ConfigError, match=r"ppo on reach-robots.* does not fit reach-planar: .* observations"):
        on_env(load_run(tmp_path / "ppo", "cpu"), "reach-planar")
    with pytest.raises(ConfigError, match="the loss reads signals that track does not give: log_distance"):
        on_env(load_run(runs / "reward", "cpu"), "track")


def ppo(loss, spec=SPEC, **changes):
    return RL2(spec, replace(PPO, loss=loss, **changes), 0)


def experience(learner):
    env = BatchedEnv(SPEC, PPO.num_worlds)
    env.set_tasks(SPEC.tasks.split("train", PPO.num_worlds))
    return [learner.collect(env) for _ in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_ppo_acts_alike_and_learns_otherwise_with_a_learned_loss(runs, kind):
    weights, rollouts = [], []
    for loss in ("clip", f"learned:{runs / kind}"):
        learner = ppo(loss)
        first, second = experience(learner)
        for rollout in (first, second):
            learner.update(rollout, 0.0)
        rollouts.append(second)
        weights.append(learner.network.actor[0].weight)
    assert torch.equal(rollouts[0].reward, rollouts[1].reward)  # what is logged is the environment's own
    assert not torch.equal(*weights)


def test_ppo_gets_the_feedback_where_the_learned_reward_is_zero(runs, tmp_path):
    run = shutil.copytree(runs / "reward", tmp_path / "run")
    changed(run, {f"loss.{layer}.weight": torch.zeros_like for layer in ("out", "linear")})
    learner = ppo(f"learned:{run}")
    rollout, _ = experience(learner)
    assert torch.equal(learner._reward(rollout), rollout.feedback)


def test_ppo_discounts_a_learned_reward_by_the_decay_that_it_learned(runs):
    loss = LearnedLoss.load(runs / "reward")
    assert loss.discount(0.9) == pytest.approx(TINY.discount * TINY.inner_lambda, abs=0.1)
    assert ppo(f"learned:{runs / 'reward'}", discount=0.9).discount == loss.discount(0.9) != 0.9
    assert ppo(f"learned:{runs / 'potential'}", discount=0.9).discount == 0.9
    assert ppo("clip", discount=0.9).discount == 0.9


def test_a_drift_takes_the_place_of_the_clip_and_leaves_the_reward(runs):
    learner = ppo(f"learned:{runs / 'drift'}")
    rollout, _ = experience(learner)
    assert torch.equal(learner._reward(rollout), rollout.reward)
    log_prob, old, advantage = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    expected = mirror_objective(log_prob, old, advantage, LearnedLoss.load(runs / "drift").drift)
    assert torch.equal(learner.objective(log_prob, old, advantage), expected)


def test_a_loss_that_ppo_cannot_use_is_refused_before_a_run_begins(runs, tmp_path):
    for loss, spec, message in [
        (f"learned:{runs / 'rewrad'}", "reach-robots", "no such run folder"),
        ("learned:", "reach-robots", "not a run folder"),
        (f"learned:{runs / 'reward'}", "bandit", "signals that bandit does not give: log_distance"),
    ]:
        with pytest.raises((CheckpointError, ConfigError), match=message):
            train(RunConfig("ppo", spec, replace(PPO, loss=loss)), tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["reward", "drift"])
def test_a_run_keeps_its_loss_and_resumes_bit_for_bit_without_the_first_one(runs, tmp_path, kind):
    source = shutil.copytree(runs / kind, tmp_path / "source")
    config = RunConfig("ppo", "reach-robots", replace(PPO, loss=f"learned:{source}"), env_options={"horizon": HORIZON})
    train(config, tmp_path / "whole", checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
    shutil.rmtree(source)
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    checkpoints = sorted((cut / "checkpoints").iterdir())
    for checkpoint in checkpoints[2:]:
        shutil.rmtree(checkpoint)
    train(config, cut, resume=True, **QUIET)
    one, other = (
        load_checkpoint(folder / "checkpoints" / checkpoints[-1].name) for folder in (tmp_path / "whole", cut)
    )
    assert all(torch.equal(v, other.tensors[g][n]) for g, named in one.tensors.items() for n, v in named.items())
    assert load_run(cut, "cpu").learner.learned_loss.loss.kind == kind
    shutil.rmtree(cut / "loss")
    with pytest.raises(CheckpointError, match="loss is missing: there the run kept its copy of the loss learned:"):
        load_run(cut, "cpu")


def test_a_changed_copy_of_the_loss_is_refused(runs, tmp_path):
    settings = replace(PPO, loss=f"learned:{runs / 'reward'}")
    train(RunConfig("ppo", "reach-robots", settings), tmp_path / "run", **QUIET)
    model = next((tmp_path / "run" / "loss" / "checkpoints").glob("*/model.safetensors"))
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not match its SHA-256"):
        load_run(tmp_path / "run", "cpu")


MAML = {"meta_batch_size": 2, "episodes_per_task": 4, "hidden_dims": (8,), "total_steps": 2 * 8 * 2 * HORIZON}
GRADIENT = [MAMLTRPO, ProMP, Reptile]
GRADIENT_CONFIGS = {MAMLTRPO: MAMLTRPOConfig(**MAML), ProMP: ProMPConfig(**MAML), Reptile: ReptileConfig(**MAML)}


def trial_and_batch(make, inner_reward, **changes):
    learner = make(SPEC, replace(GRADIENT_CONFIGS[make], inner_reward=inner_reward, **changes), 0)
    env = BatchedEnv(SPEC, 8)
    env.set_tasks(SPEC.tasks.split("train", 2))
    rollout = learner.collect(env)
    learner.update(rollout, 0.0)  # sets the scale of observations
    rollout = learner.collect(env)
    return learner, rollout, learner.batch(rollout)


@pytest.mark.parametrize("make", GRADIENT)
@pytest.mark.parametrize("kind", SHAPING)
def test_inner_steps_follow_the_learned_reward_and_the_outer_step_the_environments(runs, make, kind):
    learner, rollout, batch = trial_and_batch(make, f"learned:{runs / kind}")
    discount = learner.learned_loss.loss.discount(learner.config.discount)
    assert (discount != learner.config.discount) == (kind == "reward")
    plain, _, _ = trial_and_batch(make, "own", discount=discount)
    plain.obs_normalizer = learner.obs_normalizer
    shaped = replace(rollout, reward=learner.learned_loss.reward(rollout))
    assert torch.equal(batch.phases[0].advantage, learner.samples(rollout, 0, 2).advantage)
    assert torch.equal(batch.supports[0].advantage, plain.samples(shaped, 0, 2).advantage)
    assert not torch.equal(batch.supports[0].advantage, batch.phases[0].advantage)
    # The trial took the same steps: log-probabilities after adaptation come out again.
    adapted = learner.unroll(learner.meta_parameters, batch.supports, 2)[-1]
    again = learner.distribution(learner.meta_parameters, adapted, batch.phases[-1]).log_prob(batch.phases[-1].action)
    torch.testing.assert_close(again, batch.phases[-1].log_prob)
    before = [value.detach().clone() for value in learner.meta_parameters.values()]
    metrics = learner.update(rollout, 0.0)
    assert metrics["skipped_minibatches"] == 0
    assert any(not torch.equal(old, new) for old, new in zip(before, learner.meta_parameters.values(), strict=True))


def test_a_loss_that_shapes_no_reward_is_no_inner_reward(runs):
    for kind in ("advantage", "drift"):
        with pytest.raises(ConfigError, match=f"is a learned {kind}, which shapes no reward"):
            trial_and_batch(MAMLTRPO, f"learned:{runs / kind}")
    with pytest.raises(
        UnknownNameError,
        match=r"'learnt:x'\..* Available: advantage, formula:FILE, learned:RUN, own, potential, reward\.",
    ):
        trial_and_batch(MAMLTRPO, "learnt:x")
    with pytest.raises(ConfigError, match="hidden-target does not give: log_distance"):
        MAMLTRPO(hidden_target(), MAMLTRPOConfig(**MAML, inner_reward=f"learned:{runs / 'reward'}"), 0)


def test_a_gradient_learners_run_keeps_its_inner_reward(runs, tmp_path):
    source = shutil.copytree(runs / "reward", tmp_path / "source")
    settings = MAMLTRPOConfig(**MAML, inner_reward=f"learned:{source}")
    train(RunConfig("maml-trpo", "reach-robots", settings, {"horizon": HORIZON}), tmp_path / "run", **QUIET)
    shutil.rmtree(source)
    learner = load_run(tmp_path / "run", "cpu").learner
    assert learner.learned_loss.loss.kind == "reward"
    assert np.isfinite(evaluate(learner, SPEC, algorithm="maml", num_tasks=2, episodes_per_task=4).returns).all()


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_evaluate_takes_a_loss_to_another_environment(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "reward", tmp_path / "run")
    options = ("--num-tasks", 2, "--split", "extrapolation", "--device", "cpu")
    assert command("evaluate", run, "--env", "reach-planar", *options) == 0
    assert "reach-planar, 2 tasks of split extrapolation" in capsys.readouterr().out
    values = json.loads((run / "evaluation-reach-planar.json").read_text())
    assert values["env"] == "reach-planar" and np.isfinite(values["returns"]).all()
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate {run} --env track", "the loss reads signals that track does not give: log_distance"),
        ("evaluate {run} --env reach-planr", "unknown environment 'reach-planr'. Did you mean 'reach-planar'?"),
        ("train ppo --env bandit --loss learned:{run}", "the loss reads signals that bandit does not give"),
        ("train anil --env reach-robots --inner-reward learned:{run}x", "no such run folder: {run}x. Did you mean"),
        ("train ppo --env reach-robots --loss learned:{run}x", "no such run folder: {run}x. Did you mean"),
        ("train ppo --env reach-robots --loss learnd:{run}", "unknown loss 'learnd:{run}'."),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(runs, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    run = runs / "reward"
    assert command(*arguments.format(run=run).split()) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and message.format(run=run) in printed
    assert not list(tmp_path.iterdir())
