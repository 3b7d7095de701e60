"""Settings of learned losses, by environment."""

from __future__ import annotations

from dataclasses import replace

from metarl.learners.learned_loss_config import LearnedLossConfig


def learned_loss(env: str) -> dict[str, LearnedLossConfig]:
    """Presets of `learned-loss`: "quick" takes minutes on two cores."""
    default = LearnedLossConfig(normalizes_obs=env != "reach-robots")
    return {"default": default, "quick": replace(default, total_steps=8_000_000)}
