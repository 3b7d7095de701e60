"""Generators: one per purpose, reproducible everywhere."""

import torch

from metarl.seeding import make_generator


def test_the_same_seed_and_purpose_give_the_same_numbers():
    one, other = (torch.rand(5, generator=make_generator(3, "tasks")) for _ in range(2))
    assert torch.equal(one, other)


def test_purposes_and_seeds_are_independent():
    draws = [torch.rand(5, generator=make_generator(s, p)) for s in (0, 1) for p in ("tasks", "env")]
    assert len({tuple(d.tolist()) for d in draws}) == 4


def test_seeds_do_not_depend_on_the_process():
    assert make_generator(0, "tasks").initial_seed() == 3947782539259720398
