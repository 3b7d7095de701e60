"""Metric losses on task identity, by hand."""

import math

import pytest
import torch

from metarl.losses.task_metric import inverse_power_loss, prototypical_loss


def test_the_inverse_power_loss_of_three_points():
    # Tasks 0, 0, 1 at 0, 1, 3: the pair of a task is 1 apart; the others 9 and 4.
    points, task_ids = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
    expected = 1 + (1 / 9.1 + 1 / 4.1) / 2
    assert inverse_power_loss(points, task_ids).item() == pytest.approx(expected)
    assert inverse_power_loss(points[[2, 0, 1]], task_ids[[2, 0, 1]]).item() == pytest.approx(expected)


def test_the_inverse_power_loss_moves_tasks_apart_and_a_task_together():
    points = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
    inverse_power_loss(points, torch.tensor([0, 0, 1])).backward()
    assert points.grad[0] < 0 < points.grad[1]  # downhill they meet
    assert points.grad[2] < 0  # downhill it goes away


def test_the_prototypical_loss_of_two_tasks():
    # Prototypes at 0 and 2; the queries at 0.5 and 2.
    support, query = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.5], [2.0]])
    first = -math.log(math.exp(-0.25) / (math.exp(-0.25) + math.exp(-2.25)))
    second = -math.log(1 / (1 + math.exp(-4.0)))
    loss = prototypical_loss(support, query, torch.tensor([4, 7]))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_the_prototype_of_a_task_is_the_mean_of_its_support():
    # Task 3 has its support at -1 and 1, so its prototype at 0.
    support, query = torch.tensor([[-1.0], [2.0], [1.0]]), torch.tensor([[0.0], [2.0], [0.0]])
    loss = prototypical_loss(support, query, torch.tensor([3, 5, 3]))
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-4.0))), rel=1e-4)
