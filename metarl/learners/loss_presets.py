"""Settings of learned losses, by environment. `scripts/bench_losses.py` and `scripts/bench_drift.py` use them."""

from __future__ import annotations

from dataclasses import replace

from metarl.learners.learned_loss_config import LearnedLossConfig


def learned_loss(env: str) -> dict[str, LearnedLossConfig]:
    """Presets of `learned-loss`.

    "quick" takes a minute or two on two cores. "drift" learns a drift by small steps of evolution: with ten times the
    step and three times the deviation it learned to hold policies where they are, on other robots with other updates.
    """
    default = LearnedLossConfig(normalizes_obs=env != "reach-robots")
    drift = replace(
        default,
        loss="drift",
        given_reward="dense" if env in ("reach-robots", "reach-planar") else "feedback",
        total_steps=8_000_000,
        meta_batch_size=32,
        episodes_per_task=8,
        inner_epochs=5,
        inner_lr=0.3,
        adapts_to_task=False,
        outer="evolution",
        sigma=0.03,
        outer_lr=2e-3,
    )
    return {"default": default, "quick": replace(default, total_steps=8_000_000), "drift": drift}
