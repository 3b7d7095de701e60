"""The functional policy: parameters of one task, of many, and of a mixture."""

import math

import pytest
import torch

from metarl.nets.distributions import Categorical, Gaussian
from metarl.nets.mlp_policy import CONTEXT, MLPPolicy
from metarl.types import Continuous, Discrete


def policy_and_parameters(space=Continuous(2), **options):  # noqa: B008
    policy = MLPPolicy(3, space, (5, 4), **options)
    return policy, policy.initial_parameters(torch.Generator().manual_seed(0))


def test_it_is_the_network_that_its_parameters_describe():
    policy, parameters = policy_and_parameters(initial_std=0.5)
    layers = []
    for layer in range(3):
        weight, bias = parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"] + 0.1 * layer
        parameters[f"layers.{layer}.bias"] = bias
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [linear, torch.nn.Tanh()]
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    found = policy.distribution(parameters, obs)
    torch.testing.assert_close(found.mean, torch.nn.Sequential(*layers[:-1])(obs))
    assert found.log_std.exp().tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("space", [Continuous(2), Discrete(4)])
def test_parameters_of_many_tasks_are_those_of_one_after_the_other(space):
    policy, one = policy_and_parameters(space, activation="relu")
    generator = torch.Generator().manual_seed(1)
    many = {name: value + 0.1 * torch.randn(6, *value.shape, generator=generator) for name, value in one.items()}
    obs = torch.randn(6, 7, 3, generator=generator)
    together = policy.distribution(many, obs)
    for task in range(6):
        alone = policy.distribution({name: value[task] for name, value in many.items()}, obs[task])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[task])


def test_some_parameters_may_be_shared_by_all_tasks():
    policy, parameters = policy_and_parameters()
    obs = torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(1))
    head = {name: parameters[name].expand(6, *parameters[name].shape) for name in policy.head()}
    mixed = policy.distribution(parameters | head, obs)
    torch.testing.assert_close(mixed.mean[2], policy.distribution(parameters, obs[2]).mean)


def test_the_head_is_what_the_actions_are_linear_in():
    policy, parameters = policy_and_parameters()
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    doubled = parameters | {name: 2 * parameters[name] for name in policy.head()}
    torch.testing.assert_close(policy.distribution(doubled, obs).mean, 2 * policy.distribution(parameters, obs).mean)


def test_the_context_is_read_like_an_observation():
    policy, parameters = policy_and_parameters(context_dim=2)
    plain = MLPPolicy(5, Continuous(2), (5, 4))
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    parameters[CONTEXT] = torch.tensor([0.3, -0.6])
    beside = torch.cat([obs, parameters[CONTEXT].expand(7, 2)], 1)
    without = {name: value for name, value in parameters.items() if name != CONTEXT}
    torch.testing.assert_close(policy.distribution(parameters, obs).mean, plain.distribution(without, beside).mean)


def test_divergence_of_normal_distributions_by_hand():
    def normal(mean, std):
        return Gaussian(torch.tensor([mean]), torch.tensor([math.log(std)]))

    # KL(N(0, 1) || N(1, 2)) = log 2 + (1 + 1) / 8 - 1 / 2
    assert math.isclose(float(normal(0.0, 1.0).kl_divergence(normal(1.0, 2.0))), math.log(2) - 0.25, rel_tol=1e-6)
    assert float(normal(0.3, 0.7).kl_divergence(normal(0.3, 0.7))) == 0.0


def test_divergence_of_categorical_distributions_by_hand():
    p, q = (Categorical(torch.tensor(values).log()) for values in ([0.5, 0.5], [0.25, 0.75]))
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert math.isclose(float(p.kl_divergence(q)), expected, rel_tol=1e-6)
