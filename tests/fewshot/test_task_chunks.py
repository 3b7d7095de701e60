"""Inner steps by hand, the mean over tasks and its gradient whatever the chunk, chunk sizes from tensor sizes."""

import pytest
import torch
from torch import nn

from metarl.fewshot.inner_loop import activation_bytes, chunk_size, descend, is_alone, map_tasks, mean_over_tasks

CPU = torch.device("cpu")


def quadratic(parameters, target):
    return 0.5 * (parameters["x"] - target).square().sum()


def test_three_steps_by_hand():
    # x - t shrinks by 1 - 0.25 at each step.
    path = descend({"x": torch.tensor(4.0)}, torch.tensor(0.0), quadratic, 0.25, 3)
    assert [float(point["x"]) for point in path] == [4.0, 3.0, 2.25, 1.6875]


def test_steps_may_differ_in_size():
    path = descend({"x": torch.tensor(4.0)}, torch.tensor(0.0), quadratic, lambda step: 0.5 * step, 3)
    assert [float(point["x"]) for point in path] == [4.0, 4.0, 2.0, 0.0]


def test_steps_of_size_zero_and_no_steps_are_the_identity():
    start = {"x": torch.tensor(4.0)}
    assert descend(start, torch.tensor(0.0), quadratic, 0.0, 2)[-1] == start
    assert descend(start, torch.tensor(0.0), quadratic, 1.0, 0) == [start]


@pytest.mark.parametrize(("first_order", "slope"), [(False, 0.75**3), (True, 1.0)])
@pytest.mark.parametrize("is_transformed", [True, False])
def test_first_order_takes_the_path_for_a_shift(first_order, slope, is_transformed):
    def end(x):
        return descend({"x": x}, torch.tensor(0.0), quadratic, 0.25, 3, first_order, is_transformed)[-1]["x"]

    x = torch.tensor(4.0, requires_grad=True)
    assert float(torch.autograd.grad(end(x), x)[0]) == slope
    if is_transformed:
        assert float(torch.func.grad(end)(torch.tensor(4.0))) == slope


def test_steps_of_plain_autograd_are_those_of_transforms_also_where_nothing_is_recorded():
    def loss(parameters, target):
        return (parameters["x"].sin() - target).square().sum() + 0.0 * target.sum()

    start = {"x": torch.tensor([0.3, -1.0]), "unused": torch.ones(2)}
    ends = [descend(start, torch.ones(2), loss, 0.5, 3, is_transformed=alone)[-1] for alone in (True, False)]
    torch.testing.assert_close(ends[1], ends[0])
    with torch.no_grad():
        silent = descend(start, torch.ones(2), loss, 0.5, 3, is_transformed=False)[-1]
    torch.testing.assert_close(silent, ends[0])
    assert not any(value.requires_grad for value in silent.values())


@pytest.mark.parametrize("is_transformed", [True, False])
def test_the_gradient_by_a_parameter_leaves_out_what_another_made_of_it(is_transformed):
    def end(x):
        start = {"x": x, "y": 3.0 * x}
        return descend(start, torch.ones(()), lambda p, t: t * p["x"] * p["y"], 0.5, 1, False, is_transformed)[-1]

    x = torch.tensor(2.0, requires_grad=True)
    found = end(x)
    assert [value.item() for value in found.values()] == [2.0 - 0.5 * 6.0, 6.0 - 0.5 * 2.0]
    assert float(torch.autograd.grad(found["x"] + found["y"], x)[0]) == (1.0 - 0.5 * 3.0) + (3.0 - 0.5)


def test_a_task_knows_whether_it_is_computed_by_itself():
    seen = []

    def watch(task):
        seen.append(is_alone())
        return task

    map_tasks(watch, torch.zeros(5, 2), 2)
    assert seen == [False, False, True] and not is_alone()


def objective(parameters, task):
    adapted = descend(parameters, task["target"], lambda p, t: (p["x"].sin() - t).square().sum(), 0.1, 2)[-1]
    loss = (adapted["x"].cos() * task["weight"]).sum()
    return loss, {"square": loss.square()}


def problem():
    generator = torch.Generator().manual_seed(0)
    tasks = {n: torch.randn(7, 3, generator=generator, dtype=torch.float64) for n in ("target", "weight")}
    values = {
        "x": torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_(),
        "unused": torch.ones(2, dtype=torch.float64, requires_grad=True),
        "constant": torch.ones(2, dtype=torch.float64),
    }
    return values, tasks


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_of_any_size_equal_a_loop_over_tasks(chunk):
    values, tasks = problem()
    loss, metrics = mean_over_tasks(objective, values, tasks, chunk)
    (3 * loss).backward()
    each = [objective(values, {name: value[i] for name, value in tasks.items()}) for i in range(7)]
    expected = torch.stack([loss for loss, _ in each]).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["square"], torch.stack([m["square"] for _, m in each]).mean())
    torch.testing.assert_close(values["x"].grad, torch.autograd.grad(3 * expected, values["x"])[0])
    assert not values["unused"].grad.any() and values["constant"].grad is None


@pytest.mark.parametrize("space", [(), (5,), (4, 4)])
def test_inner_gradients_through_batch_normalisation_are_differentiated_rightly_in_chunks(space):
    """`torch.autograd` of a vmapped inner gradient is not, in torch 2.13."""
    generator = torch.Generator().manual_seed(0)
    tasks = {
        n: torch.randn(4, 6, 3, *space, generator=generator, dtype=torch.float64) for n in ("input", "target")
    }  # 4 tasks, 6 samples, 3 channels
    parameters = {
        n: torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() for n in ("scale", "weight")
    }

    def loss(parameters, task):
        scaled = task["input"] * parameters["scale"].view(3, *[1] * len(space))
        normal = nn.functional.batch_norm(scaled, None, None, parameters["weight"], training=True)
        return (normal.tanh() - task["target"]).square().mean()

    def adapted_loss(parameters, task):
        return loss(descend(parameters, task, loss, 0.4, 1)[-1], task), {}

    found = []
    for chunk in (1, 4):
        value, _ = mean_over_tasks(adapted_loss, parameters, tasks, chunk)
        found.append(torch.autograd.grad(value, list(parameters.values())))
    torch.testing.assert_close(found[1], found[0])


def test_the_mean_has_no_graph_where_none_is_wanted():
    values, tasks = problem()
    with torch.no_grad():
        loss, _ = mean_over_tasks(objective, values, tasks, 3)
    assert not loss.requires_grad


def test_permuting_tasks_permutes_what_is_mapped():
    values, tasks = problem()
    found = map_tasks(lambda task: objective(values, task)[0], tasks, 3)
    order = torch.tensor([3, 1, 0, 6, 5, 2, 4])
    permuted = map_tasks(lambda task: objective(values, task)[0], {n: v[order] for n, v in tasks.items()}, 2)
    torch.testing.assert_close(permuted, found[order])


def test_activations_are_counted_layer_by_layer():
    network = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Sequential(nn.Linear(40, 5)))
    assert activation_bytes(network, torch.zeros(1, 3)) == 4 * (40 + 40 + 5)


def test_small_networks_go_all_at_once_and_images_a_few_at_a_time():
    assert chunk_size(4 * 161, 20, CPU) > 1000
    conv4 = activation_bytes(
        nn.Sequential(*[layer for i in range(4) for layer in block(1 if i == 0 else 64)]), torch.zeros(1, 1, 28, 28)
    )
    assert [chunk_size(conv4, count, CPU) for count in (80, 40, 30, 10)] == [1, 1, 1, 12]
    assert chunk_size(10**9, 80, CPU) == 1


def block(num_inputs):
    return nn.Conv2d(num_inputs, 64, 3, 2, 1), nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU()
