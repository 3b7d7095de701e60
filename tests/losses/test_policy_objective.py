"""Policy objectives by name, and what they do to an update."""

from dataclasses import replace

import pytest
import torch

from metarl.env import BatchedEnv
from metarl.errors import UnknownNameError
from metarl.learners.rl2 import RL2, RL2Config, without_memory
from metarl.losses.drift import dpo_drift, mirror_objective
from metarl.losses.policy_objective import policy_objective
from metarl.rl.ppo import ppo_loss
from metarl.seeding import make_generator
from tests.probes import hidden_target

SMALL = RL2Config(total_steps=1, num_worlds=64, hidden_dim=16, num_minibatches=2, discount=0.9, gae_lambda=0.9)


def arguments(dtype):
    generator = torch.Generator().manual_seed(0)
    log_prob, entropy, value, old, advantage, target = torch.randn(6, 5, 4, generator=generator, dtype=dtype).unbind()
    return [
        log_prob.requires_grad_(),
        entropy,
        value,
        old,
        advantage,
        target,
        torch.rand(5, 4, generator=generator) < 0.8,
    ]


def test_clip_is_the_loss_of_ppo_bit_for_bit():
    inputs = arguments(torch.float32)
    parts = [ppo_loss(*inputs, 0.3), ppo_loss(*inputs, 0.3, policy_objective("clip", 0.3))]
    slopes = [torch.autograd.grad(part.policy, inputs[0])[0] for part in parts]
    assert torch.equal(*slopes) and all(torch.equal(a, b) for a, b in zip(*parts, strict=True))


def test_dpo_changes_the_policy_loss_alone():
    inputs = arguments(torch.float64)
    clip, dpo = ppo_loss(*inputs, 0.2), ppo_loss(*inputs, 0.2, policy_objective("dpo", 0.2))
    log_prob, _, _, old, advantage, _, valid = inputs
    expected = -mirror_objective(log_prob, old, advantage, dpo_drift)[valid].mean()
    torch.testing.assert_close(dpo.policy, expected)
    assert dpo.policy != clip.policy and dpo[1:] == clip[1:]


def test_an_unknown_loss_is_refused_before_anything_is_trained():
    with pytest.raises(
        UnknownNameError, match=r"loss 'dop'\. Did you mean 'dpo'\? Available: clip, dpo, formula:FILE, learned:RUN\."
    ):
        RL2(hidden_target(), replace(SMALL, loss="dop"), 0)


def trained(config, num_updates, seed=0):
    torch.set_num_threads(1)
    spec = hidden_target()
    learner, env, tasks = RL2(spec, config, seed), BatchedEnv(spec, config.num_worlds), make_generator(seed, "tasks")
    for update in range(num_updates):
        env.set_tasks(spec.tasks.sample_train(config.num_worlds, tasks))
        learner.update(learner.collect(env), update / num_updates)
    env.set_tasks(spec.tasks.split("test", config.num_worlds))
    return learner, float(learner.trial(env, config.episodes_per_trial, None).episode_returns().mean())


@pytest.mark.parametrize("changes", [{}, {"memory": False}, {"cell": "lstm"}], ids=str)
def test_the_loss_changes_what_is_learned(changes):
    config = replace(SMALL, **changes)
    weights = [trained(replace(config, loss=loss), 2)[0].network.actor[0].weight for loss in ("clip", "dpo")]
    assert not torch.equal(*weights)


@pytest.mark.slow
def test_dpo_learns_the_target_it_sees():
    config = without_memory(
        replace(SMALL, num_worlds=128, hidden_dim=32, learning_rate=3e-3, loss="dpo"), sees_task=True
    )
    assert trained(config, 100)[1] > -0.15
