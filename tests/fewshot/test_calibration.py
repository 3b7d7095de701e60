"""Calibration: scores by hand, predictions whose error is known, temperatures that undo what was done."""

import math

import pytest
import torch

from metarl.fewshot.calibration import (
    Bin,
    at_temperature,
    calibration_error,
    calibration_floor,
    calibration_interval,
    confidences,
    fit_temperature,
    query_brier,
    query_nll,
    reliability_bins,
    unknown_auroc,
)
from metarl.fewshot.types import Episode


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def episode_of(query_y, query_mask=None, num_ways=3):
    y = torch.tensor(query_y)
    mask = torch.ones_like(y, dtype=torch.bool) if query_mask is None else torch.tensor(query_mask)
    support = torch.arange(num_ways).expand(len(y), -1)
    x, query = (torch.zeros(*part.shape, 1) for part in (support, y))
    return Episode(x, support, torch.ones_like(support, dtype=torch.bool), query, y, mask, num_ways)


def draws(num, sharpness=1.0, num_ways=5, seed=0):
    """Logits, and classes that are drawn from softmax(sharpness * logits): calibrated where sharpness is 1."""
    logits = 2 * torch.randn(num, num_ways, generator=generator(seed), dtype=torch.float64)
    y = torch.multinomial((sharpness * logits).softmax(-1), 1, generator=generator(seed + 1)).squeeze(-1)
    return logits.log_softmax(-1), y


def bins_of(log_probs, y):
    top, chosen = log_probs.max(-1)
    return reliability_bins(top.exp(), chosen == y)


def test_likelihood_and_brier_score_by_hand_leave_out_what_does_not_count():
    probs = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]]])
    episode = episode_of([[0, 1, -1, 2]], [[True, True, True, False]])
    assert float(query_nll(probs.log(), episode)) == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2)
    first, second = 0.3**2 + 0.2**2 + 0.1**2, 0.5**2 + 0.75**2 + 0.25**2
    assert float(query_brier(probs.log(), episode)) == pytest.approx((first + second) / 2)
    confidence, is_right, counts = confidences(probs.log(), episode)
    assert confidence[counts].tolist() == pytest.approx([0.7, 0.5]) and is_right[counts].tolist() == [True, False]


def test_a_reliability_diagram_by_hand():
    confidence = torch.tensor([0.55, 0.6, 0.95, 1.0, 0.91])
    is_right = torch.tensor([True, False, True, True, False])
    bins = reliability_bins(confidence, is_right, num_bins=10)
    assert [b.num_predictions for b in bins] == [2, 3]  # (0.5, 0.6] and (0.9, 1]
    assert bins[0][:2] == pytest.approx((0.575, 0.5)) and bins[1][:2] == pytest.approx((2.86 / 3, 2 / 3))
    assert calibration_error(bins) == pytest.approx((0.15 + 0.86) / 5)


def test_a_predictor_that_is_always_sure_and_right_seven_times_in_ten_has_an_error_of_three_tenths():
    is_right = torch.arange(1000) % 10 < 7
    bins = reliability_bins(torch.ones(1000, dtype=torch.float64), is_right)
    assert bins == (Bin(1.0, 0.7, 1000),)
    assert calibration_error(bins) == pytest.approx(0.3)


def test_calibrated_predictions_have_an_error_near_the_floor_and_over_confident_ones_the_known_one():
    log_probs, y = draws(200_000)
    bins = bins_of(log_probs, y)
    assert calibration_error(bins) < 0.004 and calibration_floor(bins) < 0.003
    # Logits doubled: the truth is softmax(logits), the claim softmax(2 logits).
    claimed = at_temperature(log_probs, 0.5)
    top, chosen = claimed.max(-1)
    expected = top.exp() - log_probs.exp().gather(-1, chosen[:, None])[:, 0]  # never negative: it is sharper
    assert calibration_error(bins_of(claimed, y)) == pytest.approx(float(expected.mean()), abs=0.003)
    assert float(expected.mean()) > 0.1


@pytest.mark.parametrize("num", [200, 2000])
def test_the_floor_is_the_mean_error_of_calibrated_predictions(num):
    found = [bins_of(*draws(num, seed=2 * seed)) for seed in range(100)]
    errors, floors = ([function(bins) for bins in found] for function in (calibration_error, calibration_floor))
    assert sum(errors) / 100 == pytest.approx(sum(floors) / 100, rel=0.08)


def test_the_interval_covers_the_error_and_shrinks_with_more_tasks():
    log_probs, y = draws(40_000)
    log_probs = at_temperature(log_probs, 0.5)
    top, chosen = log_probs.max(-1)
    confidence, is_right = top.exp().view(-1, 20), (chosen == y).view(-1, 20)
    counts = torch.ones_like(is_right)
    widths = []
    for num_tasks in (100, 2000):
        some = [part[:num_tasks] for part in (confidence, is_right, counts)]
        low, high = calibration_interval(*some, generator())
        error = calibration_error(reliability_bins(some[0].flatten(), some[1].flatten()))
        assert low < error < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(20), rel=0.25)


def test_tasks_whose_queries_go_together_have_wider_intervals():
    confidence = torch.full((400, 10), 0.9)
    alone = torch.rand(400, 10, generator=generator()) < 0.7
    together = (torch.rand(400, 1, generator=generator()) < 0.7).expand(-1, 10)
    counts = torch.ones_like(alone)
    (a, b), (c, d) = (calibration_interval(confidence, right, counts, generator()) for right in (alone, together))
    assert d - c > 2 * (b - a)


def test_unknown_queries_by_hand():
    # Surest: known 0.9 and 0.5, unknown 0.6 and 0.5: of four pairs two are won, one is a tie, one is lost.
    probs = torch.tensor([[[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    episode = episode_of([[0, 0, -1, -1, -1]], [[True, True, True, True, False]])
    assert float(unknown_auroc(probs.log(), episode)) == pytest.approx((2 + 0.5) / 4)


def test_a_learner_that_is_always_surer_of_what_it_knows_has_an_auroc_of_one():
    surest = torch.tensor([[0.9, 0.8, 0.5, 0.4]])
    probs = torch.stack([surest, 1 - surest], -1)
    assert float(unknown_auroc(probs.log(), episode_of([[0, 1, -1, -1]], num_ways=2))) == 1.0
    assert float(unknown_auroc(probs.log(), episode_of([[-1, -1, 0, 1]], num_ways=2))) == 0.0
    assert math.isnan(float(unknown_auroc(probs.log(), episode_of([[0, 1, 0, 1]], num_ways=2))))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_temperature_scaling_finds_the_temperature_that_predictions_were_spoilt_with(temperature):
    log_probs, y = draws(50_000)
    spoilt = at_temperature(log_probs, 1 / temperature)
    found = fit_temperature(spoilt, y)
    assert found == pytest.approx(temperature, rel=0.02)
    mended = at_temperature(spoilt, found)
    assert calibration_error(bins_of(mended, y)) < 0.008
    torch.testing.assert_close(mended.argmax(-1), spoilt.argmax(-1))


def test_the_fitted_temperature_is_the_likeliest():
    log_probs, y = draws(500, sharpness=0.4)
    best = fit_temperature(log_probs, y)

    def nll(temperature):
        return float(torch.nn.functional.nll_loss(at_temperature(log_probs, temperature), y))

    assert nll(best) < min(nll(1.01 * best), nll(best / 1.01), nll(1.0))


def test_temperatures_have_bounds_where_the_likelihood_has_no_maximum():
    sure = torch.tensor([[0.6, 0.4]]).log()
    assert fit_temperature(sure, torch.tensor([0])) == pytest.approx(0.01)
    assert fit_temperature(sure, torch.tensor([1])) == pytest.approx(100.0)


@pytest.mark.parametrize(("log_probs", "y"), [(torch.zeros(0, 2), []), (torch.tensor([[0.0, -math.inf]]), [0])])
def test_no_temperature_from_nothing_or_from_infinite_log_probabilities(log_probs, y):
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(log_probs, torch.tensor(y, dtype=torch.int64))
