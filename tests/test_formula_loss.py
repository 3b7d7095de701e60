"""A formula file in the place of a learned loss: in PPO, in inner steps, and alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import envs
from metarl.checkpoint import load_checkpoint
from metarl.cli import main
from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.learned_loss import LearnedLoss
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.learners.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.learners.rl2 import RL2, RL2Config, without_memory
from metarl.losses.formula import Formula, write_formula
from metarl.run import load_run
from metarl.train import train

HORIZON = 5
SPEC = envs.make_spec("reach-robots", horizon=HORIZON)
RL2_SETTINGS = RL2Config(total_steps=16 * 5 * 3, num_worlds=16, hidden_dim=8, num_minibatches=2, episodes_per_trial=1)
PPO = without_memory(RL2_SETTINGS, sees_task=False)
MAML = MAMLTRPOConfig(
    meta_batch_size=2, episodes_per_task=4, hidden_dims=(8,), total_steps=2 * 8 * 2 * HORIZON, inner_lr=1.0
)
QUIET = {"validate_every": 0, "console": False}
REWARD = Formula(
    loss="reward",
    expression="2 * closing_speed - change_of_log_distance + effort",
    signals=("closing_speed", "log_distance"),
    bound=5.0,
    discount=0.9,
    gae_lambda=0.5,
    step_sizes=((0.5, 0.4, 0.3), (0.2, 0.1, 0.1)),
    made_by={"run": "runs/x"},
)
POTENTIAL = replace(REWARD, loss="potential", expression="-log_distance")
ADVANTAGE = replace(REWARD, loss="advantage")
KINDS = {formula.loss: formula for formula in (REWARD, POTENTIAL, ADVANTAGE)}


@pytest.fixture
def file(tmp_path):
    """A function that writes a formula file and returns its path."""

    def write(formula):
        path = tmp_path / "files" / f"{formula.loss}.json"
        write_formula(path, formula)
        return path

    return write


def bounded(value):
    return 5 * torch.tanh(value / 5)


def steps(num=7, num_signals=2):
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, num, num_signals, generator=generator)
    effort, feedback = torch.rand(2, num, generator=generator)
    return before, after, effort, feedback, torch.tensor([0.0] * (num - 1) + [1.0])


def batch(learner, tasks):
    env = BatchedEnv(SPEC, 8 if tasks < 16 else 16)
    env.set_tasks(SPEC.tasks.split("train", tasks))
    return learner.collect(env)


def test_a_reward_is_feedback_plus_the_bounded_formula(file):
    before, after, effort, feedback, ended = steps()
    shaped = LearnedLoss.from_formula(file(REWARD)).reward(before, after, effort, feedback, ended)
    change = after[:, 1] - before[:, 1]
    torch.testing.assert_close(shaped, feedback + bounded(2 * before[:, 0] - change + effort))


def test_a_potential_takes_the_discount_of_the_learner(file):
    before, after, effort, feedback, ended = steps(num_signals=1)
    loss = LearnedLoss.from_formula(file(POTENTIAL)).with_discount(0.8)
    expected = feedback + 0.8 * bounded(-after[:, 0]) * (1 - ended) - bounded(-before[:, 0])
    torch.testing.assert_close(loss.reward(before, after, effort, feedback, ended), expected)


def test_an_advantage_is_the_standardised_formula(file):
    before, after, effort, *_ = steps()
    judged = LearnedLoss.from_formula(file(ADVANTAGE)).advantage(before, after, effort, torch.ones(7))
    value = bounded(2 * before[:, 0] - (after - before)[:, 1] + effort)
    expected = (value - value.mean()) / value.std(correction=0)
    torch.testing.assert_close(judged, expected, atol=1e-4, rtol=1e-4)


def test_the_decay_of_a_reward_alone_takes_the_place_of_the_usual_discount(file):
    discounts = {kind: LearnedLoss.from_formula(file(formula)).discount(0.99) for kind, formula in KINDS.items()}
    assert discounts == {"reward": pytest.approx(0.45), "potential": 0.99, "advantage": 0.99}
    for kind, discount in (("reward", 0.45), ("potential", 0.97)):
        assert RL2(SPEC, replace(PPO, loss=f"formula:{file(KINDS[kind])}"), 0).discount == pytest.approx(discount)


def test_a_run_that_learned_step_sizes_of_a_formula_has_its_decay_too(file, tmp_path):
    settings = LearnedLossConfig(
        loss=f"formula:{file(REWARD)}", total_steps=160, meta_batch_size=4, episodes_per_task=4, num_inner_steps=1
    )
    train(RunConfig("learned-loss", "reach-robots", settings, {"horizon": HORIZON}), tmp_path / "run", **QUIET)
    loss = LearnedLoss.load(tmp_path / "run")
    assert loss.discount(0.99) == pytest.approx(0.45)
    torch.testing.assert_close(loss.reward(*steps()), LearnedLoss.from_formula(file(REWARD)).reward(*steps()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [PPO, RL2_SETTINGS], ids=["ppo", "rl2"])
def test_ppo_and_rl2_act_alike_and_learn_otherwise_with_a_formula(file, kind, settings):
    weights, rollouts = [], []
    for loss in ("clip", f"formula:{file(KINDS[kind])}"):
        learner = RL2(SPEC, replace(settings, loss=loss), 0)
        learner.update(batch(learner, 16), 0.0)
        rollouts.append(batch(learner, 16))
        metrics = learner.update(rollouts[-1], 0.0)
        assert metrics["skipped_minibatches"] == 0
        weights.append(learner.network.actor[0].weight)
    assert torch.equal(rollouts[0].reward, rollouts[1].reward)
    assert not torch.equal(*weights)


@pytest.mark.parametrize("formula", [REWARD, POTENTIAL], ids=lambda formula: formula.loss)
def test_inner_steps_follow_a_formula(file, formula):
    learner = MAMLTRPO(SPEC, replace(MAML, inner_reward=f"formula:{file(formula)}"), 0)
    rollout = batch(learner, 2)
    reward, discount = learner._inner_reward(rollout)
    assert discount == pytest.approx(0.45 if formula is REWARD else 0.99)
    columns = [SPEC.signals.names.index(name) for name in formula.read_signals]
    signals = rollout.signals[..., columns][0]  # (H + 1, N, S)
    alone = LearnedLoss.from_formula(file(formula)).with_discount(0.99)
    effort = rollout.action[:HORIZON].square().mean(-1)
    expected = alone.reward(signals[:-1], signals[1:], effort, rollout.feedback[:HORIZON], rollout.terminated[:HORIZON])
    torch.testing.assert_close(reward[:HORIZON], expected)


def test_an_advantage_is_no_inner_reward(file):
    with pytest.raises(ConfigError, match="the loss is a learned advantage, which shapes no reward"):
        MAMLTRPO(SPEC, replace(MAML, inner_reward=f"formula:{file(ADVANTAGE)}"), 0)


def test_stable_baselines3_gets_the_rewards_of_a_formula(file):
    sb3_adapter = pytest.importorskip("metarl.sb3_adapter")
    worlds = sb3_adapter.SB3VecEnv("reach-robots", 4)
    shaped = sb3_adapter.ShapedRewards(worlds, LearnedLoss.from_formula(file(REWARD)))
    shaped.reset()
    _, reward, _, infos = shaped.step(np.ones((4, *worlds.action_space.shape), np.float32))
    assert np.isfinite(reward).all() and (reward != [info["reward"] for info in infos]).all()


@pytest.mark.parametrize(
    ("algorithm", "settings", "name"), [("ppo", PPO, "loss"), ("maml-trpo", MAML, "inner_reward")], ids=["ppo", "maml"]
)
def test_a_run_keeps_its_formula_and_resumes_bit_for_bit_without_the_file(file, tmp_path, algorithm, settings, name):
    path = file(REWARD)
    settings = replace(settings, **{name: f"formula:{path}"}, total_steps=settings.total_steps * 2)
    config = RunConfig(algorithm, "reach-robots", settings, {"horizon": HORIZON})
    train(config, tmp_path / "run", checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
    path.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    whole, *later = sorted((tmp_path / "moved" / "checkpoints").iterdir(), reverse=True)
    expected = load_checkpoint(whole).tensors
    for checkpoint in (whole, *later[:-1]):
        checkpoint.rename(tmp_path / checkpoint.name)
    kept = load_run(tmp_path / "moved", "cpu")
    assert kept.learner.learned_loss.loss.source == REWARD
    train(kept.config, tmp_path / "moved", resume=True, **QUIET)
    resumed = load_checkpoint(whole).tensors
    assert all(torch.equal(v, resumed[group][n]) for group, named in expected.items() for n, v in named.items())


def test_a_formula_without_a_value_is_refused(file):
    before, after, effort, feedback, ended = steps(num_signals=1)
    loss = LearnedLoss.from_formula(file(replace(REWARD, expression="sqrt(closing_speed)")))
    with pytest.raises(ConfigError, match=r"the formula sqrt\(closing_speed\) has no value in a state that was met"):
        loss.reward(-before.abs(), after, effort, feedback, ended)
    assert loss.reward(before.abs(), after, effort, feedback, ended).isfinite().all()
    of_failed_physics = loss.reward(before * torch.nan, after, effort, feedback, ended)
    assert of_failed_physics.isnan().all()


def test_a_formula_asks_for_the_signals_that_it_reads_alone(file):
    wide = ("closing_speed", "no_such_signal", "log_distance")
    path = file(replace(REWARD, expression="2 * closing_speed + effort", signals=wide))
    loss = LearnedLoss.from_formula(path)
    assert loss.signals == ("closing_speed",) and loss.columns(SPEC) == [SPEC.signals.names.index("closing_speed")]
    before, after, effort, feedback, ended = steps(num_signals=1)
    expected = feedback + bounded(2 * before[:, 0] + effort)
    torch.testing.assert_close(loss.reward(before, after, effort, feedback, ended), expected)
    assert LearnedLoss.from_formula(file(replace(REWARD, expression="-effort"))).signals == ()
    change = file(replace(POTENTIAL, signals=wide, expression="log_distance - 3"))
    assert LearnedLoss.from_formula(change).signals == ("log_distance",)
    missing = LearnedLoss.from_formula(file(replace(REWARD, signals=wide, expression="change_of_no_such_signal")))
    with pytest.raises(ConfigError, match="signals that reach-robots does not give: no_such_signal"):
        missing.columns(SPEC)


def command(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    return stop.value.code


TRAIN = ("train ppo --loss", "train rl2 --loss", "train domain-randomised --loss", "train maml-trpo --inner-reward")


@pytest.mark.parametrize("arguments", TRAIN)
@pytest.mark.parametrize(
    ("content", "env", "message"),
    [
        (None, "reach-robots", "cannot read formula file 'f.json': No such file or directory."),
        ("{", "reach-robots", "formula file f.json is no JSON: "),
        ("{}", "reach-robots", "formula file f.json is no formula: it lacks"),
        (
            json.dumps(REWARD.to_json() | {"expression": "2 * closing_sped"}),
            "reach-robots",
            "formula file f.json: unknown input of the formula 'closing_sped'. Did you mean 'closing_speed'?",
        ),
        (
            json.dumps(REWARD.to_json() | {"expression": "open(effort)"}),
            "reach-robots",
            "formula file f.json: unknown function of the formula 'open'.",
        ),
        (json.dumps(REWARD.to_json()), "track", "the loss reads signals that track does not give: "),
    ],
    ids=["missing", "broken", "other", "unknown", "code", "signals"],
)
def test_a_mistake_in_a_formula_file_gets_one_line_before_training(
    arguments, content, env, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "f.json").write_text(content)
    assert command(f"{arguments} formula:f.json --env {env}") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and message in printed
    assert not (tmp_path / "runs").exists()
