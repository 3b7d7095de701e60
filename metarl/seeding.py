"""One `torch.Generator` per purpose, all derived from one seed."""

from __future__ import annotations

import hashlib

import torch


def make_generator(seed: int, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Make the generator of one purpose.

    Generators of different purposes or seeds are independent, and the same pair gives the same
    stream in every process and on every machine (SHA-256, not Python's salted `hash`).

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, such as "tasks", "env" or "policy".
        device: where the numbers are drawn.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def copy_generator(generator: torch.Generator) -> torch.Generator:
    """A generator that will draw what this one will draw."""
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin
