"""Distillation: known functions are found again, formulas are simplified, and behaviour alone decides."""

import numpy as np
import pytest
import torch

import envs
from metarl.distil import (
    ACCEPTED_SHARE,
    advantage_correlation,
    distil,
    with_formula,
    with_step_scale,
    without_adaptation,
)
from metarl.distil_rows import Rows
from metarl.distil_task import task_number
from metarl.errors import ConfigError
from metarl.learners.learned_loss import LearnedLossConfig, LearnedLossLearner
from metarl.lives import learned_credit, live
from metarl.losses.expression import complexity, parse, to_text
from metarl.losses.formula import Formula
from metarl.symbolic import (
    has_symbolic_regression,
    pareto_front,
    r_squared,
    refitted,
    simplified,
    sparse_candidates,
    symbolic_candidates,
    values_of,
    without_constant,
)
from tests.reaching_probe import reaching

NAMES = ("distance", "speed", "effort")
HORIZON = 10


def rows(num_rows=2000):
    return np.random.default_rng(0).normal(size=(num_rows, 3))


def best_of(candidates, x, y, at_most):
    front = pareto_front(candidates, lambda node: r_squared(values_of(node, x, NAMES), y))
    return next((node, score) for node, score in reversed(front) if complexity(node) <= at_most)


def test_sparse_regression_finds_a_sparse_function_again():
    x = rows()
    y = 2 * np.tanh(3 * x[:, 1]) - 0.7 * x[:, 0] + 0.4 * x[:, 0] * x[:, 2] + 1.5
    node, score = best_of(sparse_candidates(x, y, NAMES), x, y, at_most=20)
    assert score > 1 - 1e-9
    at = rows(50) * 0.5
    expected = 2 * np.tanh(3 * at[:, 1]) - 0.7 * at[:, 0] + 0.4 * at[:, 0] * at[:, 2] + 1.5
    assert values_of(node, at, NAMES) == pytest.approx(expected, abs=1e-6)


def test_sparse_regression_survives_noise_and_offers_every_number_of_terms():
    x = rows()
    y = 3 * x[:, 1] - x[:, 0] + 0.1 * np.random.default_rng(1).normal(size=len(x))
    candidates = sparse_candidates(x, y, NAMES)
    node, score = best_of(candidates, x, y, at_most=9)
    assert score > 0.99
    assert to_text(node, 2).startswith("3 * speed - 1 * distance")
    sizes = {to_text(one).count("*") for one in candidates}
    assert {1, 2} <= sizes


def blocks(x, y, decay=0.5):
    """Rows as two blocks of four steps of many episodes."""
    return Rows(x, y, np.ones(len(y), dtype=bool), NAMES, np.full(2, decay), np.array([False, True]), horizon=4)


def test_what_steps_are_credited_with_sums_up_what_comes_later_and_is_relative_to_other_episodes():
    values = np.arange(16.0).reshape(2, 4, 2) ** 2  # two blocks, four steps, two episodes
    credited = blocks(np.zeros((16, 3)), np.zeros(16)).credited(values.reshape(16)).reshape(2, 4, 2)
    for block in range(2):
        later = np.zeros((5, 2))
        for step in reversed(range(4)):
            later[step] = values[block, step] + 0.5 * later[step + 1]
        expected = later[:4] - later[:4].mean(1, keepdims=True)
        assert credited[block] == pytest.approx(expected)
    half = blocks(np.arange(48.0).reshape(16, 3), np.arange(16.0)).where(np.array([False, True]))
    assert half.y.tolist() == list(range(8, 16)) and half.x[0].tolist() == [24.0, 25.0, 26.0]


def test_steps_after_an_end_are_credited_with_nothing_and_compared_with_nothing():
    values = np.array([[1.0, 10.0], [2.0, np.nan], [4.0, np.nan], [8.0, np.nan]])  # the second episode ends at once
    rows_ = Rows(
        np.zeros((8, 3)), np.zeros(8), np.isfinite(values).ravel(), NAMES, np.array([0.5]), np.array([False]), 4
    )
    credited = rows_.credited(values.ravel()).reshape(4, 2)
    first = 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 8
    assert credited[0] == pytest.approx([(first - 10) / 2, (10 - first) / 2])
    assert not credited[1:].any()  # alone at their step


def test_a_formula_is_fitted_to_what_it_credits():
    x = rows()
    # What is the same for all episodes at a step is no matter, whatever its size.
    x[:, 0] = np.repeat(np.random.default_rng(1).normal(size=8), 250)
    y = 3 * x[:, 1] + 100 * x[:, 0] ** 2
    whole = blocks(x, y)
    best = sparse_candidates(x, y, NAMES, credited=whole.credited)[0]
    assert to_text(best, 3) == "3 * speed"
    start = parse("2.5 * speed + 7 * distance", NAMES)
    again = without_constant(refitted(start, x, y, NAMES, credited=whole.credited))
    assert float(to_text(again, 3).split(" * speed")[0].split()[-1]) == pytest.approx(3.0)


def test_a_constant_input_is_no_term():
    x = rows()
    x[:, 2] = 0.0
    assert all("effort" not in to_text(node) for node in sparse_candidates(x, x[:, 0] ** 2, NAMES))


@pytest.mark.skipif(not has_symbolic_regression(), reason="pyoperon is not installed")
def test_symbolic_regression_finds_a_function_outside_the_library():
    x = rows()
    y = np.tanh(x[:, 0] - 2 * x[:, 1])
    found = symbolic_candidates(x, y, NAMES, 0, generations=20, population_size=200)
    assert max(r_squared(values_of(node, x, NAMES), y) for node in found) > 0.999


@pytest.mark.skipif(has_symbolic_regression(), reason="pyoperon is installed")
def test_without_operon_the_way_to_install_it_is_named():
    with pytest.raises(ConfigError, match=r"pip install 'metarl-robotics\[explain\]'"):
        symbolic_candidates(rows(), rows()[:, 0], NAMES, 0)


def test_constants_are_refitted():
    x = rows()
    y = 1.7 * np.tanh(0.6 * x[:, 0]) + 0.2
    node = refitted(parse("1 * tanh(1 * distance) + 0", NAMES), x, y, NAMES)
    assert r_squared(values_of(node, x, NAMES), y) > 1 - 1e-9
    assert to_text(node, 3) == "1.7 * tanh(0.6 * distance) + 0.2"


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("1 + (speed - -2 * distance)", "2 * distance + speed + 1"),
        ("2 * (3 * (speed + 1)) - 6", "6 * speed"),
        ("speed - speed", "0"),
        ("0 * speed + tanh(1 - 1)", "tanh(0)"),
        ("(2 * speed) * (3 * distance)", "6 * (speed * distance)"),
        ("speed / 4 - -distance", "distance + 0.25 * speed"),
        ("speed + tanh(-2 * speed)", "speed - tanh(2 * speed)"),
        ("tanh(2 * speed + 3 * speed)", "tanh(5 * speed)"),
    ],
)
def test_formulas_are_simplified(text, simple):
    assert to_text(simplified(parse(text, NAMES))) == simple


def test_a_simplified_formula_is_the_same_function():
    node = parse(
        "1.05 * (tanh(0.5 * speed - (-0.1 * effort - 2)) - (0.05 * effort + (speed - -0.1 * distance))) / 3", NAMES
    )
    x = rows(20)
    assert values_of(simplified(node), x, NAMES) == pytest.approx(values_of(node, x, NAMES), abs=1e-12)


def test_the_front_takes_what_is_clearly_better_than_all_simpler_ones():
    texts = {"0": 0.0, "tanh(speed)": 0.8, "2 * speed": 0.801, "2 * speed + distance": 0.95}
    nodes = {parse(text, NAMES): score for text, score in texts.items()}
    front = pareto_front(list(nodes), nodes.__getitem__)
    assert [to_text(node) for node, _ in front] == ["0", "tanh(speed)", "2 * speed + distance"]


def taught(expression="4 * closing_speed - log_distance"):
    """A learner whose loss is a network that is linear, so that a formula can be equal to it."""
    config = LearnedLossConfig(
        meta_batch_size=4,
        episodes_per_task=8,
        num_inner_steps=3,
        policy_dims=(8,),
        adapts_to_task=False,
        update_threads=1,
    )
    spec = reaching(HORIZON)
    learner = LearnedLossLearner(spec, config, 0)
    names = learner.loss.inner.input_names
    weights = {"closing_speed": 4.0, "log_distance": -1.0}
    meta = dict(learner.meta_parameters)
    meta["loss.out.weight"] = torch.zeros_like(meta["loss.out.weight"])
    meta["loss.linear.weight"] = torch.tensor([[weights.get(name, 0.0) for name in names]])
    learner.meta_parameters = meta
    return learner, spec


def test_a_linear_network_is_found_and_accepted_by_behaviour():
    learner, spec = taught()
    found = distil(learner, spec, num_tasks=4, num_validation_tasks=8, step_scales=(), made_by={"run": "x"})
    assert found.network_return > found.start_return
    assert found.formula is not None
    accepted = [one for one in found.candidates if one.is_accepted]
    assert found.formula.expression == accepted[0].expression
    assert all(one.is_accepted == (one.share >= ACCEPTED_SHARE) for one in found.candidates)
    best = found.candidates[-1]
    assert best.r_squared > 0.99 and best.advantage_correlation > 0.99
    assert best.share == pytest.approx(1.0, abs=0.05)
    assert found.formula.made_by["run"] == "x"


def test_the_formula_of_the_network_gives_its_advantages_and_its_policies():
    learner, spec = taught()
    lives = live(learner, spec, spec.tasks.split("train", 3), 0)
    credit = learned_credit(learner)
    node = parse("4 * closing_speed - log_distance", credit.input_names)
    assert advantage_correlation(credit, node, lives) == pytest.approx(1.0, abs=1e-5)
    assert advantage_correlation(credit, parse("log_distance", credit.input_names), lives) < 0.9
    decay = float(credit.decay({name: value[0] for name, value in lives.loss.items()}))
    same = Formula(
        "reward",
        "4 * closing_speed - log_distance",
        credit.signals,
        credit.head.bound,
        1.0,
        decay,
        tuple(map(tuple, lives.log_step_size[0].exp().tolist())),
    )
    twin = live(with_formula(learner, same), spec, spec.tasks.split("train", 3), 0)
    torch.testing.assert_close(twin.returns, lives.returns, rtol=1e-3, atol=1e-3)


def test_a_formula_takes_the_place_of_a_loss_whose_signals_were_chosen():
    spec = reaching(HORIZON)
    chosen = LearnedLossLearner(spec, LearnedLossConfig(signals=("closing_speed",), policy_dims=(4,)), 0)
    formula = Formula("reward", "closing_speed", ("closing_speed",), 10.0, 0.97, 0.9, ((0.1, 0.1, 0.1),))
    assert with_formula(chosen, formula).loss.inner.signals == ("closing_speed",)


def test_a_loss_that_teaches_nothing_is_refused():
    learner, spec = taught()
    learner.meta_parameters["loss.linear.weight"] = -learner.meta_parameters["loss.linear.weight"]
    with pytest.raises(ConfigError, match="policies gain nothing"):
        distil(learner, spec, num_tasks=2, num_validation_tasks=8, step_scales=())


def test_a_loss_that_was_designed_by_hand_is_refused():
    learner = LearnedLossLearner(reaching(HORIZON), LearnedLossConfig(loss="dense"), 0)
    with pytest.raises(ConfigError, match="no learned reward"):
        distil(learner, reaching(HORIZON))


def test_a_constant_is_left_out_where_it_has_no_effect():
    learner, spec = taught()
    found = distil(learner, spec, num_tasks=4, num_validation_tasks=4, step_scales=())
    trees = [parse(one.expression, learner.loss.inner.input_names) for one in found.candidates[1:]]
    assert trees and all(without_constant(tree) == tree for tree in trees)


def test_the_network_with_other_step_sizes_is_the_same_network():
    learner, spec = taught()
    tasks = spec.tasks.split("train", 2)
    other = live(with_step_scale(learner, 0.5), spec, tasks, 0)
    own = live(learner, spec, tasks, 0)
    torch.testing.assert_close(other.log_step_size.exp(), 0.5 * own.log_step_size.exp())
    torch.testing.assert_close(other.returns[:, 0], own.returns[:, 0])


def adapting():
    """A learner on reach-either: the more feedback goes along with the first thing's distance, the more it pays."""
    config = LearnedLossConfig(
        meta_batch_size=4, episodes_per_task=16, num_inner_steps=2, policy_dims=(8,), update_threads=1, inner_lr=0.5
    )
    spec = envs.make_spec("reach-either")
    learner = LearnedLossLearner(spec, config, 0)
    names, shapes = learner.loss.inner.input_names, learner.loss.encoding.shapes
    meta = {name: torch.zeros_like(value) for name, value in learner.meta_parameters.items()}
    meta["loss.linear.weight"][0, names.index("change_of_first_closing_speed")] = 4.0
    meta["loss.decay"] = torch.ones(1)
    meta["log_step_size"] = learner.meta_parameters["log_step_size"].detach()
    meta["encoding.feedback.weight"][0, names.index("first_log_distance")] = 4.0
    meta["encoding.std"] = torch.ones(8)
    meta["encoding.modulate.0.weight"][0, 0] = 1.0
    linear = sum(shape[0] for name, shape in list(shapes.items())[: list(shapes).index("linear.weight")])
    meta["encoding.modulate.1.weight"][linear, 0] = 1.0
    meta["encoding.modulate.1.weight"][-1, 0] = 1.0
    meta["encoding.strength"] = torch.tensor([0.8, 0.0, -0.5])  # the row of the linear path, and step sizes
    learner.meta_parameters = meta
    return learner, spec


def test_how_a_loss_adapts_is_found_again():
    learner, spec = adapting()
    credit = learned_credit(learner)
    lives = live(learner, spec, spec.tasks.split("train", 32), 0)
    found = task_number(credit, lives)
    assert found.share > 0.99  # one number is all that it makes of a task
    assert found.r_squared > 0.9
    assert found.adaptation.expression.startswith("tanh(5.")
    assert "worth_of_first_log_distance" in found.adaptation.expression.split(" + ")[0].split(" - ")[0]
    # The row of the linear path is scaled by 1 + 0.8 tanh(tanh(4 w)), steps by exp(-0.5 tanh(tanh(4 w))).
    slopes = torch.stack([loss["linear.weight"].sum((1, 2)) for loss in lives.losses])
    assert float(torch.corrcoef(torch.stack([slopes.flatten(), found.values.flatten()]))[0, 1]) > 0.99
    assert -0.5 < found.adaptation.step_sizes < -0.3
    assert found.adaptation.decay == 0 and found.decay_logit == pytest.approx(1.0)


def test_of_a_loss_that_adapts_to_what_the_feedback_does_not_tell_no_number_is_found():
    learner, spec = adapting()
    learner.meta_parameters["encoding.feedback.weight"].zero_()
    learner.meta_parameters["encoding.encode.1.weight"][0, 0] = 1.0
    learner.meta_parameters["encoding.encode.0.weight"][0, 0] = 1.0  # where the first thing lies, on average
    lives = live(learner, spec, spec.tasks.split("train", 32), 0)
    assert task_number(learned_credit(learner), lives) is None


def test_the_formula_of_a_loss_that_adapts_adapts():
    learner, spec = adapting()
    lives = live(learner, spec, spec.tasks.split("train", 32), 0)
    credit = learned_credit(learner)
    task = task_number(credit, lives)
    names = (*credit.input_names, "task")

    def correlation(text):
        return advantage_correlation(credit, parse(text, names), lives, task)

    # Beside the feedback, which is added, it matters how much the loss adds; 0.6 is 0.8 tanh(tanh(z)) / tanh(1.3 z).
    assert correlation("4 * change_of_first_closing_speed * (1 + 0.6 * task)") > 0.999
    assert correlation("4 * change_of_first_closing_speed") < 0.995


def test_without_adaptation_every_task_is_the_typical_one():
    learner, spec = adapting()
    same = with_step_scale(without_adaptation(learner), 0.5)
    lives = live(same, spec, spec.tasks.split("train", 2), 0)
    assert all(torch.equal(value[0], value[1]) for value in lives.loss.values())
    assert learner.loss.encoding is not None
