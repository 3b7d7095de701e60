"""Interquartile means and bootstrap intervals against closed cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.statistics import bootstrap, bootstrap_difference, iqm


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_iqm_is_the_mean_of_the_middle_half():
    assert iqm([100.0, 3.0, 4.0, -50.0, 1.0, 5.0, 0.0, 2.0]) == (1 + 2 + 3 + 4) / 4


def test_iqm_of_three_values_trims_none():
    assert iqm([1.0, 2.0, 9.0]) == 4.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(-10, 10), st.floats(0.1, 10))
def test_iqm_moves_and_scales_with_its_values(values, shift, scale):
    moved = iqm(np.array(values) * scale + shift)
    assert moved == pytest.approx(iqm(values) * scale + shift, abs=1e-6)


def test_constant_scores_have_an_interval_of_no_width():
    estimate = bootstrap(np.full((3, 10, 2), 7.0), generator())
    for part in estimate:
        assert part.shape == (2,)
        np.testing.assert_array_equal(part, 7.0)


def test_one_run_with_one_task_has_an_interval_of_no_width():
    assert bootstrap([[2.5]], generator()) == (2.5, 2.5, 2.5)


def test_the_interval_of_a_rate_has_the_quantiles_of_the_binomial():
    # 10 of 50 tasks succeed, so a resample has Binomial(50, 1/5) successes: 2.5 % and 97.5 % quantiles 5 and 16.
    scores = np.repeat([1.0, 0.0], [10, 40])[None]
    estimate = bootstrap(scores, generator(), statistic=np.mean, num_resamples=20_000)
    assert estimate == (10 / 50, 5 / 50, 16 / 50)


def test_runs_are_drawn_whole():
    # Two runs, one all 0 and one all 1: a resample has the mean 0, 1/2 or 1 and no other.
    scores = np.array([[0.0] * 8, [1.0] * 8])
    estimate = bootstrap(scores, generator(), statistic=np.mean)
    assert estimate == (0.5, 0.0, 1.0)


def test_tasks_are_drawn_whole_and_not_apart_for_each_run():
    # All runs agree on each task, so more runs tell nothing new about new tasks.
    scores = generator(1).normal(size=(1, 40))
    one = bootstrap(scores, generator(2), num_resamples=4000)
    many = bootstrap(np.repeat(scores, 8, axis=0), generator(3), num_resamples=4000)
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.05)


def test_strata_keep_the_number_of_tasks_of_each_kind():
    directions = np.array([-1.0, 1.0] * 20)
    scores = directions[None] * 5 + 3  # nothing varies within a direction
    assert bootstrap(scores, generator(), statistic=np.mean, strata=directions) == (3.0, 3.0, 3.0)
    loose = bootstrap(scores, generator(), statistic=np.mean)
    assert loose.high - loose.low > 2


def test_the_order_of_tasks_does_not_change_the_value_and_the_seed_fixes_the_interval():
    scores = generator(1).normal(size=(2, 30))
    first, second = bootstrap(scores, generator(5)), bootstrap(scores, generator(5))
    assert first == second
    assert bootstrap(scores[:, ::-1], generator(6)).value == pytest.approx(first.value, abs=1e-12)


def test_each_trailing_entry_is_estimated_as_if_alone():
    scores = generator(1).normal(size=(2, 20, 3))
    together = bootstrap(scores, generator(4))
    for episode in range(3):
        alone = bootstrap(scores[:, :, episode], generator(4))
        np.testing.assert_allclose([part[episode] for part in together], alone, rtol=1e-12)


def coverage(num_runs: int, num_tasks: int, run_std: float, num_trials: int = 300) -> float:
    """How often the interval holds the true mean 0 of runs + tasks + noise, all normal."""
    draw, hits = generator(11), 0
    for _ in range(num_trials):
        runs, tasks = draw.normal(size=(num_runs, 1)), draw.normal(size=(1, num_tasks))
        scores = run_std * runs + tasks + 0.5 * draw.normal(size=(num_runs, num_tasks))
        estimate = bootstrap(scores, draw, num_resamples=400)
        hits += bool(estimate.low <= 0 <= estimate.high)
    return hits / num_trials


@pytest.mark.parametrize(("num_runs", "num_tasks", "run_std"), [(1, 64, 0.0), (10, 30, 1.0), (5, 40, 0.2)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(num_runs, num_tasks, run_std):
    # Three standard errors of 300 trials are 0.04.
    assert 0.90 <= coverage(num_runs, num_tasks, run_std) <= 0.985


def test_a_difference_on_the_same_tasks_cancels_their_spread():
    scores = generator(1).normal(scale=100, size=(4, 50, 2))
    estimate = bootstrap_difference(scores + 3, scores, generator(), same_runs=True)
    for part in estimate:
        np.testing.assert_allclose(part, 3.0, atol=1e-9)


def test_the_difference_of_different_runs_keeps_the_spread_of_both():
    lucky_and_not = np.array([[0.0] * 8, [1.0] * 8])
    estimate = bootstrap_difference(
        lucky_and_not, lucky_and_not[:1], generator(), same_runs=False, statistic=np.mean, num_resamples=1000
    )
    assert estimate == (0.5, 0.0, 1.0)


def test_the_sign_of_a_difference_is_scores_minus_baseline():
    scores = generator(1).normal(size=(1, 30))
    assert bootstrap_difference(scores + 2, scores[:, ::-1], generator(), same_runs=False).low > 0


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros(5), r"shape \(runs, tasks"),
        (np.zeros((0, 5)), r"shape \(runs, tasks"),
        (np.array([[1.0, np.nan, np.inf]]), "2 of 3 scores are NaN or infinite"),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(scores, generator())


def test_a_difference_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match="not of the same tasks"):
        bootstrap_difference(np.zeros((1, 4)), np.zeros((1, 5)), generator(), same_runs=False)
    with pytest.raises(ValueError, match="not of the same tasks or runs"):
        bootstrap_difference(np.zeros((1, 4)), np.zeros((2, 4)), generator(), same_runs=True)
