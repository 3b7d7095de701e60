"""Settings of learned losses, by environment. `scripts/bench_losses.py` and `scripts/bench_drift.py` use them."""

from __future__ import annotations

from dataclasses import replace

from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.losses.hand_designed import HandDesign


def learned_loss(env: str) -> dict[str, LearnedLossConfig]:
    """Presets of `learned-loss`.

    "quick" takes a minute or two of one core. "drift" learns a drift by small steps of evolution: with ten times
    the step and three times the deviation it learned to hold policies where they are, on other robots with other
    updates.
    "lpg" is the recurrent rule, the same for all tasks: it reads what happened anyway.
    """
    default = LearnedLossConfig(step_size_lr=5e-2, normalizes_obs=env not in ("reach-robots", "reach-either"))
    given: HandDesign = "dense" if env in ("reach-robots", "reach-planar") else "feedback"
    drift = replace(
        default,
        loss="drift",
        given_reward=given,
        total_steps=8_000_000,
        meta_batch_size=32,
        episodes_per_task=8,
        inner_epochs=5,
        inner_lr=0.3,
        adapts_to_task=False,
        outer="evolution",
        sigma=0.03,
        outer_lr=2e-3,
        step_size_lr=0.0,
        early_weight=0.3,
    )
    lpg = replace(
        default,
        loss="lpg",
        given_reward=given,
        total_steps=4_000_000,
        meta_batch_size=8,
        adapts_to_task=False,
        outer_lr=2e-3,
        task_chunk=8,
        update_threads=1,
    )
    return {"default": default, "quick": replace(default, total_steps=4_000_000), "drift": drift, "lpg": lpg}
