"""Meta-training of losses on regression: exact meta-gradients, invariances, memory, and that it learns."""

import gc
import math
from dataclasses import replace

import pytest
import torch

from metarl.errors import ConfigError
from metarl.losses.ml3 import initial_ml3_loss, initial_weighted_error, ml3_loss, weighted_error
from metarl.losses.regression import (
    LearnedLoss,
    MetaConfig,
    Points,
    fixed_loss,
    inner_step,
    meta_gradient,
    meta_train,
    mse,
    squared_error,
    squared_error_traces,
    task_objective,
)
from metarl.losses.sines import glorot_networks, paper_train_sine, sample_sines, untrained_networks
from metarl.nets.mlp import uniform_mlp

LOSSES = [(ml3_loss, initial_ml3_loss), (weighted_error, initial_weighted_error)]
SMALL = MetaConfig(num_meta_steps=5, meta_batch_size=3, step_weights=(0.5, 1.0), lifetime=6, learns_inner_lr=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_networks(count, generator):
    return uniform_mlp((1, 6, 4, 1), generator, batch_shape=(count,))


def small_sines(count, generator):
    return sample_sines(count, generator, num_points=9)


def first(batch):
    return {name: value[0] for name, value in batch.items()}


def doubles(tree):
    return torch.utils._pytree.tree_map(lambda value: value.double(), tree)


def learned_from(initial, inner_lr):
    return LearnedLoss(initial(generator(1), hidden_dims=(5, 4)), torch.tensor(math.log(inner_lr)))


def meta_trained(config=SMALL, seed=0, loss=ml3_loss, initial=initial_ml3_loss, **options):
    return meta_train(config, loss, initial(generator(1)), small_sines, small_networks, generator(seed), **options)


@pytest.mark.parametrize("step_weights", [(1.0,), (0.2, 0.3, 1.0)])
@pytest.mark.parametrize(("loss", "initial"), LOSSES)
def test_the_meta_gradient_is_that_of_finite_differences(loss, initial, step_weights):
    learned, network = doubles(learned_from(initial, 0.05)), doubles(first(small_networks(1, generator())))
    points = doubles(Points(*(value[0] for value in small_sines(1, generator(2)))))

    def objective(log_inner_lr, *values):
        parameters = dict(zip(learned.parameters, values, strict=True))
        return task_objective(LearnedLoss(parameters, log_inner_lr), network, points, loss, step_weights)[0]

    values = [learned.log_inner_lr, *learned.parameters.values()]
    found = torch.func.grad(objective, argnums=tuple(range(len(values))))(*values)
    for index, (value, slope) in enumerate(zip(values, found, strict=True)):
        assert slope.abs().max() > 1e-8
        for entry in range(value.numel()):
            nudge = torch.zeros_like(value).flatten()
            nudge[entry] = 1e-6
            up, down = ([*values] for _ in range(2))
            up[index], down[index] = value + nudge.view_as(value), value - nudge.view_as(value)
            numeric = (objective(*up) - objective(*down)) / 2e-6
            torch.testing.assert_close(slope.flatten()[entry], numeric, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize(("loss", "initial"), LOSSES)
def test_all_tasks_at_once_are_one_after_the_other(loss, initial):
    learned = doubles(learned_from(initial, 0.05))
    networks, tasks = doubles(small_networks(4, generator())), doubles(small_sines(4, generator(2)))
    together, objectives, adapted = meta_gradient(learned, networks, tasks, loss, (0.5, 1.0))
    slopes = []
    for task in range(4):
        network = {name: value[task] for name, value in networks.items()}
        points = Points(tasks.input[task], tasks.target[task])
        alone = torch.func.grad(lambda x: task_objective(x, network, points, loss, (0.5, 1.0))[0])(learned)  # noqa: B023
        objective, after = task_objective(learned, network, points, loss, (0.5, 1.0))
        torch.testing.assert_close(objective, objectives[task])
        torch.testing.assert_close(after, {name: value[task] for name, value in adapted.items()})
        slopes.append(alone)
    for name, slope in together.parameters.items():
        torch.testing.assert_close(slope, torch.stack([alone.parameters[name] for alone in slopes]).mean(0))
    torch.testing.assert_close(together.log_inner_lr, torch.stack([a.log_inner_lr for a in slopes]).mean())


def test_the_gradient_of_each_task_is_clipped_before_the_mean():
    learned, networks, tasks = (
        learned_from(initial_ml3_loss, 0.05),
        small_networks(1, generator()),
        small_sines(1, generator(2)),
    )
    whole, *_ = meta_gradient(learned, networks, tasks, ml3_loss, (1.0,))
    clipped, *_ = meta_gradient(learned, networks, tasks, ml3_loss, (1.0,), max_grad_norm=1e-3)
    norm = torch.cat([slope.flatten() for slope in (*clipped.parameters.values(), clipped.log_inner_lr)]).norm()
    assert float(norm) == pytest.approx(1e-3)
    for name, slope in clipped.parameters.items():
        torch.testing.assert_close(
            torch.nn.functional.normalize(slope.flatten(), dim=0),
            torch.nn.functional.normalize(whole.parameters[name].flatten(), dim=0),
        )


def test_a_step_of_size_zero_is_the_identity():
    network = first(small_networks(1, generator()))
    points = Points(*(value[0] for value in small_sines(1, generator(2))))
    learned = LearnedLoss(initial_ml3_loss(generator(1)), torch.tensor(-math.inf))
    for name, value in inner_step(learned, network, points, ml3_loss).items():
        assert (value == network[name]).all()


def test_a_step_on_the_mean_squared_error_is_that_of_sgd():
    network = first(small_networks(1, generator()))
    points = Points(*(value[0] for value in small_sines(1, generator(2))))
    stepped = {name: value.clone().requires_grad_() for name, value in network.items()}
    torch.nn.functional.mse_loss(
        (points.input @ stepped["layers.0.weight"].T + stepped["layers.0.bias"])
        .relu()
        .matmul(stepped["layers.1.weight"].T)
        .add(stepped["layers.1.bias"])
        .relu()
        .matmul(stepped["layers.2.weight"].T)
        .add(stepped["layers.2.bias"]),
        points.target,
    ).backward()
    torch.optim.SGD(stepped.values(), lr=0.1).step()
    found = inner_step(fixed_loss(0.1), network, points, mse)
    for name, value in stepped.items():
        torch.testing.assert_close(found[name], value.detach())


def test_traces_begin_before_the_first_step_and_follow_the_steps():
    networks, tasks = small_networks(2, generator()), small_sines(2, generator(2))
    traces = squared_error_traces(fixed_loss(0.1), networks, tasks, mse, 1)
    assert traces.shape == (2, 2)
    torch.testing.assert_close(traces[0], squared_error(networks, tasks))
    one = inner_step(fixed_loss(0.1), first(networks), Points(tasks.input[0], tasks.target[0]), mse)
    torch.testing.assert_close(traces[1, 0], squared_error(one, Points(tasks.input[0], tasks.target[0])))


def test_the_same_generator_learns_the_same_loss():
    one, same, other = meta_trained(), meta_trained(), meta_trained(seed=3)
    torch.testing.assert_close(one, same, atol=0, rtol=0)
    assert one.log_inner_lr != other.log_inner_lr


def test_a_step_size_stays_unless_it_is_learned():
    assert meta_trained(replace(SMALL, learns_inner_lr=False)).log_inner_lr == math.log(1e-3)
    assert meta_trained().log_inner_lr != math.log(1e-3)


def test_lifetimes_last_as_long_as_they_should_and_end_one_after_the_other():
    """With nothing learned and the same task again and again, an objective tells how old the networks are."""
    tasks, networks = small_sines(1, generator(2)), small_networks(1, generator())
    repeat = lambda batch, count: batch.expand(count, *batch.shape[1:]).clone()  # noqa: E731
    config = replace(SMALL, num_meta_steps=7, inner_lr=0.1, outer_lr=1e-30, learns_inner_lr=False)
    seen = []
    meta_train(
        config,
        mse,
        {"unused": torch.zeros(1)},
        lambda count, _: Points(*(repeat(value, count) for value in tasks)),
        lambda count, _: {name: repeat(value, count) for name, value in networks.items()},
        generator(),
        lambda step, objective: seen.append(objective),
    )
    trace = squared_error_traces(fixed_loss(0.1), networks, tasks, mse, 6)[:, 0]
    of_age = [float(0.5 * trace[age + 1] + trace[age + 2]) for age in (0, 2, 4)]
    # Ages in the bookkeeping are 0, 2, 4 at first, while all networks are new.
    assert seen[0] == pytest.approx(of_age[0])
    assert seen[1] == pytest.approx((2 * of_age[1] + of_age[0]) / 3)
    assert seen[2:] == pytest.approx([sum(of_age) / 3] * 5)


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_meta_steps():
    tensors = []

    def count(step, objective):
        if step in (200, 600, 999):
            gc.collect()
            tensors.append(sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects()))

    meta_trained(replace(SMALL, num_meta_steps=1000), on_step=count)
    assert tensors[0] == tensors[1] == tensors[2]


def test_an_objective_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match=r"at meta-step \d+: inner SGD diverged; lower inner_lr \(1e\+20"):
        meta_trained(replace(SMALL, inner_lr=1e20), loss=weighted_error, initial=initial_weighted_error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr must be positive, got 0.0"),
        ({"outer_lr": math.nan}, "outer_lr must be positive, got nan"),
        ({"step_weights": ()}, "one number >= 0 per inner step"),
        ({"step_weights": (0.0, 0.0)}, "not all 0"),
        ({"lifetime": 7}, "lifetime must be a multiple of K = 2, got 7"),
    ],
)
def test_a_setting_out_of_its_domain_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


def test_sines_lie_in_their_ranges():
    tasks = sample_sines(500, generator())
    assert tasks.input.shape == tasks.target.shape == (500, 100, 1)
    assert tasks.input.abs().max() <= 5 and tasks.input.abs().max() > 4.9
    height = tasks.target.abs().amax((1, 2))
    assert 4.8 < height.max() <= 5 and height.min() < 0.4
    task = paper_train_sine(generator())
    torch.testing.assert_close(task.target, -task.input.sin())
    assert task.input.abs().max() <= 2


def test_the_published_setting_learns_a_loss_that_beats_the_mean_squared_error_at_its_step_size():
    """About four seconds of meta-training on one sine; 30 unseen sines."""
    train = paper_train_sine(generator())
    learned = meta_train(
        MetaConfig(), ml3_loss, initial_ml3_loss(generator(1)), lambda *_: train, glorot_networks, generator(2)
    )
    tasks, networks = sample_sines(30, generator(3)), untrained_networks(30, generator(4))
    of_mse = squared_error_traces(fixed_loss(1e-3), networks, tasks, mse, 100)[-1]
    of_ml3 = squared_error_traces(learned, networks, tasks, ml3_loss, 100)[-1]
    assert of_ml3.mean() < 0.8 * of_mse.mean()
