"""Formulas: reading, showing, evaluating, refusing; formula files; formulas as losses of a learner."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import ConfigError, MetarlError, UnknownNameError
from metarl.learned_loss import LearnedLoss
from metarl.learners.learned_loss import LearnedLossConfig, LearnedLossLearner
from metarl.losses.expression import (
    FUNCTIONS,
    Apply,
    Input,
    Number,
    complexity,
    constants,
    evaluate,
    negative,
    parse,
    rounded,
    to_latex,
    to_sympy,
    to_text,
    with_constants,
)
from metarl.losses.formula import (
    Adaptation,
    Formula,
    FormulaHead,
    formula_of,
    read_formula,
    self_contained,
    write_formula,
)
from metarl.losses.support import Support, with_episodes
from metarl.losses.table import make_inner_loss
from tests.reaching_probe import reaching

NAMES = ("distance", "speed")

leaves = st.one_of(
    st.sampled_from([Input(name) for name in NAMES]),
    st.floats(-4, 4, allow_nan=False).map(lambda v: Number(round(v, 3) + 0.0)),
)


def grown(children):
    binary = st.builds(
        lambda op, a, b: Apply(op, (a, b)), st.sampled_from(["+", "-", "*", "/", "min", "max"]), children, children
    )
    unary = st.builds(lambda op, a: Apply(op, (a,)), st.sampled_from(["tanh", "exp", "log1p", "abs", "sqrt"]), children)
    power = st.builds(lambda a, n: Apply("**", (a, Number(float(n)))), children, st.integers(-3, 3))
    return st.one_of(binary, unary, power, children.map(negative))


trees = st.recursive(leaves, grown, max_leaves=8)


def values(**of):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in of.items()}


@given(trees)
@settings(max_examples=300, deadline=None)
def test_text_reads_back_as_the_same_tree(tree):
    assert parse(to_text(tree), NAMES) == tree


@given(trees, st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_torch_and_sympy_agree(tree, distance, speed):
    ours = float(evaluate(tree, values(distance=distance, speed=speed)))
    if not math.isfinite(ours) or abs(ours) > 1e6:
        return
    symbols = {sympy.Symbol(name, real=True): v for name, v in (("distance", distance), ("speed", speed))}
    theirs = complex(to_sympy(tree).subs(symbols).evalf(30))
    # Where two huge numbers cancel, 64 bits say less than sympy.
    if abs(theirs - ours) > 1e-6 * max(1.0, abs(ours)):
        parts = [float(evaluate(part, values(distance=distance, speed=speed))) for part in subtrees(tree)]
        assert max(map(abs, parts)) > 1e6 or not all(map(math.isfinite, parts))


def subtrees(tree):
    return [tree, *(part for a in getattr(tree, "arguments", ()) for part in subtrees(a))]


def test_a_formula_has_the_value_that_python_would_give():
    text = "2 * distance - tanh(speed) ** 2 / max(1, abs(-distance)) + min(0.5, sqrt(4)) - log1p(exp(-speed))"
    got = evaluate(parse(text, NAMES), values(distance=3.0, speed=0.7))
    expected = 6 - math.tanh(0.7) ** 2 / 3 + 0.5 - math.log1p(math.exp(-0.7))
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_a_minus_binds_weaker_than_a_power():
    assert float(evaluate(parse("-distance ** 2", NAMES), values(distance=3.0, speed=0.0))) == -9


def test_complexity_counts_nodes_and_constants_leave_exponents_out():
    tree = parse("2 * distance ** 2 + 0.5", NAMES)
    assert complexity(tree) == 7
    assert constants(tree) == [2.0, 0.5]
    assert to_text(with_constants(tree, [3, 4])) == "3.0 * distance ** 2 + 4.0".replace(".0", "")


def test_latex_rounds_and_keeps_underscores_apart():
    tree = parse("1.23456 * log_distance", ("log_distance",))
    assert to_latex(tree) == r"1.23 \mathrm{log\_distance}"
    assert to_latex(parse("1.11 * (1.11 * log_distance)", ("log_distance",))) == r"1.23 \mathrm{log\_distance}"
    assert to_text(rounded(tree, 2)) == "1.2 * log_distance"


def test_a_hyperbolic_tangent_is_shown_with_the_sign_that_it_was_written_with():
    for text in ("1.71 * tanh(1.89 * reward - 0.5 * closing_speed)", "1.71 * tanh(closing_speed - reward)"):
        assert to_latex(parse(text, ("closing_speed", "reward"))).startswith(r"1.71 \tanh{\left(")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "distance.__class__",
        "distance[0]",
        "[1, 2]",
        "'text'",
        "1j",
        "True",
        "None",
        "distance if speed else 1",
        "distance < speed",
        "distance @ speed",
        "distance // 2",
        "distance % 2",
        "~1",
        "not distance",
        "tanh(distance, speed)",
        "tanh(x=distance)",
        "max(*distance)",
        "exec('1')",
        "(x := 1)",
        "f'{distance}'",
        "distance; speed",
        "import os",
        "",
        "1e999",
        "9" * 500,
        "distance ** speed",
        "distance ** 0.5",
        "distance ** 100",
        "2 ** 9 ** 9",
        "(" * 300 + "1" + ")" * 300,
        "-" * 5000 + "1",
        "+".join(["1"] * 3000),
        "1" * 20_000,
        "distance\x00",
    ],
)
def test_whatever_is_no_formula_is_refused_in_one_line(text):
    with pytest.raises(MetarlError) as refusal:
        parse(text, NAMES)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 400


def test_an_unknown_name_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown input of the formula 'distanc'. Did you mean 'distance'"):
        parse("distanc", NAMES)
    with pytest.raises(UnknownNameError, match=r"unknown function of the formula 'tan'. Did you mean 'tanh'"):
        parse("tan(distance)", NAMES)


def test_every_function_is_known_to_torch_and_sympy():
    for name, count in FUNCTIONS.items():
        tree = parse(f"{name}({', '.join(['0.5'] * count)})", NAMES)
        assert float(evaluate(tree, values(distance=0.0, speed=0.0))) == pytest.approx(float(to_sympy(tree)))


def formula(**changes):
    fields = {
        "loss": "reward",
        "expression": "2 * closing_speed - log_distance",
        "signals": ("log_distance", "closing_speed"),
        "bound": 5.0,
        "discount": 0.97,
        "gae_lambda": 0.9,
        "step_sizes": ((0.5, 0.4, 0.3), (0.2, 0.1, 0.1)),
        "made_by": {"run": "runs/x"},
    }
    return Formula(**{**fields, **changes})


def test_a_head_bounds_and_batches():
    head = FormulaHead(parse("1000 * speed + distance", NAMES), NAMES, 2.0)
    inputs = torch.tensor([[0.1, 0.0], [0.0, 50.0]])
    out = head({}, inputs)
    assert out.tolist() == pytest.approx([2 * math.tanh(0.05), 2.0])
    assert torch.equal(torch.func.vmap(lambda x: head({}, x))(inputs), out)
    assert torch.func.grad(lambda x: head({}, x))(inputs[0])[0] > 0


def test_a_file_reads_back(tmp_path):
    write_formula(tmp_path / "f.json", formula())
    assert read_formula(str(tmp_path / "f.json")) == formula()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"version": 2}, "version 2, this metarl reads version 1"),
        ({"version": True}, "version True"),
        ({"format": "other"}, "no formula"),
        ({"bound": None}, "bound is None"),
        ({"bound": -1.0}, "bound must be positive"),
        ({"loss": "drift"}, "available: 'reward'"),
        ({"expression": "2 * closing_sped"}, "Did you mean 'closing_speed'"),
        ({"step_sizes": []}, "step_sizes"),
        ({"step_sizes": [[1.0]]}, "step_sizes"),
        ({"step_sizes": [[1.0, 0.0, 1.0]]}, "step_sizes must be positive"),
        ({"signals": ["a b"]}, "signals"),
        ({"discount": 1.5}, "discount"),
        ({"expression": "task * closing_speed"}, "task"),
        ({"signals": ["task", "closing_speed"], "expression": "closing_speed"}, "no signal may be called 'task'"),
        ({"adaptation": {"expression": "worth_of_closing_sped"}}, "Did you mean 'worth_of_closing_speed'"),
        ({"adaptation": {"expression": "closing_speed"}}, "closing_speed"),
        ({"adaptation": {"expression": "0", "decay": math.inf}}, "finite"),
        ({"adaptation": {"colour": "0"}}, "unknown key 'colour'"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, change, message):
    path = tmp_path / "f.json"
    path.write_text(json.dumps(formula().to_json() | change))
    with pytest.raises(ConfigError, match=message) as refusal:
        read_formula(str(path))
    assert str(path) in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["loss", "expression", "signals", "bound", "discount", "step_sizes", "made_by"])
def test_a_file_without_a_key_is_refused(tmp_path, key):
    path = tmp_path / "f.json"
    content = formula().to_json()
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"lacks the key '{key}'"):
        read_formula(str(path))


@pytest.mark.parametrize("text", ["{", "[]", '{"bound": NaN}', '{"bound": 1e999}', "[" * 100_000])
def test_a_file_that_is_no_sound_json_is_refused(tmp_path, text):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"f\.json"):
        read_formula(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json': No such file"):
        LearnedLossConfig(loss=f"formula:{tmp_path / 'nowhere.json'}")


def test_an_unknown_loss_is_named_with_what_there_is():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'reward'.*formula:FILE"):
        LearnedLossConfig(loss="rewrd")


def learner_of(tmp_path, **changes):
    write_formula(tmp_path / "f.json", formula(**changes))
    config = LearnedLossConfig(
        loss=f"formula:{tmp_path / 'f.json'}",
        meta_batch_size=2,
        episodes_per_task=4,
        num_inner_steps=3,
        policy_dims=(4,),
        update_threads=1,
    )
    return LearnedLossLearner(reaching(horizon=6), config, 0)


def test_only_step_sizes_are_learned_and_they_start_from_the_file(tmp_path):
    learner = learner_of(tmp_path)
    assert list(learner.meta_parameters) == ["log_step_size"]
    expected = np.log([[0.5, 0.4, 0.3], [0.2, 0.1, 0.1], [0.2, 0.1, 0.1]])
    assert learner.meta_parameters["log_step_size"].detach().numpy() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["reward", "potential", "advantage"])
def test_a_formula_of_each_kind_trains_policies(tmp_path, loss):
    learner = learner_of(tmp_path, loss=loss, expression="closing_speed - log_distance")
    spec = reaching(horizon=6)
    env = BatchedEnv(spec, 8)
    env.set_tasks(spec.tasks.sample_train(2, torch.Generator().manual_seed(0)))
    before = learner.meta_parameters["log_step_size"].detach().clone()
    metrics = learner.update(learner.collect(env), 0.0)
    assert metrics["dropped_tasks"] == 0
    assert not torch.equal(learner.meta_parameters["log_step_size"], before)


def test_a_formula_reads_the_signals_that_it_names():
    spec = reaching(horizon=6)
    inner = make_inner_loss(
        "formula:" + json.dumps(formula(signals=("closing_speed",), expression="closing_speed").to_json()),
        spec,
        discount=0.5,
        gae_lambda=0.5,
    )
    assert inner.signals == ("closing_speed",)
    with pytest.raises(ConfigError, match="signals that reaching does not give: wind"):
        source = json.dumps(formula(signals=("wind",), expression="wind").to_json())
        LearnedLossLearner(spec, LearnedLossConfig(loss=f"formula:{source}"), 0)


ADAPTS = Adaptation("tanh(2 * worth_of_closing_speed)", decay=-1.0, step_sizes=0.5)


def told(signal, feedback):
    """Two episodes of two steps: `signal` of each, (2,), is closing_speed throughout; feedback comes at the end."""
    zeros = torch.zeros(4)
    closing = torch.tensor(signal).repeat(2)  # two steps of both episodes
    steps = Support(
        obs=zeros,
        action=zeros,
        log_prob=zeros,
        before=torch.stack([zeros, closing], 1),
        after=torch.stack([zeros, closing], 1),
        effort=zeros,
        reward=torch.cat([torch.zeros(2), torch.tensor(feedback)]),
        ended=zeros,
        weight=torch.full((4,), 0.25),
        episode_means=zeros[:0],
        episode_feedback=zeros[:0],
    )
    return with_episodes(steps, 2)


def test_a_formula_knows_what_the_feedback_goes_along_with(tmp_path):
    path = tmp_path / "f.json"
    write_formula(path, formula(expression="task * closing_speed", adaptation=ADAPTS))
    loss = LearnedLoss.from_formula(path)
    assert loss.parameters["task"].tolist() == [0.0]  # nothing is known
    assert loss.discount(0.99) == pytest.approx(0.97 * 0.9)
    better, worse = (loss.of_task(told([0.0, 1.0], [0.0, pay])) for pay in (1.0, -1.0))
    # One feature that explains all: of standardised values the slope is 1 / (1 + 0.03), but for the smallest spread.
    task = math.tanh(2 / 1.03)
    assert float(better.parameters["task"]) == pytest.approx(task, abs=1e-4)
    assert float(worse.parameters["task"]) == pytest.approx(-task, abs=1e-4)
    logit = math.log(0.873 / 0.127)
    assert better.discount(0.99) == pytest.approx(1 / (1 + math.exp(task - logit)), abs=1e-4)
    step = [torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.0]]), *torch.zeros(3, 1)]
    for one, expected in ((loss, 0.0), (better, 3 * task), (worse, -3 * task)):
        assert float(one.reward(*step)) == pytest.approx(5 * math.tanh(expected / 5), abs=1e-3)
    _, sizes = loss.loss.of_task(loss.meta_parameters, [told([0.0, 1.0], [0.0, 1.0])])
    assert sizes[0].exp().tolist() == pytest.approx([size * math.exp(0.5 * task) for size in (0.5, 0.4, 0.3)], rel=1e-3)


def test_a_formula_that_adapts_reads_back_and_asks_for_all_of_its_signals(tmp_path):
    adapting = formula(expression="task * closing_speed", adaptation=ADAPTS)
    write_formula(tmp_path / "f.json", adapting)
    assert read_formula(str(tmp_path / "f.json")) == adapting
    assert adapting.read_signals == ("log_distance", "closing_speed")
    assert replace(adapting, expression="closing_speed", adaptation=None).read_signals == ("closing_speed",)
    assert "adaptation" not in formula().to_json()


@pytest.mark.parametrize("loss", ["reward", "potential", "advantage"])
def test_policies_learn_with_a_formula_that_adapts(tmp_path, loss):
    learner = learner_of(tmp_path, loss=loss, expression="(1 + task) * closing_speed", adaptation=ADAPTS)
    spec = reaching(horizon=6)
    env = BatchedEnv(spec, 8)
    env.set_tasks(spec.tasks.sample_train(2, torch.Generator().manual_seed(0)))
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    rollout = learner.collect(env)
    supports = [learner.support(rollout, 0, 2)]
    of_task, _ = torch.func.vmap(learner.loss.of_task, in_dims=(None, 0))(before, supports)
    assert of_task["task"].shape == (2, 1) and not torch.equal(of_task["task"][0], of_task["task"][1])
    metrics = learner.update(rollout, 0.0)
    assert metrics["dropped_tasks"] == 0
    changed = {name for name, value in learner.meta_parameters.items() if not torch.equal(value, before[name])}
    assert changed == {"log_step_size"}
    fixed = LearnedLossLearner(spec, replace(learner.config, adapts_to_task=False), 0)
    assert fixed.loss.of_task(before, [])[0]["task"].tolist() == [0.0]


def test_a_run_keeps_the_formula_itself(tmp_path):
    write_formula(tmp_path / "f.json", formula())
    name = f"formula:{tmp_path / 'f.json'}"
    config = RunConfig("learned-loss", "bandit", LearnedLossConfig(loss=name)).self_contained()
    (tmp_path / "f.json").unlink()
    assert formula_of(config.settings.loss) == formula()
    assert RunConfig.from_json(config.to_json()) == config
    assert self_contained(config.settings.loss) == config.settings.loss
