"""Task parameters: where they are drawn from, and that wrong ones are refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarl.errors import SpecError, UnknownNameError
from metarl.seeding import make_generator
from metarl.tasks import Choice, Normal, Parameter, Simplex, TaskDistribution, Uniform

GRIP = Parameter("grip", "1", Uniform(0.0, 1.0, hole=(0.4, 0.6), shell=((1.0, 1.5),)))
MASS = Parameter("mass", "kg", Uniform(1.0, 4.0, hole=(1.9, 2.1), shell=((0.5, 1.0), (4.0, 8.0)), log=True))
SIDE = Parameter("side", "1", Choice((-1.0, 1.0)))
TASKS = TaskDistribution((GRIP, MASS, SIDE))


def test_a_uniform_jumps_over_its_hole():
    # The range without the hole is 0.8 wide: its middle is where the hole starts.
    drawn = GRIP.distribution.draw(torch.tensor([0.0, 0.25, 0.499, 0.5, 0.75, 0.999]))
    torch.testing.assert_close(drawn, torch.tensor([0.0, 0.2, 0.3992, 0.6, 0.8, 0.9992]))


def test_a_logarithmic_uniform_is_uniform_in_the_logarithm():
    drawn = Uniform(1.0, 16.0, log=True).draw(torch.tensor([0.0, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(drawn, torch.tensor([1.0, 2.0, 4.0, 8.0]))


@given(st.floats(0.0, 1.0, exclude_max=True))
def test_a_uniform_draw_is_always_in_the_intervals_asked_for(u):
    for distribution in (GRIP.distribution, MASS.distribution):
        for intervals in (distribution.train_intervals(), (distribution.hole,), distribution.shell):
            drawn = distribution.draw(torch.tensor([u], dtype=torch.float64), intervals)
            assert bool(distribution.contains(drawn, intervals).all())


def test_a_choice_takes_each_value_equally_often():
    values = Choice((3.0, 5.0, 9.0)).draw(torch.linspace(0, 0.9999, 300))
    assert [int((values == v).sum()) for v in (3.0, 5.0, 9.0)] == [100, 100, 100]


def test_a_normal_has_its_quantiles():
    drawn = Normal(2.0, 3.0).draw(torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64))
    torch.testing.assert_close(drawn, torch.tensor([2.0, 5.0], dtype=torch.float64))


def test_a_simplex_sums_to_one_and_has_the_mean_of_a_flat_dirichlet():
    drawn = Simplex().draw(torch.rand(20000, 4, generator=make_generator(0, "test"), dtype=torch.float64))
    torch.testing.assert_close(drawn.sum(1), torch.ones(20000, dtype=torch.float64))
    assert bool(((drawn.mean(0) - 0.25).abs() < 0.01).all())
    # The variance of one coordinate of Dirichlet(1, 1, 1, 1) is 3 / (16 * 5).
    assert bool(((drawn.var(0) - 0.0375).abs() < 0.002).all())


def test_the_first_tasks_of_a_split_do_not_depend_on_how_many_are_asked_for():
    for split in TASKS.splits():
        assert torch.equal(TASKS.split(split, 5), TASKS.split(split, 200)[:5])


def test_a_split_is_the_same_for_everybody():
    torch.testing.assert_close(
        TASKS.split("test", 2),
        torch.tensor([[0.600678, 3.404663, 1.0], [0.601881, 3.353093, -1.0]]),
        atol=1e-5,
        rtol=0.0,
    )


def test_another_seed_gives_other_tasks():
    assert not bool((TASKS.split("test", 50, seed=1)[:, :2] == TASKS.split("test", 50)[:, :2]).any())


def test_held_out_tasks_hold_out_exactly_one_parameter_in_the_right_interval():
    for split, intervals in (
        ("interpolation", (GRIP.distribution.hole, MASS.distribution.hole)),
        ("extrapolation", (None, None)),
    ):
        named = TASKS.unpack(TASKS.split(split, 300))
        outside = []
        for parameter, hole in zip((GRIP, MASS), intervals, strict=True):
            distribution = parameter.distribution
            value = named[parameter.name]
            in_train = distribution.contains(value, distribution.train_intervals())
            held_out = (hole,) if hole else distribution.shell
            assert bool(distribution.contains(value[~in_train], held_out).all())
            outside.append(~in_train)
        assert bool((outside[0] ^ outside[1]).all())
        assert 100 < int(outside[0].sum()) < 200


def test_train_validation_and_test_leave_the_hole_and_the_shell_alone():
    for split in ("train", "validation", "test"):
        for parameter in (GRIP, MASS):
            value = TASKS.unpack(TASKS.split(split, 500))[parameter.name]
            assert bool(parameter.distribution.contains(value, parameter.distribution.train_intervals()).all())


ROBOT = Parameter("robot", "1", Choice((0.0, 1.0), held_out=(2.0, 3.0)))
SHIFTED = TaskDistribution((GRIP, MASS, SIDE, ROBOT), shifts={"surface": ("grip",), "bodies": ("robot", "mass")})


def outside_train(tasks, split, num_tasks=300):
    """Which parameters lie outside their train range, {name: (B,) bool}, and the parameters by name."""
    named = tasks.unpack(tasks.split(split, num_tasks))
    outside = {"side": ~torch.isin(named["side"], torch.tensor(SIDE.distribution.values))}
    outside["robot"] = ~torch.isin(named["robot"], torch.tensor(ROBOT.distribution.values))
    for parameter in (GRIP, MASS):
        value, prior = named[parameter.name], parameter.distribution
        outside[parameter.name] = ~prior.contains(value, prior.train_intervals())
    return outside, named


def test_held_out_values_of_a_choice_are_seen_in_extrapolation_only():
    for split in ("train", "validation", "test", "interpolation"):
        assert SHIFTED.unpack(SHIFTED.split(split, 300))["robot"].unique().tolist() == [0.0, 1.0]
    outside, named = outside_train(SHIFTED, "extrapolation")
    assert named["robot"][outside["robot"]].unique().tolist() == [2.0, 3.0]
    assert bool((sum(mask.long() for mask in outside.values()) == 1).all())
    assert all(60 < int(outside[name].sum()) < 140 for name in ("grip", "mass", "robot"))


def test_a_shift_extrapolates_in_one_of_its_parameters_and_in_no_other():
    assert SHIFTED.splits() == ("train", "validation", "test", "interpolation", "extrapolation", "surface", "bodies")
    assert SHIFTED.held_out("bodies") == ("mass", "robot") and SHIFTED.held_out("test") == ()
    outside, named = outside_train(SHIFTED, "surface")
    assert bool(outside["grip"].all()) and not bool((outside["mass"] | outside["robot"] | outside["side"]).any())
    assert bool(GRIP.distribution.contains(named["grip"], GRIP.distribution.shell).all())
    outside, _ = outside_train(SHIFTED, "bodies")
    assert not bool((outside["grip"] | outside["side"]).any())
    assert bool((outside["mass"] ^ outside["robot"]).all())
    assert 100 < int(outside["robot"].sum()) < 200


def test_shifts_and_held_out_values_leave_the_other_splits_as_they_are():
    plain = TaskDistribution((GRIP, MASS, SIDE, Parameter("robot", "1", Choice((0.0, 1.0)))))
    for split in ("train", "validation", "test", "interpolation"):
        assert torch.equal(SHIFTED.split(split, 100), plain.split(split, 100))
    unshifted = TaskDistribution(SHIFTED.parameters)
    assert torch.equal(SHIFTED.split("extrapolation", 100), unshifted.split("extrapolation", 100))


def test_the_first_tasks_of_a_shift_do_not_depend_on_how_many_are_asked_for():
    for split in SHIFTED.splits():
        assert torch.equal(SHIFTED.split(split, 5), SHIFTED.split(split, 200)[:5])


def test_a_shift_of_an_unknown_parameter_is_told_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"in shift 'surface' 'girp'\. Did you mean 'grip'"):
        TaskDistribution((GRIP,), shifts={"surface": ("girp",)})


def test_only_declared_splits_exist():
    plain = TaskDistribution((SIDE,))
    assert plain.splits() == ("train", "validation", "test")
    with pytest.raises(UnknownNameError, match="Available: test, train, validation"):
        plain.split("extrapolation", 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'train'"):
        plain.split("trian", 3)


def test_fixed_tasks_take_the_place_of_drawn_ones():
    fixed = torch.tensor([[1.0], [2.0], [3.0]])
    tasks = TaskDistribution((Parameter("speed", "m/s", Uniform(0.0, 3.0)),), {"train": fixed, "test": fixed[:1]})
    assert tasks.split("train", 4).tolist() == [[1.0], [2.0], [3.0], [1.0]]
    assert tasks.split("test", 2, seed=9).tolist() == [[1.0], [1.0]]
    drawn = tasks.sample_train(200, make_generator(0, "tasks"))
    assert set(drawn.flatten().tolist()) == {1.0, 2.0, 3.0}


def test_training_can_be_limited_to_the_first_tasks_of_the_train_split():
    limited = TASKS.with_train_tasks(2)
    first = TASKS.split("train", 2)
    assert torch.equal(limited.sample_train(50, make_generator(0, "tasks")).unique(dim=0), first.unique(dim=0))
    assert torch.equal(limited.split("test", 5), TASKS.split("test", 5))
    again = limited.with_train_tasks(1).sample_train(3, make_generator(0, "tasks"))
    assert torch.equal(again, first[:1].expand(3, -1))


def test_unpack_names_the_columns_and_pack_undoes_it():
    tasks = TaskDistribution((Parameter("p", "1", Simplex(), shape=(2, 3)), Parameter("m", "kg", Uniform(0.0, 1.0))))
    assert tasks.dim == 7
    row = tasks.split("test", 1)
    named = tasks.unpack(row)
    assert {name: tuple(value.shape) for name, value in named.items()} == {"p": (1, 2, 3), "m": (1,)}
    assert torch.equal(tasks.pack({name: value[0] for name, value in named.items()}), row[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2.0, 1.0), "range (2.0, 1.0) is upside down or empty: expected low < high"),
        (lambda: Uniform(1.0, 1.0), "upside down or empty"),
        (lambda: Uniform(0.0, math.nan), "not finite"),
        (lambda: Uniform(0.0, math.inf), "not finite"),
        (lambda: Uniform(0.0, 1.0, hole=(0.6, 0.4)), "hole (0.6, 0.4) is upside down"),
        (lambda: Uniform(0.0, 1.0, hole=(0.9, 1.1)), "hole (0.9, 1.1) must lie inside the range (0.0, 1.0)"),
        (lambda: Uniform(0.0, 1.0, hole=(2.0, 3.0)), "must lie inside the range"),
        (lambda: Uniform(0.0, 1.0, shell=((0.9, 1.1),)), "shell (0.9, 1.1) overlaps the range (0.0, 1.0)"),
        (lambda: Uniform(0.0, 1.0, shell=(1.0, 2.0)), "shell must be intervals"),
        (lambda: Uniform(0.0, 1.0, log=True), "positive bounds, got 0.0"),
        (lambda: Uniform(1.0, 2.0, shell=((-1.0, 1.0),), log=True), "positive bounds, got -1.0"),
        (lambda: Choice(()), "must be there and differ"),
        (lambda: Choice((1.0, 1.0)), "must be there and differ"),
        (lambda: Choice((1.0, math.nan)), "not finite"),
        (lambda: Choice((1.0,), held_out=(2.0, 1.0)), "held-out values must differ, also from the values (1.0,)"),
        (lambda: Choice((1.0,), held_out=(math.inf,)), "not finite"),
        (lambda: Normal(0.0, 0.0), "positive std"),
        (lambda: Parameter("two words", "m", Normal(0.0, 1.0)), "not a Python identifier"),
        (lambda: Parameter("p", "1", (0.0, 1.0)), "distribution must be Uniform, Choice, Normal or Simplex"),
        (lambda: Parameter("p", "1", Simplex()), "a Simplex needs a shape"),
        (lambda: Parameter("p", "1", Normal(0.0, 1.0), shape=(0,)), "shape must be positive"),
        (lambda: TaskDistribution((GRIP, GRIP)), "parameter names must differ"),
        (lambda: TaskDistribution(()), "at least one parameter"),
        (lambda: TaskDistribution((GRIP,), {"test": torch.zeros(3, 2)}), "must be (num_tasks, 1) float32"),
        (lambda: TaskDistribution((GRIP,), {"test": torch.zeros(3, 1).double()}), "got (3, 1) torch.float64"),
        (lambda: TaskDistribution((GRIP,), {"test": torch.full((3, 1), math.nan)}), "contains NaN"),
        (lambda: TaskDistribution((GRIP,), shifts={"test": ("grip",)}), "'test' is named like a built-in split"),
        (lambda: TaskDistribution((GRIP,), shifts={"surface": ()}), "shift 'surface' needs a name and a tuple"),
        (lambda: TaskDistribution((GRIP,), shifts={"surface": "grip"}), "tuple of parameters, (name, ...), got 'grip'"),
        (lambda: TaskDistribution((SIDE,), shifts={"sides": ("side",)}), "parameter 'side' has no held-out range"),
    ],
)
def test_a_wrong_declaration_is_refused_and_named(make, message):
    with pytest.raises(SpecError) as error:
        make()
    assert message in str(error.value)


def test_fixed_tasks_of_an_unknown_split_are_refused():
    with pytest.raises(UnknownNameError, match=r"unknown split 'tests'\. Did you mean 'test'"):
        TaskDistribution((GRIP,), {"tests": torch.zeros(3, 1)})


def test_neighbouring_worlds_share_a_task():
    tasks = TaskDistribution((Parameter("a", "1", Uniform(0.0, 1.0)),))
    rows = torch.tensor([[0.1], [0.7]])
    assert torch.equal(tasks.of_worlds(rows, 6, "env"), torch.tensor([[0.1]] * 3 + [[0.7]] * 3))
    assert torch.equal(tasks.of_worlds(rows, 2, "env"), rows)


@pytest.mark.parametrize("shape", [(4, 1), (0, 1), (2, 2), (2,)])
def test_tasks_that_do_not_divide_the_worlds_are_refused(shape):
    tasks = TaskDistribution((Parameter("a", "1", Uniform(0.0, 1.0)),))
    with pytest.raises(SpecError, match=r"env: tasks must have shape \(6, 1\), or fewer rows .*, got"):
        tasks.of_worlds(torch.zeros(shape), 6, "env")


def test_a_task_by_name_must_lie_in_the_ranges_of_its_split():
    named = {"grip": 0.5, "mass": 1.0, "side": SIDE.distribution.values[0], "robot": 0.0}
    inside = SHIFTED.pack(named, "train")
    assert inside.shape == (SHIFTED.dim,)
    low, high = GRIP.distribution.shell[-1]
    beyond = named | {"grip": (low + high) / 2}
    with pytest.raises(SpecError, match=r"'grip' must be in .* Split 'extrapolation' also has"):
        SHIFTED.pack(beyond, "train")
    with pytest.raises(SpecError, match=r"'robot' must be in 0\.0, 1\.0, got 2\.0"):
        SHIFTED.pack(named | {"robot": 2.0}, "train")
    with pytest.raises(SpecError, match="'grip' must be in"):
        SHIFTED.pack(beyond, "bodies")  # a shift of other parameters
    assert float(SHIFTED.pack(beyond, "surface")[0]) == pytest.approx(beyond["grip"])
    assert float(SHIFTED.pack(beyond, "extrapolation")[0]) == pytest.approx(beyond["grip"])
    with pytest.raises(SpecError, match="'grip' must be in"):
        SHIFTED.pack(named | {"grip": 99.0}, "extrapolation")
    with pytest.raises(UnknownNameError, match="split"):
        SHIFTED.pack(named, "bodis")


TRIPLE = {"a": (), "b": (2, 2), "c": ()}


def test_columns_of_parameters_come_in_the_order_of_the_tensor():
    three = TaskDistribution(tuple(Parameter(n, "1", Uniform(0.0, 1.0), shape=k) for n, k in TRIPLE.items()))
    assert three.columns(("c", "b")).tolist() == [1, 2, 3, 4, 5]
    assert three.columns(("a", "c")).tolist() == [0, 5]
    assert three.columns(()).tolist() == []
    with pytest.raises(UnknownNameError, match="Did you mean 'b'"):
        three.columns(("a", "bb"))
