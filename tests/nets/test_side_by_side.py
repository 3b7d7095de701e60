"""A batch in parts on threads: the numbers of the whole batch, whatever the threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from metarl.nets.side_by_side import side_by_side

PARTS = torch.arange(7).tensor_split(3)


def outputs_and_gradients(num_threads, parts=PARTS):
    torch.manual_seed(0)
    gru, head, batch = nn.GRU(3, 5), nn.Linear(5, 2), torch.randn(11, 7, 3)
    parameters = [*gru.parameters(), *head.parameters()]

    def function(part):
        features = gru(batch[:, part])[0]
        return head(features), features.sum(-1)

    with ThreadPoolExecutor(num_threads) as pool:
        output, total = side_by_side(function, parts, parameters, pool)
        (output.square().sum() + (total * torch.arange(7)).sum()).backward()
    return [output, total], [parameter.grad for parameter in parameters]


def test_parts_give_the_outputs_and_gradients_of_the_whole_batch():
    outputs, gradients = outputs_and_gradients(3)
    whole_outputs, whole_gradients = outputs_and_gradients(1, [torch.arange(7)])
    assert outputs[0].shape == (11, 7, 2) and outputs[1].shape == (11, 7)
    torch.testing.assert_close(outputs, whole_outputs)
    torch.testing.assert_close(gradients, whole_gradients, rtol=1e-4, atol=1e-4)


def test_the_number_of_threads_does_not_change_a_bit():
    one, three = outputs_and_gradients(1), outputs_and_gradients(3)
    for here, there in zip(one[0] + one[1], three[0] + three[1], strict=True):
        assert torch.equal(here, there)


def test_nothing_is_kept_for_gradients_that_nobody_asked_for():
    weight = torch.ones(2, requires_grad=True)
    with ThreadPoolExecutor(2) as pool, torch.no_grad():
        (doubled,) = side_by_side(lambda part: ((2 * weight)[None, part],), [torch.arange(2)], [weight], pool)
    assert not doubled.requires_grad and doubled.tolist() == [[2.0, 2.0]]


def test_an_error_in_a_thread_is_raised_here():
    def function(part):
        raise ValueError(f"part {part.tolist()}")

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match=r"part \[0, 1, 2\]"):
        side_by_side(function, PARTS, [torch.ones(1, requires_grad=True)], pool)
