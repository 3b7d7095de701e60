"""SetEncoder: order and padding do not matter, posteriors by hand, windows by brute force."""

import pytest
import torch

from metarl.errors import ConfigError
from metarl.losses.task_metric import prototypical_loss
from metarl.set_encoder import POOLINGS, SetEncoder, cumulative, segment_sums, window_sums


def made(pooling, **options):
    torch.manual_seed(0)
    return SetEncoder(5, 3, 16, pooling, **options)


def some_sets(batch=4, size=7):
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(batch, size, generator=generator) < 0.6
    mask[:, 0] = True
    return torch.randn(batch, size, 5, generator=generator), mask


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_the_members_does_not_matter(pooling):
    encoder, (members, mask) = made(pooling), some_sets()
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(encoder(members[:, order], mask[:, order]), encoder(members, mask))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_masked_does_not_count(pooling):
    encoder, (members, mask) = made(pooling), some_sets()
    other = torch.where(mask.unsqueeze(-1), members, 100.0)
    torch.testing.assert_close(encoder(other, mask), encoder(members, mask))
    alone = torch.stack([encoder(row[kept].unsqueeze(0))[0] for row, kept in zip(members, mask, strict=True)])
    torch.testing.assert_close(alone, encoder(members, mask))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_empty_set_has_an_embedding_without_nan_and_with_gradients(pooling):
    encoder, (members, mask) = made(pooling), some_sets()
    embedding = encoder(members, torch.zeros_like(mask))
    assert torch.isfinite(embedding).all() and (embedding == embedding[0]).all()
    encoder(members, mask).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_an_embedding_that_is_not_bounded_is_that_before_tanh(pooling):
    members, mask = some_sets()
    bounded, free = made(pooling), made(pooling, is_bounded=False)
    torch.testing.assert_close(free(members, mask).tanh(), bounded(members, mask))


def test_mean_pooling_does_not_count_members_twice_and_attention_weighs_them():
    members, _ = some_sets()
    twice = torch.cat([members, members], 1)
    for pooling in ("mean", "attention"):
        encoder = made(pooling)
        torch.testing.assert_close(encoder(twice), encoder(members))
    attention, mean = made("attention"), made("mean")
    attention.load_state_dict(mean.state_dict(), strict=False)
    with torch.no_grad():
        attention.score.weight.copy_(torch.linspace(-8, 8, 16).unsqueeze(0))
    assert not torch.allclose(attention(members), mean(members), atol=1e-3)


def test_the_posterior_is_the_product_of_the_factors_and_the_prior():
    encoder = SetEncoder(1, 1, 4, "gaussian")
    # Two factors, N(2, 1/3) and N(-1, 1/2), and N(0, 1): precision 6, mean (3 * 2 - 2 * 1) / 6.
    sums = torch.tensor([[3 * 2.0, 3.0, 1.0]]) + torch.tensor([[2 * -1.0, 2.0, 1.0]])
    posterior = encoder.posterior(sums)
    assert posterior.mean.item() == pytest.approx(4 / 6) and posterior.variance.item() == pytest.approx(1 / 6)
    assert posterior.kl_to_prior().item() == pytest.approx(0.5 * (1 / 6 + 16 / 36 - 1 + 1.791759), abs=1e-6)
    nothing = encoder.posterior(torch.zeros(1, 3))
    assert (nothing.mean.item(), nothing.variance.item(), nothing.kl_to_prior().item()) == (0, 1, 0)


def test_the_posterior_agrees_with_the_densities_multiplied_on_a_grid():
    encoder, (members, mask) = made("gaussian"), some_sets(batch=1)
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    location, log_precision = encoder.head(encoder.features(members[0][mask[0]])).double().chunk(2, -1)
    factors = -0.5 * log_precision[..., :1].exp() * (grid - location[..., :1]).square()
    density = (factors.sum(0) - 0.5 * grid.square()).softmax(0)
    mean = (density * grid).sum()
    posterior = encoder.posterior(encoder.statistics(members, mask).sum(1))
    torch.testing.assert_close(posterior.mean[0, 0].double(), mean, atol=1e-4, rtol=0)
    variance = (density * (grid - mean).square()).sum()
    torch.testing.assert_close(posterior.variance[0, 0].double(), variance, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_works_under_vmap_with_parameters_of_each_task(pooling):
    encoder, (members, mask) = made(pooling), some_sets()
    stacked = {name: torch.stack([p, p + 0.1]) for name, p in encoder.named_parameters()}

    def encode(parameters, one, kept):
        return torch.func.functional_call(encoder, parameters, (one, kept))

    result = torch.func.vmap(encode, (0, None, None))(stacked, members, mask)
    torch.testing.assert_close(result[0], encoder(members, mask))
    assert (result[1] != result[0]).any()


@pytest.mark.parametrize("window", [0, 1, 3, 10, 50])
def test_window_sums_are_those_of_brute_force(window):
    values = torch.randn(10, 2, 4, generator=torch.Generator().manual_seed(2))
    found = window_sums(values, window)
    for t in range(10):
        first = max(0, t + 1 - window) if window else 0
        torch.testing.assert_close(found[t], values[first : t + 1].sum(0))


def test_segment_sums_are_those_of_brute_force():
    values = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(2))
    begin, end = torch.tensor([[0, 2], [5, 3]]), torch.tensor([[6, 4], [6, 3]])
    found = segment_sums(cumulative(values), begin, end)
    for r in range(2):
        for n in range(2):
            torch.testing.assert_close(found[r, n], values[begin[r, n] : end[r, n], n].sum(0))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ConfigError, match="pooling must be one of mean, attention, gaussian, got 'max'"):
        SetEncoder(5, 3, pooling="max")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_learns_to_tell_new_distributions_apart_by_a_metric_loss(pooling):
    # Every task draws its members from a normal distribution of its own scale and correlation; 5 ways, 20 members.
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    encoder = SetEncoder(2, 4, 32, pooling)
    initial = {name: 0.3 * torch.randn(p.shape, generator=generator) for name, p in encoder.named_parameters()}
    encoder.load_state_dict(initial)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)

    def windows():
        mixing = torch.randn(5, 2, 2, generator=generator)
        return torch.randn(2, 5, 20, 2, generator=generator) @ mixing

    task_ids = torch.arange(5)
    for _ in range(200):
        support, query = encoder(windows())
        optimizer.zero_grad()
        prototypical_loss(support, query, task_ids).backward()
        optimizer.step()
    with torch.no_grad():
        hits = []
        for _ in range(100):
            support, query = encoder(windows())
            hits.append(torch.cdist(query, support).argmin(1) == task_ids)
    assert torch.stack(hits).float().mean() > 0.6  # chance is 0.2
