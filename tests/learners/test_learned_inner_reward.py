"""Inner rewards that are meta-trained together with the policy (`--inner-reward reward | potential | advantage`)."""

from dataclasses import replace

import pytest
import torch

from metarl.env import BatchedEnv, Signals
from metarl.errors import ConfigError
from metarl.learners.gradient_config import LEARNED_CREDITS
from metarl.learners.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.learners.promp import ProMP, ProMPConfig
from metarl.learners.reptile import ReptileConfig
from metarl.seeding import make_generator
from tests.learners.test_gradient import assert_gradient_is_that_of_finite_differences, train
from tests.probes import hidden_target
from tests.reaching_probe import reaching

B, E, H = 3, 4, 4
SIZES = {"total_steps": 1, "meta_batch_size": B, "episodes_per_task": E, "hidden_dims": (6, 5), "normalizes_obs": False}
CONFIGS = {MAMLTRPO: MAMLTRPOConfig(**SIZES), ProMP: ProMPConfig(**SIZES, inner_surrogate="ratio", inner_kl_coef=0.3)}


def learner_and_rollout(make, inner_reward, **changes):
    """A learner whose parameters were shifted, so that the loss says something, and what it experienced."""
    spec = reaching(H)
    learner = make(spec, replace(CONFIGS[make], inner_reward=inner_reward, **changes), 0)
    generator = torch.Generator().manual_seed(1)
    shifted = {n: v + 0.1 * torch.randn(v.shape, generator=generator) for n, v in learner.meta_parameters.items()}
    learner._set_meta_parameters(shifted)
    env = BatchedEnv(spec, B * E)
    env.set_tasks(spec.tasks.split("test", B))
    return learner, learner.collect(env)


def in_double(records):
    return [type(record)(*(v.double() if v.is_floating_point() else v for v in record)) for record in records]


@pytest.mark.parametrize("kind", LEARNED_CREDITS)
@pytest.mark.parametrize("make", [MAMLTRPO, ProMP])
def test_the_meta_gradient_is_that_of_finite_differences(make, kind):
    learner, rollout = learner_and_rollout(make, kind, num_inner_steps=2)
    batch = learner.batch(rollout)
    batch = batch._replace(**{name: in_double(getattr(batch, name)) for name in ("phases", "supports", "acted")})
    batch = batch._replace(experience=in_double(batch.experience))
    at = {n: v.detach().double().requires_grad_() for n, v in learner.meta_parameters.items()}

    def loss(meta):
        if make is MAMLTRPO:
            return learner._objective(batch, batch, meta).loss
        learner.inner_kl_coef, learner.meta_parameters = learner.inner_kl_coef.double(), meta
        return learner._loss(batch, batch)[0]

    assert_gradient_is_that_of_finite_differences(loss, at, torch.Generator().manual_seed(2))
    of_loss = [value for name, value in at.items() if name.startswith("loss.")]
    assert of_loss
    assert all(float(slope.abs().max()) > 0 for slope in torch.autograd.grad(loss(at), of_loss))


@pytest.mark.parametrize("kind", LEARNED_CREDITS)
def test_a_batch_repeats_the_inner_steps_of_the_trial(kind):
    learner, rollout = learner_and_rollout(MAMLTRPO, kind, num_inner_steps=2, normalizes_obs=True)
    batch = learner.batch(rollout)
    supports = learner.supports(learner.meta_parameters, batch)
    for adapted, phase in zip(learner.unroll(learner.meta_parameters, supports, B), batch.phases, strict=True):
        again = learner.distribution(learner.meta_parameters, adapted, phase).log_prob(phase.action)
        torch.testing.assert_close(again, phase.log_prob)


def test_without_a_learned_part_an_inner_step_follows_the_feedback():
    learner, rollout = learner_and_rollout(MAMLTRPO, "reward")
    blank = {n: torch.zeros_like(v) if "weight" in n else v for n, v in learner.meta_parameters.items()}
    learner._set_meta_parameters(learner.meta_parameters | {n: v for n, v in blank.items() if n.startswith("loss.")})
    shown = replace(rollout, feedback=torch.rand(rollout.feedback.shape, generator=torch.Generator().manual_seed(0)))
    found = learner.supports(learner.meta_parameters, learner.batch(shown))[0].advantage
    decay = float(learner.meta_parameters["loss.decay"].detach().sigmoid())
    later = torch.zeros(H, B * E)
    for step in reversed(range(H)):
        later[step] = shown.feedback[step] + (decay * later[step + 1] if step + 1 < H else 0.0)
    of_tasks = later.unflatten(1, (B, E))
    relative = (of_tasks - of_tasks.mean(2, keepdim=True)).transpose(0, 1).flatten(1)  # (B, M)
    torch.testing.assert_close(found, relative / relative.std(1, correction=0, keepdim=True), rtol=1e-3, atol=1e-4)


def test_part_of_the_samples_keeps_the_advantages_that_the_whole_phase_gave_them():
    learner, rollout = learner_and_rollout(MAMLTRPO, "reward", metric_share=0.5)
    whole = learner.batch(rollout)
    part = learner._share(whole)
    advantage = learner.supports(learner.meta_parameters, whole)[0].advantage
    kept = learner.supports(learner.meta_parameters, part)[0]
    assert kept.advantage.shape == (B, H * E // 2) == kept.obs.shape[:2]
    assert torch.equal(kept.advantage, advantage[:, part.chosen])


def test_some_tasks_of_a_batch_have_the_objective_of_their_own():
    learner, rollout = learner_and_rollout(MAMLTRPO, "reward", num_inner_steps=2)
    batch = learner.batch(rollout)
    whole = learner._objective(batch, batch, learner.meta_parameters).loss
    parts = [learner._objective(chunk, batch, learner.meta_parameters).loss for chunk in batch.split(2)]
    torch.testing.assert_close(whole, sum(parts))


def unpaid_target():
    """`hidden_target` whose feedback is always 0; a signal tells on which side of the target the last action was."""
    spec = hidden_target()
    plain = spec.step

    def reset(task, noise):
        start = spec.reset(task, noise)
        return start._replace(state=start.state | {"error": torch.zeros_like(task["target"])})

    def step(task, data, state, action, noise):
        outcome = plain(task, data, state, action, noise)
        return outcome._replace(state=outcome.state | {"error": action[:, 0] - task["target"]})

    signals = Signals(
        ("error",), lambda task, data, state: state["error"].unsqueeze(1), lambda task, data, state: 0 * state["error"]
    )
    return replace(spec, reset=reset, step=step, signals=signals)


def test_a_reward_is_learned_where_the_feedback_says_nothing():
    spec = unpaid_target()
    config = ProMPConfig(
        total_steps=1,
        meta_batch_size=10,
        episodes_per_task=20,
        hidden_dims=(8,),
        inner_lr=0.2,
        outer_lr=3e-3,
        initial_std=0.5,
        inner_reward="reward",
        inner_surrogate="ratio",
        task_chunk=10,
        update_threads=1,
    )
    learner = train(spec, ProMP, config, 20)
    env = BatchedEnv(spec, 30 * 20)
    env.set_tasks(spec.tasks.split("test", 30))
    returns = learner.trial(env, 2, make_generator(0, "evaluation")).episode_returns().mean(1)
    assert float(returns[1]) > float(returns[0]) + 0.5


def test_settings_that_leave_it_nothing_to_learn_by_are_refused():
    with pytest.raises(ConfigError, match="first_order takes as constants"):
        MAMLTRPOConfig(**SIZES, inner_reward="reward", first_order=True)
    with pytest.raises(ConfigError, match="of which Reptile takes none"):
        ReptileConfig(**SIZES, inner_reward="advantage")
    with pytest.raises(ConfigError, match="a learned reward reads signals, and hidden-target gives none"):
        MAMLTRPO(hidden_target(), MAMLTRPOConfig(**SIZES, inner_reward="reward"), 0)


def test_a_state_dict_holds_the_loss():
    learner, _ = learner_and_rollout(MAMLTRPO, "reward")
    other = MAMLTRPO(reaching(H), learner.config, 7)
    other.load_state_dict(learner.state_dict())
    assert any(name.startswith("loss.") for name in other.meta_parameters)
    assert all(torch.equal(value, learner.meta_parameters[name]) for name, value in other.meta_parameters.items())
