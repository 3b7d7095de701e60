"""The linear feature baseline against least squares done otherwise."""

import numpy as np
import torch

from metarl.rl.linear_baseline import linear_baseline

H, B, E = 12, 3, 5


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    obs = 3 * torch.randn(H, B, E, 2, generator=generator)
    return obs, torch.randn(H, B, E, generator=generator), torch.ones(H, B, E, dtype=torch.bool)


def features(obs):
    time = np.broadcast_to((np.arange(H) / 100)[:, None, None, None], (H, B, E, 1))
    clipped = np.clip(obs.double().numpy(), -10, 10)
    return np.concatenate([clipped, clipped**2, time, time**2, time**3, np.ones_like(time)], -1)


def test_returns_that_are_linear_in_the_features_are_predicted_exactly():
    obs, _, valid = batch()
    returns = torch.from_numpy(features(obs) @ np.array([1.0, -2.0, 0.5, 0.1, 300.0, -20.0, 0.0, 4.0]))
    torch.testing.assert_close(linear_baseline(obs, returns, valid, ridge=1e-10), returns, atol=1e-3, rtol=1e-3)


def test_each_task_has_its_own_ridge_regression():
    obs, returns, valid = batch()
    found = linear_baseline(obs, returns, valid, ridge=0.1)
    for task in range(B):
        x, y = features(obs)[:, task].reshape(H * E, -1), returns[:, task].double().numpy().reshape(-1)
        expected = x @ np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
        np.testing.assert_allclose(found[:, task].numpy().reshape(-1), expected, atol=1e-5)


def test_steps_that_do_not_count_change_nothing():
    obs, returns, valid = batch()
    valid[6:, :, 2] = False
    before = linear_baseline(obs, returns, valid)
    obs[8, :, 2], returns[8, :, 2] = 7.0, 1e3
    after = linear_baseline(obs, returns, valid)
    torch.testing.assert_close(after[valid], before[valid], atol=1e-4, rtol=1e-4)


def test_an_observation_beyond_ten_counts_as_ten():
    obs, returns, valid = batch()
    obs[0, 0, 0] = torch.tensor([1e6, -1e6])
    clipped = obs.clone()
    clipped[0, 0, 0] = torch.tensor([10.0, -10.0])
    assert torch.equal(linear_baseline(obs, returns, valid), linear_baseline(clipped, returns, valid))


def test_constant_features_have_a_solution_without_ridge():
    _, returns, valid = batch()
    found = linear_baseline(torch.zeros(H, B, E, 2), returns, valid, ridge=0.0)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found.mean((0, 2)), returns.mean((0, 2)), atol=1e-5, rtol=1e-5)
