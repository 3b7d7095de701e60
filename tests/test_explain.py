"""Explanations: what is measured is what it is called, and the command makes its page."""

import json
import re
from dataclasses import replace

import pytest
import torch

import envs
from metarl import commands
from metarl.distil import Candidate, Distillation
from metarl.distil_task import TaskNumber
from metarl.errors import ConfigError
from metarl.explain import page
from metarl.explain.gradients import filter_normalised, inner_values, landscape, rank_correlation
from metarl.explain.inputs import integrated_gradients, partial_dependence, response_map
from metarl.explain.measures import measure
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.lives import live
from metarl.losses.formula import Adaptation
from metarl.losses.head import Head
from metarl.losses.support import Support
from tests.reaching_probe import reaching

HORIZON = 8
SMALL = LearnedLossConfig(
    total_steps=1,
    meta_batch_size=4,
    episodes_per_task=4,
    num_inner_steps=3,
    policy_dims=(6,),
    head_dim=4,
    update_threads=1,
)


def learner_and_lives(config=SMALL, num_tasks=3):
    spec = reaching(HORIZON)
    learner = LearnedLossLearner(spec, config, 0)
    return learner, spec, live(learner, spec, spec.tasks.split("train", num_tasks), 0)


def head():
    head = Head(3, 5, 2.0)
    parameters = head.initial_parameters(torch.Generator().manual_seed(0))
    return lambda x: head({name: 3 * value.double() for name, value in parameters.items()}, x)


def rows(num_rows=20):
    return torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_integrated_gradients_sum_to_the_difference_from_the_baseline():
    judge, x, baseline = head(), rows(), torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    effects = integrated_gradients(judge, x, baseline)
    torch.testing.assert_close(effects.sum(1), judge(x) - judge(baseline), rtol=1e-3, atol=1e-4)


def test_integrated_gradients_of_a_linear_function_are_its_terms():
    weights, x = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64), rows()
    baseline = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(integrated_gradients(lambda rows: rows @ weights, x, baseline), x * weights)


def test_partial_dependence_moves_one_input_and_keeps_the_others():
    x, grid = rows(), torch.tensor([-1.0, 2.0], dtype=torch.float64)
    curves = partial_dependence(lambda r: r[..., 0] * r[..., 1] + r[..., 2], x, 0, grid)
    torch.testing.assert_close(curves, grid.unsqueeze(1) * x[:, 1] + x[:, 2])


def test_a_map_has_the_first_input_to_the_right_and_the_second_upwards():
    centre = torch.tensor([9.0, 9.0, 5.0])
    values = response_map(
        lambda r: r[..., 0] + 10 * r[..., 1] + r[..., 2], centre, 0, 1, torch.arange(3.0), torch.arange(2.0)
    )
    assert values.tolist() == [[5.0, 6.0, 7.0], [15.0, 16.0, 17.0]]


def test_rank_correlation_sees_the_order_alone():
    x = torch.linspace(-2, 2, 30)
    assert rank_correlation(x, x.exp()) == pytest.approx(1.0)
    assert rank_correlation(x, -x) == pytest.approx(-1.0)
    assert rank_correlation(x, torch.ones(30)) == 0.0


def test_directions_are_as_long_as_the_filters_and_leave_vectors_alone():
    policy = {"layers.0.weight": torch.randn(4, 3), "layers.0.bias": torch.randn(4), "log_std": torch.randn(2)}
    direction = filter_normalised(policy, torch.Generator().manual_seed(0))
    torch.testing.assert_close(direction["layers.0.weight"].norm(dim=1), policy["layers.0.weight"].norm(dim=1))
    assert not direction["layers.0.bias"].any() and not direction["log_std"].any()


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_landscape_in_its_middle_is_the_loss(epochs):
    learner, spec, lives = learner_and_lives(replace(SMALL, inner_epochs=epochs))
    land = landscape(learner, spec, lives, 1, 2, seed=0, num_points=3)
    support = Support(*(value[1] for value in lives.supports[2]))
    policy = {name: value[1:2] for name, value in lives.policies[2].items()}
    own = {name: value[1] for name, value in lives.loss.items()}
    expected = inner_values(learner, learner.loss.inner, own, policy, support, torch.tensor(2))
    torch.testing.assert_close(land.losses["learned"][1, 1], expected[0], atol=1e-6, rtol=1e-5)
    assert set(land.losses) == {"learned", "dense"}
    assert not torch.allclose(land.losses["learned"][1, 1], land.losses["learned"][0, 0], atol=1e-7)


def test_lives_are_those_of_a_trial():
    learner, _spec, lives = learner_and_lives()
    assert len(lives.supports) == len(lives.policies) == SMALL.num_inner_steps + 1
    step = torch.tensor(1)
    grown = learner.loss.update(
        {name: value[0] for name, value in lives.loss.items()},
        lives.log_step_size[0],
        {name: value[0] for name, value in lives.policies[1].items()},
        Support(*(value[0] for value in lives.supports[1])),
        step,
        learner.distribution,
    )
    for name, value in grown.items():
        torch.testing.assert_close(value, lives.policies[2][name][0], atol=1e-5, rtol=1e-4)


def test_a_loss_with_the_true_reward_points_where_that_does():
    learner, spec, _ = learner_and_lives(replace(SMALL, episodes_per_task=32))
    found = measure(learner, spec, spec.tasks.split("train", 3), 0)
    assert set(found.cosines) == {"learned", "dense", "feedback", "true return"}
    assert float(found.cosines["true return"].mean()) > 0.5
    assert float(found.inputs.shares.sum()) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A learned reward after one update, in a run folder."""
    from metarl.config import RunConfig
    from metarl.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "_REGISTERED", {"reaching-probe": lambda: reaching(HORIZON)})
        out = tmp_path_factory.mktemp("explain") / "run"
        train(RunConfig("learned-loss", "reaching-probe", SMALL), out, validate_every=0, console=False)
        yield out


def test_the_command_makes_a_page_with_its_pictures_and_numbers(trained, tmp_path, capsys):
    out = tmp_path / "page"
    arguments = [str(trained), "--out", str(out), "--num-tasks", "3", "--num-validation-tasks", "4"]
    assert commands.explain(arguments) == 0
    assert "index.html" in capsys.readouterr().out
    page = (out / "index.html").read_text()
    pictures = {path.stem for path in out.glob("*.png")}
    assert {"maps", "inputs", "landscapes", "cosines", "tasks"} <= pictures
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    numbers = json.loads((out / "explain.json").read_text(), parse_constant=pytest.fail)
    assert sum(numbers["inputs"]["share"].values()) == pytest.approx(1.0, abs=1e-5)
    assert [land["update"] for land in numbers["landscapes"]] == [0, 1, 3]
    assert len(numbers["cosines"]["learned"]) == SMALL.num_inner_steps
    for word in ("nan", "None", "{"):
        assert word not in re.sub(r"base64,[^\"]*", "", page.partition("</style>")[2])


def test_a_formula_can_be_left_out_and_the_page_lies_in_the_run(trained):
    assert commands.explain([str(trained), "--num-tasks", "2", "--skip-formula"]) == 0
    assert "Left out by --skip-formula" in (trained / "explain" / "index.html").read_text()
    assert json.loads((trained / "explain" / "explain.json").read_text())["formula"] is None


@pytest.mark.parametrize("loss", ["potential", "advantage"])
def test_other_learned_losses_are_measured_as_well(loss):
    learner, spec, _ = learner_and_lives(replace(SMALL, loss=loss, adapts_to_task=False))
    found = measure(learner, spec, spec.tasks.split("train", 2), 0)
    assert found.loss == f"learned {loss}" and not found.tasks.adapts
    assert float(found.tasks.responses.std(0).max()) == pytest.approx(0.0, abs=1e-6)


def test_a_run_of_another_algorithm_is_refused_in_one_line(tmp_path):
    from metarl.config import RunConfig
    from metarl.learners import preset
    from metarl.train import train

    settings = replace(preset("rl2", "bandit"), total_steps=1)
    train(RunConfig("rl2", "bandit", settings), tmp_path / "run", validate_every=0, console=False)
    with pytest.raises(ConfigError, match="only runs of learned-loss"):
        commands.explain([str(tmp_path / "run")])
    assert not (tmp_path / "run" / "explain" / "index.html").exists()


def test_a_loss_that_was_designed_by_hand_is_refused():
    spec = reaching(HORIZON)
    learner = LearnedLossLearner(spec, replace(SMALL, loss="dense"), 0)
    with pytest.raises(ConfigError, match="'dense' is no learned reward, potential or advantage"):
        measure(learner, spec, spec.tasks.split("train", 2), 0)


def test_a_wrong_number_of_tasks_is_refused(trained):
    with pytest.raises(ConfigError, match="--num-tasks must be at least 2"):
        commands.explain([str(trained), "--num-tasks", "1"])


def test_equal_values_share_a_rank():
    assert rank_correlation(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx(
        0.8944, abs=1e-4
    )


def test_the_page_says_how_a_formula_adapts():
    learner, spec, _ = learner_and_lives()
    measures = measure(learner, spec, spec.tasks.split("train", 3), 0)
    names = learner.loss.inner.signals
    expression = f"1.5 * change_of_{names[0]} * task - effort"
    chosen = Candidate(expression, "sparse regression", 7, 0.9, 0.8, 1.0, -1.0, 0.97, (0.9, 1.0), True)
    adaptation = Adaptation(f"tanh(3 * worth_of_{names[0]})", decay=-1.25, step_sizes=0.5)
    task = TaskNumber(adaptation, torch.zeros(2, 4), torch.zeros(2, 3), 1.0, share=0.94, r_squared=0.91)
    found = Distillation("reward", [chosen], None, -3.0, -1.0, 1.0, 8, False, typical_share=0.6, task=task)
    assert f"adapting by task = tanh(3 * worth_of_{names[0]})" in page.short_sentences(measures, found)
    sentence = page.formulas_sentence(found)
    for part in ("keeps 60 %", "94 %", "R² of 0.91", "decay of credit by -1.25", "step sizes by 0.5"):
        assert part in sentence
    html = page.formula_html(found, names)
    assert html.count("<math") == 2 and f"worth of {names[0]}".replace("_", " ") in html
    assert "these formulas do not" in page.formulas_sentence(replace(found, task=None))
    assert "adapt" not in page.formulas_sentence(replace(found, task=None, typical_share=0.97))
