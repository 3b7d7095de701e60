"""How much memory a meta-gradient through many inner updates takes, told before it is taken."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from metarl.errors import ConfigError
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.losses.task_encoding import TaskEncoding

# Numbers that are kept for each sample, inner update, epoch and unit of the policy; measured on the CPU at 5 to 20
# updates, widths 32 and 64: 2.7-3.6 and 8.5, more with a learned drift.
_KEPT_FIRST_ORDER = 4
_KEPT_SECOND_ORDER = 10
_BYTES = 4
_SHARE = 0.8
"""Of the memory there is."""


def unroll_bytes(config: LearnedLossConfig, tasks_at_once: int, horizon: int, layer_dims: Sequence[int]) -> int:
    """Estimate the memory of the meta-gradient of the tasks that are differentiated at a time, in bytes.

    Args:
        config: settings.
        tasks_at_once: tasks that are differentiated at a time.
        horizon: H.
        layer_dims: observation, hidden layers and outputs of the policy.
    """
    if config.outer == "evolution":
        return 0
    num_samples = min(tasks_at_once, config.meta_batch_size) * config.episodes_per_task * horizon
    kept = _KEPT_FIRST_ORDER if config.first_order else _KEPT_SECOND_ORDER
    # What adapts to the task encodes the first batch at each update.
    units = sum(layer_dims) + config.head_dim + (TaskEncoding.hidden_dim if config.adapts_to_task else 0)
    return _BYTES * num_samples * config.num_inner_steps * config.inner_epochs * kept * units


def refuse_beyond_memory(needed: int, device: torch.device, available: int | None = None) -> None:
    """Refuse what would not fit.

    Args:
        needed: bytes.
        device: where.
        available: bytes there are; None: ask the machine.

    Raises:
        ConfigError: with both numbers, and what to change.
    """
    if available is None:
        available = _available_bytes(device)
    if needed > _SHARE * available:
        raise ConfigError(
            f"the meta-gradient would take about {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are there. "
            "Take fewer num_inner_steps (with a lifetime of several windows), episodes_per_task or a smaller "
            "task_chunk, or --outer evolution, which keeps nothing."
        )


def _available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return 2**62
